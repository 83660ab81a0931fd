//! Certificates and keys from PEM files.

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

/// Maximum size of a file. A system's whole CA bundle has a quarter of this.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Maximum depth of nested directories. Deeper ones are a loop or a mistake.
const MAX_DIRECTORY_DEPTH: usize = 8;
/// Maximum number of files in a CA directory, and their total size in bytes. More is not a CA directory: a system's has 400
/// files.
const MAX_DIRECTORY_FILES: usize = 4096;
const MAX_DIRECTORY_BYTES: u64 = 32 << 20;

/// Trusted certificates and their trust anchors.
///
/// Certificates that cannot be an anchor are skipped as long as another can, because system bundles contain such certificates.
#[derive(Debug)]
pub(super) struct Authorities {
    /// Hashes of the certificates in the files, for servers that present one of them as their own.
    hashes: Vec<Sha256Hash>,
    /// Trust anchors of the same certificates.
    pub(super) anchors: RootCertStore,
}

/// SHA-256 hash.
type Sha256Hash = [u8; 32];

fn hash_certificate(certificate: &CertificateDer<'_>) -> Sha256Hash {
    let mut hash = Sha256Hash::default();
    hash.copy_from_slice(sha(&SHA256, certificate).as_ref());
    hash
}

impl Authorities {
    pub(super) fn from_bundle(bundle: &PemBundle) -> Self {
        let mut anchors = RootCertStore::empty();
        let hashes = bundle.certificates.iter().filter_map(|(_, each)| {
            let hash = hash_certificate(each);
            anchors.add(CertificateDer::from(&**each)).is_ok().then_some(hash)
        });
        Self { hashes: hashes.collect(), anchors }
    }

    /// Returns true if the certificate is byte-identical to a trusted one.
    pub(super) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.hashes.contains(&hash_certificate(certificate))
    }
}

/// Builds the authorities of `ca`. Only the system's set may be empty.
pub(super) fn build_authorities(ca: &Ca, bundle: &PemBundle) -> Result<Authorities, TlsError> {
    match ca {
        Ca::System => Ok(Authorities::from_bundle(bundle)),
        // Empty text means that the endpoint does not use TLS, so no CA is needed.
        Ca::Pem(text) if text.is_empty() => Ok(Authorities::from_bundle(bundle)),
        _ => usable_authorities(&display_location(ca), bundle),
    }
}

/// Location of a certificate, and the certificate.
pub(super) type LocatedCertificate = (String, CertificateDer<'static>);

/// Contents of PEM files.
#[derive(Default)]
pub(super) struct PemBundle {
    /// Certificates of any kind, with their locations.
    pub(super) certificates: Vec<LocatedCertificate>,
    /// Locations of certificate sections that are truncated or invalid, one entry for each.
    pub(super) truncated: Vec<String>,
    /// Files without a certificate.
    pub(super) empty_files: Vec<String>,
}

impl PemBundle {
    /// Adds the certificates of a PEM text. Invalid and other sections are skipped, as in Go.
    fn add_pem(&mut self, location: &str, text: &[u8]) {
        let count_before = self.certificates.len();
        let parsed = CertificateDer::pem_slice_iter(text).filter_map(Result::ok);
        self.certificates.extend(parsed.map(|certificate| (location.to_owned(), certificate)));
        let parsed_count = self.certificates.len() - count_before;
        let header_count = text.windows(CERTIFICATE_HEADER.len()).filter(|part| *part == CERTIFICATE_HEADER).count();
        self.truncated.extend((parsed_count..header_count).map(|_| location.to_owned()));
        if parsed_count == 0 {
            self.empty_files.push(location.to_owned());
        }
    }
}

/// First line of a certificate section.
const CERTIFICATE_HEADER: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Loads the certificates of `ca`.
pub(super) fn load_ca_bundle(ca: &Ca) -> Result<PemBundle, TlsError> {
    let (location, mut bundle) = (display_location(ca), PemBundle::default());
    match ca {
        Ca::System => {
            let certificates = rustls_native_certs::load_native_certs().certs.into_iter();
            bundle.certificates.extend(certificates.map(|certificate| (location.clone(), certificate)));
        }
        Ca::File(path) => bundle.add_pem(&location, &read_file(&location, path)?),
        Ca::Directory(path) => {
            for file in list_files(path)? {
                let location = display_ca_file(&file);
                bundle.add_pem(&location, &read_file(&location, &file)?);
            }
        }
        Ca::Pem(text) => bundle.add_pem(&location, text.as_bytes()),
    }
    Ok(bundle)
}

/// Digest of the contents of TLS files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub(super) Sha256Hash);

/// Computes the digest of all files read for these settings, and of `extra_files`. Rereads the files. Blocks.
///
/// Any change changes the digest. The error for an unreadable file is part of it.
#[must_use]
pub fn compute_digest<'a>(tls: &Tls, extra_files: impl IntoIterator<Item = &'a Path>) -> Digest {
    let mut context = Context::new(&SHA256);
    let mut add_entry = |name: &[u8], contents: &[u8]| {
        for part in [name, contents] {
            // Length prefixes keep different lists of files from having the same digest.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    match &tls.ca {
        Ca::System => rustls_native_certs::load_native_certs().certs.iter().for_each(|each| add_entry(b"", each)),
        Ca::File(path) => paths.push(path.clone()),
        Ca::Directory(path) => match list_files(path) {
            Ok(files) => paths = files,
            Err(error) => add_entry(b"", error.to_string().as_bytes()),
        },
        Ca::Pem(_) => {}
    }
    paths.extend(tls.client.iter().flat_map(|client| [client.certificate.clone(), client.key.clone()]));
    paths.extend(extra_files.into_iter().map(Path::to_owned));
    for path in paths {
        let name = path.as_os_str().as_encoded_bytes();
        match read_bounded(&path) {
            Ok(contents) => add_entry(name, &contents),
            Err(error) => add_entry(name, error.to_string().as_bytes()),
        }
    }
    let mut hash = Sha256Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    Digest(hash)
}

/// Returns the location of `ca` for messages.
fn display_location(ca: &Ca) -> String {
    match ca {
        Ca::System => "the system's own certificates".to_owned(),
        Ca::File(path) => display_ca_file(path),
        Ca::Directory(path) => format!("the CA directory {}", path.display()),
        Ca::Pem(_) => "the inline CA certificate".to_owned(),
    }
}

fn display_ca_file(path: &Path) -> String {
    format!("the CA file {}", path.display())
}

/// Loads a certificate chain, which may be empty.
pub(super) fn load_chain(location: &str, path: &Path) -> Result<PemBundle, TlsError> {
    let mut bundle = PemBundle::default();
    bundle.add_pem(location, &read_file(location, path)?);
    Ok(bundle)
}

/// Loads the first private key of a file.
pub(super) fn load_private_key(location: &str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read_file(location, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::NoKey { location: location.to_owned() })
}

fn usable_authorities(location: &str, bundle: &PemBundle) -> Result<Authorities, TlsError> {
    if bundle.certificates.is_empty() {
        return Err(TlsError::NoCertificate { location: location.to_owned() });
    }
    let authorities = Authorities::from_bundle(bundle);
    if authorities.anchors.is_empty() {
        return Err(TlsError::BadCertificate { location: location.to_owned() });
    }
    Ok(authorities)
}

/// Lists every file below `directory`, sorted by path.
///
/// Links to files are followed. Links to directories are not, because a mounted Kubernetes volume has one to the directory that
/// already contains the files.
fn list_files(directory: &Path) -> Result<Vec<PathBuf>, TlsError> {
    let (mut paths, mut total_bytes) = (Vec::new(), 0);
    collect_files(directory, MAX_DIRECTORY_DEPTH, &mut paths, &mut total_bytes)?;
    paths.sort();
    Ok(paths)
}

fn collect_files(
    directory: &Path,
    depth: usize,
    paths: &mut Vec<PathBuf>,
    total_bytes: &mut u64,
) -> Result<(), TlsError> {
    let location = format!("the CA directory {}", directory.display());
    let read_error = |source| TlsError::Read { location: location.clone(), source };
    for entry in fs::read_dir(directory).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let path = entry.path();
        if entry.file_type().map_err(read_error)?.is_dir() {
            if depth > 0 && !entry.file_name().as_encoded_bytes().starts_with(b"..") {
                collect_files(&path, depth - 1, paths, total_bytes)?;
            }
        } else if let Ok(target) = fs::metadata(&path)
            && target.is_file()
        {
            paths.push(path);
            *total_bytes += target.len();
            if paths.len() > MAX_DIRECTORY_FILES || *total_bytes > MAX_DIRECTORY_BYTES {
                return Err(read_error(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "it holds more than 4096 files or 32 MiB",
                )));
            }
        }
    }
    Ok(())
}

/// Reads a regular file of limited size. Other files could block or be endless.
fn read_file(location: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    read_bounded(path).map_err(|source| TlsError::Read { location: location.to_owned(), source })
}

fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut contents = Zeroizing::new(Vec::new());
    let length = File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    Ok(contents)
}
