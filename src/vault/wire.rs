//! What goes to Vault and what comes back: requests as a class names them, answers as the server wrote them.

use std::fmt;

use crate::secret::SecretText;

/// How a class may ask for a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// Read (the default).
    #[default]
    Get,
    /// List the names below a path.
    List,
    /// Write and read the answer: dynamic certificates, signatures.
    Put,
    /// The same as [`Method::Put`] to Vault.
    Post,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::List => "LIST",
            Self::Put => "PUT",
            Self::Post => "POST",
        })
    }
}

/// One request for a secret, normalized: equal requests are equal values, and equal values are sent once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    /// The method.
    pub method: Method,
    /// The path below `/v1/`, without leading slash, query or dot segments; not percent-encoded.
    pub path: String,
    /// Query parameters, form-encoded and sorted by name. May come from arguments, so they are secret.
    pub query: Option<SecretText>,
    /// The JSON body, keys sorted.
    pub body: Option<SecretText>,
}
