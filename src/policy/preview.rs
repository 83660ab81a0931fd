//! Evaluates a policy for a class without a pod, as far as possible without the operator's flags.

use super::{
    DEFAULT_ENDPOINT, Policy, PolicyDenial, PolicyRequest, namespace_or_root, rules::PolicySetting, tenant_tls_dir,
};
use crate::policy::rule_kind::RuleKind;

/// A denial that a mount would get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictedDenial {
    /// The denial.
    pub denial: PolicyDenial,
    /// True if the setting would be allowed if it equals the default of the operator's server, which is unknown here.
    pub unless_operator_default: bool,
}

impl RuleKind {
    /// Returns the parameters that the rule limits, without prefix if they have one.
    #[must_use]
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Endpoint => &["Endpoint"],
            Self::Address => &["Address"],
            Self::SkipVerify => &["SkipTLSVerify", "CACert", "TLSServerName"],
            Self::CertificateFile => &["CACertPath", "CADirectory", "TLSClientCertPath", "TLSClientKeyPath"],
            Self::VaultNamespace => &["AuthNamespace", "Namespace"],
            Self::AuthMount => &["AuthMountPath", "KubernetesMountPath"],
            Self::Audience => &["audience"],
            Self::SharedToken => &["tokenScope"],
        }
    }
}

impl Policy {
    /// Returns every denial of a class's choice and audience in a Kubernetes namespace.
    #[must_use]
    pub fn preview(&self, request: &PolicyRequest<'_>) -> Vec<PredictedDenial> {
        let PolicyRequest { choice, namespace, audience, default_audience } = *request;
        let limits = self.limits_for(namespace);
        let mut denials = DenialCollector(Vec::new());
        let named = choice.endpoint.as_deref().filter(|name| *name != DEFAULT_ENDPOINT);
        let server = match (named, &choice.address) {
            (Some(name), _) => denials.record(limits.find_endpoint(name), false),
            (None, None) => {
                denials.record(limits.check_endpoint(DEFAULT_ENDPOINT), false);
                None
            }
            (None, Some(address)) => {
                denials.record(limits.check_address(address, None), true);
                None
            }
        };
        let named_server = server.as_deref();
        let server_tls = named_server.map(|server| &server.tls);
        if choice.skip_verify && !server_tls.is_some_and(|own| own.skip_verify) {
            denials.record(limits.check_skip_verify(), named_server.is_none());
        }
        for file in choice.certificate_files(server_tls) {
            denials.record(
                tenant_tls_dir::require_plain_path(file).and_then(|()| limits.check_certificate_file(file)),
                named_server.is_none(),
            );
        }
        let server_namespace = named_server.map(|server| namespace_or_root(server.namespace.as_ref()));
        denials.check_setting(choice.namespace.as_ref(), server_namespace, |setting| {
            limits.check_vault_namespace(setting, "for secrets")
        });
        // Logins use the namespace of the secrets, unless the class sets another.
        if let Some(chosen) = &choice.auth_namespace {
            denials.check_setting(Some(chosen), server_namespace, |setting| {
                limits.check_vault_namespace(setting, "for logins")
            });
        }
        let server_auth_mount = named_server.map(|server| server.auth_mount.as_str());
        denials
            .check_setting(choice.auth_mount.as_ref(), server_auth_mount, |setting| limits.check_auth_mount(setting));
        let is_chosen = audience != default_audience;
        denials.record(
            limits.check_audience(PolicySetting { value: audience, default: default_audience, is_chosen }),
            false,
        );
        let is_at_endpoint = choice.address.as_ref().is_none_or(|address| limits.has_endpoint_at(address, None));
        if is_at_endpoint && !server_tls.is_some_and(|own| own.skip_verify) {
            for parameter in choice.trust_overrides(server_tls) {
                denials.record(limits.check_trust_override(parameter), named_server.is_none());
            }
        }
        denials.0
    }
}

struct DenialCollector(Vec<PredictedDenial>);

impl DenialCollector {
    fn record<T>(&mut self, result: Result<T, PolicyDenial>, unless_operator_default: bool) -> Option<T> {
        result.map_err(|denial| self.0.push(PredictedDenial { denial, unless_operator_default })).ok()
    }

    /// Checks a setting that is known: chosen, or the server's default. If the default is unknown and no list forbids the chosen
    /// value, the value may equal the default.
    fn check_setting(
        &mut self,
        chosen: Option<&String>,
        default: Option<&str>,
        check: impl Fn(PolicySetting<'_>) -> Result<(), PolicyDenial>,
    ) {
        let Some(value) = chosen.map(String::as_str).or(default) else { return };
        let is_chosen = chosen.is_some();
        let unless_operator_default =
            default.is_none() && check(PolicySetting { value, default: value, is_chosen }).is_ok();
        self.record(
            check(PolicySetting { value, default: default.unwrap_or_default(), is_chosen }),
            unless_operator_default,
        );
    }
}
