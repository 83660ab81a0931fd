//! What a policy says of a class before there is a pod, as far as that can be said without the operator's flags.

use super::{
    DEFAULT_ENDPOINT, Policy, PolicyDenial, PolicyRequest, namespace_or_root, rules::PolicySetting, tenant_tls_dir,
};
use crate::policy::rule_kind::RuleKind;

/// A refusal that a mount would meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictedDenial {
    /// What and why.
    pub denial: PolicyDenial,
    /// Whether it would not be refused if it said what the operator's own server has, which is not known here.
    pub unless_operator_default: bool,
}

impl RuleKind {
    /// The parameters that it is about, without prefix where they have one.
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
    /// Everything in a class's choice that is refused in a Kubernetes namespace, with the audience that it names.
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
        denials.check_setting(choice.namespace.as_ref(), server_namespace, |word| {
            limits.check_vault_namespace(word, "for secrets")
        });
        // Logins happen where secrets are, unless the class says otherwise.
        if let Some(chosen) = &choice.auth_namespace {
            denials
                .check_setting(Some(chosen), server_namespace, |word| limits.check_vault_namespace(word, "for logins"));
        }
        let server_auth_mount = named_server.map(|server| server.auth_mount.as_str());
        denials.check_setting(choice.auth_mount.as_ref(), server_auth_mount, |word| limits.check_auth_mount(word));
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
        result
            .map_err(|refusal| {
                self.0.push(PredictedDenial { denial: refusal, unless_operator_default: unless_operator_default })
            })
            .ok()
    }

    /// Judges a word that is known: chosen, or the server's own. Where that is not known and no list says otherwise, it may be what
    /// was chosen.
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
