use super::*;

struct Parsed {
    parameters: Parameters,
    mistakes: String,
    warnings: Vec<String>,
}

/// Parses `name=value` pairs, a role beside them.
fn parsed(pairs: &[(&str, &str)]) -> Parsed {
    let mut map: std::collections::BTreeMap<_, _> = pairs.iter().copied().collect();
    map.entry("roleName").or_insert("app");
    let attributes = Attributes::parse(&serde_json::to_string(&map).unwrap()).unwrap();
    let (mut mistakes, mut warnings) = (Mistakes::default(), Warnings::default());
    let parameters = parse(&attributes, &mut mistakes, &mut warnings);
    let mistakes = mistakes.into_error("", None).map(|e| e.to_string()).unwrap_or_default();
    Parsed { parameters, mistakes, warnings: warnings.into_texts() }
}

fn choice(pairs: &[(&str, &str)]) -> Choice {
    let parsed = parsed(pairs);
    assert_eq!(parsed.mistakes, "", "{pairs:?}");
    parsed.parameters.choice
}

#[test]
fn a_class_that_chooses_nothing_leaves_all_to_the_operator() {
    let empty: Vec<String> = PREFIXED.iter().filter(|s| **s != "RoleName").map(|s| format!("vault{s}")).collect();
    let empty: Vec<(&str, &str)> = empty.iter().map(|name| (name.as_str(), "")).collect();
    for pairs in [&[], empty.as_slice()] {
        let parsed = parsed(pairs);
        assert_eq!(parsed.parameters.choice, Choice::default());
        assert_eq!(parsed.parameters.audience, None);
        assert!(parsed.mistakes.is_empty() && parsed.warnings.is_empty());
    }
}

#[test]
fn every_parameter_goes_by_every_prefix() {
    for prefix in crate::request::attributes::PREFIXES {
        let names: Vec<String> = PREFIXED.iter().map(|suffix| format!("{prefix}{suffix}")).collect();
        let name = |suffix: &str| names.iter().find(|n| n[prefix.len()..] == *suffix).unwrap().as_str();
        let choice = choice(&[
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
            Choice {
                endpoint: None,
                address: Address::parse("https://vault:8200").ok(),
                namespace: Some("team/a".into()),
                auth_namespace: Some("admin".into()),
                auth_mount: Some("kubernetes".into()),
                ca: Some(Ca::Directory("/ca".into())),
                server_name: Some("vault.internal".into()),
                client: Some(("/c.pem".into(), "/k.pem".into())),
                skip_verify: true,
            }
        );
    }
}

#[test]
fn bao_comes_before_openbao_before_vault() {
    let parsed = parsed(&[
        ("vaultAddress", "http://v"),
        ("openbaoAddress", "http://o"),
        ("vaultNamespace", "same"),
        ("baoNamespace", "same"),
    ]);
    assert_eq!(parsed.parameters.choice.address, Address::parse("http://o").ok());
    assert_eq!(parsed.warnings, ["vaultAddress: is not used: openbaoAddress goes before it; remove one"]);
}

#[test]
fn the_role_is_found_plain_first() {
    let role = |pairs: &[(&str, &str)]| parsed(pairs).parameters.role;
    assert_eq!(role(&[("vaultRoleName", "v")]), "app");
    assert_eq!(role(&[("roleName", ""), ("vaultRoleName", "v")]), "v");
    let parsed = parsed(&[("roleName", "")]);
    assert!(parsed.mistakes.contains("roleName: missing"), "{}", parsed.mistakes);
}

#[test]
fn a_certificate_authority_is_text_before_file_before_directory() {
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n";
    let all = [("vaultCACert", PEM), ("vaultCACertPath", "/ca.pem"), ("vaultCADirectory", "/ca")];
    assert_eq!(choice(&all).ca, Some(Ca::Pem(PEM.into())));
    assert_eq!(choice(&all[1..]).ca, Some(Ca::File("/ca.pem".into())));
    assert_eq!(choice(&all[2..]).ca, Some(Ca::Directory("/ca".into())));
}

#[test]
fn mount_paths_and_namespaces_are_normalized() {
    assert_eq!(choice(&[("vaultKubernetesMountPath", "/k8s/prod/")]).auth_mount.as_deref(), Some("k8s/prod"));
    assert_eq!(choice(&[("vaultKubernetesMountPath", "/")]).auth_mount, None);
    assert_eq!(choice(&[("vaultNamespace", "/")]).namespace.as_deref(), Some("root"));
    // As servers read a header.
    for text in [" team", "team/ ", "/team /"] {
        assert_eq!(choice(&[("vaultNamespace", text)]).namespace.as_deref(), Some("team"), "{text:?}");
    }
    let warned = parsed(&[("vaultAuthMountPath", "auth/kubernetes")]);
    assert!(warned.warnings[0].contains("did you mean \"kubernetes\"?"), "{:?}", warned.warnings);
}

#[test]
fn go_words_are_booleans() {
    for word in ["1", "t", "T", "TRUE", "true", "True"] {
        assert!(choice(&[("vaultSkipTLSVerify", word)]).skip_verify, "{word}");
    }
    for word in ["0", "f", "F", "FALSE", "false", "False"] {
        assert!(!choice(&[("vaultSkipTLSVerify", word)]).skip_verify, "{word}");
    }
    assert!(parsed(&[("vaultSkipTLSVerify", "yes")]).mistakes.contains("\"yes\"; write true or false"));
}

#[test]
fn mistakes_name_the_parameter_and_the_way_out() {
    for (pairs, says) in [
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
        (&[("baoAddress", "https://vault:99999")], "baoAddress: \"https://vault:99999\" has a port that is no number"),
        (&[("vaultAddress", "https://vault:8200/v1")], "ends with /v1, which is added to it"),
        (&[("vaultAddress", "https://me:hunter2@vault")], "vaultAddress: carries a user name"),
        (&[("vaultTLSServerName", "https://vault")], "vaultTLSServerName: is neither a host name nor an IP address"),
        (&[("audience", "a\n")], "audience: contains a control character"),
        (&[("roleName", "a\n")], "roleName: contains a control character"),
        (&[("vaultCACert", "/etc/ca.pem")], "vaultCACert: is no PEM text"),
        (&[("vaultTLSClientCertPath", "/c")], "vaultTLSClientCertPath: is set without"),
        (&[("vaultTLSClientKeyPath", "/k")], "vaultTLSClientKeyPath: is set without"),
    ] {
        let said = parsed(pairs).mistakes;
        assert!(said.contains(says), "{pairs:?}: {said}");
        assert!(!said.contains("mistakes"), "one only: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
