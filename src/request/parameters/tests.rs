use super::*;
use crate::request::known_names::PREFIXED_PARAMETERS;

struct ParseOutcome {
    parameters: Parameters,
    error: String,
    warnings: Vec<String>,
}

/// Parses parameters given as pairs of name and value, with a role added.
fn parse_pairs(pairs: &[(&str, &str)]) -> ParseOutcome {
    let mut map: std::collections::BTreeMap<_, _> = pairs.iter().copied().collect();
    map.entry("roleName").or_insert("app");
    let attributes = Attributes::parse(&serde_json::to_string(&map).unwrap()).unwrap();
    let (mut findings, mut warnings) = (Findings::default(), Warnings::default());
    let parameters = parse(&attributes, &mut findings, &mut warnings);
    let error = findings.into_error("", None).map(|e| e.to_string()).unwrap_or_default();
    ParseOutcome { parameters, error, warnings: warnings.into_messages() }
}

fn parse_choice(pairs: &[(&str, &str)]) -> ServerChoice {
    let parsed = parse_pairs(pairs);
    assert_eq!(parsed.error, "", "{pairs:?}");
    parsed.parameters.choice
}

#[test]
fn parameters_unset_or_empty_leave_server_to_operator() {
    let empty: Vec<String> =
        PREFIXED_PARAMETERS.iter().filter(|s| **s != "RoleName").map(|s| format!("vault{s}")).collect();
    let empty: Vec<(&str, &str)> = empty.iter().map(|name| (name.as_str(), "")).collect();
    for pairs in [&[], empty.as_slice()] {
        let parsed = parse_pairs(pairs);
        assert_eq!(parsed.parameters.choice, ServerChoice::default());
        assert_eq!(parsed.parameters.audience, None);
        assert!(parsed.error.is_empty() && parsed.warnings.is_empty());
    }
}

#[test]
fn parameter_is_accepted_with_every_prefix() {
    for prefix in crate::request::attributes::PARAMETER_PREFIXES {
        let names: Vec<String> = PREFIXED_PARAMETERS.iter().map(|suffix| format!("{prefix}{suffix}")).collect();
        let name = |suffix: &str| names.iter().find(|n| n[prefix.len()..] == *suffix).unwrap().as_str();
        let choice = parse_choice(&[
            (name("Address"), "https://vault:8200"),
            (name("Namespace"), "/team/a/"),
            (name("AuthNamespace"), "admin"),
            (name("SkipTLSVerify"), "T"),
            (name("CADirectory"), "/ca"),
            (name("TLSServerName"), "vault.internal"),
            (name("TLSClientCertPath"), "/c.pem"),
            (name("TLSClientKeyPath"), "/k.pem"),
            (name("AuthMountPath"), "/kubernetes/"),
        ]);
        assert_eq!(
            choice,
            ServerChoice {
                endpoint: None,
                address: Address::parse("https://vault:8200").ok(),
                namespace: Some("team/a".into()),
                auth_namespace: Some("admin".into()),
                auth_mount: Some("kubernetes".into()),
                ca: Some(Ca::Directory("/ca".into())),
                server_name: Some("vault.internal".into()),
                client_certificate: Some(("/c.pem".into(), "/k.pem".into())),
                skip_verify: true,
            }
        );
    }
}

#[test]
fn parameter_prefix_precedence_is_bao_openbao_vault() {
    let parsed = parse_pairs(&[
        ("vaultAddress", "http://v"),
        ("openbaoAddress", "http://o"),
        ("vaultNamespace", "same"),
        ("baoNamespace", "same"),
    ]);
    assert_eq!(parsed.parameters.choice.address, Address::parse("http://o").ok());
    assert_eq!(parsed.warnings, ["vaultAddress: is not used: openbaoAddress goes before it; remove one"]);
}

#[test]
fn role_name_without_prefix_takes_precedence() {
    let role = |pairs: &[(&str, &str)]| parse_pairs(pairs).parameters.role;
    assert_eq!(role(&[("vaultRoleName", "v")]), "app");
    assert_eq!(role(&[("roleName", ""), ("vaultRoleName", "v")]), "v");
    let parsed = parse_pairs(&[("roleName", "")]);
    assert!(parsed.error.contains("roleName: missing"), "{}", parsed.error);
}

#[test]
fn ca_cert_precedence_is_pem_file_directory() {
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n";
    let all = [("vaultCACert", PEM), ("vaultCACertPath", "/ca.pem"), ("vaultCADirectory", "/ca")];
    assert_eq!(parse_choice(&all).ca, Some(Ca::Pem(PEM.into())));
    assert_eq!(parse_choice(&all[1..]).ca, Some(Ca::File("/ca.pem".into())));
    assert_eq!(parse_choice(&all[2..]).ca, Some(Ca::Directory("/ca".into())));
}

#[test]
fn auth_mount_path_and_namespace_are_normalized() {
    assert_eq!(parse_choice(&[("vaultKubernetesMountPath", "/k8s/prod/")]).auth_mount.as_deref(), Some("k8s/prod"));
    assert_eq!(parse_choice(&[("vaultKubernetesMountPath", "/")]).auth_mount, None);
    assert_eq!(parse_choice(&[("vaultNamespace", "/")]).namespace.as_deref(), Some("root"));
    // Servers trim header values in the same way.
    for text in [" team", "team/ ", "/team /"] {
        assert_eq!(parse_choice(&[("vaultNamespace", text)]).namespace.as_deref(), Some("team"), "{text:?}");
    }
    let warned = parse_pairs(&[("vaultAuthMountPath", "auth/kubernetes")]);
    assert!(warned.warnings[0].contains("did you mean \"kubernetes\"?"), "{:?}", warned.warnings);
}

#[test]
fn skip_tls_verify_accepts_go_booleans() {
    for word in ["1", "t", "T", "TRUE", "true", "True"] {
        assert!(parse_choice(&[("vaultSkipTLSVerify", word)]).skip_verify, "{word}");
    }
    for word in ["0", "f", "F", "FALSE", "false", "False"] {
        assert!(!parse_choice(&[("vaultSkipTLSVerify", word)]).skip_verify, "{word}");
    }
    assert!(parse_pairs(&[("vaultSkipTLSVerify", "yes")]).error.contains("\"yes\"; write true or false"));
}

#[test]
fn parameter_error_names_parameter_and_fix() {
    for (pairs, expected) in [
        (&[("vaultKubernetesMountPath", "a"), ("vaultAuthMountPath", "a")][..], "remove one"),
        (
            &[("baoKubernetesMountPath", "a"), ("vaultAuthMountPath", "b")],
            "baoKubernetesMountPath and vaultAuthMountPath",
        ),
        (&[("vaultAuthMountPath", "a/../b")], "vaultAuthMountPath: contains a `.` or `..` part; write \"b\""),
        (&[("vaultAuthMountPath", "a?b")], "vaultAuthMountPath"),
        (&[("vaultAuthMountPath", "a\nb")], "vaultAuthMountPath: contains a control character"),
        (&[("vaultNamespace", "a\r\nX-Evil: 1")], "vaultNamespace: contains a control character"),
        (&[("vaultAuthNamespace", "a\0")], "vaultAuthNamespace: contains a control character"),
        (&[("vaultCACertPath", "/a\n")], "vaultCACertPath: contains a control character"),
        (&[("vaultAddress", "vault:8200")], "vaultAddress: \"vault:8200\" has no scheme; write https://host:port"),
        (
            &[("baoAddress", "https://vault:99999")],
            "baoAddress: \"https://vault:99999\" has a port that is not a number",
        ),
        (&[("vaultAddress", "https://vault:8200/v1")], "ends with /v1, which vaultmount adds"),
        (&[("vaultAddress", "https://me:hunter2@vault")], "vaultAddress: carries a user name"),
        (&[("vaultTLSServerName", "https://vault")], "vaultTLSServerName: is neither a host name nor an IP address"),
        (&[("audience", "a\n")], "audience: contains a control character"),
        (&[("roleName", "a\n")], "roleName: contains a control character"),
        (&[("vaultCACert", "/etc/ca.pem")], "vaultCACert: is no PEM text"),
        (&[("vaultTLSClientCertPath", "/c")], "vaultTLSClientCertPath: is set without"),
        (&[("vaultTLSClientKeyPath", "/k")], "vaultTLSClientKeyPath: is set without"),
    ] {
        let message = parse_pairs(pairs).error;
        assert!(message.contains(expected), "{pairs:?}: {message}");
        assert!(!message.contains("mistakes"), "one only: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
