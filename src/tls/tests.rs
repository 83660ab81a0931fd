use std::{fs, io::Read as _, os::unix::fs::symlink, path::Path};

use rustls::{
    CertificateError, ClientConnection, DEFAULT_VERSIONS, Error, OtherError, ServerConfig, ServerConnection,
    pki_types::ServerName,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tempfile::tempdir;

use super::{
    test_pki::{
        Authority, Identity, ca_params, der_contents, der_elements, expired, params, pem_section, server_config,
    },
    *,
};

const NAME: &str = "vault.example";

/// Runs both ends of a handshake in memory and returns the first error.
fn handshake(tls: &Tls, server: ServerConfig, name: &str) -> Result<(), Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(load_client_config(tls, MinTlsVersion::default()).unwrap()), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire.by_ref()).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

/// Runs a handshake with a server that does not require a client certificate.
fn handshake_with(tls: &Tls, identity: &Identity) -> Result<(), Error> {
    handshake(tls, server_config(identity.certified_key(), None, DEFAULT_VERSIONS), NAME)
}

fn rejection(outcome: Result<(), Error>) -> Option<CertificateRejection> {
    match outcome {
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) => cause.downcast_ref().copied(),
        _ => None,
    }
}

fn write_file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

#[track_caller]
fn config_error(tls: &Tls) -> String {
    let error = load_client_config(tls, MinTlsVersion::default()).expect_err("the settings are refused");
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    assert!(!format!("{error:?}").contains("HUSH"), "{error:?}");
    format!("{error}{source}")
}

#[test]
fn ca_is_read_from_file_directory_or_pem_text() {
    let authority = Authority::new("ours");
    let identity = authority.issue(&params(&[NAME]));
    let directory = tempdir().unwrap();
    let bundle = format!("# ours is the second\n{}{}", Authority::new("other").pem(), authority.pem());
    let file = write_file(directory.path(), "bundle.pem", &bundle);
    for ca in [Ca::File(file), Ca::Directory(directory.path().into()), Ca::Pem(authority.pem())] {
        let tls = Tls { ca, ..Tls::default() };
        assert_eq!(handshake_with(&tls, &identity), Ok(()), "{tls:?}");
    }
}

#[test]
fn newly_truncated_ca_file_is_detected() {
    let (ours, other) = (Authority::new("ours").pem(), Authority::new("other").pem());
    let directory = tempdir().unwrap();
    let tls = Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() };
    let truncated = format!("{ours}{}", &other[..300]);
    for (name, text) in [("a.pem", &ours), ("b.pem", &other), ("odd.pem", &truncated), ("README", &"no PEM".to_owned())]
    {
        write_file(directory.path(), name, text);
    }
    let baseline = load_config_and_certificates(&tls, MinTlsVersion::default()).unwrap().1;
    let truncated_after = |name: &str, text: Option<&str>| {
        let file = directory.path().join(name);
        let original = fs::read_to_string(&file).unwrap_or_default();
        match text {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let truncated_location = load_config_and_certificates(&tls, MinTlsVersion::default())
            .unwrap()
            .1
            .newly_truncated(&baseline)
            .map(str::to_owned);
        fs::write(&file, original).unwrap();
        truncated_location
    };
    let truncated_file = Some(format!("the CA file {}", directory.path().join("a.pem").display()));
    for (name, text, expected) in [
        ("a.pem", Some("garbage"), &truncated_file),
        ("a.pem", Some(""), &truncated_file),
        ("a.pem", Some(truncated.as_str()), &truncated_file),
        ("a.pem", Some(other.as_str()), &None),
        ("a.pem", None, &None),
        ("odd.pem", Some(&format!("{other}{truncated}")), &None),
        ("README", Some("no certificate"), &None),
        ("new.pem", Some("not yet"), &None),
    ] {
        assert_eq!(&truncated_after(name, text), expected, "{name}: {text:?}");
    }
}

#[test]
fn ca_directory_over_32_mib_is_rejected() {
    let directory = tempdir().unwrap();
    for n in 0..9 {
        fs::File::create(directory.path().join(n.to_string())).unwrap().set_len(4 << 20).unwrap();
    }
    let message = config_error(&Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() });
    assert!(message.ends_with("it holds more than 4096 files or 32 MiB"), "{message}");
}

#[test]
fn ca_directory_supports_kubernetes_volume_layout() {
    let authority = Authority::new("ours");
    let directory = tempdir().unwrap();
    let data = directory.path().join("..2024");
    fs::create_dir(&data).unwrap();
    write_file(&data, "ca.crt", &authority.pem());
    symlink("..2024", directory.path().join("..data")).unwrap();
    symlink("..data/ca.crt", directory.path().join("ca.crt")).unwrap();
    symlink("nowhere", directory.path().join("dangling")).unwrap();
    write_file(directory.path(), "README", "no PEM in here");
    let tls = Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() };
    assert_eq!(handshake_with(&tls, &authority.issue(&params(&[NAME]))), Ok(()));
}

#[test]
fn ca_directory_is_read_recursively() {
    let authority = Authority::new("ours");
    let directory = tempdir().unwrap();
    fs::create_dir(directory.path().join("team")).unwrap();
    write_file(&directory.path().join("team"), "ca.pem", &authority.pem());
    let tls = Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() };
    assert_eq!(handshake_with(&tls, &authority.issue(&params(&[NAME]))), Ok(()));
}

#[test]
fn invalid_certificate_in_ca_bundle_is_skipped() {
    let authority = Authority::new("ours");
    let text = format!(
        "{}-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n{}",
        pem_section("CERTIFICATE", b"junk"),
        authority.pem()
    );
    let tls = Tls { ca: Ca::Pem(text), ..Tls::default() };
    assert_eq!(handshake_with(&tls, &authority.issue(&params(&[NAME]))), Ok(()));
}

#[test]
fn invalid_ca_error_names_file_without_contents() {
    let directory = tempdir().unwrap();
    let directory_path = directory.path().display();
    let file = |name: &str, text: &str| {
        config_error(&Tls { ca: Ca::File(write_file(directory.path(), name, text)), ..Tls::default() })
    };
    assert_eq!(
        file("text", "HUSH"),
        format!(
            "the CA file {directory_path}/text holds no certificate; PEM is expected (-----BEGIN CERTIFICATE-----)"
        )
    );
    assert_eq!(
        file("junk", &pem_section("CERTIFICATE", b"HUSH")),
        format!("the CA file {directory_path}/junk holds no usable certificate: its contents are damaged or not X.509")
    );
    let missing = config_error(&Tls { ca: Ca::File(directory.path().join("none")), ..Tls::default() });
    assert!(missing.starts_with(&format!("cannot read the CA file {directory_path}/none: No such file")), "{missing}");
    let folder = config_error(&Tls { ca: Ca::File(directory.path().into()), ..Tls::default() });
    assert_eq!(folder, format!("cannot read the CA file {directory_path}: it is not a file"));
    let endless = config_error(&Tls { ca: Ca::File("/dev/zero".into()), ..Tls::default() });
    assert_eq!(endless, "cannot read the CA file /dev/zero: it is not a file");
    let huge = file("huge", &"HUSH ".repeat(1 << 20));
    assert_eq!(huge, format!("cannot read the CA file {directory_path}/huge: it is larger than 4 MiB"));
}

#[test]
fn ca_without_certificates_is_rejected() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "key.pem", "HUSH");
    let message = config_error(&Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() });
    assert!(
        message.starts_with(&format!("the CA directory {} holds no certificate;", directory.path().display())),
        "{message}"
    );
    let message = config_error(&Tls { ca: Ca::Pem("HUSH".into()), ..Tls::default() });
    assert!(message.starts_with("the inline CA certificate holds no certificate;"), "{message}");
}

#[test]
fn certificate_from_unknown_issuer_is_rejected() {
    let identity = Authority::new("other").issue(&params(&[NAME]));
    let outcome = handshake_with(&Authority::new("ours").trust_settings(), &identity);
    assert_eq!(outcome, Err(CertificateError::UnknownIssuer.into()));
}

#[test]
fn expired_or_misnamed_certificate_is_rejected() {
    let authority = Authority::new("ours");
    let handshake_error = |params| handshake_with(&authority.trust_settings(), &authority.issue(&params)).unwrap_err();
    let outcome = handshake_error(expired(params(&[NAME])));
    assert!(matches!(outcome, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{outcome}");
    for names in [&["other.example"][..], &[]] {
        let mut params = params(names);
        params.distinguished_name.push(rcgen::DnType::CommonName, NAME);
        let Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) =
            handshake_error(params)
        else {
            panic!("{names:?} does not match {NAME}");
        };
        assert_eq!(presented.len(), names.len());
    }
}

#[test]
fn server_certificate_in_ca_bundle_is_accepted() {
    let own_ca = Identity::self_signed(&ca_params(&[NAME]));
    assert_eq!(handshake_with(&own_ca.trust_settings(), &own_ca), Ok(()), "self-signed, marked as a CA");
    let own_leaf = Identity::self_signed(&params(&[NAME]));
    assert_eq!(handshake_with(&own_leaf.trust_settings(), &own_leaf), Ok(()), "self-signed, not marked as a CA");
    let issued = Authority::new("unknown").issue(&params(&[NAME]));
    assert_eq!(handshake_with(&issued.trust_settings(), &issued), Ok(()), "issued by an unknown CA");
}

#[test]
fn trusted_server_certificate_expiry_and_name_are_checked() {
    let authority = Authority::new("unknown");
    for make in [&|p| Identity::self_signed(&p), &|p| authority.issue(&p)] as [&dyn Fn(_) -> Identity; 2] {
        for shape in [params, ca_params] {
            let old = make(expired(shape(&[NAME])));
            let outcome = handshake_with(&old.trust_settings(), &old).unwrap_err();
            assert!(matches!(outcome, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{outcome}");
            let other = make(shape(&["other.example"]));
            let outcome = handshake_with(&other.trust_settings(), &other).unwrap_err();
            assert!(
                matches!(outcome, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })),
                "{outcome}"
            );
        }
    }
}

#[test]
fn certificate_resembling_trusted_one_is_rejected() {
    for shape in [params, ca_params] {
        let trusted = Identity::self_signed(&shape(&[NAME]));
        let look_alike = Identity::self_signed(&shape(&[NAME]));
        assert!(handshake_with(&trusted.trust_settings(), &look_alike).is_err());
    }
}

#[test]
fn empty_ca_store_is_rejected_as_no_authorities() {
    let verifier = ChainVerifier::new(
        pem::Authorities::from_bundle(&pem::PemBundle::default()),
        ring::default_provider().signature_verification_algorithms,
    );
    let identity = Identity::self_signed(&params(&[NAME]));
    let name = ServerName::try_from(NAME).unwrap();
    let outcome =
        verifier.verify_server_cert(&identity.certificate, &[], &name, &[], rustls::pki_types::UnixTime::now());
    assert_eq!(rejection(outcome.map(drop)), Some(CertificateRejection::NoAuthorities));
}

#[test]
fn x509_version_1_server_certificate_is_rejected() {
    let identity = Identity::self_signed(&params(&[NAME])).into_x509_version_1();
    assert_eq!(
        rejection(handshake_with(&identity.trust_settings(), &identity)),
        Some(CertificateRejection::X509Version1)
    );
}

#[test]
fn skip_verify_accepts_invalid_certificates() {
    let tls = Tls { skip_verify: true, ..Tls::default() };
    for identity in [
        Identity::self_signed(&params(&["other.example"])),
        Identity::self_signed(&expired(ca_params(&[]))),
        Identity::self_signed(&params(&[])).into_x509_version_1(),
    ] {
        assert_eq!(handshake_with(&tls, &identity), Ok(()));
    }
    let legacy = Identity::self_signed(&params(&[])).into_x509_version_1();
    let outcome = handshake(&tls, server_config(legacy.certified_key(), None, &[&TLS12]), NAME);
    assert_eq!(
        rejection(outcome),
        Some(CertificateRejection::X509Version1),
        "rustls does not read the key of version 1 for TLS 1.2"
    );
}

#[test]
fn skip_verify_requires_certificate_private_key() {
    let tls = Tls { skip_verify: true, ..Tls::default() };
    let shown = Identity::self_signed(&params(&[NAME]));
    let held = Identity::self_signed(&params(&[NAME]));
    for version in [&TLS12, &TLS13] {
        let impostor = CertifiedKey::new(vec![shown.certificate.clone()], held.certified_key().key);
        let outcome = handshake(&tls, server_config(impostor, None, &[version]), NAME);
        assert_eq!(outcome, Err(CertificateError::BadSignature.into()), "{version:?}");
    }
}

#[test]
fn tls_1_2_server_is_accepted_by_default() {
    let authority = Authority::new("ours");
    let identity = authority.issue(&params(&[NAME]));
    assert_eq!(
        handshake(&authority.trust_settings(), server_config(identity.certified_key(), None, &[&TLS12]), NAME),
        Ok(())
    );
}

/// Returns settings with this client certificate and key, and their directory.
fn with_client_certificate(authority: &Authority, certificate: &str, key: &str) -> (Tls, tempfile::TempDir) {
    let directory = tempdir().unwrap();
    let client = ClientCertificate {
        certificate: write_file(directory.path(), "client.crt", certificate),
        key: write_file(directory.path(), "client.key", key),
    };
    (Tls { client: Some(client), ..authority.trust_settings() }, directory)
}

/// Returns the SEC1 key inside a PKCS#8 key.
fn sec1(pkcs8: &[u8]) -> &[u8] {
    der_contents(der_elements(der_contents(pkcs8))[2])
}

#[test]
fn client_certificate_is_presented_on_request() {
    let authority = Authority::new("ours");
    let demanding =
        || server_config(authority.issue(&params(&[NAME])).certified_key(), Some(&authority), DEFAULT_VERSIONS);
    let client = authority.issue(&params(&["pod"]));
    let keys = [client.key.serialize_pem(), pem_section("EC PRIVATE KEY", sec1(&client.key.serialize_der()))];
    for key in keys {
        let (tls, _directory) = with_client_certificate(&authority, &client.pem(), &key);
        assert_eq!(handshake(&tls, demanding(), NAME), Ok(()), "{}", key.lines().next().unwrap_or_default());
    }
    assert_eq!(handshake(&authority.trust_settings(), demanding(), NAME), Err(Error::NoCertificatesPresented));
}

#[test]
fn x509_version_1_client_certificate_is_accepted() {
    let authority = Authority::new("ours");
    let client = authority.issue(&params(&[])).into_x509_version_1();
    let (tls, _directory) = with_client_certificate(&authority, &client.pem(), &client.key.serialize_pem());
    assert!(load_client_config(&tls, MinTlsVersion::default()).is_ok());
}

#[test]
fn invalid_client_certificate_error_names_file_only() {
    let authority = Authority::new("ours");
    let (client, other) = (authority.issue(&params(&["pod"])), authority.issue(&params(&["pod"])));
    let error_for = |certificate: &str, key: &str| {
        let (tls, directory) = with_client_certificate(&authority, certificate, key);
        config_error(&tls).replace(&format!("{}/", directory.path().display()), "")
    };
    let (good, key) = (client.pem(), client.key.serialize_pem());
    assert_eq!(
        error_for(&good, &other.key.serialize_pem()),
        "the client certificate client.crt and the client key client.key do not belong together"
    );
    assert_eq!(
        error_for(&key, &key),
        "the client certificate client.crt holds no certificate; PEM is expected (-----BEGIN CERTIFICATE-----)"
    );
    assert_eq!(
        error_for(&pem_section("CERTIFICATE", b"HUSH"), &key),
        "the client certificate client.crt holds no usable certificate: its contents are damaged or not X.509"
    );
    for key in [&good, "HUSH", &pem_section("ENCRYPTED PRIVATE KEY", b"HUSH")] {
        assert_eq!(
            error_for(&good, key),
            "the client key client.key holds no private key; an unencrypted PEM key is expected (PKCS#8, PKCS#1 or SEC1)"
        );
    }
    let damaged = error_for(&good, &pem_section("RSA PRIVATE KEY", b"HUSH"));
    assert!(damaged.starts_with("the client key client.key holds a private key that cannot be used;"), "{damaged}");
}

#[test]
fn tls_digest_covers_exactly_the_files_read() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a.pem", "b.pem", "cert.pem", "key.pem", "more"] {
        fs::write(path(name), name).unwrap();
    }
    let client = Some(ClientCertificate { certificate: path("cert.pem"), key: path("key.pem") });
    let file = Tls { ca: Ca::File(path("a.pem")), client, ..Tls::default() };
    let directory = Tls { ca: Ca::Directory(folder.path().to_owned()), ..Tls::default() };
    let digests = || (compute_digest(&file, [path("more").as_path()]), compute_digest(&directory, []));
    let mut before = digests();
    assert_eq!(digests(), before);
    // (changed file, true if the settings with a CA file read it; the settings with a directory read every file)
    for (name, in_file) in [("a.pem", true), ("b.pem", false), ("cert.pem", true), ("key.pem", true), ("more", true)] {
        fs::write(path(name), "other").unwrap();
        let now = digests();
        assert_eq!((now.0 != before.0, now.1 != before.1), (in_file, true), "{name}");
        fs::remove_file(path(name)).unwrap();
        assert_eq!((digests().0 != now.0, digests().1 != now.1), (in_file, true), "{name} is gone");
        before = digests();
    }
}
