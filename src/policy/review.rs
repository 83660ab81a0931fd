//! What a policy says of a class before there is a pod, as far as that can be said without the operator's flags.

use super::{Choice, DEFAULT, Policy, Refusal, rules::Word, tls_dir, word};
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
            Self::SkipVerify => &["SkipTLSVerify"],
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
    pub fn review(&self, namespace: &str, choice: &Choice, audience: Option<&str>) -> Vec<Foreseen> {
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
                found.note(limits.address(address), true);
                None
            }
        };
        let skips = choice.skip_verify && !server.as_ref().is_some_and(|server| server.tls.skip_verify);
        if skips {
            found.note(limits.skip_verify(), server.is_none());
        }
        for file in choice.files() {
            found.note(tls_dir::plain(file).and_then(|()| limits.certificate_file(file)), false);
        }
        let own = server.as_deref();
        let own_namespace = own.map(|server| word(server.namespace.as_ref()));
        let namespaces = [(&choice.namespace, "for secrets"), (&choice.auth_namespace, "for logins")];
        for (chosen, of) in namespaces {
            let asked = chosen.as_deref().or(own_namespace);
            found.word(asked, own_namespace, |word| limits.vault_namespace(word, of));
        }
        let own_mount = own.map(|server| server.auth_mount.as_str());
        found.word(choice.auth_mount.as_deref().or(own_mount), own_mount, |word| limits.auth_mount(word));
        found.word(audience, None, |word| limits.audience(word));
        found.0
    }
}

struct Found(Vec<Foreseen>);

impl Found {
    fn note<T>(&mut self, judged: Result<T, Refusal>, unless_own: bool) -> Option<T> {
        judged.map_err(|refusal| self.0.push(Foreseen { refusal, unless_own })).ok()
    }

    /// Judges a word that is known. Without the server's own nobody knows whether it is that.
    fn word(&mut self, asked: Option<&str>, own: Option<&str>, judge: impl Fn(Word<'_>) -> Result<(), Refusal>) {
        let Some(value) = asked else { return };
        if own.is_none() && judge(Word { value, own: value }).is_ok() {
            return;
        }
        self.note(judge(Word { value, own: own.unwrap_or_default() }), false);
    }
}
