//! A driver's Mount request, parsed and checked; nothing after it sees JSON or YAML.

use crate::{policy::Choice, render::Recipe, secret::SecretText, vault::wire::Read};

/// What a pod asked for.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// Who asks.
    pub pod: Pod,
    /// The SecretProviderClass's name; empty when the driver does not say (up to 1.5.6 on polls).
    pub class: String,
    /// The volume's directory on the node.
    pub target_path: String,
    /// The login role.
    pub role: String,
    /// The audience the class asks for; the socket's own otherwise.
    pub audience: Option<String>,
    /// What the class chose of the server.
    pub choice: Choice,
    /// What to read and which files to make of it; not empty, file names distinct.
    pub objects: Vec<Object>,
    /// The service account tokens the driver passed.
    pub tokens: Tokens,
    /// What to tell the operator, though it stops nothing: unknown fields and the like.
    pub warnings: Vec<String>,
}

/// The pod a volume belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID, which no other pod ever has.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
}

/// One entry of `objects`.
#[derive(Clone, Debug)]
pub struct Object {
    /// The request to Vault.
    pub read: Read,
    /// What becomes of the answer.
    pub recipe: Recipe,
    /// A path or key that does not exist is no error.
    pub optional: bool,
    /// The object's configuration as the Go provider's JSON, which enters its version. Holds arguments.
    pub version_config: SecretText,
}

/// Service account tokens by audience.
#[derive(Clone, Debug, Default)]
pub struct Tokens(pub std::collections::BTreeMap<String, SecretText>);
