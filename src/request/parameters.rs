//! The class's parameters other than `objects`: role, audience, and what it chooses of the server.

use std::path::PathBuf;

use super::{
    attributes::{Attributes, Parameter},
    mistakes::{Mistakes, Place},
    path::mount_path,
    warnings::Warnings,
};
use crate::{
    lease::{MIN_REFRESH, Refresh},
    policy::Choice,
    text::{go_bool, nearest, quoted},
    tls::{Ca, is_server_name},
    vault::{Address, SENSITIVE_URL_CHARS},
};

/// Parameters that carry one of the prefixes, as in `vaultAddress`.
pub(super) const PREFIXED: [&str; 14] = [
    "Endpoint",
    "Address",
    "Namespace",
    "AuthNamespace",
    "SkipTLSVerify",
    "CACert",
    "CACertPath",
    "CADirectory",
    "TLSServerName",
    "TLSClientCertPath",
    "TLSClientKeyPath",
    "KubernetesMountPath",
    "AuthMountPath",
    "RoleName",
];

/// Role, audience and choice of server, as far as they can be understood.
pub(super) struct Parameters {
    pub(super) role: String,
    pub(super) audience: Option<String>,
    pub(super) refresh: Option<Refresh>,
    pub(super) shares: bool,
    pub(super) choice: Choice,
}

/// Reads the parameters, notes every mistake.
pub(super) fn parse(attributes: &Attributes, mistakes: &mut Mistakes, warnings: &mut Warnings) -> Parameters {
    let mut reader = Reader { attributes, mistakes, warnings };
    Parameters {
        role: reader.role(),
        audience: reader.plain("audience"),
        refresh: reader.refresh(),
        shares: reader.shares(),
        choice: Choice {
            endpoint: reader.endpoint(),
            address: reader.address(),
            namespace: reader.namespace("Namespace"),
            auth_namespace: reader.namespace("AuthNamespace"),
            auth_mount: reader.auth_mount(),
            ca: reader.ca(),
            server_name: reader.server_name(),
            client: reader.client(),
            skip_verify: reader.skip_verify(),
        },
    }
}

struct Reader<'a, 'n> {
    attributes: &'a Attributes,
    mistakes: &'n mut Mistakes,
    warnings: &'n mut Warnings,
}

impl<'a> Reader<'a, '_> {
    /// The first spelling that is set; a second one that says something else is worth a warning.
    fn find(&mut self, suffix: &'a str) -> Option<Parameter<'a>> {
        let mut spellings = self.attributes.spellings(suffix);
        let first = spellings.next()?;
        for other in spellings.filter(|other| other.value != first.value) {
            self.warnings.say(other.name, format!("is not used: {} goes before it; remove one", first.name));
        }
        Some(first)
    }

    /// The value, unless it holds a control character: it ends in a header, a path or a message.
    fn one_line(&mut self, parameter: Parameter<'_>) -> Option<String> {
        if parameter.value.chars().any(char::is_control) {
            self.mistakes.add(parameter.name, "contains a control character or line break; remove it");
            return None;
        }
        Some(parameter.value.to_owned())
    }

    fn line(&mut self, suffix: &'a str) -> Option<String> {
        let parameter = self.find(suffix)?;
        self.one_line(parameter)
    }

    fn plain(&mut self, name: &'static str) -> Option<String> {
        let value = self.attributes.get(name)?;
        self.one_line(Parameter { name, value })
    }

    /// How long plain secrets count as fresh. A time that is too short is made longer: the pod shall start all the same.
    fn refresh(&mut self) -> Option<Refresh> {
        const NAME: &str = "refreshInterval";
        let value = self.plain(NAME)?;
        match Refresh::parse(&value) {
            Ok(Refresh::Every(interval)) if interval < MIN_REFRESH => {
                self.warnings.say(NAME, format!("is {}; it is never less than 10s, which is used", quoted(&value)));
                Some(Refresh::Every(MIN_REFRESH))
            }
            Ok(refresh) => Some(refresh),
            Err(why) => {
                self.mistakes.add(NAME, format!("is {}, which {why}", quoted(&value)));
                None
            }
        }
    }

    /// Whether pods of one service account share a Vault token.
    fn shares(&mut self) -> bool {
        const NAME: &str = "tokenScope";
        match self.plain(NAME).as_deref() {
            None | Some("pod") => false,
            Some("serviceAccount") => true,
            Some(other) => {
                let meant = nearest(other, ["pod", "serviceAccount"]).map(|meant| format!(" (did you mean {meant}?)"));
                let what = format!("is {}{}; write pod or serviceAccount", quoted(other), meant.unwrap_or_default());
                self.mistakes.add(NAME, what);
                false
            }
        }
    }

    fn role(&mut self) -> String {
        let plain = self.attributes.get("roleName").map(|value| Parameter { name: "roleName", value });
        let Some(parameter) = plain.or_else(|| self.find("RoleName")) else {
            self.mistakes.add("roleName", "missing; name the role of the auth mount to log in with");
            return String::new();
        };
        self.one_line(parameter).unwrap_or_default()
    }

    /// A server of the policy file, by name. It is no address's default, nor has it one.
    fn endpoint(&mut self) -> Option<String> {
        let parameter = self.find("Endpoint")?;
        if let Some(address) = self.attributes.spellings("Address").next() {
            let both = [parameter.name, address.name].map(str::to_owned).to_vec();
            self.mistakes.add(Place::Parameters(both), "both are set, and both name the server; remove one");
        }
        self.one_line(parameter)
    }

    fn address(&mut self) -> Option<Address> {
        let parameter = self.find("Address")?;
        let text = self.one_line(parameter)?;
        match Address::parse(&text) {
            Ok(address) => Some(address),
            Err(why) => {
                let shown =
                    if text.contains(SENSITIVE_URL_CHARS) { String::new() } else { format!("{} ", quoted(&text)) };
                self.mistakes.add(parameter.name, format!("{shown}{why}"));
                None
            }
        }
    }

    fn server_name(&mut self) -> Option<String> {
        let parameter = self.find("TLSServerName")?;
        let name = self.one_line(parameter)?;
        if !is_server_name(&name) {
            let what = "is neither a host name nor an IP address; write it without scheme and port";
            self.mistakes.add(parameter.name, what);
            return None;
        }
        Some(name)
    }

    /// Without slashes around it. `/` alone is the root namespace, which Vault also calls `root`.
    fn namespace(&mut self, suffix: &'a str) -> Option<String> {
        let parameter = self.find(suffix)?;
        let (name, namespace) = (parameter.name.to_owned(), self.one_line(parameter)?);
        // Blanks at the ends of a header's value are none of it.
        let trimmed = namespace.trim_matches(|c: char| c == '/' || c.is_whitespace());
        if trimmed.split('/').any(|part| part.is_empty() && !trimmed.is_empty() || matches!(part.trim(), "." | "..")) {
            let what = "contains an empty part, `.` or `..`; write the namespace itself";
            self.mistakes.add(Place::Parameters(vec![name]), what);
        }
        Some(if trimmed.is_empty() { "root" } else { trimmed }.to_owned())
    }

    fn auth_mount(&mut self) -> Option<String> {
        let (kubernetes, auth) = (self.find("KubernetesMountPath"), self.find("AuthMountPath"));
        if let (Some(kubernetes), Some(auth)) = (kubernetes, auth) {
            let both = [kubernetes.name, auth.name].map(str::to_owned).to_vec();
            self.mistakes.add(Place::Parameters(both), "both are set, and both name the auth mount; remove one");
            return None;
        }
        let parameter = auth.or(kubernetes)?;
        match mount_path(parameter.value) {
            Ok(mount) if mount.starts_with("auth/") => {
                let meant = quoted(mount.trim_start_matches("auth/"));
                self.warnings.say(parameter.name, format!("auth/ comes before it anyway; did you mean {meant}?"));
                Some(mount)
            }
            Ok(mount) => (!mount.is_empty()).then_some(mount),
            Err(why) => {
                self.mistakes.add(parameter.name, why);
                None
            }
        }
    }

    fn ca(&mut self) -> Option<Ca> {
        if let Some(pem) = self.find("CACert") {
            if !pem.value.contains("-----BEGIN ") {
                self.mistakes.add(pem.name, "is no PEM text; to name a file use the parameter that ends in CACertPath");
            }
            return Some(Ca::Pem(pem.value.to_owned()));
        }
        let file = self.line("CACertPath").map(|path| Ca::File(path.into()));
        file.or_else(|| self.line("CADirectory").map(|path| Ca::Directory(path.into())))
    }

    fn client(&mut self) -> Option<(PathBuf, PathBuf)> {
        let (certificate, key) = (self.find("TLSClientCertPath"), self.find("TLSClientKeyPath"));
        let alone = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                return Some((self.one_line(certificate)?.into(), self.one_line(key)?.into()));
            }
            (Some(certificate), None) => (certificate.name, "TLSClientKeyPath"),
            (None, Some(key)) => (key.name, "TLSClientCertPath"),
            (None, None) => return None,
        };
        self.mistakes.add(alone.0, format!("is set without the one that ends in {}; set both or none", alone.1));
        None
    }

    fn skip_verify(&mut self) -> bool {
        let Some(parameter) = self.find("SkipTLSVerify") else { return false };
        go_bool(parameter.value).unwrap_or_else(|| {
            self.mistakes.add(parameter.name, format!("is {}; write true or false", quoted(parameter.value)));
            false
        })
    }
}

#[cfg(test)]
mod tests;
