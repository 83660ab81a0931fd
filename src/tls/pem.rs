//! Certificates and keys out of PEM files.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use ring::digest::{Context, SHA256, digest as sha};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use zeroize::Zeroizing;

use super::{Ca, Tls, TlsError};

/// A CA bundle of a whole system has a quarter of this.
const MAX_FILE: u64 = 4 << 20;

/// A directory in a directory in a directory: deeper is a loop or a mistake.
const MAX_DEPTH: usize = 8;
/// The files of a CA directory, and what they come to in bytes: more is no such directory. A system's own has 400.
const MAX_FILES: usize = 4096;
const MAX_DIRECTORY: u64 = 32 << 20;

/// The trusted certificates and, beside them, the trust anchors made from them.
///
/// A certificate that cannot be an anchor is passed over as long as another can: system bundles hold such.
#[derive(Debug)]
pub(super) struct Authorities {
    /// Hashes of them as they stand in the files, for servers that present one of them as their own.
    hashes: Vec<Hash>,
    /// The same, prepared.
    pub(super) anchors: RootCertStore,
}

/// SHA-256.
type Hash = [u8; 32];

fn hash(certificate: &CertificateDer<'_>) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(sha(&SHA256, certificate).as_ref());
    hash
}

impl Authorities {
    pub(super) fn of(found: &Found) -> Self {
        let mut anchors = RootCertStore::empty();
        let hashes = found.certificates.iter().filter_map(|(_, each)| {
            let hash = hash(each);
            anchors.add(CertificateDer::from(&**each)).is_ok().then_some(hash)
        });
        Self { hashes: hashes.collect(), anchors }
    }

    /// Whether a certificate is one of them, byte for byte.
    pub(super) fn hold(&self, certificate: &CertificateDer<'_>) -> bool {
        self.hashes.contains(&hash(certificate))
    }
}

/// What `ca` names, as it was found. Only the system's own may turn out to be none.
pub(super) fn authorities(ca: &Ca, found: &Found) -> Result<Authorities, TlsError> {
    match ca {
        Ca::System => Ok(Authorities::of(found)),
        // Nobody is trusted, as nobody speaks TLS.
        Ca::Pem(text) if text.is_empty() => Ok(Authorities::of(found)),
        _ => usable(&place(ca), found),
    }
}

/// A certificate and where it is.
pub(super) type Located = (String, CertificateDer<'static>);

/// What PEM files hold.
#[derive(Default)]
pub(super) struct Found {
    /// Certificates, of any kind.
    pub(super) certificates: Vec<Located>,
    /// Where there are sections that begin a certificate and are none: once for each.
    pub(super) torn: Vec<String>,
    /// The files without any.
    pub(super) empty: Vec<String>,
}

impl Found {
    /// The certificates of a PEM text; sections that are broken or something else are passed over, as Go does.
    fn take(&mut self, place: &str, text: &[u8]) {
        let before = self.certificates.len();
        let whole = CertificateDer::pem_slice_iter(text).filter_map(Result::ok);
        self.certificates.extend(whole.map(|certificate| (place.to_owned(), certificate)));
        let whole = self.certificates.len() - before;
        let begun = text.windows(BEGIN.len()).filter(|part| *part == BEGIN).count();
        self.torn.extend((whole..begun).map(|_| place.to_owned()));
        if whole == 0 {
            self.empty.push(place.to_owned());
        }
    }
}

/// How a certificate begins.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// What is where `ca` says.
pub(super) fn found(ca: &Ca) -> Result<Found, TlsError> {
    let (place, mut found) = (place(ca), Found::default());
    match ca {
        Ca::System => {
            let certificates = rustls_native_certs::load_native_certs().certs.into_iter();
            found.certificates.extend(certificates.map(|certificate| (place.clone(), certificate)));
        }
        Ca::File(path) => found.take(&place, &read(&place, path)?),
        Ca::Directory(path) => {
            for file in files(path)? {
                let place = place_of_file(&file);
                found.take(&place, &read(&place, &file)?);
            }
        }
        Ca::Pem(text) => found.take(&place, text.as_bytes()),
    }
    Ok(found)
}

/// What TLS files hold, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub(super) Hash);

/// The digest of everything that is read for these settings, and of more files: whatever of it changes, changes the digest, and
/// that something cannot be read is part of it. Reads the files anew, and blocks while it does.
#[must_use]
pub fn digest<'a>(tls: &Tls, more: impl IntoIterator<Item = &'a Path>) -> Digest {
    let mut sum = Context::new(&SHA256);
    let mut one = |what: &[u8], contents: &[u8]| {
        for part in [what, contents] {
            // With its length, so that no two lists of files are the same.
            sum.update(&(part.len() as u64).to_be_bytes());
            sum.update(part);
        }
    };
    let mut listed: Vec<PathBuf> = Vec::new();
    match &tls.ca {
        Ca::System => rustls_native_certs::load_native_certs().certs.iter().for_each(|each| one(b"", each)),
        Ca::File(path) => listed.push(path.clone()),
        Ca::Directory(path) => match files(path) {
            Ok(files) => listed = files,
            Err(fault) => one(b"", fault.to_string().as_bytes()),
        },
        Ca::Pem(_) => {}
    }
    listed.extend(tls.client.iter().flat_map(|client| [client.certificate.clone(), client.key.clone()]));
    listed.extend(more.into_iter().map(Path::to_owned));
    for path in listed {
        let what = path.as_os_str().as_encoded_bytes();
        match read_bounded(&path) {
            Ok(contents) => one(what, &contents),
            Err(fault) => one(what, fault.to_string().as_bytes()),
        }
    }
    let mut hash = Hash::default();
    hash.copy_from_slice(sum.finish().as_ref());
    Digest(hash)
}

/// What `ca` names, in words.
fn place(ca: &Ca) -> String {
    match ca {
        Ca::System => "the system's own certificates".to_owned(),
        Ca::File(path) => place_of_file(path),
        Ca::Directory(path) => format!("the CA directory {}", path.display()),
        Ca::Pem(_) => "the inline CA certificate".to_owned(),
    }
}

fn place_of_file(path: &Path) -> String {
    format!("the CA file {}", path.display())
}

/// A certificate chain, which may be empty.
pub(super) fn chain(place: &str, path: &Path) -> Result<Found, TlsError> {
    let mut found = Found::default();
    found.take(place, &read(place, path)?);
    Ok(found)
}

/// The first private key of a file.
pub(super) fn private_key(place: &str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(place, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::NoKey { place: place.to_owned() })
}

fn usable(place: &str, found: &Found) -> Result<Authorities, TlsError> {
    if found.certificates.is_empty() {
        return Err(TlsError::NoCertificate { place: place.to_owned() });
    }
    let authorities = Authorities::of(found);
    if authorities.anchors.is_empty() {
        return Err(TlsError::BadCertificate { place: place.to_owned() });
    }
    Ok(authorities)
}

/// Every file below `directory`, in order. Links to files are followed, links to directories
/// are not: a mounted Kubernetes volume has one to where the files already are.
fn files(directory: &Path) -> Result<Vec<PathBuf>, TlsError> {
    let (mut found, mut size) = (Vec::new(), 0);
    walk(directory, MAX_DEPTH, &mut found, &mut size)?;
    found.sort();
    Ok(found)
}

fn walk(directory: &Path, depth: usize, found: &mut Vec<PathBuf>, size: &mut u64) -> Result<(), TlsError> {
    let place = format!("the CA directory {}", directory.display());
    let fault = |source| TlsError::Read { place: place.clone(), source };
    for entry in fs::read_dir(directory).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let path = entry.path();
        if entry.file_type().map_err(fault)?.is_dir() {
            if depth > 0 && !entry.file_name().as_encoded_bytes().starts_with(b"..") {
                walk(&path, depth - 1, found, size)?;
            }
        } else if let Ok(target) = fs::metadata(&path)
            && target.is_file()
        {
            found.push(path);
            *size += target.len();
            if found.len() > MAX_FILES || *size > MAX_DIRECTORY {
                return Err(fault(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "it holds more than 4096 files or 32 MiB",
                )));
            }
        }
    }
    Ok(())
}

/// The contents of a regular file of bounded size; anything else could block or never end.
fn read(place: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    read_bounded(path).map_err(|source| TlsError::Read { place: place.to_owned(), source })
}

fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut contents = Zeroizing::new(Vec::new());
    let length = File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut contents)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_FILE) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    Ok(contents)
}
