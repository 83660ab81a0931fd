//! TLS settings of the operator's server. Flags override the environment as a whole: the CA comes from one of the two, and
//! so does the client certificate with its key.

use std::path::PathBuf;

use super::{
    server_flags::ServerFlags,
    value::{self, ConfigReport, Setting},
};
use crate::tls::{Ca, ClientCertificate, MinTlsVersion, Tls};

pub(super) fn read(flags: &ServerFlags, variables: &ServerFlags, report: &mut ConfigReport) -> Tls {
    let skip_verify = flags.skip_verify.as_ref().or(variables.skip_verify.as_ref());
    let server_name = flags.server_name.as_ref().or(variables.server_name.as_ref());
    Tls {
        ca: read_ca(if flags.ca_sources().next().is_some() { flags } else { variables }, report),
        client: read_client_certificate(
            if flags.client_certificate_sources().next().is_some() { flags } else { variables },
            report,
        ),
        server_name: report.read(server_name, value::server_name),
        skip_verify: report.read(skip_verify, value::boolean).unwrap_or(false),
    }
}

/// Parses the minimum TLS version.
pub(super) fn min_tls_version(text: &str) -> Result<MinTlsVersion, &'static str> {
    let version = [MinTlsVersion::Tls12, MinTlsVersion::Tls13].into_iter().find(|version| version.as_str() == text);
    version.ok_or("is neither 1.2 nor 1.3")
}

fn read_ca(settings: &ServerFlags, report: &mut ConfigReport) -> Ca {
    let mut sources = settings.ca_sources();
    if let Some(first) = sources.next() {
        for other in sources {
            report.warn(format!("{} has no effect: {} overrides it", other.name, first.name));
        }
    }
    let ca = if settings.ca_cert.is_some() {
        report.read(settings.ca_cert.as_ref(), value::file).map(Ca::File)
    } else if let Some(bytes) = &settings.ca_bytes {
        read_pem(bytes, report).map(Ca::Pem)
    } else {
        report.read(settings.ca_directory.as_ref(), value::directory).map(Ca::Directory)
    };
    ca.unwrap_or_default()
}

/// Parses PEM text. The error does not quote an invalid value, because it might be a key.
fn read_pem(setting: &Setting, report: &mut ConfigReport) -> Option<String> {
    if setting.value.contains("-----BEGIN CERTIFICATE-----") {
        return Some(setting.value.clone());
    }
    report.error(format!("{} does not contain a PEM certificate; set the text itself, not a path", setting.name));
    None
}

fn read_client_certificate(settings: &ServerFlags, report: &mut ConfigReport) -> Option<ClientCertificate> {
    let mut file = |setting: &Option<Setting>| -> Option<PathBuf> { report.read(setting.as_ref(), value::file) };
    let (certificate, key) = (file(&settings.client_cert), file(&settings.client_key));
    match (&settings.client_cert, &settings.client_key) {
        (Some(cert), None) => {
            let missing = cert.name.replace("cert", "key").replace("CERT", "KEY");
            report.error(format!("{cert} has no key; also set {missing}"));
        }
        (None, Some(key)) => {
            let missing = key.name.replace("key", "cert").replace("KEY", "CERT");
            report.error(format!("{key} has no certificate; also set {missing}"));
        }
        _ => {}
    }
    Some(ClientCertificate { certificate: certificate?, key: key? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{environment::Environment, flags::ConnectionArgs};

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";

    fn read_tls(args: &ConnectionArgs, env: &[(&str, &str)]) -> (Tls, ConfigReport) {
        let mut report = ConfigReport::default();
        let connection = crate::config::connection::read(args, &Environment::new(env.iter().copied()), &mut report);
        (connection.operator.server.tls.clone(), report)
    }

    #[test]
    fn ca_file_overrides_pem_and_pem_overrides_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (file, folder) = (path("ca.pem"), dir.path().to_str().unwrap());
        fs::write(&file, PEM).unwrap();
        let by_flag = ConnectionArgs {
            vault: crate::config::flags::VaultFlags { ca_directory: Some(folder.to_owned()), ..Default::default() },
            ..Default::default()
        };
        let none = ConnectionArgs::default();
        // (flags, environment, trusted CA, ignored setting)
        for (args, env, ca, unused) in [
            (&none, vec![], Ca::System, None),
            (&none, vec![("VAULT_CAPATH", folder)], Ca::Directory(folder.into()), None),
            (
                &none,
                vec![("VAULT_CAPATH", folder), ("VAULT_CACERT_BYTES", PEM)],
                Ca::Pem(PEM.into()),
                Some("VAULT_CAPATH "),
            ),
            (
                &none,
                vec![("BAO_CACERT", &file), ("VAULT_CACERT_BYTES", PEM)],
                Ca::File(file.clone().into()),
                Some("VAULT_CACERT_BYTES "),
            ),
            (&by_flag, vec![("VAULT_CACERT", "/not/there")], Ca::Directory(folder.into()), None),
        ] {
            let (tls, report) = read_tls(args, &env);
            assert_eq!(tls.ca, ca, "{env:?}");
            assert!(report.errors.is_empty(), "{:?}", report.errors);
            let warned = report.warnings.first().map(String::as_str).unwrap_or_default();
            assert!(unused.map_or(warned.is_empty(), |name| warned.starts_with(name)), "{env:?}: {warned}");
        }
    }

    #[test]
    fn client_certificate_requires_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        fs::write(&path, PEM).unwrap();
        let file = path.to_str().unwrap();
        let (tls, report) =
            read_tls(&ConnectionArgs::default(), &[("VAULT_CLIENT_CERT", file), ("BAO_CLIENT_KEY", file)]);
        assert_eq!(tls.client, Some(ClientCertificate { certificate: path.clone(), key: path.clone() }));
        assert!(report.errors.is_empty());
        for (name, missing) in [("VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"), ("BAO_CLIENT_KEY", "BAO_CLIENT_CERT")] {
            let (_, report) = read_tls(&ConnectionArgs::default(), &[(name, file)]);
            assert_eq!(report.errors.len(), 1);
            assert!(report.errors[0].starts_with(name) && report.errors[0].contains(missing), "{:?}", report.errors);
        }
    }

    #[test]
    fn tls_skip_verify_flag_overrides_variable() {
        for (flag, variable, skip) in [
            (None, None, false),
            (None, Some("1"), true),
            (Some("true"), None, true),
            (Some("false"), Some("true"), false),
            (Some(""), Some("true"), true),
        ] {
            let mut args = ConnectionArgs::default();
            args.vault.skip_verify = flag.map(str::to_owned);
            let env: Vec<_> = variable.map(|v| ("VAULT_SKIP_VERIFY", v)).into_iter().collect();
            assert_eq!(read_tls(&args, &env).0.skip_verify, skip, "{flag:?} {variable:?}");
        }
    }

    #[test]
    fn unreadable_tls_settings_are_rejected() {
        for (name, value, why) in [
            ("VAULT_CACERT", "/not/there.pem", "cannot be opened"),
            ("VAULT_CACERT", "/tmp", "directory"),
            ("VAULT_CAPATH", "/not/there", "cannot be opened"),
            ("VAULT_CACERT_BYTES", "-----BEGIN PRIVATE KEY-----", "PEM certificate"),
            ("VAULT_SKIP_VERIFY", "yes", "neither"),
            ("VAULT_TLS_SERVER_NAME", "https://vault", "neither a host name nor"),
        ] {
            let (_, report) = read_tls(&ConnectionArgs::default(), &[(name, value)]);
            assert_eq!(report.errors.len(), 1, "{name}");
            assert!(report.errors[0].starts_with(name) && report.errors[0].contains(why), "{:?}", report.errors);
            assert!(!report.errors[0].contains("PRIVATE"));
        }
    }
}
