//! What a policy says of a class before there is a pod, as far as that can be said without the operator's flags.

use super::{Ask, DEFAULT, Policy, Refusal, rules::Word, tls_dir, word};
use crate::metrics::PolicyRule;

/// A refusal that a mount would meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// What and why.
    pub refusal: Refusal,
    /// Whether it would not be refused if it said what the operator's own server has, which is not known here.
    pub unless_own: bool,
}

impl PolicyRule {
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
    pub fn review(&self, ask: &Ask<'_>) -> Vec<Foreseen> {
        let Ask { choice, namespace, audience, default_audience } = *ask;
        let limits = self.limits(namespace);
        let mut found = Found(Vec::new());
        let named = choice.endpoint.as_deref().filter(|name| *name != DEFAULT);
        let server = match (named, &choice.address) {
            (Some(name), _) => found.note(limits.endpoint(name), false),
            (None, None) => {
                found.note(limits.may_use(DEFAULT), false);
                None
            }
            (None, Some(address)) => {
                found.note(limits.address(address, None), true);
                None
            }
        };
        let own = server.as_deref();
        let own_tls = own.map(|server| &server.tls);
        if choice.skip_verify && !own_tls.is_some_and(|own| own.skip_verify) {
            found.note(limits.skip_verify(), own.is_none());
        }
        for file in choice.files(own_tls) {
            found.note(tls_dir::plain(file).and_then(|()| limits.certificate_file(file)), own.is_none());
        }
        let own_namespace = own.map(|server| word(server.namespace.as_ref()));
        found.word(choice.namespace.as_ref(), own_namespace, |word| limits.vault_namespace(word, "for secrets"));
        // Logins happen where secrets are, unless the class says otherwise.
        if let Some(chosen) = &choice.auth_namespace {
            found.word(Some(chosen), own_namespace, |word| limits.vault_namespace(word, "for logins"));
        }
        let own_mount = own.map(|server| server.auth_mount.as_str());
        found.word(choice.auth_mount.as_ref(), own_mount, |word| limits.auth_mount(word));
        let is_chosen = audience != default_audience;
        found.note(limits.audience(Word { value: audience, own: default_audience, is_chosen }), false);
        let at_endpoint = choice.address.as_ref().is_none_or(|address| limits.has(address, None));
        if at_endpoint && !own_tls.is_some_and(|own| own.skip_verify) {
            for parameter in choice.believes(own_tls) {
                found.note(limits.trust(parameter), own.is_none());
            }
        }
        found.0
    }
}

struct Found(Vec<Foreseen>);

impl Found {
    fn note<T>(&mut self, judged: Result<T, Refusal>, unless_own: bool) -> Option<T> {
        judged.map_err(|refusal| self.0.push(Foreseen { refusal, unless_own })).ok()
    }

    /// Judges a word that is known: chosen, or the server's own. Where that is not known and no list says otherwise, it may be what
    /// was chosen.
    fn word(&mut self, chosen: Option<&String>, own: Option<&str>, judge: impl Fn(Word<'_>) -> Result<(), Refusal>) {
        let Some(value) = chosen.map(String::as_str).or(own) else { return };
        let is_chosen = chosen.is_some();
        let unless_own = own.is_none() && judge(Word { value, own: value, is_chosen }).is_ok();
        self.note(judge(Word { value, own: own.unwrap_or_default(), is_chosen }), unless_own);
    }
}
