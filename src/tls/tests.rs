use std::{fs, io::Read as _, os::unix::fs::symlink, path::Path};

use rustls::{
    CertificateError, ClientConnection, DEFAULT_VERSIONS, Error, OtherError, ServerConfig, ServerConnection,
    pki_types::ServerName,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tempfile::tempdir;

use super::{
    testing::{Authority, Identity, ca_params, contents, elements, expired, params, pem, server},
    *,
};

const NAME: &str = "vault.example";

/// Runs both ends of a handshake in memory; the first error ends it.
fn handshake(tls: &Tls, server: ServerConfig, name: &str) -> Result<(), Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config(tls, Oldest::default()).unwrap()), name)?;
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

/// A handshake with a server that demands no client certificate.
fn meet(tls: &Tls, identity: &Identity) -> Result<(), Error> {
    handshake(tls, server(identity.certified(), None, DEFAULT_VERSIONS), NAME)
}

fn refusal(outcome: Result<(), Error>) -> Option<Refusal> {
    match outcome {
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) => cause.downcast_ref().copied(),
        _ => None,
    }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

#[track_caller]
fn failure(tls: &Tls) -> String {
    let error = client_config(tls, Oldest::default()).expect_err("the settings are refused");
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    assert!(!format!("{error:?}").contains("HUSH"), "{error:?}");
    format!("{error}{source}")
}

#[test]
fn authorities_come_from_file_directory_or_text() {
    let authority = Authority::new("ours");
    let identity = authority.issue(&params(&[NAME]));
    let directory = tempdir().unwrap();
    let bundle = format!("# ours is the second\n{}{}", Authority::new("other").pem(), authority.pem());
    let file = write(directory.path(), "bundle.pem", &bundle);
    for ca in [Ca::File(file), Ca::Directory(directory.path().into()), Ca::Pem(authority.pem())] {
        let tls = Tls { ca, ..Tls::default() };
        assert_eq!(meet(&tls, &identity), Ok(()), "{tls:?}");
    }
}

#[test]
fn what_is_in_pieces_and_was_whole_is_told() {
    let (ours, other) = (Authority::new("ours").pem(), Authority::new("other").pem());
    let directory = tempdir().unwrap();
    let tls = Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() };
    let torn = format!("{ours}{}", &other[..300]);
    for (name, text) in [("a.pem", &ours), ("b.pem", &other), ("odd.pem", &torn), ("README", &"no PEM".to_owned())] {
        write(directory.path(), name, text);
    }
    let before = load(&tls, Oldest::default()).unwrap().1;
    let since = |name: &str, text: Option<&str>| {
        let file = directory.path().join(name);
        let had = fs::read_to_string(&file).unwrap_or_default();
        match text {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let told = load(&tls, Oldest::default()).unwrap().1.torn_since(&before).map(str::to_owned);
        fs::write(&file, had).unwrap();
        told
    };
    let in_pieces = Some(format!("the CA file {}", directory.path().join("a.pem").display()));
    for (name, text, told) in [
        ("a.pem", Some("garbage"), &in_pieces),
        ("a.pem", Some(""), &in_pieces),
        ("a.pem", Some(torn.as_str()), &in_pieces),
        ("a.pem", Some(other.as_str()), &None),
        ("a.pem", None, &None),
        ("odd.pem", Some(&format!("{other}{torn}")), &None),
        ("README", Some("no certificate"), &None),
        ("new.pem", Some("not yet"), &None),
    ] {
        assert_eq!(&since(name, text), told, "{name}: {text:?}");
    }
}

#[test]
fn a_directory_that_is_none_of_certificates_is_not_read() {
    let directory = tempdir().unwrap();
    for n in 0..9 {
        fs::File::create(directory.path().join(n.to_string())).unwrap().set_len(4 << 20).unwrap();
    }
    let told = failure(&Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() });
    assert!(told.ends_with("it holds more than 4096 files or 32 MiB"), "{told}");
}

#[test]
fn a_directory_is_read_as_a_mounted_volume_is_laid_out() {
    let authority = Authority::new("ours");
    let directory = tempdir().unwrap();
    let data = directory.path().join("..2024");
    fs::create_dir(&data).unwrap();
    write(&data, "ca.crt", &authority.pem());
    symlink("..2024", directory.path().join("..data")).unwrap();
    symlink("..data/ca.crt", directory.path().join("ca.crt")).unwrap();
    symlink("nowhere", directory.path().join("dangling")).unwrap();
    write(directory.path(), "README", "no PEM in here");
    let tls = Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() };
    assert_eq!(meet(&tls, &authority.issue(&params(&[NAME]))), Ok(()));
}

#[test]
fn a_directory_is_read_with_those_below() {
    let authority = Authority::new("ours");
    let directory = tempdir().unwrap();
    fs::create_dir(directory.path().join("team")).unwrap();
    write(&directory.path().join("team"), "ca.pem", &authority.pem());
    let tls = Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() };
    assert_eq!(meet(&tls, &authority.issue(&params(&[NAME]))), Ok(()));
}

#[test]
fn a_broken_certificate_beside_a_good_one_is_passed_over() {
    let authority = Authority::new("ours");
    let text = format!(
        "{}-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n{}",
        pem("CERTIFICATE", b"junk"),
        authority.pem()
    );
    let tls = Tls { ca: Ca::Pem(text), ..Tls::default() };
    assert_eq!(meet(&tls, &authority.issue(&params(&[NAME]))), Ok(()));
}

#[test]
fn unusable_authorities_are_named_and_not_shown() {
    let directory = tempdir().unwrap();
    let at = directory.path().display();
    let file =
        |name: &str, text: &str| failure(&Tls { ca: Ca::File(write(directory.path(), name, text)), ..Tls::default() });
    assert_eq!(
        file("text", "HUSH"),
        format!("the CA file {at}/text holds no certificate; PEM is expected (-----BEGIN CERTIFICATE-----)")
    );
    assert_eq!(
        file("junk", &pem("CERTIFICATE", b"HUSH")),
        format!("the CA file {at}/junk holds no certificate that can be used: what is there is damaged or not X.509")
    );
    let missing = failure(&Tls { ca: Ca::File(directory.path().join("none")), ..Tls::default() });
    assert!(missing.starts_with(&format!("cannot read the CA file {at}/none: No such file")), "{missing}");
    let folder = failure(&Tls { ca: Ca::File(directory.path().into()), ..Tls::default() });
    assert_eq!(folder, format!("cannot read the CA file {at}: it is not a file"));
    let endless = failure(&Tls { ca: Ca::File("/dev/zero".into()), ..Tls::default() });
    assert_eq!(endless, "cannot read the CA file /dev/zero: it is not a file");
    let huge = file("huge", &"HUSH ".repeat(1 << 20));
    assert_eq!(huge, format!("cannot read the CA file {at}/huge: it is larger than 4 MiB"));
}

#[test]
fn a_directory_without_certificates_is_an_error() {
    let directory = tempdir().unwrap();
    write(directory.path(), "key.pem", "HUSH");
    let said = failure(&Tls { ca: Ca::Directory(directory.path().into()), ..Tls::default() });
    assert!(
        said.starts_with(&format!("the CA directory {} holds no certificate;", directory.path().display())),
        "{said}"
    );
    let said = failure(&Tls { ca: Ca::Pem("HUSH".into()), ..Tls::default() });
    assert!(said.starts_with("the inline CA certificate holds no certificate;"), "{said}");
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let identity = Authority::new("other").issue(&params(&[NAME]));
    let outcome = meet(&Authority::new("ours").trusted(), &identity);
    assert_eq!(outcome, Err(CertificateError::UnknownIssuer.into()));
}

#[test]
fn expired_misnamed_and_nameless_certificates_are_refused() {
    let authority = Authority::new("ours");
    let fault = |params| meet(&authority.trusted(), &authority.issue(&params)).unwrap_err();
    let outcome = fault(expired(params(&[NAME])));
    assert!(matches!(outcome, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{outcome}");
    for names in [&["other.example"][..], &[]] {
        let mut params = params(names);
        params.distinguished_name.push(rcgen::DnType::CommonName, NAME);
        let Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) = fault(params)
        else {
            panic!("{names:?} is not {NAME}");
        };
        assert_eq!(presented.len(), names.len());
    }
}

#[test]
fn a_trusted_certificate_may_be_the_servers_own() {
    let own_ca = Identity::self_signed(&ca_params(&[NAME]));
    assert_eq!(meet(&own_ca.trusted(), &own_ca), Ok(()), "self-signed, says that it is a CA");
    let own_leaf = Identity::self_signed(&params(&[NAME]));
    assert_eq!(meet(&own_leaf.trusted(), &own_leaf), Ok(()), "self-signed, does not say so");
    let issued = Authority::new("unknown").issue(&params(&[NAME]));
    assert_eq!(meet(&issued.trusted(), &issued), Ok(()), "issued by somebody unknown");
}

#[test]
fn a_servers_own_certificate_is_checked_all_the_same() {
    let authority = Authority::new("unknown");
    for make in [&|p| Identity::self_signed(&p), &|p| authority.issue(&p)] as [&dyn Fn(_) -> Identity; 2] {
        for shape in [params, ca_params] {
            let old = make(expired(shape(&[NAME])));
            let outcome = meet(&old.trusted(), &old).unwrap_err();
            assert!(matches!(outcome, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{outcome}");
            let other = make(shape(&["other.example"]));
            let outcome = meet(&other.trusted(), &other).unwrap_err();
            assert!(
                matches!(outcome, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })),
                "{outcome}"
            );
        }
    }
}

#[test]
fn a_look_alike_of_a_trusted_certificate_is_refused() {
    for shape in [params, ca_params] {
        let trusted = Identity::self_signed(&shape(&[NAME]));
        let look_alike = Identity::self_signed(&shape(&[NAME]));
        assert!(meet(&trusted.trusted(), &look_alike).is_err());
    }
}

#[test]
fn a_system_without_authorities_says_so() {
    let none = Chain::new(
        pem::Authorities::of(&pem::Found::default()),
        ring::default_provider().signature_verification_algorithms,
    );
    let identity = Identity::self_signed(&params(&[NAME]));
    let name = ServerName::try_from(NAME).unwrap();
    let outcome = none.verify_server_cert(&identity.certificate, &[], &name, &[], rustls::pki_types::UnixTime::now());
    assert_eq!(refusal(outcome.map(drop)), Some(Refusal::NoAuthorities));
}

#[test]
fn certificates_of_version_1_name_no_host() {
    let identity = Identity::self_signed(&params(&[NAME])).version_1();
    assert_eq!(refusal(meet(&identity.trusted(), &identity)), Some(Refusal::Version1));
}

#[test]
fn skip_verify_takes_any_certificate() {
    let tls = Tls { skip_verify: true, ..Tls::default() };
    for identity in [
        Identity::self_signed(&params(&["other.example"])),
        Identity::self_signed(&expired(ca_params(&[]))),
        Identity::self_signed(&params(&[])).version_1(),
    ] {
        assert_eq!(meet(&tls, &identity), Ok(()));
    }
    let legacy = Identity::self_signed(&params(&[])).version_1();
    let outcome = handshake(&tls, server(legacy.certified(), None, &[&TLS12]), NAME);
    assert_eq!(refusal(outcome), Some(Refusal::Version1), "rustls reads no such key for TLS 1.2");
}

#[test]
fn skip_verify_still_wants_the_key() {
    let tls = Tls { skip_verify: true, ..Tls::default() };
    let shown = Identity::self_signed(&params(&[NAME]));
    let held = Identity::self_signed(&params(&[NAME]));
    for version in [&TLS12, &TLS13] {
        let impostor = CertifiedKey::new(vec![shown.certificate.clone()], held.certified().key);
        let outcome = handshake(&tls, server(impostor, None, &[version]), NAME);
        assert_eq!(outcome, Err(CertificateError::BadSignature.into()), "{version:?}");
    }
}

#[test]
fn tls_1_2_is_enough() {
    let authority = Authority::new("ours");
    let identity = authority.issue(&params(&[NAME]));
    assert_eq!(handshake(&authority.trusted(), server(identity.certified(), None, &[&TLS12]), NAME), Ok(()));
}

/// Settings with this client certificate and key, and the directory they are in.
fn as_client(authority: &Authority, certificate: &str, key: &str) -> (Tls, tempfile::TempDir) {
    let directory = tempdir().unwrap();
    let client = ClientCertificate {
        certificate: write(directory.path(), "client.crt", certificate),
        key: write(directory.path(), "client.key", key),
    };
    (Tls { client: Some(client), ..authority.trusted() }, directory)
}

/// The SEC1 key inside a PKCS#8 one.
fn sec1(pkcs8: &[u8]) -> &[u8] {
    contents(elements(contents(pkcs8))[2])
}

#[test]
fn a_client_certificate_is_shown() {
    let authority = Authority::new("ours");
    let demanding = || server(authority.issue(&params(&[NAME])).certified(), Some(&authority), DEFAULT_VERSIONS);
    let client = authority.issue(&params(&["pod"]));
    let keys = [client.key.serialize_pem(), pem("EC PRIVATE KEY", sec1(&client.key.serialize_der()))];
    for key in keys {
        let (tls, _directory) = as_client(&authority, &client.pem(), &key);
        assert_eq!(handshake(&tls, demanding(), NAME), Ok(()), "{}", key.lines().next().unwrap_or_default());
    }
    assert_eq!(handshake(&authority.trusted(), demanding(), NAME), Err(Error::NoCertificatesPresented));
}

#[test]
fn a_client_certificate_may_be_of_version_1() {
    let authority = Authority::new("ours");
    let client = authority.issue(&params(&[])).version_1();
    let (tls, _directory) = as_client(&authority, &client.pem(), &client.key.serialize_pem());
    assert!(client_config(&tls, Oldest::default()).is_ok());
}

#[test]
fn unusable_client_certificates_are_named_and_not_shown() {
    let authority = Authority::new("ours");
    let (client, other) = (authority.issue(&params(&["pod"])), authority.issue(&params(&["pod"])));
    let said = |certificate: &str, key: &str| {
        let (tls, directory) = as_client(&authority, certificate, key);
        failure(&tls).replace(&format!("{}/", directory.path().display()), "")
    };
    let (good, key) = (client.pem(), client.key.serialize_pem());
    assert_eq!(
        said(&good, &other.key.serialize_pem()),
        "the client certificate client.crt and the client key client.key do not belong together"
    );
    assert_eq!(
        said(&key, &key),
        "the client certificate client.crt holds no certificate; PEM is expected (-----BEGIN CERTIFICATE-----)"
    );
    assert_eq!(
        said(&pem("CERTIFICATE", b"HUSH"), &key),
        "the client certificate client.crt holds no certificate that can be used: what is there is damaged or not X.509"
    );
    for key in [&good, "HUSH", &pem("ENCRYPTED PRIVATE KEY", b"HUSH")] {
        assert_eq!(
            said(&good, key),
            "the client key client.key holds no private key; an unencrypted PEM key is expected (PKCS#8, PKCS#1 or SEC1)"
        );
    }
    let damaged = said(&good, &pem("RSA PRIVATE KEY", b"HUSH"));
    assert!(damaged.starts_with("the client key client.key holds a private key that cannot be used;"), "{damaged}");
}

#[test]
fn a_digest_is_of_everything_that_is_read_and_of_nothing_else() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a.pem", "b.pem", "cert.pem", "key.pem", "more"] {
        fs::write(path(name), name).unwrap();
    }
    let client = Some(ClientCertificate { certificate: path("cert.pem"), key: path("key.pem") });
    let file = Tls { ca: Ca::File(path("a.pem")), client, ..Tls::default() };
    let directory = Tls { ca: Ca::Directory(folder.path().to_owned()), ..Tls::default() };
    let both = || (digest(&file, [path("more").as_path()]), digest(&directory, []));
    let mut before = both();
    assert_eq!(both(), before);
    // (what changes, whether settings of a file and of the directory read it)
    for (name, in_file) in [("a.pem", true), ("b.pem", false), ("cert.pem", true), ("key.pem", true), ("more", true)] {
        fs::write(path(name), "other").unwrap();
        let now = both();
        assert_eq!((now.0 != before.0, now.1 != before.1), (in_file, true), "{name}");
        fs::remove_file(path(name)).unwrap();
        assert_eq!((both().0 != now.0, both().1 != now.1), (in_file, true), "{name} is gone");
        before = both();
    }
}
