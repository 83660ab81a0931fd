//! The policy: servers by name, and limits for the classes of each Kubernetes namespace.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use super::{PolicyDenial, VaultServer, addresses::AddressPattern, glob::Glob};
use crate::{
    error::{Cause, Error},
    policy::rule_kind::RuleKind,
    text::{closest_match, quote},
    vault::Address,
};

/// Endpoint name of the operator's default server, which flags and environment set.
pub const DEFAULT_ENDPOINT: &str = "default";
/// Maximum number of allowed values in a message.
const MAX_LISTED_VALUES: usize = 5;

/// The content of a policy file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Display name of the file.
    pub file_name: String,
    /// The servers that classes name with `vaultEndpoint`.
    pub endpoints: BTreeMap<String, Arc<VaultServer>>,
    /// Limits of namespaces. The first rule that matches a namespace applies.
    pub rules: Vec<Rule>,
}

/// Limits for the classes of some Kubernetes namespaces. Without a list, only the server's default is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Kubernetes namespaces that the rule applies to.
    pub namespaces: Vec<Glob>,
    /// Allowed endpoints, by name.
    pub endpoints: Option<Vec<Glob>>,
    /// Allowed addresses beside those of endpoints.
    pub addresses: Vec<AddressPattern>,
    /// Allowed Vault namespaces of secrets and logins. `root` is the root namespace.
    pub vault_namespaces: Option<Vec<Glob>>,
    /// Allowed auth mounts, without `auth/`.
    pub auth_mounts: Option<Vec<Glob>>,
    /// Allowed audiences of service account tokens.
    pub audiences: Option<Vec<Glob>>,
    /// Allows classes to disable certificate verification.
    pub skip_verify: bool,
    /// Allowed files of authorities, certificates and keys.
    pub certificate_files: Vec<Glob>,
}

/// Limits for the classes of one Kubernetes namespace.
#[derive(Clone, Copy)]
pub struct NamespaceLimits<'a> {
    policy: &'a Policy,
    /// The rule and its index in the file, or none if no rule matches the namespace.
    rule: Option<(usize, &'a Rule)>,
    namespace: &'a str,
}

/// A setting that a class chose, or the default if it chose none.
#[derive(Clone, Copy)]
pub struct PolicySetting<'a> {
    /// The effective value.
    pub value: &'a str,
    /// The server's default, which is allowed if the rule has no list.
    pub default: &'a str,
    /// True if the class chose the value.
    pub is_chosen: bool,
}

impl Policy {
    /// Returns the limits of a Kubernetes namespace.
    #[must_use]
    pub fn limits_for<'a>(&'a self, namespace: &'a str) -> NamespaceLimits<'a> {
        let mut rules = self.rules.iter().enumerate();
        let rule = rules.find(|(_, rule)| rule.namespaces.iter().any(|name| name.matches(namespace)));
        NamespaceLimits { policy: self, rule, namespace }
    }
}

impl NamespaceLimits<'_> {
    /// Returns the server of this name, or denies it.
    pub fn find_endpoint(&self, name: &str) -> Result<Arc<VaultServer>, PolicyDenial> {
        let Some(server) = self.policy.endpoints.get(name) else {
            let allowed = self.policy.endpoints.keys().map(String::as_str).filter(|name| self.allows_endpoint(name));
            let suggestion = closest_match(name, allowed).map(|name| format!(" (did you mean {name}?)"));
            let problem = format!("vaultEndpoint {} is not in the operator's policy file", quote(name));
            let error = Error::new(Cause::EndpointUnknown, problem + &suggestion.unwrap_or_default());
            let error = error
                .with_fix(format!("correct it, or have the operator add it to endpoints in {}", self.policy.file_name));
            return Err(PolicyDenial { rule: RuleKind::Endpoint, error });
        };
        self.check_endpoint(name)?;
        Ok(Arc::clone(server))
    }

    /// Denies an endpoint that is not allowed. [`DEFAULT_ENDPOINT`] is the operator's default server.
    pub fn check_endpoint(&self, endpoint: &str) -> Result<(), PolicyDenial> {
        if self.allows_endpoint(endpoint) {
            return Ok(());
        }
        let problem = match endpoint {
            DEFAULT_ENDPOINT => "the class may not use the operator's own server (endpoint default), which is the default of a class without vaultEndpoint or vaultAddress".to_owned(),
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

    /// Returns true if the names of this address must not resolve to this node, or denies the address. The address was not chosen by
    /// an endpoint's name. `operator_server` is the operator's default server, if it is known.
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
        // A pattern with an exact host allows local addresses explicitly.
        if let Some(is_open) = matching.map(AddressPattern::has_host_wildcard).reduce(|all, next| all && next) {
            return Ok(is_open);
        }
        let exact_endpoint =
            allowed.into_iter().find(|(name, server)| *name != DEFAULT_ENDPOINT && server.address == *address);
        let hint = exact_endpoint
            .map(|(name, _)| format!(" (the address of endpoint {name}: write vaultEndpoint: {name} instead)"));
        let problem = format!("the class may not use the address {address}{}", hint.unwrap_or_default());
        let allowed = if patterns.is_empty() {
            "only the addresses of its endpoints".to_owned()
        } else {
            join_truncated(patterns)
        };
        Err(self.denial(RuleKind::Address, Cause::AddressNotAllowed, &problem, &allowed, "addresses"))
    }

    /// Returns true if an endpoint has this address, with any path. `operator_server` is as in [`Self::check_address`].
    pub fn has_endpoint_at(&self, address: &Address, operator_server: Option<&VaultServer>) -> bool {
        self.endpoints_at(address, operator_server).next().is_some()
    }

    /// Returns the endpoints at an address, by name.
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

    /// Denies unverified certificates, unless the rule allows them.
    pub fn check_skip_verify(&self) -> Result<(), PolicyDenial> {
        if self.rule.is_some_and(|(_, rule)| rule.skip_verify) {
            return Ok(());
        }
        let problem = "the class may not disable verification of the server's certificate (vaultSkipTLSVerify)";
        Err(self.denial(
            RuleKind::SkipVerify,
            Cause::SkipVerifyNotAllowed,
            problem,
            "only verified servers",
            "skipVerify",
        ))
    }

    /// Denies overriding the trusted CA or server name of an endpoint, which is equivalent to disabling verification. `parameter` is the
    /// parameter of the class.
    pub fn check_trust_override(&self, parameter: &str) -> Result<(), PolicyDenial> {
        if self.rule.is_some_and(|(_, rule)| rule.skip_verify) {
            return Ok(());
        }
        let problem = format!(
            "the class may not override the trusted CA or server name for the operator's address ({parameter})"
        );
        Err(self.denial(
            RuleKind::SkipVerify,
            Cause::TenantPolicyViolation,
            &problem,
            "only the endpoint's own",
            "skipVerify",
        ))
    }

    /// Denies a certificate file that the rule does not list.
    pub fn check_certificate_file(&self, file: &Path) -> Result<(), PolicyDenial> {
        let files = self.rule.map(|(_, rule)| rule.certificate_files.as_slice()).unwrap_or_default();
        if files.iter().any(|pattern| pattern.matches_file(file)) {
            return Ok(());
        }
        let problem = format!("the class may not use the certificate file {}", quote(&file.to_string_lossy()));
        let allowed = if files.is_empty() { "only the operator's own".to_owned() } else { join_truncated(files) };
        let rule = RuleKind::CertificateFile;
        Err(self.denial(rule, Cause::TenantPolicyViolation, &problem, &allowed, "certificateFiles"))
    }

    /// Denies a Vault namespace that is not allowed. `purpose` is `for secrets` or `for logins`.
    pub fn check_vault_namespace(&self, setting: PolicySetting<'_>, purpose: &str) -> Result<(), PolicyDenial> {
        let noun = format_args!("Vault namespace {purpose}");
        self.check_setting(setting, RuleKind::VaultNamespace, noun, "vaultNamespaces", |rule| {
            rule.vault_namespaces.as_deref()
        })
    }

    /// Denies an auth mount that is not allowed.
    pub fn check_auth_mount(&self, setting: PolicySetting<'_>) -> Result<(), PolicyDenial> {
        let noun = format_args!("auth mount");
        self.check_setting(setting, RuleKind::AuthMount, noun, "authMounts", |rule| rule.auth_mounts.as_deref())
    }

    /// Denies an audience that is not allowed.
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
            format!("the class sets no {noun}, but may not use the default {value}")
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
            if default.is_empty() { "only the operator's own".to_owned() } else { format!("only {}", quote(default)) }
        };
        self.rule.and_then(|(_, rule)| list_of(rule)).map_or_else(default_only, join_truncated)
    }

    /// Builds a denial with the problem, the allowed values, and the field of the policy file to change.
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
