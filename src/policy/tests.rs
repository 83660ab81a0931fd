//! What a class may choose.

use super::*;

fn operator(allow: &[&str]) -> Operator {
    let server = Server {
        address: Address::parse("https://vault.corp:8200").unwrap(),
        namespace: Some("team".into()),
        auth_mount: "kubernetes".into(),
        tls: Tls { ca: Ca::File("/ca.pem".into()), ..Tls::default() },
    };
    Operator {
        server: Arc::new(server),
        allow: Allow::parse(&allow.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap(),
        allows_skip_verify: true,
        shares_tokens: false,
        tls_dir: None,
        policy: None,
    }
}

/// What a pod of the namespace `shop` is told about a choice.
fn judge(operator: &Operator, choice: &Choice) -> Result<Target, Error> {
    let ask = Ask { choice, namespace: "shop", audience: "vault", default_audience: "vault" };
    operator.judge(&ask).map_err(|refusal| refusal.error)
}

fn choose(address: &str) -> Choice {
    Choice { address: Some(Address::parse(address).unwrap()), ..Choice::default() }
}

#[test]
fn a_class_may_choose_what_the_operator_allows() {
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
        let said = judge(&operator(allow), &choose(address));
        assert_eq!(said.is_ok(), allowed, "{allow:?} {address}: {said:?}");
        match said {
            Ok(target) => assert_eq!(target.endpoint.deny_local_addresses, guarded, "{allow:?} {address}"),
            Err(error) => {
                assert_eq!(error.cause(), Cause::NotAllowed);
                assert!(error.to_string().contains("--allow-address"), "{error}");
            }
        }
    }
}

#[test]
fn what_a_class_leaves_out_is_the_operators() {
    let target = judge(&operator(&[]), &Choice { skip_verify: true, ..Choice::default() }).unwrap();
    assert_eq!(target.namespace.as_deref(), Some("team"));
    assert_eq!(target.auth_namespace.as_deref(), Some("team"));
    assert_eq!(target.auth_mount, "kubernetes");
    assert_eq!(target.endpoint.tls.ca, Ca::File("/ca.pem".into()));
    assert!(target.endpoint.tls.skip_verify && target.own_address);
}

#[test]
fn verification_may_be_made_a_must() {
    let strict = Operator { allows_skip_verify: false, ..operator(&[]) };
    assert!(judge(&strict, &Choice::default()).is_ok());
    let error = judge(&strict, &Choice { skip_verify: true, ..Choice::default() }).unwrap_err();
    assert_eq!(error.cause(), Cause::MustVerify);
    let both = Choice { skip_verify: true, ..choose("http://127.0.0.1:1") };
    assert_eq!(judge(&strict, &both).unwrap_err().cause(), Cause::NotAllowed, "the address goes first");
}

#[test]
fn bad_patterns_are_refused() {
    for bad in [&["none", "https://a"][..], &["vault:8200"], &["ftp://x"]] {
        assert!(Allow::parse(&bad.iter().map(ToString::to_string).collect::<Vec<_>>()).is_err(), "{bad:?}");
    }
}

/// Rules of every kind.
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

fn under(policy: &str) -> Operator {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, policy).unwrap();
    let file = PolicyFile::open(path, false).unwrap();
    Operator { policy: Some(Arc::new(file)), ..operator(&[]) }
}

#[test]
fn a_namespace_may_use_what_its_rule_lists_and_nothing_else() {
    let operator = under(POLICY);
    let none = Choice::default;
    let endpoint = |name: &str| Choice { endpoint: Some(name.to_owned()), ..none() };
    let namespace = |name: &str| Choice { namespace: Some(name.to_owned()), ..none() };
    let mount = |name: &str| Choice { auth_mount: Some(name.to_owned()), ..none() };
    let file = |path: &str| Choice { ca: Some(Ca::File(path.into())), ..none() };
    let client = |certificate: &str, key: &str| Choice { client: Some((certificate.into(), key.into())), ..none() };
    let skip = Choice { skip_verify: true, ..none() };
    // (namespace, choice, audience, the rule that refuses and the cause)
    for (of, choice, audience, refused) in [
        ("shop", none(), "vault", None),
        ("shop", none(), "shop", None),
        ("shop", none(), "other", Some((PolicyRule::Audience, Cause::NotPermitted))),
        ("shop", endpoint("default"), "vault", None),
        ("shop", endpoint("prod"), "vault", None),
        ("shop", endpoint("lab"), "vault", Some((PolicyRule::Endpoint, Cause::NotPermitted))),
        ("shop", endpoint("prd"), "vault", Some((PolicyRule::Endpoint, Cause::EndpointUnknown))),
        ("shop", choose("https://vault.corp:8200"), "vault", None),
        ("shop", choose("https://a.shop.corp:8200"), "vault", None),
        ("shop", choose("https://a.shop.corp:8201"), "vault", Some((PolicyRule::Address, Cause::NotAllowed))),
        ("shop", choose("https://prod.corp:8200"), "vault", Some((PolicyRule::Address, Cause::NotAllowed))),
        ("shop", choose("https://127.0.0.1:8200"), "vault", None),
        ("shop", choose("unix:///run/agent.sock"), "vault", Some((PolicyRule::Address, Cause::NotAllowed))),
        ("shop", namespace("shop/a/b"), "vault", None),
        ("shop", namespace("other"), "vault", Some((PolicyRule::VaultNamespace, Cause::NotPermitted))),
        ("shop", namespace("root"), "vault", Some((PolicyRule::VaultNamespace, Cause::NotPermitted))),
        (
            "shop",
            Choice { auth_namespace: Some("other".into()), ..none() },
            "vault",
            Some((PolicyRule::VaultNamespace, Cause::NotPermitted)),
        ),
        ("shop", mount("jwt-x"), "vault", None),
        ("shop", mount("ldap"), "vault", Some((PolicyRule::AuthMount, Cause::NotPermitted))),
        ("shop", skip.clone(), "vault", None),
        ("shop", file("/tls/shop/ca.pem"), "vault", None),
        ("shop", file("/tls/ca.pem"), "vault", Some((PolicyRule::CertificateFile, Cause::NotPermitted))),
        ("shop", file("/tls/shop/"), "vault", Some((PolicyRule::CertificateFile, Cause::NotPermitted))),
        ("shop", file("/tls//shop/ca.pem"), "vault", None),
        ("shop", file("/tls/shop/../ca.pem"), "vault", Some((PolicyRule::CertificateFile, Cause::NotPermitted))),
        ("shop", client("/tls/shop/c", "/k"), "vault", Some((PolicyRule::CertificateFile, Cause::NotPermitted))),
        // An endpoint's own certificate with its own key.
        ("shop", Choice { client: client("/prod/c.pem", "/prod/k.pem").client, ..endpoint("prod") }, "vault", None),
        (
            "shop",
            Choice { client: client("/prod/c.pem", "/k.pem").client, ..endpoint("prod") },
            "vault",
            Some((PolicyRule::CertificateFile, Cause::NotPermitted)),
        ),
        ("shop", client("/c", "/tls/shop/k"), "vault", Some((PolicyRule::CertificateFile, Cause::NotPermitted))),
        // A rule without lists, and no rule: the operator's own server as it is.
        ("bare", none(), "vault", None),
        ("bare", endpoint("prod"), "vault", Some((PolicyRule::Endpoint, Cause::NotPermitted))),
        ("bare", choose("https://other.corp"), "vault", Some((PolicyRule::Address, Cause::NotAllowed))),
        ("bare", namespace("team"), "vault", None),
        ("bare", namespace("live"), "vault", Some((PolicyRule::VaultNamespace, Cause::NotPermitted))),
        ("bare", mount("jwt"), "vault", Some((PolicyRule::AuthMount, Cause::NotPermitted))),
        ("bare", none(), "shop", Some((PolicyRule::Audience, Cause::NotPermitted))),
        ("bare", skip.clone(), "vault", Some((PolicyRule::SkipVerify, Cause::MustVerify))),
        // A pattern opens no endpoint that is not allowed, by whatever path.
        ("strict", choose("https://prod.corp:8200"), "vault", Some((PolicyRule::Endpoint, Cause::NotAllowed))),
        ("strict", choose("http://prod.corp:8200/x"), "vault", Some((PolicyRule::Endpoint, Cause::NotAllowed))),
        // The operator's own file may be written out.
        ("bare", file("/ca.pem"), "vault", None),
        ("bare", file("/other.pem"), "vault", Some((PolicyRule::CertificateFile, Cause::NotPermitted))),
        ("other", none(), "vault", None),
        ("other", mount("jwt"), "vault", Some((PolicyRule::AuthMount, Cause::NotPermitted))),
        ("other", endpoint("prod"), "vault", Some((PolicyRule::Endpoint, Cause::NotPermitted))),
        // Only the server that the rule names.
        ("lab-1", endpoint("lab"), "vault", None),
        ("lab-1", Choice { skip_verify: true, ..endpoint("lab") }, "vault", None),
        ("lab-1", none(), "vault", Some((PolicyRule::Endpoint, Cause::NotPermitted))),
        ("nobody", none(), "vault", Some((PolicyRule::Endpoint, Cause::NotPermitted))),
        ("nobody", endpoint("default"), "vault", Some((PolicyRule::Endpoint, Cause::NotPermitted))),
    ] {
        let ask = Ask { choice: &choice, namespace: of, audience, default_audience: "vault" };
        let said = operator.judge(&ask);
        let got = said.as_ref().err().map(|refusal| (refusal.rule, refusal.error.cause()));
        assert_eq!(got, refused, "{of} {audience} {choice:?}: {said:?}");
        if let Err(refusal) = said {
            let text = refusal.error.to_string();
            eprintln!("{text}");
            assert!(text.contains("policy.yaml") || text.contains("no absolute path"), "{text}");
        }
    }
}

/// Whose certificate is believed at the operator's address is as good as skipping verification.
#[test]
fn an_endpoint_is_believed_as_the_operator_says_by_name_and_by_address() {
    let operator = under(POLICY);
    let endpoint = |name: &str| Choice { endpoint: Some(name.to_owned()), ..Choice::default() };
    let pem = |choice| Choice { ca: Some(Ca::Pem("-----BEGIN CERTIFICATE-----".into())), ..choice };
    let named = |choice| Choice { server_name: Some("other".into()), ..choice };
    let listed = |choice| Choice { ca: Some(Ca::File("/tls/listed/ca.pem".into())), ..choice };
    for (of, choice, allowed) in [
        ("bare", pem(Choice::default()), false),
        ("bare", named(Choice::default()), false),
        ("shop", pem(Choice::default()), true),
        ("strict", pem(choose("https://a.strict.corp")), true),
        ("strict", pem(Choice::default()), false),
        // An endpoint's address, written out, is none of the class's own.
        ("listed", choose("https://prod.corp:8200"), true),
        ("listed", pem(choose("https://other.corp:8200")), true),
        ("listed", pem(endpoint("prod")), false),
        ("listed", pem(choose("https://prod.corp:8200")), false),
        ("listed", pem(choose("https://PROD.corp:8200/x")), false),
        ("dotted", pem(choose("https://prod.corp.:8200")), false),
        ("listed", pem(choose("https://vault.corp:8200/x")), false),
        ("listed", named(choose("https://prod.corp:8200")), false),
        // Files that are listed are the operator's word.
        ("listed", listed(choose("https://prod.corp:8200")), true),
        ("listed", listed(endpoint("prod")), true),
    ] {
        let ask = Ask { choice: &choice, namespace: of, audience: "vault", default_audience: "vault" };
        let said = operator.judge(&ask);
        let refused = said.as_ref().err().map(|refusal| (refusal.rule, refusal.error.cause()));
        let expected = (!allowed).then_some((PolicyRule::SkipVerify, Cause::NotPermitted));
        assert_eq!(refused, expected, "{of} {choice:?}: {said:?}");
    }
}

#[test]
fn what_is_refused_for_a_blank_shows_it() {
    let choice = Choice::default();
    let ask = Ask { choice: &choice, namespace: "bare", audience: "vault ", default_audience: "vault" };
    let text = under(POLICY).judge(&ask).unwrap_err().error.to_string();
    assert!(text.contains("the audience \"vault \": namespace \"bare\" may use \"vault\" alone"), "{text}");
}

#[test]
fn an_endpoint_brings_its_server_and_login() {
    let target = judge(&under(POLICY), &Choice { endpoint: Some("prod".into()), ..Choice::default() }).unwrap();
    assert_eq!(target.endpoint.address.to_string(), "https://prod.corp:8200");
    assert_eq!((target.namespace.as_deref(), target.auth_mount.as_str()), (Some("live"), "jwt-prod"));
    assert_eq!(target.endpoint.tls.ca, Ca::File("/prod/ca.pem".into()));
    assert!(target.own_address && !target.endpoint.deny_local_addresses && target.endpoint.tls.client.is_some());
    let listed = judge(&under(POLICY), &choose("https://a.shop.corp:8200")).unwrap();
    assert!(
        !listed.own_address && listed.endpoint.deny_local_addresses,
        "a pattern of names may match one of this node"
    );
    let begin = "apiVersion: vaultmount/v1\nkind: Policy\n";
    let twice = format!("{begin}rules: [{{namespaces: [shop], addresses: [\"http://*:*\", \"http://127.0.0.1:1\"]}}]");
    let target = judge(&under(&twice), &choose("http://127.0.0.1:1")).unwrap();
    assert!(!target.endpoint.deny_local_addresses, "written out, if behind a pattern");
    let careless =
        Operator { server: Arc::new(Server { tls: careless(), ..(*operator(&[]).server).clone() }), ..under(&twice) };
    let target = judge(&careless, &choose("http://vault.corp:1")).unwrap();
    let Tls { skip_verify, client, .. } = &target.endpoint.tls;
    assert!(!skip_verify && client.is_none(), "what the operator's server is believed and shown is for it alone");
    assert!(
        !judge(&under(POLICY), &choose("https://127.0.0.1:8200")).unwrap().endpoint.deny_local_addresses,
        "named exactly"
    );
    let error = judge(&operator(&[]), &Choice { endpoint: Some("prod".into()), ..Choice::default() }).unwrap_err();
    assert_eq!(error.cause(), Cause::EndpointUnknown);
    assert!(error.to_string().contains("--policy-file"), "{error}");
}

fn careless() -> Tls {
    let client = ClientCertificate { certificate: "/c".into(), key: "/k".into() };
    Tls { skip_verify: true, client: Some(client), ..Tls::default() }
}

#[test]
fn a_pattern_is_of_scheme_host_and_port() {
    // (pattern, what it comes to, whether a path was dropped)
    for (pattern, is, has_path) in [
        ("https://proxy.com/team/**", "https://proxy.com:443", true),
        ("https://a/****************************", "https://a:443", true),
        ("https://a:8200/", "https://a:8200", false),
        ("https://LAB:08200", "https://lab:8200", false),
        ("https://**.corp:*", "https://*.corp:*", false),
        ("http://[::1]:8200", "http://[::1]:8200", false),
        ("unix:///run/**.sock", "unix:///run/*.sock", false),
    ] {
        let parsed = Pattern::parse(pattern).unwrap();
        assert_eq!((parsed.to_string().as_str(), parsed.has_path()), (is, has_path), "{pattern}");
    }
}

#[test]
fn certificate_files_are_below_the_folder() {
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
    let confined = Operator { tls_dir: Some(TlsDir::new(inside.clone()).unwrap()), ..operator(&[]) };
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
            Choice { ca: Some(Ca::File(inside.join(path))), ..Choice::default() },
            Choice { ca: Some(Ca::Directory(inside.join(path))), ..Choice::default() },
            Choice { client: Some((inside.join("ca.pem"), inside.join(path))), ..Choice::default() },
            Choice { client: Some((inside.join(path), inside.join("ca.pem"))), ..Choice::default() },
        ] {
            let judged = judge(&confined, &choice)
                .and_then(|target| runtime.block_on(confined.follow(&target)).map_err(|refusal| refusal.error));
            assert_eq!(judged.is_ok(), allowed, "{path}: {judged:?}");
        }
    }
    assert!(judge(&confined, &Choice { ca: Some(Ca::File("/etc/ssl/ca.pem".into())), ..Choice::default() }).is_err());
    let own = Choice { ca: Some(Ca::File("/ca.pem".into())), ..Choice::default() };
    for choice in [Choice::default(), own] {
        assert!(judge(&confined, &choice).is_ok(), "the operator's own files may be anywhere");
    }
}

#[test]
fn a_file_that_breaks_leaves_what_it_said_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    let with =
        |namespace: &str| format!("apiVersion: vaultmount/v1\nkind: Policy\nrules: [{{namespaces: [{namespace}]}}]\n");
    std::fs::write(&path, with("a")).unwrap();
    let file = PolicyFile::open(path.clone(), false).unwrap();
    let named = || file.current().rules[0].names[0].to_string();
    for (text, expected, broken) in [
        (with("b"), "b", false),
        ("kind: [".into(), "b", true),
        (with("b"), "b", false),
        (with("c").replace("}]", ", skipVerify: yes}]"), "b", true),
        (with("c"), "c", false),
    ] {
        std::fs::write(&path, &text).unwrap();
        let reread = file.reread();
        assert_eq!(matches!(reread, Reread::Broken(_)), broken, "{text}");
        assert_eq!((named().as_str(), file.is_broken()), (expected, broken), "{text}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(file.reread(), Reread::Broken(_)) && file.reread() == Reread::Same);
    assert_eq!((named().as_str(), file.is_broken()), ("c", true));
}

#[test]
fn the_first_rule_that_names_a_namespace_counts() {
    let begin = "apiVersion: vaultmount/v1\nkind: Policy\n";
    let operator = under(&format!("{begin}rules: [{{namespaces: [shop]}}, {{namespaces: [\"*\"], endpoints: []}}]"));
    for (namespace, allowed) in [("shop", true), ("bank", false)] {
        let choice = Choice::default();
        let ask = Ask { choice: &choice, namespace, audience: "vault", default_audience: "vault" };
        assert_eq!(operator.judge(&ask).is_ok(), allowed, "{namespace}");
    }
}
