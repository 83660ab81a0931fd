use super::*;

/// Returns options with the proxies of these variables.
fn options_from_vars(vars: &[(&str, String)]) -> ConnectOptions {
    let var = |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    ConnectOptions { proxies: Proxies::from_vars(var).unwrap(), ..ConnectOptions::default() }
}

/// Starts a TLS server for use behind a proxy. Returns settings that trust it, and its address.
async fn trusted_tls_server() -> (Tls, SocketAddr) {
    let authority = Authority::new("ours");
    let address = serve_certificate(&authority.issue(&params(&[NAME]))).await;
    (authority.trust_settings(), address)
}

const URL: &str = "https://vault.example:8200/v1/x";
const SEEN_BY_SERVER: &str = "HTTP/2.0 https://vault.example:8200/v1/x vault.example";

#[tokio::test]
async fn https_proxy_tunnels_with_connect() {
    let (tls, address) = trusted_tls_server().await;
    let proxy = servers::proxy("", address).await;
    let options = options_from_vars(&[("HTTPS_PROXY", format!("http://{proxy}"))]);
    assert_eq!(get(&tls, options, URL).await.unwrap(), SEEN_BY_SERVER);
}

#[tokio::test]
async fn proxy_credentials_are_sent_and_required() {
    let (tls, address) = trusted_tls_server().await;
    let proxy = servers::proxy("Basic dXNlcjpwdyE=", address).await;
    let right = options_from_vars(&[("https_proxy", format!("user:pw%21@{proxy}"))]);
    assert_eq!(get(&tls, right, URL).await.unwrap(), SEEN_BY_SERVER);
    let none = options_from_vars(&[("https_proxy", proxy.to_string())]);
    assert_eq!(expect_proxy_error(&tls, none, proxy).await, ProxyConnectError::AuthenticationRequired);
}

async fn expect_proxy_error(tls: &Tls, options: ConnectOptions, expected: SocketAddr) -> ProxyConnectError {
    match expect_connect_error(tls, options, URL).await {
        ConnectError::Proxy { proxy, target, error } => {
            assert_eq!((proxy, target.as_str()), (expected.to_string(), "vault.example:8200"));
            error
        }
        other => panic!("not a proxy error: {other:?}"),
    }
}

#[tokio::test]
async fn vault_proxy_addr_applies_to_local_addresses() {
    let (tls, address) = trusted_tls_server().await;
    let proxy = servers::proxy("", address).await;
    let options = ConnectOptions {
        proxies: Proxies::for_all_hosts("VAULT_PROXY_ADDR", proxy.to_string()).unwrap(),
        ..ConnectOptions::default()
    };
    assert_eq!(get(&tls, options.clone(), URL).await.unwrap(), SEEN_BY_SERVER);
    let error = expect_connect_error(&tls, options, "https://127.0.0.1:1/").await;
    assert!(
        matches!(error, ConnectError::Proxy { error: ProxyConnectError::Rejected { status: 403 }, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn proxy_over_tls_is_supported() {
    let authority = Authority::new("ours");
    let address = serve_certificate(&authority.issue(&params(&[NAME]))).await;
    let proxy_identity = authority.issue(&params(&["127.0.0.1"]));
    let proxy =
        servers::tls_proxy(server_config(proxy_identity.certified_key(), None, DEFAULT_VERSIONS), address).await;
    let options = options_from_vars(&[("HTTPS_PROXY", format!("https://{proxy}"))]);
    assert_eq!(get(&with_server_name(authority.trust_settings(), NAME), options, URL).await.unwrap(), SEEN_BY_SERVER);
}

#[tokio::test]
async fn socks5_proxy_is_supported() {
    let (tls, address) = trusted_tls_server().await;
    let proxy = servers::socks5_proxy(address).await;
    let options = options_from_vars(&[("HTTPS_PROXY", format!("socks5://{proxy}"))]);
    assert_eq!(get(&tls, options.clone(), URL).await.unwrap(), SEEN_BY_SERVER);
    let error = expect_connect_error(&tls, options, "https://other.example:8200/").await;
    assert!(matches!(error, ConnectError::Proxy { error: ProxyConnectError::Socks { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn http_proxy_receives_absolute_urls() {
    let proxy = servers::http().await;
    let options = options_from_vars(&[("HTTP_PROXY", format!("http://user:pw@{proxy}"))]);
    let seen = get(&Tls::default(), options, "http://vault.example:8200/v1/x").await.unwrap();
    assert_eq!(seen, "HTTP/1.1 http://vault.example:8200/v1/x  Basic dXNlcjpwdw==");
}

#[tokio::test]
async fn proxy_failure_error_names_proxy() {
    let tls = Authority::new("ours").trust_settings();
    let through = |proxy: SocketAddr| options_from_vars(&[("HTTPS_PROXY", proxy.to_string())]);

    let proxy = servers::unused_address().await;
    let proxy_error = ConnectError::ConnectionRefused { target: proxy.to_string() };
    assert_eq!(
        expect_proxy_error(&tls, through(proxy), proxy).await,
        ProxyConnectError::Connect(Box::new(proxy_error))
    );

    for (reply, expected) in [
        (&b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..], ProxyConnectError::Rejected { status: 503 }),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ProxyConnectError::NotHttp),
        (b"", ProxyConnectError::NotHttp),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>Welcome</html>", ProxyConnectError::NotTls),
    ] {
        let proxy = servers::replying(reply).await;
        assert_eq!(expect_proxy_error(&tls, through(proxy), proxy).await, expected);
    }
}

#[tokio::test]
async fn connect_timeout_covers_silent_proxy() {
    let proxies = Proxies::for_all_hosts("VAULT_PROXY_ADDR", servers::silent().await.to_string()).unwrap();
    let error = expect_connect_error(&Tls::default(), ConnectOptions { proxies, ..short_timeout() }, URL).await;
    assert!(matches!(error, ConnectError::TimedOut { stage: ConnectStage::Proxy, .. }), "{error:?}");
}

#[tokio::test]
async fn proxy_variables_are_ignored_for_loopback() {
    let address = servers::http().await;
    let options = options_from_vars(&[("HTTP_PROXY", servers::unused_address().await.to_string())]);
    for host in ["localhost", "127.0.0.1", "127.8.8.8"] {
        // Not every machine routes 127.8.8.8 to a server on 127.0.0.1. The server, not the proxy, refuses the connection then.
        match get(&Tls::default(), options.clone(), &format!("http://{host}:{}/", address.port())).await {
            Ok(seen) => assert_eq!(seen, "HTTP/1.1 /"),
            Err(error) => {
                assert!(
                    matches!(find_connect_error(&error), Some(ConnectError::ConnectionRefused { target }) if target.starts_with(host))
                );
            }
        }
    }
}

#[tokio::test]
async fn deny_local_addresses_applies_behind_proxy() {
    let (tls, address) = trusted_tls_server().await;
    let proxies = Proxies::for_all_hosts("VAULT_PROXY_ADDR", servers::proxy("", address).await.to_string()).unwrap();
    let options = ConnectOptions { proxies, ..deny_local() };
    assert_eq!(get(&tls, options.clone(), URL).await.unwrap(), SEEN_BY_SERVER);
    for host in ["169.254.169.254", "localhost", "[::1]"] {
        let error = expect_connect_error(&tls, options.clone(), &format!("https://{host}:8200/")).await;
        assert!(matches!(error, ConnectError::BlockedAddress { .. }), "{host}: {error:?}");
    }
}

/// Returns the proxy for a request to `url` with these variables, or `direct`.
fn proxy_for(vars: &[(&str, &str)], url: &str) -> String {
    let vars: Vec<_> = vars.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let proxy = options_from_vars(&vars).proxies.intercept(&url.parse().unwrap());
    proxy.map_or_else(|| "direct".to_owned(), |proxy| Target::from_uri(proxy.uri()).to_string())
}

#[test]
fn proxy_variables_follow_go_precedence() {
    assert_eq!(proxy_for(&[], URL), "direct");
    assert_eq!(proxy_for(&[("HTTPS_PROXY", "upper:1"), ("https_proxy", "lower:2")], URL), "upper:1");
    assert_eq!(proxy_for(&[("HTTPS_PROXY", ""), ("https_proxy", "lower:2")], URL), "lower:2");
    assert_eq!(proxy_for(&[("HTTP_PROXY", "plain:3")], URL), "direct");
    assert_eq!(proxy_for(&[("HTTP_PROXY", "plain:3")], "http://vault.example"), "plain:3");
    assert_eq!(proxy_for(&[("HTTPS_PROXY", "https://secure")], URL), "secure:443");
}

#[test]
fn no_proxy_follows_go_syntax() {
    let proxy_for = |no_proxy, url| proxy_for(&[("HTTPS_PROXY", "proxy:1"), ("NO_PROXY", no_proxy)], url);
    for no_proxy in [
        "vault.example",
        "other, vault.example ",
        "example",
        ".example",
        "*.example",
        "*",
        "vault.example:8200",
        "VAULT.EXAMPLE",
    ] {
        assert_eq!(proxy_for(no_proxy, URL), "direct", "{no_proxy}");
    }
    for no_proxy in ["", "ault.example", "vault.example:443", "*.other.example", "10.0.0.0/8"] {
        assert_eq!(proxy_for(no_proxy, URL), "proxy:1", "{no_proxy}");
    }
    for no_proxy in ["10.0.0.0/8", "10.1.2.3", "10.1.2.3:8200"] {
        assert_eq!(proxy_for(no_proxy, "https://10.1.2.3:8200"), "direct", "{no_proxy}");
    }
    for no_proxy in ["fd00::/8", "fd00::1", "[fd00::1]:8200"] {
        assert_eq!(proxy_for(no_proxy, "https://[fd00::1]:8200"), "direct", "{no_proxy}");
    }
    assert_eq!(proxy_for("10.1.2.3:443", "https://10.1.2.3:8200"), "proxy:1");
}

#[test]
fn invalid_proxy_url_error_does_not_repeat_url() {
    for url in ["http://user:HUSH@", "ftp://HUSH:21", "socks4://HUSH", "not a url HUSH"] {
        let error = Proxies::from_vars(|name| (name == "HTTPS_PROXY").then(|| url.to_owned())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "HTTPS_PROXY is not a valid proxy URL; write http://, https:// or socks5://, host and port"
        );
        assert!(Proxies::for_all_hosts("VAULT_PROXY_ADDR", url).is_err());
    }
    assert!(Proxies::for_all_hosts("VAULT_PROXY_ADDR", "").is_err());
}
