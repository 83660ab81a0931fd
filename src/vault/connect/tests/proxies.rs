use super::*;

/// Options whose proxies come from these variables.
fn with(vars: &[(&str, String)]) -> Options {
    let var = |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    Options { proxies: Proxies::from_vars(var).unwrap(), ..Options::default() }
}

/// A TLS server behind a proxy, and settings that trust it.
async fn vault() -> (Tls, SocketAddr) {
    let authority = Authority::new("ours");
    let address = showing(&authority.issue(&params(&[NAME]))).await;
    (authority.trusted(), address)
}

const URL: &str = "https://vault.example:8200/v1/x";
const SEEN: &str = "HTTP/2.0 https://vault.example:8200/v1/x vault.example";

#[tokio::test]
async fn https_goes_through_connect() {
    let (tls, address) = vault().await;
    let proxy = servers::proxy("", address).await;
    let options = with(&[("HTTPS_PROXY", format!("http://{proxy}"))]);
    assert_eq!(get(&tls, options, URL).await.unwrap(), SEEN);
}

#[tokio::test]
async fn the_proxy_is_shown_its_credentials() {
    let (tls, address) = vault().await;
    let proxy = servers::proxy("Basic dXNlcjpwdyE=", address).await;
    let right = with(&[("https_proxy", format!("user:pw%21@{proxy}"))]);
    assert_eq!(get(&tls, right, URL).await.unwrap(), SEEN);
    let none = with(&[("https_proxy", proxy.to_string())]);
    assert_eq!(proxy_fault(&tls, none, proxy).await, ProxyFault::Credentials);
}

async fn proxy_fault(tls: &Tls, options: Options, expected: SocketAddr) -> ProxyFault {
    match refused(tls, options, URL).await {
        ConnectError::Proxy { proxy, at, fault } => {
            assert_eq!((proxy, at.as_str()), (expected.to_string(), "vault.example:8200"));
            fault
        }
        other => panic!("not the proxy's fault: {other:?}"),
    }
}

#[tokio::test]
async fn an_explicit_proxy_is_always_used() {
    let (tls, address) = vault().await;
    let proxy = servers::proxy("", address).await;
    let options =
        Options { proxies: Proxies::always("VAULT_PROXY_ADDR", proxy.to_string()).unwrap(), ..Options::default() };
    assert_eq!(get(&tls, options.clone(), URL).await.unwrap(), SEEN);
    let error = refused(&tls, options, "https://127.0.0.1:1/").await;
    assert!(matches!(error, ConnectError::Proxy { fault: ProxyFault::Refused { status: 403 }, .. }), "{error:?}");
}

#[tokio::test]
async fn a_proxy_may_speak_tls_itself() {
    let authority = Authority::new("ours");
    let address = showing(&authority.issue(&params(&[NAME]))).await;
    let own = authority.issue(&params(&["127.0.0.1"]));
    let proxy = servers::tls_proxy(server(own.certified(), None, DEFAULT_VERSIONS), address).await;
    let options = with(&[("HTTPS_PROXY", format!("https://{proxy}"))]);
    assert_eq!(get(&named(authority.trusted(), NAME), options, URL).await.unwrap(), SEEN);
}

#[tokio::test]
async fn a_proxy_may_speak_socks() {
    let (tls, address) = vault().await;
    let proxy = servers::socks(address).await;
    let options = with(&[("HTTPS_PROXY", format!("socks5://{proxy}"))]);
    assert_eq!(get(&tls, options.clone(), URL).await.unwrap(), SEEN);
    let error = refused(&tls, options, "https://other.example:8200/").await;
    assert!(matches!(error, ConnectError::Proxy { fault: ProxyFault::Socks { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn plain_http_is_forwarded_whole() {
    let proxy = servers::http().await;
    let options = with(&[("HTTP_PROXY", format!("http://user:pw@{proxy}"))]);
    let seen = get(&Tls::default(), options, "http://vault.example:8200/v1/x").await.unwrap();
    assert_eq!(seen, "HTTP/1.1 http://vault.example:8200/v1/x  Basic dXNlcjpwdw==");
}

#[tokio::test]
async fn a_proxy_that_fails_is_named() {
    let tls = Authority::new("ours").trusted();
    let through = |proxy: SocketAddr| with(&[("HTTPS_PROXY", proxy.to_string())]);

    let proxy = servers::nobody().await;
    let refused_there = ConnectError::Refused { at: proxy.to_string() };
    assert_eq!(proxy_fault(&tls, through(proxy), proxy).await, ProxyFault::Connect(Box::new(refused_there)));

    for (words, fault) in [
        (&b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..], ProxyFault::Refused { status: 503 }),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ProxyFault::NotHttp),
        (b"", ProxyFault::NotHttp),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>Welcome</html>", ProxyFault::NotTls),
    ] {
        let proxy = servers::saying(words).await;
        assert_eq!(proxy_fault(&tls, through(proxy), proxy).await, fault);
    }
}

#[tokio::test]
async fn a_silent_proxy_is_given_up_in_time() {
    let proxies = Proxies::always("VAULT_PROXY_ADDR", servers::silent().await.to_string()).unwrap();
    let error = refused(&Tls::default(), Options { proxies, ..hurried() }, URL).await;
    assert!(matches!(error, ConnectError::TimedOut { stage: Stage::Proxy, .. }), "{error:?}");
}

#[tokio::test]
async fn the_node_itself_is_never_proxied() {
    let address = servers::http().await;
    let options = with(&[("HTTP_PROXY", servers::nobody().await.to_string())]);
    for host in ["localhost", "127.0.0.1", "127.8.8.8"] {
        // Not every machine routes 127.8.8.8 to a server on 127.0.0.1; it is refused then, by the server and not the proxy.
        match get(&Tls::default(), options.clone(), &format!("http://{host}:{}/", address.port())).await {
            Ok(seen) => assert_eq!(seen, "HTTP/1.1 /"),
            Err(error) => {
                assert!(matches!(connect_error(&error), Some(ConnectError::Refused { at }) if at.starts_with(host)));
            }
        }
    }
}

#[tokio::test]
async fn a_guard_holds_for_addresses_behind_a_proxy() {
    let (tls, address) = vault().await;
    let proxies = Proxies::always("VAULT_PROXY_ADDR", servers::proxy("", address).await.to_string()).unwrap();
    let options = Options { proxies, ..guarded() };
    assert_eq!(get(&tls, options.clone(), URL).await.unwrap(), SEEN);
    for host in ["169.254.169.254", "localhost", "[::1]"] {
        let error = refused(&tls, options.clone(), &format!("https://{host}:8200/")).await;
        assert!(matches!(error, ConnectError::Guarded { .. }), "{host}: {error:?}");
    }
}

/// Where a request to `url` goes with these variables.
fn way(vars: &[(&str, &str)], url: &str) -> String {
    let vars: Vec<_> = vars.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let proxy = with(&vars).proxies.intercept(&url.parse().unwrap());
    proxy.map_or_else(|| "direct".to_owned(), |proxy| Target::of(proxy.uri()).to_string())
}

#[test]
fn variables_are_read_as_go_reads_them() {
    assert_eq!(way(&[], URL), "direct");
    assert_eq!(way(&[("HTTPS_PROXY", "upper:1"), ("https_proxy", "lower:2")], URL), "upper:1");
    assert_eq!(way(&[("HTTPS_PROXY", ""), ("https_proxy", "lower:2")], URL), "lower:2");
    assert_eq!(way(&[("HTTP_PROXY", "plain:3")], URL), "direct");
    assert_eq!(way(&[("HTTP_PROXY", "plain:3")], "http://vault.example"), "plain:3");
    assert_eq!(way(&[("HTTPS_PROXY", "https://secure")], URL), "secure:443");
}

#[test]
fn exceptions_are_read_as_go_reads_them() {
    let way = |no, url| way(&[("HTTPS_PROXY", "proxy:1"), ("NO_PROXY", no)], url);
    for no in [
        "vault.example",
        "other, vault.example ",
        "example",
        ".example",
        "*.example",
        "*",
        "vault.example:8200",
        "VAULT.EXAMPLE",
    ] {
        assert_eq!(way(no, URL), "direct", "{no}");
    }
    for no in ["", "ault.example", "vault.example:443", "*.other.example", "10.0.0.0/8"] {
        assert_eq!(way(no, URL), "proxy:1", "{no}");
    }
    for no in ["10.0.0.0/8", "10.1.2.3", "10.1.2.3:8200"] {
        assert_eq!(way(no, "https://10.1.2.3:8200"), "direct", "{no}");
    }
    for no in ["fd00::/8", "fd00::1", "[fd00::1]:8200"] {
        assert_eq!(way(no, "https://[fd00::1]:8200"), "direct", "{no}");
    }
    assert_eq!(way("10.1.2.3:443", "https://10.1.2.3:8200"), "proxy:1");
}

#[test]
fn a_proxy_url_that_is_none_is_refused_and_not_shown() {
    for url in ["http://user:HUSH@", "ftp://HUSH:21", "socks4://HUSH", "not a url HUSH"] {
        let error = Proxies::from_vars(|name| (name == "HTTPS_PROXY").then(|| url.to_owned())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "HTTPS_PROXY is no URL of a proxy; write http://, https:// or socks5://, host and port"
        );
        assert!(Proxies::always("VAULT_PROXY_ADDR", url).is_err());
    }
    assert!(Proxies::always("VAULT_PROXY_ADDR", "").is_err());
}
