use super::*;

/// Returns a kubeconfig with one context and these fields in its cluster and user.
fn kubeconfig(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
current-context: dev
preferences: {{}}
contexts:
- name: other
  context: {{cluster: nowhere, user: nobody}}
- name: dev
  context: {{cluster: c, user: u, namespace: csi}}
clusters:
- name: c
  cluster: {{server: 'https://api.example:6443', {cluster}}}
users:
- name: u
  user: {{{user}}}
"
    )
}

fn load(text: &str) -> Result<Connection, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config"), text).unwrap();
    read(&folder.path().join("config"))
}

/// Returns the error of an invalid kubeconfig without the leading path.
fn load_error(text: &str) -> String {
    let message = load(text).err().unwrap().to_string();
    message.split_once("/config: ").unwrap().1.to_owned()
}

#[test]
fn kubeconfig_current_context_sets_connection() {
    let connection = load(&kubeconfig("", "token: t0ken")).unwrap();
    assert_eq!(connection.server.as_str(), "https://api.example:6443");
    assert_eq!(connection.namespace, "csi");
    assert_eq!(connection.tls, Tls::default());
    assert!(matches!(&connection.credentials, Credentials::Token(t) if t.expose() == "t0ken"));
}

#[test]
fn kubeconfig_without_namespace_or_user_uses_defaults() {
    let text = kubeconfig("", "").replace(", user: u, namespace: csi", "");
    let connection = load(&text).unwrap();
    assert_eq!(connection.namespace, "default");
    assert!(matches!(connection.credentials, Credentials::None));
}

#[test]
fn kubeconfig_in_json_is_accepted() {
    let json = r#"{"current-context":"x","contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}],
        "clusters":[{"name":"x","cluster":{"server":"http://127.0.0.1:8001"}}],"users":[{"name":"x","user":{}}]}"#;
    assert_eq!(load(json).unwrap().server.as_str(), "http://127.0.0.1:8001");
}

#[test]
fn kubeconfig_relative_paths_resolve_from_its_directory() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let user = "tokenFile: token, client-certificate: /abs/tls.crt, client-key: pki/tls.key";
    fs::write(at("config"), kubeconfig("certificate-authority: pki/ca.crt", user)).unwrap();
    fs::write(at("token"), "t").unwrap();

    let connection = read(&at("config")).unwrap();

    assert_eq!(connection.tls.ca, Ca::File(at("pki/ca.crt")));
    let identity = connection.identity.unwrap();
    assert!(matches!(identity.certificate, Pem::File(path) if path == Path::new("/abs/tls.crt")));
    assert!(matches!(identity.key, Pem::File(path) if path == at("pki/tls.key")));
    assert!(matches!(connection.credentials, Credentials::File(_)));
}

#[test]
fn kubeconfig_inline_data_overrides_paths() {
    let data = STANDARD.encode("-----BEGIN X-----");
    let cluster = format!("certificate-authority: a, certificate-authority-data: {data}");
    let user =
        format!("client-certificate: b, client-certificate-data: {data}, client-key: c, client-key-data: {data}");
    let connection = load(&kubeconfig(&cluster, &user)).unwrap();
    assert_eq!(connection.tls.ca, Ca::Pem("-----BEGIN X-----".into()));
    let identity = connection.identity.unwrap();
    assert!(matches!(identity.certificate, Pem::Text(_)));
    assert!(matches!(identity.key, Pem::Text(text) if text.expose() == "-----BEGIN X-----"));
}

#[test]
fn kubeconfig_tls_settings_are_applied() {
    let tls = load(&kubeconfig("tls-server-name: kubernetes, insecure-skip-tls-verify: true", "")).unwrap().tls;
    assert_eq!(tls.server_name.as_deref(), Some("kubernetes"));
    assert!(tls.skip_verify);
}

#[test]
fn kubeconfig_unsupported_user_is_rejected_with_fix() {
    for field in ["exec: {command: aws}", "auth-provider: {name: gcp}", "username: me, password: hunter2", "as: root"] {
        let message = load_error(&kubeconfig("", &format!("token: t, {field}")));
        let name = field.split_once(':').unwrap().0;
        let expected = format!(
            "has user \"u\" with {name:?}, which is not supported; \
             use token, tokenFile, or client-certificate and client-key (or their -data) [VM0091]"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn kubeconfig_error_names_missing_or_invalid_field() {
    let whole = kubeconfig("", "token: t");
    let cases = [
        (whole.replace("current-context: dev\n", ""), "has no current-context"),
        (whole.replace("current-context: dev", "current-context: prod"), "has no context \"prod\""),
        (whole.replace("cluster: c,", "cluster: d,"), "has no cluster \"d\""),
        (whole.replace("user: u,", "user: v,"), "has no user \"v\""),
        (whole.replace("https://api", "api"), "has a cluster whose server is not"),
        (kubeconfig("proxy-url: 'http://p'", ""), "proxy-url, which is not supported"),
        (kubeconfig("certificate-authority-data: '?'", ""), "certificate-authority-data that is not PEM in base64"),
        (kubeconfig("", "client-certificate: a"), "a client-certificate but no client-key"),
        (kubeconfig("", "client-key: a"), "a client-key but no client-certificate"),
        ("clusters: null\nusers: null\n".to_owned(), "has no current-context"),
    ];
    for (text, expected) in cases {
        let message = load_error(&text);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn kubeconfig_parse_error_shows_line_not_content() {
    let message = load_error(&kubeconfig("", "").replace("user: {}", "user: hunter2"));
    assert!(message.starts_with("is not valid (line "), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn kubeconfig_missing_file_is_named() {
    let message = read(Path::new("/nonexistent/config")).err().unwrap().to_string();
    assert!(message.starts_with("kubeconfig /nonexistent/config: cannot be read (it said: No such file"), "{message}");
}
