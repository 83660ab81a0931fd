//! Tests of the policy's evaluation.

use super::*;

fn operator_policy(allow_address: &[&str]) -> OperatorPolicy {
    let server = VaultServer {
        address: Address::parse("https://vault.corp:8200").unwrap(),
        namespace: Some("team".into()),
        auth_mount: "kubernetes".into(),
        tls: Tls { ca: Ca::File("/ca.pem".into()), ..Tls::default() },
    };
    OperatorPolicy {
        server: Arc::new(server),
        address_policy: AddressPolicy::parse(&allow_address.iter().map(ToString::to_string).collect::<Vec<_>>())
            .unwrap(),
        allows_skip_verify: true,
        allows_shared_token: false,
        tenant_tls_dir: None,
        policy_file: None,
    }
}

/// Evaluates a choice for a pod of the namespace `shop`.
fn evaluate(operator: &OperatorPolicy, choice: &ServerChoice) -> Result<VaultTarget, Error> {
    let ask = PolicyRequest { choice, namespace: "shop", audience: "vault", default_audience: "vault" };
    operator.evaluate(&ask).map_err(|refusal| refusal.error)
}

fn choose_address(address: &str) -> ServerChoice {
    ServerChoice { address: Some(Address::parse(address).unwrap()), ..ServerChoice::default() }
}

#[test]
fn allow_address_limits_addresses_of_classes() {
    // (--allow-address, address, allowed, names guarded against this node)
    for (allow, address, allowed, guarded) in [
        (&[][..], "https://vault.corp:8200/", true, false),
        (&[], "https://other.example", true, true),
        (&[], "https://127.0.0.1:8200", false, false),
        (&[], "unix:///run/x.sock", false, false),
        (&[], "http://169.254.169.254", false, false),
        (&["none"], "https://VAULT.corp:8200", true, false),
        (&["none"], "https://other.example", false, false),
        (&["https://*.corp:8200"], "https://b.corp:8200", true, true),
        (&["https://*.corp:8200"], "https://b.c.corp:8200", true, true),
        (&["https://*.corp:8200"], "https://b.corp:8201", false, false),
        (&["https://*.corp:8200"], "https://evil.example/x.corp:8200", false, false),
        (&["https://*.corp:8200"], "https://evil.example:1/.corp:8200", false, false),
        (&["https://b.corp"], "https://b.corp:443/prefix", true, false),
        (&["https://b.corp:*"], "https://b.corp:9", true, false),
        (&["http://127.0.0.1:*"], "http://127.0.0.1:8200", true, false),
        (&["unix:///run/*.sock"], "unix:///run/agent.sock", true, false),
        (&["unix:///run/*.sock"], "unix:///run/a/agent.sock", false, false),
        (&["unix:///run/Agent.sock"], "unix:///run/Agent.sock", true, false),
        (&["unix:///run/Agent.sock"], "unix:///run/agent.sock", false, false),
    ] {
        let result = evaluate(&operator_policy(allow), &choose_address(address));
        assert_eq!(result.is_ok(), allowed, "{allow:?} {address}: {result:?}");
        match result {
            Ok(target) => assert_eq!(target.endpoint.deny_local_addresses, guarded, "{allow:?} {address}"),
            Err(error) => {
                assert_eq!(error.cause(), Cause::AddressNotAllowed);
                assert!(error.to_string().contains("--allow-address"), "{error}");
            }
        }
    }
}

#[test]
fn class_without_choice_uses_operator_server() {
    let target =
        evaluate(&operator_policy(&[]), &ServerChoice { skip_verify: true, ..ServerChoice::default() }).unwrap();
    assert_eq!(target.namespace.as_deref(), Some("team"));
    assert_eq!(target.auth_namespace.as_deref(), Some("team"));
    assert_eq!(target.auth_mount, "kubernetes");
    assert_eq!(target.endpoint.tls.ca, Ca::File("/ca.pem".into()));
    assert!(target.endpoint.tls.skip_verify && target.is_operator_address);
}

#[test]
fn allow_skip_verify_false_denies_skip_tls_verify() {
    let strict = OperatorPolicy { allows_skip_verify: false, ..operator_policy(&[]) };
    assert!(evaluate(&strict, &ServerChoice::default()).is_ok());
    let error = evaluate(&strict, &ServerChoice { skip_verify: true, ..ServerChoice::default() }).unwrap_err();
    assert_eq!(error.cause(), Cause::SkipVerifyNotAllowed);
    let both = ServerChoice { skip_verify: true, ..choose_address("http://127.0.0.1:1") };
    assert_eq!(evaluate(&strict, &both).unwrap_err().cause(), Cause::AddressNotAllowed, "the address goes first");
}

#[test]
fn allow_address_rejects_invalid_pattern() {
    for bad in [&["none", "https://a"][..], &["vault:8200"], &["ftp://x"]] {
        assert!(AddressPolicy::parse(&bad.iter().map(ToString::to_string).collect::<Vec<_>>()).is_err(), "{bad:?}");
    }
}

/// A policy with rules of every kind.
pub(super) const POLICY: &str = "
apiVersion: vaultmount/v1
kind: Policy
endpoints:
  prod:
    address: https://prod.corp:8200
    namespace: /live/
    authMount: jwt-prod
    tls: {caCertPath: /prod/ca.pem, clientCertPath: /prod/c.pem, clientKeyPath: /prod/k.pem, serverName: prod}
  lab: {address: \"http://lab.corp\", tls: {skipVerify: true}}
rules:
- namespaces: [shop]
  endpoints: [default, prod]
  addresses: [\"https://*.shop.corp:8200\", \"https://127.0.0.1:8200\"]
  vaultNamespaces: [team, live, \"shop/**\"]
  authMounts: [kubernetes, \"jwt-*\"]
  audiences: [vault, shop]
  skipVerify: true
  certificateFiles: [/tls/shop/*]
- namespaces: [bare]
- namespaces: [\"lab-*\"]
  endpoints: [lab]
- namespaces: [strict]
  addresses: [\"https://*.strict.corp:*\", \"https://*.corp:8200\", \"http://*.corp:8200\"]
- namespaces: [listed]
  endpoints: [default, prod]
  addresses: [\"https://*.corp:8200\"]
  certificateFiles: [/tls/listed/*]
- namespaces: [dotted]
  endpoints: [default, prod]
  addresses: [\"https://*.corp*:8200\"]
- namespaces: [nobody]
  endpoints: []
";

fn with_policy_file(policy: &str) -> OperatorPolicy {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, policy).unwrap();
    let file = PolicyFile::open(path, false).unwrap();
    OperatorPolicy { policy_file: Some(Arc::new(file)), ..operator_policy(&[]) }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn policy_rule_allows_only_what_it_lists() {
    let operator = with_policy_file(POLICY);
    let none = ServerChoice::default;
    let endpoint = |name: &str| ServerChoice { endpoint: Some(name.to_owned()), ..none() };
    let namespace = |name: &str| ServerChoice { namespace: Some(name.to_owned()), ..none() };
    let mount = |name: &str| ServerChoice { auth_mount: Some(name.to_owned()), ..none() };
    let file = |path: &str| ServerChoice { ca: Some(Ca::File(path.into())), ..none() };
    let client = |certificate: &str, key: &str| ServerChoice {
        client_certificate: Some((certificate.into(), key.into())),
        ..none()
    };
    let skip = ServerChoice { skip_verify: true, ..none() };
    // (namespace, choice, audience, the denying rule and the cause)
    for (namespace_name, choice, audience, denied) in [
        ("shop", none(), "vault", None),
        ("shop", none(), "shop", None),
        ("shop", none(), "other", Some((RuleKind::Audience, Cause::TenantPolicyViolation))),
        ("shop", endpoint("default"), "vault", None),
        ("shop", endpoint("prod"), "vault", None),
        ("shop", endpoint("lab"), "vault", Some((RuleKind::Endpoint, Cause::TenantPolicyViolation))),
        ("shop", endpoint("prd"), "vault", Some((RuleKind::Endpoint, Cause::EndpointUnknown))),
        ("shop", choose_address("https://vault.corp:8200"), "vault", None),
        ("shop", choose_address("https://a.shop.corp:8200"), "vault", None),
        (
            "shop",
            choose_address("https://a.shop.corp:8201"),
            "vault",
            Some((RuleKind::Address, Cause::AddressNotAllowed)),
        ),
        (
            "shop",
            choose_address("https://prod.corp:8200"),
            "vault",
            Some((RuleKind::Address, Cause::AddressNotAllowed)),
        ),
        ("shop", choose_address("https://127.0.0.1:8200"), "vault", None),
        (
            "shop",
            choose_address("unix:///run/agent.sock"),
            "vault",
            Some((RuleKind::Address, Cause::AddressNotAllowed)),
        ),
        ("shop", namespace("shop/a/b"), "vault", None),
        ("shop", namespace("other"), "vault", Some((RuleKind::VaultNamespace, Cause::TenantPolicyViolation))),
        ("shop", namespace("root"), "vault", Some((RuleKind::VaultNamespace, Cause::TenantPolicyViolation))),
        (
            "shop",
            ServerChoice { auth_namespace: Some("other".into()), ..none() },
            "vault",
            Some((RuleKind::VaultNamespace, Cause::TenantPolicyViolation)),
        ),
        ("shop", mount("jwt-x"), "vault", None),
        ("shop", mount("ldap"), "vault", Some((RuleKind::AuthMount, Cause::TenantPolicyViolation))),
        ("shop", skip.clone(), "vault", None),
        ("shop", file("/tls/shop/ca.pem"), "vault", None),
        ("shop", file("/tls/ca.pem"), "vault", Some((RuleKind::CertificateFile, Cause::TenantPolicyViolation))),
        ("shop", file("/tls/shop/"), "vault", Some((RuleKind::CertificateFile, Cause::TenantPolicyViolation))),
        ("shop", file("/tls//shop/ca.pem"), "vault", None),
        ("shop", file("/tls/shop/../ca.pem"), "vault", Some((RuleKind::CertificateFile, Cause::TenantPolicyViolation))),
        ("shop", client("/tls/shop/c", "/k"), "vault", Some((RuleKind::CertificateFile, Cause::TenantPolicyViolation))),
        // An endpoint's own certificate with its own key.
        (
            "shop",
            ServerChoice {
                client_certificate: client("/prod/c.pem", "/prod/k.pem").client_certificate,
                ..endpoint("prod")
            },
            "vault",
            None,
        ),
        (
            "shop",
            ServerChoice { client_certificate: client("/prod/c.pem", "/k.pem").client_certificate, ..endpoint("prod") },
            "vault",
            Some((RuleKind::CertificateFile, Cause::TenantPolicyViolation)),
        ),
        ("shop", client("/c", "/tls/shop/k"), "vault", Some((RuleKind::CertificateFile, Cause::TenantPolicyViolation))),
        // Without lists or without a rule, only the operator's server with its defaults is allowed.
        ("bare", none(), "vault", None),
        ("bare", endpoint("prod"), "vault", Some((RuleKind::Endpoint, Cause::TenantPolicyViolation))),
        ("bare", choose_address("https://other.corp"), "vault", Some((RuleKind::Address, Cause::AddressNotAllowed))),
        ("bare", namespace("team"), "vault", None),
        ("bare", namespace("live"), "vault", Some((RuleKind::VaultNamespace, Cause::TenantPolicyViolation))),
        ("bare", mount("jwt"), "vault", Some((RuleKind::AuthMount, Cause::TenantPolicyViolation))),
        ("bare", none(), "shop", Some((RuleKind::Audience, Cause::TenantPolicyViolation))),
        ("bare", skip.clone(), "vault", Some((RuleKind::SkipVerify, Cause::SkipVerifyNotAllowed))),
        // An address pattern does not allow a denied endpoint, with any path.
        (
            "strict",
            choose_address("https://prod.corp:8200"),
            "vault",
            Some((RuleKind::Endpoint, Cause::AddressNotAllowed)),
        ),
        (
            "strict",
            choose_address("http://prod.corp:8200/x"),
            "vault",
            Some((RuleKind::Endpoint, Cause::AddressNotAllowed)),
        ),
        // A class may name the operator's own file explicitly.
        ("bare", file("/ca.pem"), "vault", None),
        ("bare", file("/other.pem"), "vault", Some((RuleKind::CertificateFile, Cause::TenantPolicyViolation))),
        ("other", none(), "vault", None),
        ("other", mount("jwt"), "vault", Some((RuleKind::AuthMount, Cause::TenantPolicyViolation))),
        ("other", endpoint("prod"), "vault", Some((RuleKind::Endpoint, Cause::TenantPolicyViolation))),
        // Only the endpoint in the rule is allowed.
        ("lab-1", endpoint("lab"), "vault", None),
        ("lab-1", ServerChoice { skip_verify: true, ..endpoint("lab") }, "vault", None),
        ("lab-1", none(), "vault", Some((RuleKind::Endpoint, Cause::TenantPolicyViolation))),
        ("nobody", none(), "vault", Some((RuleKind::Endpoint, Cause::TenantPolicyViolation))),
        ("nobody", endpoint("default"), "vault", Some((RuleKind::Endpoint, Cause::TenantPolicyViolation))),
    ] {
        let ask = PolicyRequest { choice: &choice, namespace: namespace_name, audience, default_audience: "vault" };
        let result = operator.evaluate(&ask);
        let got = result.as_ref().err().map(|refusal| (refusal.rule, refusal.error.cause()));
        assert_eq!(got, denied, "{namespace_name} {audience} {choice:?}: {result:?}");
        if let Err(refusal) = result {
            let text = refusal.error.to_string();
            eprintln!("{text}");
            assert!(text.contains("policy.yaml") || text.contains("not an absolute path"), "{text}");
        }
    }
}

/// Overriding the trusted CA or server name at the operator's address is equivalent to skipping verification.
#[test]
fn policy_denies_trust_override_at_endpoint_address() {
    let operator = with_policy_file(POLICY);
    let endpoint = |name: &str| ServerChoice { endpoint: Some(name.to_owned()), ..ServerChoice::default() };
    let pem = |choice| ServerChoice { ca: Some(Ca::Pem("-----BEGIN CERTIFICATE-----".into())), ..choice };
    let named = |choice| ServerChoice { server_name: Some("other".into()), ..choice };
    let listed = |choice| ServerChoice { ca: Some(Ca::File("/tls/listed/ca.pem".into())), ..choice };
    for (namespace_name, choice, allowed) in [
        ("bare", pem(ServerChoice::default()), false),
        ("bare", named(ServerChoice::default()), false),
        ("shop", pem(ServerChoice::default()), true),
        ("strict", pem(choose_address("https://a.strict.corp")), true),
        ("strict", pem(ServerChoice::default()), false),
        // An explicit address of an endpoint counts as the endpoint.
        ("listed", choose_address("https://prod.corp:8200"), true),
        ("listed", pem(choose_address("https://other.corp:8200")), true),
        ("listed", pem(endpoint("prod")), false),
        ("listed", pem(choose_address("https://prod.corp:8200")), false),
        ("listed", pem(choose_address("https://PROD.corp:8200/x")), false),
        ("dotted", pem(choose_address("https://prod.corp.:8200")), false),
        ("listed", pem(choose_address("https://vault.corp:8200/x")), false),
        ("listed", named(choose_address("https://prod.corp:8200")), false),
        // Listed files are trusted by the operator.
        ("listed", listed(choose_address("https://prod.corp:8200")), true),
        ("listed", listed(endpoint("prod")), true),
    ] {
        let ask =
            PolicyRequest { choice: &choice, namespace: namespace_name, audience: "vault", default_audience: "vault" };
        let result = operator.evaluate(&ask);
        let denied = result.as_ref().err().map(|refusal| (refusal.rule, refusal.error.cause()));
        let expected = (!allowed).then_some((RuleKind::SkipVerify, Cause::TenantPolicyViolation));
        assert_eq!(denied, expected, "{namespace_name} {choice:?}: {result:?}");
    }
}

#[test]
fn policy_denial_quotes_value_with_trailing_blank() {
    let choice = ServerChoice::default();
    let ask = PolicyRequest { choice: &choice, namespace: "bare", audience: "vault ", default_audience: "vault" };
    let text = with_policy_file(POLICY).evaluate(&ask).unwrap_err().error.to_string();
    assert!(text.contains("the audience \"vault \": namespace \"bare\" may use only \"vault\""), "{text}");
}

#[test]
fn policy_endpoint_sets_server_login_and_address_guard() {
    let target =
        evaluate(&with_policy_file(POLICY), &ServerChoice { endpoint: Some("prod".into()), ..ServerChoice::default() })
            .unwrap();
    assert_eq!(target.endpoint.address.to_string(), "https://prod.corp:8200");
    assert_eq!((target.namespace.as_deref(), target.auth_mount.as_str()), (Some("live"), "jwt-prod"));
    assert_eq!(target.endpoint.tls.ca, Ca::File("/prod/ca.pem".into()));
    assert!(
        target.is_operator_address && !target.endpoint.deny_local_addresses && target.endpoint.tls.client.is_some()
    );
    let listed = evaluate(&with_policy_file(POLICY), &choose_address("https://a.shop.corp:8200")).unwrap();
    assert!(
        !listed.is_operator_address && listed.endpoint.deny_local_addresses,
        "a pattern of names may match one of this node"
    );
    let header = "apiVersion: vaultmount/v1\nkind: Policy\n";
    let twice = format!("{header}rules: [{{namespaces: [shop], addresses: [\"http://*:*\", \"http://127.0.0.1:1\"]}}]");
    let target = evaluate(&with_policy_file(&twice), &choose_address("http://127.0.0.1:1")).unwrap();
    assert!(!target.endpoint.deny_local_addresses, "written out, if behind a pattern");
    let careless = OperatorPolicy {
        server: Arc::new(VaultServer { tls: skip_verify_tls(), ..(*operator_policy(&[]).server).clone() }),
        ..with_policy_file(&twice)
    };
    let target = evaluate(&careless, &choose_address("http://vault.corp:1")).unwrap();
    let Tls { skip_verify, client, .. } = &target.endpoint.tls;
    assert!(
        !skip_verify && client.is_none(),
        "skip_verify and the client certificate of the operator's server apply only to that server"
    );
    assert!(
        !evaluate(&with_policy_file(POLICY), &choose_address("https://127.0.0.1:8200"))
            .unwrap()
            .endpoint
            .deny_local_addresses,
        "named exactly"
    );
    let error =
        evaluate(&operator_policy(&[]), &ServerChoice { endpoint: Some("prod".into()), ..ServerChoice::default() })
            .unwrap_err();
    assert_eq!(error.cause(), Cause::EndpointUnknown);
    assert!(error.to_string().contains("--policy-file"), "{error}");
}

fn skip_verify_tls() -> Tls {
    let client = ClientCertificate { certificate: "/c".into(), key: "/k".into() };
    Tls { skip_verify: true, client: Some(client), ..Tls::default() }
}

#[test]
fn address_pattern_is_normalized_to_scheme_host_and_port() {
    // (pattern, normalized pattern, has_path)
    for (pattern, is, has_path) in [
        ("https://proxy.com/team/**", "https://proxy.com:443", true),
        ("https://a/****************************", "https://a:443", true),
        ("https://a:8200/", "https://a:8200", false),
        ("https://LAB:08200", "https://lab:8200", false),
        ("https://**.corp:*", "https://*.corp:*", false),
        ("http://[::1]:8200", "http://[::1]:8200", false),
        ("unix:///run/**.sock", "unix:///run/*.sock", false),
    ] {
        let parsed = AddressPattern::parse(pattern).unwrap();
        assert_eq!((parsed.to_string().as_str(), parsed.has_path()), (is, has_path), "{pattern}");
    }
}

#[test]
fn tenant_tls_dir_confines_certificate_files() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("tls");
    std::fs::create_dir(&inside).unwrap();
    for file in [folder.path().join("secret.pem"), inside.join("ca.pem")] {
        std::fs::write(file, "").unwrap();
    }
    std::os::unix::fs::symlink("../secret.pem", inside.join("out.pem")).unwrap();
    std::os::unix::fs::symlink("ca.pem", inside.join("in.pem")).unwrap();
    std::fs::create_dir_all(inside.join("deep/er")).unwrap();
    std::os::unix::fs::symlink("../../../secret.pem", inside.join("deep/er/out.pem")).unwrap();
    let confined =
        OperatorPolicy { tenant_tls_dir: Some(TenantTlsDir::new(inside.clone()).unwrap()), ..operator_policy(&[]) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (path, allowed) in [
        ("ca.pem", true),
        ("in.pem", true),
        ("not-there.pem", true),
        ("out.pem", false),
        ("deep", false),
        ("../secret.pem", false),
        ("./ca.pem", false),
        ("../tls-2/ca.pem", false),
    ] {
        for choice in [
            ServerChoice { ca: Some(Ca::File(inside.join(path))), ..ServerChoice::default() },
            ServerChoice { ca: Some(Ca::Directory(inside.join(path))), ..ServerChoice::default() },
            ServerChoice {
                client_certificate: Some((inside.join("ca.pem"), inside.join(path))),
                ..ServerChoice::default()
            },
            ServerChoice {
                client_certificate: Some((inside.join(path), inside.join("ca.pem"))),
                ..ServerChoice::default()
            },
        ] {
            let result = evaluate(&confined, &choice)
                .and_then(|target| runtime.block_on(confined.check_symlinks(&target)).map_err(|refusal| refusal.error));
            assert_eq!(result.is_ok(), allowed, "{path}: {result:?}");
        }
    }
    assert!(
        evaluate(&confined, &ServerChoice { ca: Some(Ca::File("/etc/ssl/ca.pem".into())), ..ServerChoice::default() })
            .is_err()
    );
    let own = ServerChoice { ca: Some(Ca::File("/ca.pem".into())), ..ServerChoice::default() };
    for choice in [ServerChoice::default(), own] {
        assert!(evaluate(&confined, &choice).is_ok(), "the operator's own files may be anywhere");
    }
}

#[test]
fn policy_reload_of_invalid_file_keeps_last_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    let with =
        |namespace: &str| format!("apiVersion: vaultmount/v1\nkind: Policy\nrules: [{{namespaces: [{namespace}]}}]\n");
    std::fs::write(&path, with("a")).unwrap();
    let file = PolicyFile::open(path.clone(), false).unwrap();
    let named = || file.current().rules[0].namespaces[0].to_string();
    for (text, expected, is_invalid) in [
        (with("b"), "b", false),
        ("kind: [".into(), "b", true),
        (with("b"), "b", false),
        (with("c").replace("}]", ", skipVerify: yes}]"), "b", true),
        (with("c"), "c", false),
    ] {
        std::fs::write(&path, &text).unwrap();
        let reloaded = file.reload();
        assert_eq!(matches!(reloaded, PolicyReload::Invalid(_)), is_invalid, "{text}");
        assert_eq!((named().as_str(), file.is_invalid()), (expected, is_invalid), "{text}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(file.reload(), PolicyReload::Invalid(_)) && file.reload() == PolicyReload::Unchanged);
    assert_eq!((named().as_str(), file.is_invalid()), ("c", true));
}

#[test]
fn policy_first_rule_naming_namespace_wins() {
    let header = "apiVersion: vaultmount/v1\nkind: Policy\n";
    let operator =
        with_policy_file(&format!("{header}rules: [{{namespaces: [shop]}}, {{namespaces: [\"*\"], endpoints: []}}]"));
    for (namespace, allowed) in [("shop", true), ("bank", false)] {
        let choice = ServerChoice::default();
        let ask = PolicyRequest { choice: &choice, namespace, audience: "vault", default_audience: "vault" };
        assert_eq!(operator.evaluate(&ask).is_ok(), allowed, "{namespace}");
    }
}
