//! Proxy selection, and connections through proxies.

use std::{env, io};

use http::{HeaderValue, Uri};
use hyper_util::{
    client::{
        legacy::connect::proxy::SocksV5,
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::{Service as _, service_fn};
use zeroize::Zeroizing;

use super::{error::ProxyConnectError, stream::Io, tcp::Target};
use crate::{
    secret::SecretText,
    text::{MAX_MESSAGE_BYTES, one_line},
};

/// Maximum size in bytes of a proxy's response to CONNECT.
const MAX_CONNECT_RESPONSE_BYTES: usize = 8 << 10;

/// Proxies to use, by the rules of Go's `net/http`. Their URLs may contain passwords and are never displayed.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: SecretText,
    https: SecretText,
    no_proxy: String,
    /// True if the proxy also applies to this node's own addresses.
    covers_local_hosts: bool,
}

/// Invalid proxy setting. The value may contain a password, so the error contains only the variable's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is not a valid proxy URL; write http://, https:// or socks5://, host and port")]
pub struct InvalidProxyUrl {
    /// Name of the variable.
    pub variable: String,
}

impl Proxies {
    /// Returns settings without a proxy.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, or the lower-case variable if one of them is unset or empty.
    pub fn from_env() -> Result<Self, InvalidProxyUrl> {
        Self::from_vars(|name| env::var(name).ok())
    }

    /// Same as [`Proxies::from_env`], from any source of variables.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidProxyUrl> {
        let lookup = |upper: &str| {
            let lower = upper.to_ascii_lowercase();
            [upper, &lower].iter().find_map(|name| var(name).filter(|value| !value.is_empty())).unwrap_or_default()
        };
        Ok(Self {
            http: parse_proxy_url("HTTP_PROXY", lookup("HTTP_PROXY"))?,
            https: parse_proxy_url("HTTPS_PROXY", lookup("HTTPS_PROXY"))?,
            no_proxy: lookup("NO_PROXY"),
            covers_local_hosts: false,
        })
    }

    /// Returns one proxy for all hosts, regardless of the environment. `name` is its variable (`VAULT_PROXY_ADDR`).
    pub fn for_all_hosts(name: &str, url: impl Into<String>) -> Result<Self, InvalidProxyUrl> {
        let url = url.into();
        if url.is_empty() {
            return Err(InvalidProxyUrl { variable: name.to_owned() });
        }
        let url = parse_proxy_url(name, url)?;
        Ok(Self { http: url.clone(), https: url, no_proxy: String::new(), covers_local_hosts: true })
    }

    /// Returns the proxy for this URI. `None` for a direct connection.
    pub(in crate::vault) fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        let target = Target::from_uri(uri);
        if target.is_local() && !self.covers_local_hosts {
            return None;
        }
        Matcher::builder()
            .http(self.http.expose())
            .https(self.https.expose())
            .no(normalize_no_proxy(&self.no_proxy, target.port))
            .build()
            .intercept(uri)
    }
}

fn parse_proxy_url(name: &str, url: String) -> Result<SecretText, InvalidProxyUrl> {
    let matched = Matcher::builder().all(&url).build().intercept(&Uri::from_static("http://vault"));
    let is_supported =
        |proxy: Intercept| is_socks(&proxy) || matches!(proxy.uri().scheme_str(), Some("http" | "https"));
    if url.is_empty() || matched.is_some_and(is_supported) {
        Ok(url.into())
    } else {
        Err(InvalidProxyUrl { variable: name.to_owned() })
    }
}

/// Converts `NO_PROXY` for the matcher, which does not support Go's `host:port` and `*.domain`. Unlike in Go, and as in
/// curl, `.domain` also matches the domain itself.
fn normalize_no_proxy(no_proxy: &str, port: u16) -> String {
    let entries = no_proxy.split(',').map(str::trim).filter_map(|entry| match entry.rsplit_once(':') {
        Some((host, number)) if !host.contains(':') || host.ends_with(']') => {
            (number.parse() == Ok(port)).then(|| host.trim_matches(['[', ']']))
        }
        _ => Some(entry),
    });
    entries
        .map(|entry| if entry.len() > 1 { entry.trim_start_matches('*') } else { entry })
        .collect::<Vec<_>>()
        .join(",")
}

/// Returns true if the proxy uses SOCKS5 instead of HTTP.
pub(super) fn is_socks(proxy: &Intercept) -> bool {
    matches!(proxy.uri().scheme_str(), Some("socks5" | "socks5h"))
}

/// Asks the proxy at the other end of `io` to connect to `target`. All further bytes go to `target`.
pub(super) async fn connect_through(
    mut io: Box<dyn Io>,
    target: &Target,
    proxy: &Intercept,
) -> Result<Box<dyn Io>, ProxyConnectError> {
    if is_socks(proxy) {
        return connect_socks5(io, target, proxy).await;
    }
    open_tunnel(&mut io, target, proxy.basic_auth()).await?;
    Ok(io)
}

async fn open_tunnel(
    io: &mut Box<dyn Io>,
    target: &Target,
    credentials: Option<&HeaderValue>,
) -> Result<(), ProxyConnectError> {
    let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes());
    if let Some(credentials) = credentials {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(credentials.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    io.write_all(&request).await.map_err(|_| ProxyConnectError::NotHttp)?;
    match read_status(io).await {
        Some(200..=299) => Ok(()),
        Some(407) => Err(ProxyConnectError::AuthenticationRequired),
        Some(status) => Err(ProxyConnectError::Rejected { status }),
        None => Err(ProxyConnectError::NotHttp),
    }
}

/// Reads a response up to the end of its head and returns the status. The bytes that follow are the server's.
async fn read_status(io: &mut Box<dyn Io>) -> Option<u16> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_CONNECT_RESPONSE_BYTES {
            return None;
        }
        head.push(io.read_u8().await.ok()?);
    }
    let line = head.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(line.get(2..5)?).ok()?.parse().ok()
}

/// Connects through a SOCKS5 proxy. The proxy resolves host names, as with `socks5` in Go.
async fn connect_socks5(io: Box<dyn Io>, target: &Target, proxy: &Intercept) -> Result<Box<dyn Io>, ProxyConnectError> {
    let to_error = |message: &str| ProxyConnectError::Socks { message: one_line(message, MAX_MESSAGE_BYTES) };
    let uri = format!("http://{target}/").parse::<Uri>().map_err(|error| to_error(&error.to_string()))?;
    let mut unused_io = Some(TokioIo::new(io));
    let connected = service_fn(move |_: Uri| std::future::ready(unused_io.take().ok_or(io::ErrorKind::NotConnected)));
    let mut socks = SocksV5::new(proxy.uri().clone(), connected);
    if let Some((user, password)) = proxy.raw_auth() {
        socks = socks.with_auth(user.to_owned(), password.to_owned());
    }
    let io = socks.call(uri).await.map_err(|error| to_error(&error.to_string()))?;
    Ok(Box::new(io.into_inner()))
}
