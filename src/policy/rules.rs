//! The policy: servers by name, and what the classes of each Kubernetes namespace may use.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use super::{Refusal, Server, allow::Pattern, glob::Glob};
use crate::{
    error::{Cause, Error},
    metrics::PolicyRule,
    text::{nearest, quoted},
    vault::Address,
};

/// The name of the operator's own server, of flags and environment, among the endpoints.
pub const DEFAULT: &str = "default";
/// How many allowed values a message lists.
const LISTED: usize = 5;

/// What a policy file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How messages name the file.
    pub file: String,
    /// The servers that classes name with `vaultEndpoint`.
    pub endpoints: BTreeMap<String, Arc<Server>>,
    /// What namespaces may use; the first rule that names one is its own.
    pub rules: Vec<Rule>,
}

/// What the classes of some Kubernetes namespaces may use. A list that is not there leaves the server's own value alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The namespaces.
    pub names: Vec<Glob>,
    /// Endpoints by name.
    pub endpoints: Option<Vec<Glob>>,
    /// Addresses that no endpoint has.
    pub addresses: Vec<Pattern>,
    /// Vault namespaces, of secrets and of logins; `root` is the root namespace.
    pub vault_namespaces: Option<Vec<Glob>>,
    /// Auth mounts, without `auth/`.
    pub auth_mounts: Option<Vec<Glob>>,
    /// Audiences of service account tokens.
    pub audiences: Option<Vec<Glob>>,
    /// Whether certificates of servers need not be verified.
    pub skip_verify: bool,
    /// Files of authorities, certificates and keys.
    pub certificate_files: Vec<Glob>,
}

/// What the classes of one namespace may use.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    policy: &'a Policy,
    /// The rule and its place in the file; none names the namespace.
    rule: Option<(usize, &'a Rule)>,
    namespace: &'a str,
}

/// A word that a class chose, or that stands because it chose none.
#[derive(Clone, Copy)]
pub struct Word<'a> {
    /// What is in force.
    pub value: &'a str,
    /// The server's own, which is allowed where the rule lists none.
    pub own: &'a str,
    /// Whether the class chose it.
    pub is_chosen: bool,
}

impl Policy {
    /// What a namespace may use.
    #[must_use]
    pub fn limits<'a>(&'a self, namespace: &'a str) -> Limits<'a> {
        let mut rules = self.rules.iter().enumerate();
        let rule = rules.find(|(_, rule)| rule.names.iter().any(|name| name.matches(namespace)));
        Limits { policy: self, rule, namespace }
    }
}

impl Limits<'_> {
    /// The server of this name, if it may be used.
    pub fn endpoint(&self, name: &str) -> Result<Arc<Server>, Refusal> {
        let Some(server) = self.policy.endpoints.get(name) else {
            let allowed = self.policy.endpoints.keys().map(String::as_str).filter(|name| self.may(name));
            let meant = nearest(name, allowed).map(|meant| format!(" (did you mean {meant}?)"));
            let what = format!("vaultEndpoint {} is not in the operator's policy file", quoted(name));
            let error = Error::new(Cause::EndpointUnknown, what + &meant.unwrap_or_default());
            let error =
                error.advice(format!("correct it, or have the operator add it to endpoints in {}", self.policy.file));
            return Err(Refusal { rule: PolicyRule::Endpoint, error });
        };
        self.may_use(name)?;
        Ok(Arc::clone(server))
    }

    /// Refuses an endpoint that may not be used, or the operator's own server by the name [`DEFAULT`].
    pub fn may_use(&self, endpoint: &str) -> Result<(), Refusal> {
        if self.may(endpoint) {
            return Ok(());
        }
        let what = match endpoint {
            DEFAULT => "the class may not use the operator's own server (endpoint default), which is that of a class that names no other".to_owned(),
            name => format!("the class may not use the endpoint {}", quoted(name)),
        };
        Err(self.endpoint_refused(Cause::NotPermitted, &what))
    }

    fn may(&self, endpoint: &str) -> bool {
        self.allows(|rule| rule.endpoints.as_deref(), endpoint, DEFAULT)
    }

    fn endpoint_refused(&self, cause: Cause, what: &str) -> Refusal {
        let allowed = self.allowed(|rule| rule.endpoints.as_deref(), DEFAULT);
        self.refusal(PolicyRule::Endpoint, cause, what, &allowed, "endpoints")
    }

    /// Whether names of this address, which is none of an endpoint that was named, must not lead to this node. `own` is the
    /// operator's own server, where that is known.
    pub fn address(&self, address: &Address, own: Option<&Server>) -> Result<bool, Refusal> {
        let patterns = self.rule.map(|(_, rule)| rule.addresses.as_slice()).unwrap_or_default();
        let (allowed, refused): (Vec<_>, Vec<_>) = self.there(address, own).partition(|(name, _)| self.may(name));
        if let (true, Some((name, _))) = (allowed.is_empty(), refused.first()) {
            let what = format!("the class may not use the address {address}, where endpoint {name} is");
            return Err(self.endpoint_refused(Cause::NotAllowed, &what));
        }
        let matching = patterns.iter().filter(|pattern| pattern.matches(address));
        // What is written out anywhere is meant.
        if let Some(is_open) = matching.map(Pattern::is_open).reduce(|all, one| all && one) {
            return Ok(is_open);
        }
        let of = allowed.into_iter().find(|(name, server)| *name != DEFAULT && server.address == *address);
        let hint = of.map(|(name, _)| format!(" (that of endpoint {name}: write vaultEndpoint: {name} in its place)"));
        let what = format!("the class may not use the address {address}{}", hint.unwrap_or_default());
        let allowed = if patterns.is_empty() { "those of its endpoints alone".to_owned() } else { list(patterns) };
        Err(self.refusal(PolicyRule::Address, Cause::NotAllowed, &what, &allowed, "addresses"))
    }

    /// Whether an endpoint is at this address, whatever path stands behind it. `own` is as for [`Limits::address`].
    pub fn has(&self, address: &Address, own: Option<&Server>) -> bool {
        self.there(address, own).next().is_some()
    }

    /// The endpoints at an address, by name.
    fn there<'a>(
        &'a self,
        address: &'a Address,
        own: Option<&'a Server>,
    ) -> impl Iterator<Item = (&'a str, &'a Server)> {
        let named = self.policy.endpoints.iter().map(|(name, server)| (name.as_str(), &**server));
        named.chain(own.map(|own| (DEFAULT, own))).filter(|(_, server)| server.address.is_same_server(address))
    }

    /// Refuses to leave certificates unverified.
    pub fn skip_verify(&self) -> Result<(), Refusal> {
        if self.rule.is_some_and(|(_, rule)| rule.skip_verify) {
            return Ok(());
        }
        let what = "the class may not switch off the verification of the server's certificate (vaultSkipTLSVerify)";
        Err(self.refusal(PolicyRule::SkipVerify, Cause::MustVerify, what, "verified servers alone", "skipVerify"))
    }

    /// Refuses to believe another than the endpoint says: who may do that may as well believe anyone. `what` is the parameter.
    pub fn trust(&self, what: &str) -> Result<(), Refusal> {
        if self.rule.is_some_and(|(_, rule)| rule.skip_verify) {
            return Ok(());
        }
        let what = format!("the class may not choose whose certificate is believed at the operator's address ({what})");
        Err(self.refusal(PolicyRule::SkipVerify, Cause::NotPermitted, &what, "the endpoint's own alone", "skipVerify"))
    }

    /// Refuses a certificate file that is none of the server's own.
    pub fn certificate_file(&self, file: &Path) -> Result<(), Refusal> {
        let files = self.rule.map(|(_, rule)| rule.certificate_files.as_slice()).unwrap_or_default();
        if files.iter().any(|pattern| pattern.matches_file(file)) {
            return Ok(());
        }
        let what = format!("the class may not use the certificate file {}", quoted(&file.to_string_lossy()));
        let allowed = if files.is_empty() { "the operator's own alone".to_owned() } else { list(files) };
        let rule = PolicyRule::CertificateFile;
        Err(self.refusal(rule, Cause::NotPermitted, &what, &allowed, "certificateFiles"))
    }

    /// Refuses a Vault namespace; `of` is what it is for.
    pub fn vault_namespace(&self, word: Word<'_>, of: &str) -> Result<(), Refusal> {
        let noun = format_args!("Vault namespace {of}");
        self.word(word, PolicyRule::VaultNamespace, noun, "vaultNamespaces", |rule| rule.vault_namespaces.as_deref())
    }

    /// Refuses an auth mount.
    pub fn auth_mount(&self, word: Word<'_>) -> Result<(), Refusal> {
        let noun = format_args!("auth mount");
        self.word(word, PolicyRule::AuthMount, noun, "authMounts", |rule| rule.auth_mounts.as_deref())
    }

    /// Refuses an audience.
    pub fn audience(&self, word: Word<'_>) -> Result<(), Refusal> {
        let noun = format_args!("audience");
        self.word(word, PolicyRule::Audience, noun, "audiences", |rule| rule.audiences.as_deref())
    }

    fn word(
        &self,
        word: Word<'_>,
        rule: PolicyRule,
        noun: fmt::Arguments<'_>,
        field: &str,
        list_of: impl Fn(&Rule) -> Option<&[Glob]>,
    ) -> Result<(), Refusal> {
        if self.allows(&list_of, word.value, word.own) {
            return Ok(());
        }
        let value = quoted(word.value);
        let what = if word.is_chosen {
            format!("the class may not use the {noun} {value}")
        } else {
            format!("the class names no {noun}, and may not use {value}")
        };
        Err(self.refusal(rule, Cause::NotPermitted, &what, &self.allowed(list_of, word.own), field))
    }

    fn allows(&self, list_of: impl Fn(&Rule) -> Option<&[Glob]>, value: &str, own: &str) -> bool {
        match self.rule.and_then(|(_, rule)| list_of(rule)) {
            Some(listed) => listed.iter().any(|pattern| pattern.matches(value)),
            None => value == own,
        }
    }

    fn allowed(&self, list_of: impl Fn(&Rule) -> Option<&[Glob]>, own: &str) -> String {
        let alone =
            || if own.is_empty() { "the operator's own alone".to_owned() } else { format!("{} alone", quoted(own)) };
        self.rule.and_then(|(_, rule)| list_of(rule)).map_or_else(alone, list)
    }

    /// What is refused, what would be allowed, and where that is said.
    fn refusal(&self, rule: PolicyRule, cause: Cause, what: &str, allowed: &str, field: &str) -> Refusal {
        let change = match self.rule {
            Some((index, _)) => format!("change {field} of rules[{index}]"),
            None => "add the namespace to namespaces".to_owned(),
        };
        let error = Error::new(cause, format!("{what}: namespace {} may use {allowed}", quoted(self.namespace)));
        let error = error.advice(format!(
            "change the class or the pod's volumeAttributes, or have the operator {change} in the policy file {}",
            self.policy.file
        ));
        Refusal { rule, error }
    }
}

fn list<T: fmt::Display>(values: &[T]) -> String {
    let mut listed: Vec<String> = values.iter().take(LISTED).map(ToString::to_string).collect();
    match values.len() {
        0 => return "none".to_owned(),
        all if all > LISTED => listed.push(format!("{} more", all - LISTED)),
        _ => {}
    }
    listed.join(", ")
}
