//! Addresses that classes may choose beside the operator's own.

use std::fmt;

use super::glob;
use crate::{
    error::{Cause, Error},
    vault::{Address, SENSITIVE_URL_CHARS},
};

/// Addresses that a class may choose beside the operator's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AddressPolicy {
    /// Any address except those of the node itself.
    #[default]
    AnyRemote,
    /// No address.
    None,
    /// Addresses that match a pattern.
    Patterns(Vec<AddressPattern>),
}

/// A pattern of addresses, in which `*` matches any run of characters except `/` and `:`. A path after the port is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPattern {
    /// Scheme, host and port, or a unix address.
    glob: String,
    /// True if the host contains `*`, so that a matching name might resolve to this node.
    has_host_wildcard: bool,
    has_path: bool,
}

/// Characters that `*` does not match in an address.
const WILDCARD_BOUNDARIES: &[char] = &['/', ':'];

impl AddressPolicy {
    /// Parses the values of `--allow-address`.
    pub fn parse(values: &[String]) -> Result<Self, String> {
        match values {
            [] => Ok(Self::AnyRemote),
            [only] if only == "none" => Ok(Self::None),
            many if many.iter().any(|v| v == "none") => Err("`none` cannot be combined with other values".to_owned()),
            many => {
                let patterns = many.iter().map(|v| AddressPattern::parse(v).map_err(|why| format!("{why}, or none")));
                patterns.collect::<Result<_, _>>().map(Self::Patterns)
            }
        }
    }

    /// Returns true if the names of an allowed address must not resolve to this node. Fails if the address is not allowed.
    pub(super) fn evaluate(&self, address: &Address) -> Result<bool, Error> {
        let deny = |why: &str| {
            Err(Error::new(Cause::AddressNotAllowed, format!("the class may not use the address {address}: {why}"))
                .with_fix("remove vaultAddress from the class and from the pod's volumeAttributes, or have the operator allow it with --allow-address"))
        };
        match self {
            Self::None => deny("this provider allows only its own address (--allow-address=none)"),
            Self::AnyRemote if address.is_local() => {
                deny("it leads to the node itself (unix socket, loopback or link-local)")
            }
            Self::AnyRemote => Ok(true),
            Self::Patterns(patterns) => match patterns.iter().find(|p| p.matches(address)) {
                Some(pattern) => Ok(pattern.has_host_wildcard),
                None => deny("no --allow-address matches it"),
            },
        }
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.glob)
    }
}

impl AddressPattern {
    /// Parses a pattern.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut glob = text.trim_end_matches('/').to_owned();
        while glob.contains("**") {
            glob = glob.replace("**", "*");
        }
        let address = Address::parse(&glob.replace(":*", ":1").replace('*', "x")).map_err(|why| {
            if text.contains(SENSITIVE_URL_CHARS) { format!("… {why}") } else { format!("{text:?} {why}") }
        })?;
        let Address::Tcp { port, prefix, .. } = &address else {
            return Ok(Self { glob, has_host_wildcard: false, has_path: false });
        };
        // Adds the default port and lower-cases the host, to match normalized addresses.
        glob.truncate(glob.len() - prefix.len());
        glob.make_ascii_lowercase();
        let host = match glob.rsplit_once(':') {
            Some((host, written)) if written == "*" || written.parse::<u16>().is_ok() => {
                let is_any_port = written == "*";
                let host = host.to_owned();
                glob = if is_any_port { glob } else { format!("{host}:{port}") };
                host
            }
            _ => {
                let host = glob.clone();
                glob = format!("{host}:{port}");
                host
            }
        };
        Ok(Self { has_host_wildcard: host.contains('*'), glob, has_path: !prefix.is_empty() })
    }

    /// Returns true if the pattern contains a path, which is ignored.
    pub(super) fn has_path(&self) -> bool {
        self.has_path
    }

    /// Returns true if a matching name might resolve to this node.
    pub(super) fn has_host_wildcard(&self) -> bool {
        self.has_host_wildcard
    }

    pub(super) fn matches(&self, address: &Address) -> bool {
        match address {
            Address::Unix(_) => glob::matches(&self.glob, &address.to_string(), WILDCARD_BOUNDARIES),
            Address::Tcp { .. } => glob::matches(&self.glob, &address.origin(), WILDCARD_BOUNDARIES),
        }
    }
}
