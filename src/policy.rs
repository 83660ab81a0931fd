//! What an operator allows a tenant to choose, and what becomes of a class's choice.
//!
//! The driver lays a pod's volumeAttributes over the class, so whoever may create a pod may choose all of this.

use std::{fmt, path::PathBuf, sync::Arc};

use crate::{
    error::{Cause, Error},
    tls::{Ca, ClientCertificate, Tls},
    vault::{Endpoint, address::Address},
};

/// What a class (or a pod's volumeAttributes over it) says about the server; every field it leaves out is the operator's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// `vaultAddress`.
    pub address: Option<Address>,
    /// `vaultNamespace`: where secrets are read, and logins happen unless [`Choice::auth_namespace`] is set.
    pub namespace: Option<String>,
    /// `vaultAuthNamespace`: where logins happen.
    pub auth_namespace: Option<String>,
    /// `vaultAuthMountPath` or `vaultKubernetesMountPath`, without slashes around it.
    pub auth_mount: Option<String>,
    /// `vaultCACert`, `vaultCACertPath`, `vaultCADirectory`, in this order of precedence.
    pub ca: Option<Ca>,
    /// `vaultTLSServerName`.
    pub server_name: Option<String>,
    /// `vaultTLSClientCertPath` and `vaultTLSClientKeyPath`.
    pub client: Option<(PathBuf, PathBuf)>,
    /// `vaultSkipTLSVerify`. Can only switch verification off, as with the Go provider.
    pub skip_verify: bool,
}

/// What the operator set for every class, and how far a class may differ.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The server of classes that name none.
    pub address: Address,
    /// The Vault namespace of classes that name none.
    pub namespace: Option<String>,
    /// The auth mount of classes that name none.
    pub auth_mount: String,
    /// TLS settings, over which a class's own are laid.
    pub tls: Tls,
    /// Which other addresses a class may choose.
    pub allow: Allow,
    /// Whether a class may switch off the verification of the server's certificate.
    pub allows_skip_verify: bool,
    /// Whether pods that share a Vault token may have the token itself, and its cubbyhole.
    pub shares_tokens: bool,
}

/// Which addresses other than the operator's own a class may choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allow {
    /// Any but those that lead to the node itself.
    #[default]
    Remote,
    /// None.
    Nothing,
    /// Those that match a pattern.
    Patterns(Vec<Pattern>),
}

/// An address, in which `*` stands for any run of characters other than `/` and `:`. A path after the port is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Scheme, host and port, or a unix address.
    glob: String,
    /// Whether it names no host exactly, so that a name it matches might lead to this node.
    open: bool,
}

/// The server and login that a mount will use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// Where secrets are read.
    pub namespace: Option<String>,
    /// Where logins happen.
    pub auth_namespace: Option<String>,
    /// The auth method's mount path, without `auth/`.
    pub auth_mount: String,
    /// Whether the address is the operator's own.
    pub own_address: bool,
}

impl Operator {
    /// Lays a class's choice over the operator's settings, or refuses it.
    pub fn judge(&self, choice: &Choice) -> Result<Target, Error> {
        let address = choice.address.clone().unwrap_or_else(|| self.address.clone());
        let own_address = address == self.address;
        let guarded = if own_address { false } else { self.allow.judge(&address)? };
        if choice.skip_verify && !self.allows_skip_verify {
            return Err(unverified());
        }
        let client = choice.client.clone().map(|(certificate, key)| ClientCertificate { certificate, key });
        let tls = Tls {
            ca: choice.ca.clone().unwrap_or_else(|| self.tls.ca.clone()),
            client: client.or_else(|| self.tls.client.clone()),
            server_name: choice.server_name.clone().or_else(|| self.tls.server_name.clone()),
            skip_verify: choice.skip_verify || self.tls.skip_verify,
        };
        let namespace = choice.namespace.clone().or_else(|| self.namespace.clone());
        Ok(Target {
            endpoint: Arc::new(Endpoint { address, tls, guarded }),
            auth_namespace: choice.auth_namespace.clone().or_else(|| namespace.clone()),
            namespace,
            auth_mount: choice.auth_mount.clone().unwrap_or_else(|| self.auth_mount.clone()),
            own_address,
        })
    }
}

impl Operator {
    /// Refuses an object (of this name) that gives what is a token's own, in a class whose pods share one.
    pub fn judge_shared(&self, object: &str) -> Result<(), Error> {
        if self.shares_tokens {
            return Ok(());
        }
        Err(Error::new(
            Cause::TokenShared,
            format!("object {object:?} is the Vault token's own (type: token, auth/token, or its cubbyhole), and pods of the service account share that token (tokenScope: serviceAccount)"),
        )
        .advice("remove tokenScope from the class, or have the operator allow it with --allow-shared-token"))
    }
}

fn unverified() -> Error {
    let what = "the class may not switch off the verification of the server's certificate (vaultSkipTLSVerify): this provider forbids it (--allow-skip-verify=false)";
    Error::new(Cause::MustVerify, what).advice("remove vaultSkipTLSVerify from the class and from the pod's volumeAttributes, and set the CA (vaultCACert, vaultCACertPath), or have the operator allow it with --allow-skip-verify")
}

impl Allow {
    /// Reads the values of `--allow-address`; the error says what is wrong.
    pub fn parse(values: &[String]) -> Result<Self, String> {
        match values {
            [] => Ok(Self::Remote),
            [one] if one == "none" => Ok(Self::Nothing),
            many if many.iter().any(|v| v == "none") => Err("`none` stands alone or not at all".to_owned()),
            many => many.iter().map(|v| Pattern::parse(v)).collect::<Result<_, _>>().map(Self::Patterns),
        }
    }

    /// Whether names of an allowed address must not resolve to this node; the error when it is not allowed.
    fn judge(&self, address: &Address) -> Result<bool, Error> {
        let refuse = |why: &str| {
            Err(Error::new(Cause::NotAllowed, format!("the class may not use the address {address}: {why}"))
                .advice("remove vaultAddress from the class and from the pod's volumeAttributes, or have the operator allow it with --allow-address"))
        };
        match self {
            Self::Nothing => refuse("this provider allows its own address only (--allow-address=none)"),
            Self::Remote if address.is_local() => {
                refuse("it leads to the node itself (unix socket, loopback or link-local)")
            }
            Self::Remote => Ok(true),
            Self::Patterns(patterns) => match patterns.iter().find(|p| p.matches(address)) {
                Some(pattern) => Ok(pattern.open),
                None => refuse("no --allow-address matches it"),
            },
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.glob)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let address = Address::parse(&text.replace(":*", ":1").replace('*', "x"))
            .map_err(|why| if text.contains('@') { format!("… {why}") } else { format!("{text:?} {why}, or none") })?;
        let text = text.trim_end_matches('/');
        let Address::Tcp { port, prefix, .. } = &address else {
            return Ok(Self { glob: text.to_owned(), open: false });
        };
        // Ports and letter case are written out, as they are in the addresses it is held against.
        let text = text.to_ascii_lowercase();
        let (origin, _) = text.split_at(text.len() - prefix.len());
        let (host, has_port) = match origin.rsplit_once(':') {
            Some((host, p)) if p == "*" || p.parse::<u16>().is_ok() => (host, true),
            _ => (origin, false),
        };
        let open = host.contains('*');
        Ok(Self { glob: if has_port { origin.to_owned() } else { format!("{origin}:{port}") }, open })
    }

    fn matches(&self, address: &Address) -> bool {
        match address {
            Address::Unix(_) => glob(self.glob.as_bytes(), address.to_string().as_bytes()),
            Address::Tcp { .. } => glob(self.glob.as_bytes(), address.origin().as_bytes()),
        }
    }
}

/// Whether `text` matches `pattern`, where `*` is any run of characters other than `/` and `:`.
/// Steps back to the last `*` only, so it costs at most the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((sp, st)) = star.filter(|(_, st)| !matches!(text[*st], b'/' | b':')) {
            star = Some((sp, st + 1));
            p = sp + 1;
            t = st + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(allow: &[&str]) -> Operator {
        Operator {
            address: Address::parse("https://vault.corp:8200").unwrap(),
            namespace: Some("team".into()),
            auth_mount: "kubernetes".into(),
            tls: Tls { ca: Ca::File("/ca.pem".into()), ..Tls::default() },
            allow: Allow::parse(&allow.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap(),
            allows_skip_verify: true,
            shares_tokens: false,
        }
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
            let said = operator(allow).judge(&choose(address));
            assert_eq!(said.is_ok(), allowed, "{allow:?} {address}: {said:?}");
            match said {
                Ok(target) => assert_eq!(target.endpoint.guarded, guarded, "{allow:?} {address}"),
                Err(error) => {
                    assert_eq!(error.cause(), Cause::NotAllowed);
                    assert!(error.to_string().contains("--allow-address"), "{error}");
                }
            }
        }
    }

    #[test]
    fn what_a_class_leaves_out_is_the_operators() {
        let target = operator(&[]).judge(&Choice { skip_verify: true, ..Choice::default() }).unwrap();
        assert_eq!(target.namespace.as_deref(), Some("team"));
        assert_eq!(target.auth_namespace.as_deref(), Some("team"));
        assert_eq!(target.auth_mount, "kubernetes");
        assert_eq!(target.endpoint.tls.ca, Ca::File("/ca.pem".into()));
        assert!(target.endpoint.tls.skip_verify && target.own_address);
    }

    #[test]
    fn verification_may_be_made_a_must() {
        let strict = Operator { allows_skip_verify: false, ..operator(&[]) };
        assert!(strict.judge(&Choice::default()).is_ok());
        let error = strict.judge(&Choice { skip_verify: true, ..Choice::default() }).unwrap_err();
        assert_eq!(error.cause(), Cause::MustVerify);
        let both = Choice { skip_verify: true, ..choose("http://127.0.0.1:1") };
        assert_eq!(strict.judge(&both).unwrap_err().cause(), Cause::NotAllowed, "the address goes first");
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in [&["none", "https://a"][..], &["vault:8200"], &["ftp://x"]] {
            assert!(Allow::parse(&bad.iter().map(ToString::to_string).collect::<Vec<_>>()).is_err(), "{bad:?}");
        }
    }
}
