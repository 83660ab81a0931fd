//! The policy: servers by name, and what the classes of each Kubernetes namespace may use.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use super::{PolicyDenial, VaultServer, addresses::AddressPattern, glob::Glob};
use crate::{
    error::{Cause, Error},
    policy::rule_kind::RuleKind,
    text::{closest_match, quote},
    vault::Address,
};

/// The name of the operator's own server, of flags and environment, among the endpoints.
pub const DEFAULT_ENDPOINT: &str = "default";
/// How many allowed values a message lists.
const MAX_LISTED_VALUES: usize = 5;

/// What a policy file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How messages name the file.
    pub file_name: String,
    /// The servers that classes name with `vaultEndpoint`.
    pub endpoints: BTreeMap<String, Arc<VaultServer>>,
    /// What namespaces may use; the first rule that names one is its own.
    pub rules: Vec<Rule>,
}

/// What the classes of some Kubernetes namespaces may use. A list that is not there leaves the server's own value alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The namespaces.
    pub namespaces: Vec<Glob>,
    /// Endpoints by name.
    pub endpoints: Option<Vec<Glob>>,
    /// Addresses that no endpoint has.
    pub addresses: Vec<AddressPattern>,
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
pub struct NamespaceLimits<'a> {
    policy: &'a Policy,
    /// The rule and its place in the file; none names the namespace.
    rule: Option<(usize, &'a Rule)>,
    namespace: &'a str,
}

/// A word that a class chose, or that stands because it chose none.
#[derive(Clone, Copy)]
pub struct PolicySetting<'a> {
    /// What is in force.
    pub value: &'a str,
    /// The server's own, which is allowed where the rule lists none.
    pub default: &'a str,
    /// Whether the class chose it.
    pub is_chosen: bool,
}

impl Policy {
    /// What a namespace may use.
    #[must_use]
    pub fn limits_for<'a>(&'a self, namespace: &'a str) -> NamespaceLimits<'a> {
        let mut rules = self.rules.iter().enumerate();
        let rule = rules.find(|(_, rule)| rule.namespaces.iter().any(|name| name.matches(namespace)));
        NamespaceLimits { policy: self, rule, namespace }
    }
}

impl NamespaceLimits<'_> {
    /// The server of this name, if it may be used.
    pub fn find_endpoint(&self, name: &str) -> Result<Arc<VaultServer>, PolicyDenial> {
        let Some(server) = self.policy.endpoints.get(name) else {
            let allowed = self.policy.endpoints.keys().map(String::as_str).filter(|name| self.allows_endpoint(name));
            let suggestion = closest_match(name, allowed).map(|meant| format!(" (did you mean {meant}?)"));
            let problem = format!("vaultEndpoint {} is not in the operator's policy file", quote(name));
            let error = Error::new(Cause::EndpointUnknown, problem + &suggestion.unwrap_or_default());
            let error = error
                .with_fix(format!("correct it, or have the operator add it to endpoints in {}", self.policy.file_name));
            return Err(PolicyDenial { rule: RuleKind::Endpoint, error });
        };
        self.check_endpoint(name)?;
        Ok(Arc::clone(server))
    }

    /// Refuses an endpoint that may not be used, or the operator's own server by the name [`DEFAULT`].
    pub fn check_endpoint(&self, endpoint: &str) -> Result<(), PolicyDenial> {
        if self.allows_endpoint(endpoint) {
            return Ok(());
        }
        let problem = match endpoint {
            DEFAULT_ENDPOINT => "the class may not use the operator's own server (endpoint default), which is that of a class that names no other".to_owned(),
            name => format!("the class may not use the endpoint {}", quote(name)),
        };
        Err(self.endpoint_denial(Cause::TenantPolicyViolation, &problem))
    }

    fn allows_endpoint(&self, endpoint: &str) -> bool {
        self.allows_value(|rule| rule.endpoints.as_deref(), endpoint, DEFAULT_ENDPOINT)
    }

    fn endpoint_denial(&self, cause: Cause, problem: &str) -> PolicyDenial {
        let allowed = self.describe_allowed(|rule| rule.endpoints.as_deref(), DEFAULT_ENDPOINT);
        self.denial(RuleKind::Endpoint, cause, problem, &allowed, "endpoints")
    }

    /// Whether names of this address, which is none of an endpoint that was named, must not lead to this node. `own` is the
    /// operator's own server, where that is known.
    pub fn check_address(
        &self,
        address: &Address,
        operator_server: Option<&VaultServer>,
    ) -> Result<bool, PolicyDenial> {
        let patterns = self.rule.map(|(_, rule)| rule.addresses.as_slice()).unwrap_or_default();
        let (allowed, denied): (Vec<_>, Vec<_>) =
            self.endpoints_at(address, operator_server).partition(|(name, _)| self.allows_endpoint(name));
        if let (true, Some((name, _))) = (allowed.is_empty(), denied.first()) {
            let problem = format!("the class may not use the address {address}, where endpoint {name} is");
            return Err(self.endpoint_denial(Cause::AddressNotAllowed, &problem));
        }
        let matching = patterns.iter().filter(|pattern| pattern.matches(address));
        // What is written out anywhere is meant.
        if let Some(is_open) = matching.map(AddressPattern::has_host_wildcard).reduce(|all, one| all && one) {
            return Ok(is_open);
        }
        let exact_endpoint =
            allowed.into_iter().find(|(name, server)| *name != DEFAULT_ENDPOINT && server.address == *address);
        let hint = exact_endpoint
            .map(|(name, _)| format!(" (that of endpoint {name}: write vaultEndpoint: {name} in its place)"));
        let problem = format!("the class may not use the address {address}{}", hint.unwrap_or_default());
        let allowed =
            if patterns.is_empty() { "those of its endpoints alone".to_owned() } else { join_truncated(patterns) };
        Err(self.denial(RuleKind::Address, Cause::AddressNotAllowed, &problem, &allowed, "addresses"))
    }

    /// Whether an endpoint is at this address, whatever path stands behind it. `own` is as for [`Limits::address`].
    pub fn has_endpoint_at(&self, address: &Address, operator_server: Option<&VaultServer>) -> bool {
        self.endpoints_at(address, operator_server).next().is_some()
    }

    /// The endpoints at an address, by name.
    fn endpoints_at<'a>(
        &'a self,
        address: &'a Address,
        operator_server: Option<&'a VaultServer>,
    ) -> impl Iterator<Item = (&'a str, &'a VaultServer)> {
        let named = self.policy.endpoints.iter().map(|(name, server)| (name.as_str(), &**server));
        named
            .chain(operator_server.map(|own| (DEFAULT_ENDPOINT, own)))
            .filter(|(_, server)| server.address.is_same_server(address))
    }

    /// Refuses to leave certificates unverified.
    pub fn check_skip_verify(&self) -> Result<(), PolicyDenial> {
        if self.rule.is_some_and(|(_, rule)| rule.skip_verify) {
            return Ok(());
        }
        let problem = "the class may not switch off the verification of the server's certificate (vaultSkipTLSVerify)";
        Err(self.denial(
            RuleKind::SkipVerify,
            Cause::SkipVerifyNotAllowed,
            problem,
            "verified servers alone",
            "skipVerify",
        ))
    }

    /// Refuses to believe another than the endpoint says: who may do that may as well believe anyone. `what` is the parameter.
    pub fn check_trust_override(&self, parameter: &str) -> Result<(), PolicyDenial> {
        if self.rule.is_some_and(|(_, rule)| rule.skip_verify) {
            return Ok(());
        }
        let problem =
            format!("the class may not choose whose certificate is believed at the operator's address ({parameter})");
        Err(self.denial(
            RuleKind::SkipVerify,
            Cause::TenantPolicyViolation,
            &problem,
            "the endpoint's own alone",
            "skipVerify",
        ))
    }

    /// Refuses a certificate file that is none of the server's own.
    pub fn check_certificate_file(&self, file: &Path) -> Result<(), PolicyDenial> {
        let files = self.rule.map(|(_, rule)| rule.certificate_files.as_slice()).unwrap_or_default();
        if files.iter().any(|pattern| pattern.matches_file(file)) {
            return Ok(());
        }
        let problem = format!("the class may not use the certificate file {}", quote(&file.to_string_lossy()));
        let allowed = if files.is_empty() { "the operator's own alone".to_owned() } else { join_truncated(files) };
        let rule = RuleKind::CertificateFile;
        Err(self.denial(rule, Cause::TenantPolicyViolation, &problem, &allowed, "certificateFiles"))
    }

    /// Refuses a Vault namespace; `of` is what it is for.
    pub fn check_vault_namespace(&self, setting: PolicySetting<'_>, purpose: &str) -> Result<(), PolicyDenial> {
        let noun = format_args!("Vault namespace {purpose}");
        self.check_setting(setting, RuleKind::VaultNamespace, noun, "vaultNamespaces", |rule| {
            rule.vault_namespaces.as_deref()
        })
    }

    /// Refuses an auth mount.
    pub fn check_auth_mount(&self, setting: PolicySetting<'_>) -> Result<(), PolicyDenial> {
        let noun = format_args!("auth mount");
        self.check_setting(setting, RuleKind::AuthMount, noun, "authMounts", |rule| rule.auth_mounts.as_deref())
    }

    /// Refuses an audience.
    pub fn check_audience(&self, setting: PolicySetting<'_>) -> Result<(), PolicyDenial> {
        let noun = format_args!("audience");
        self.check_setting(setting, RuleKind::Audience, noun, "audiences", |rule| rule.audiences.as_deref())
    }

    fn check_setting(
        &self,
        setting: PolicySetting<'_>,
        rule: RuleKind,
        noun: fmt::Arguments<'_>,
        field: &str,
        list_of: impl Fn(&Rule) -> Option<&[Glob]>,
    ) -> Result<(), PolicyDenial> {
        if self.allows_value(&list_of, setting.value, setting.default) {
            return Ok(());
        }
        let value = quote(setting.value);
        let problem = if setting.is_chosen {
            format!("the class may not use the {noun} {value}")
        } else {
            format!("the class names no {noun}, and may not use {value}")
        };
        Err(self.denial(
            rule,
            Cause::TenantPolicyViolation,
            &problem,
            &self.describe_allowed(list_of, setting.default),
            field,
        ))
    }

    fn allows_value(&self, list_of: impl Fn(&Rule) -> Option<&[Glob]>, value: &str, default: &str) -> bool {
        match self.rule.and_then(|(_, rule)| list_of(rule)) {
            Some(listed) => listed.iter().any(|pattern| pattern.matches(value)),
            None => value == default,
        }
    }

    fn describe_allowed(&self, list_of: impl Fn(&Rule) -> Option<&[Glob]>, default: &str) -> String {
        let default_only = || {
            if default.is_empty() { "the operator's own alone".to_owned() } else { format!("{} alone", quote(default)) }
        };
        self.rule.and_then(|(_, rule)| list_of(rule)).map_or_else(default_only, join_truncated)
    }

    /// What is refused, what would be allowed, and where that is said.
    fn denial(&self, rule: RuleKind, cause: Cause, problem: &str, allowed: &str, field: &str) -> PolicyDenial {
        let change = match self.rule {
            Some((index, _)) => format!("change {field} of rules[{index}]"),
            None => "add the namespace to namespaces".to_owned(),
        };
        let error = Error::new(cause, format!("{problem}: namespace {} may use {allowed}", quote(self.namespace)));
        let error = error.with_fix(format!(
            "change the class or the pod's volumeAttributes, or have the operator {change} in the policy file {}",
            self.policy.file_name
        ));
        PolicyDenial { rule, error }
    }
}

fn join_truncated<T: fmt::Display>(values: &[T]) -> String {
    let mut listed: Vec<String> = values.iter().take(MAX_LISTED_VALUES).map(ToString::to_string).collect();
    match values.len() {
        0 => return "none".to_owned(),
        all if all > MAX_LISTED_VALUES => listed.push(format!("{} more", all - MAX_LISTED_VALUES)),
        _ => {}
    }
    listed.join(", ")
}
