//! Public key of a certificate.

use rustls::{
    Error, RootCertStore,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};

/// Returns the public key of a certificate of any X.509 version.
///
/// webpki's own accessor supports version 3 only, but its trust anchors support all versions.
pub(super) fn from_certificate(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let mut store = RootCertStore::empty();
    store.add(certificate.clone().into_owned())?;
    let anchor = store.roots.first().ok_or(Error::NoCertificatesPresented)?;
    Ok(encode_der_sequence(&anchor.subject_public_key_info).into())
}

/// Encodes `content` as a DER SEQUENCE.
pub(super) fn encode_der_sequence(content: &[u8]) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut der = vec![SEQUENCE];
    match length {
        [] => der.push(0),
        [short @ 0..=0x7f] => der.push(*short),
        long => {
            // 0x80 plus the number of length bytes.
            der.push(long.iter().fold(0x80, |first, _| first + 1));
            der.extend_from_slice(long);
        }
    }
    der.extend_from_slice(content);
    der
}
