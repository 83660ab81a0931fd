//! The class's parameters other than `objects`: role, audience and server settings.

use std::path::PathBuf;

use super::{
    attributes::{Attributes, Parameter},
    findings::{FindingLocation, Findings},
    vault_path::parse_mount_path,
    warnings::Warnings,
};
use crate::{
    cache::{MIN_REFRESH_INTERVAL, Refresh},
    policy::ServerChoice,
    text::{closest_match, parse_go_bool, quote},
    tls::{Ca, is_server_name},
    vault::{Address, SENSITIVE_URL_CHARS},
};

/// Role, audience and server settings, as far as they could be parsed.
pub(super) struct Parameters {
    pub(super) role: String,
    pub(super) audience: Option<String>,
    pub(super) refresh: Option<Refresh>,
    pub(super) is_token_shared: bool,
    pub(super) choice: ServerChoice,
}

/// Parses the parameters and records every mistake as a finding.
pub(super) fn parse(attributes: &Attributes, findings: &mut Findings, warnings: &mut Warnings) -> Parameters {
    let mut reader = ParameterParser { attributes, findings, warnings };
    Parameters {
        role: reader.parse_role(),
        audience: reader.parse_unprefixed("audience"),
        refresh: reader.parse_refresh_interval(),
        is_token_shared: reader.parse_token_scope(),
        choice: ServerChoice {
            endpoint: reader.parse_endpoint(),
            address: reader.parse_address(),
            namespace: reader.parse_namespace("Namespace"),
            auth_namespace: reader.parse_namespace("AuthNamespace"),
            auth_mount: reader.parse_auth_mount(),
            ca: reader.parse_ca(),
            server_name: reader.parse_server_name(),
            client_certificate: reader.parse_client_certificate(),
            skip_verify: reader.parse_skip_verify(),
        },
    }
}

struct ParameterParser<'a, 'n> {
    attributes: &'a Attributes,
    findings: &'n mut Findings,
    warnings: &'n mut Warnings,
}

impl<'a> ParameterParser<'a, '_> {
    /// Returns the first spelling that is set. Adds a warning for each further spelling with a different value.
    fn find_prefixed(&mut self, suffix: &'a str) -> Option<Parameter<'a>> {
        let mut spellings = self.attributes.parameters_with_suffix(suffix);
        let first = spellings.next()?;
        for other in spellings.filter(|other| other.value != first.value) {
            self.warnings.add(other.name, format!("is not used: {} goes before it; remove one", first.name));
        }
        Some(first)
    }

    /// Returns the value, or records a finding if it contains a control character. Values end up in headers, paths and
    /// messages.
    fn require_single_line(&mut self, parameter: Parameter<'_>) -> Option<String> {
        if parameter.value.chars().any(char::is_control) {
            self.findings.add(parameter.name, "contains a control character or line break; remove it");
            return None;
        }
        Some(parameter.value.to_owned())
    }

    fn parse_prefixed(&mut self, suffix: &'a str) -> Option<String> {
        let parameter = self.find_prefixed(suffix)?;
        self.require_single_line(parameter)
    }

    fn parse_unprefixed(&mut self, name: &'static str) -> Option<String> {
        let value = self.attributes.get(name)?;
        self.require_single_line(Parameter { name, value })
    }

    /// Parses the time for which plain secrets are fresh. A time below the minimum is raised with a warning, so that
    /// the pod still starts.
    fn parse_refresh_interval(&mut self) -> Option<Refresh> {
        const NAME: &str = "refreshInterval";
        let value = self.parse_unprefixed(NAME)?;
        match Refresh::parse(&value) {
            Ok(Refresh::Every(interval)) if interval < MIN_REFRESH_INTERVAL => {
                self.warnings.add(NAME, format!("is {}; it is never less than 10s, which is used", quote(&value)));
                Some(Refresh::Every(MIN_REFRESH_INTERVAL))
            }
            Ok(refresh) => Some(refresh),
            Err(why) => {
                self.findings.add(NAME, format!("is {}, which {why}", quote(&value)));
                None
            }
        }
    }

    /// Returns true if pods of one service account share a Vault token.
    fn parse_token_scope(&mut self) -> bool {
        const NAME: &str = "tokenScope";
        match self.parse_unprefixed(NAME).as_deref() {
            None | Some("pod") => false,
            Some("serviceAccount") => true,
            Some(other) => {
                let suggestion =
                    closest_match(other, ["pod", "serviceAccount"]).map(|meant| format!(" (did you mean {meant}?)"));
                let problem =
                    format!("is {}{}; write pod or serviceAccount", quote(other), suggestion.unwrap_or_default());
                self.findings.add(NAME, problem);
                false
            }
        }
    }

    fn parse_role(&mut self) -> String {
        let unprefixed = self.attributes.get("roleName").map(|value| Parameter { name: "roleName", value });
        let Some(parameter) = unprefixed.or_else(|| self.find_prefixed("RoleName")) else {
            self.findings.add("roleName", "missing; name the role of the auth mount to log in with");
            return String::new();
        };
        self.require_single_line(parameter).unwrap_or_default()
    }

    /// Parses the name of an endpoint in the policy file. The endpoint has no default and is not a default for the
    /// address. Setting both is a mistake.
    fn parse_endpoint(&mut self) -> Option<String> {
        let parameter = self.find_prefixed("Endpoint")?;
        if let Some(address) = self.attributes.parameters_with_suffix("Address").next() {
            let both = [parameter.name, address.name].map(str::to_owned).to_vec();
            self.findings.add(FindingLocation::Parameters(both), "both are set, and both name the server; remove one");
        }
        self.require_single_line(parameter)
    }

    fn parse_address(&mut self) -> Option<Address> {
        let parameter = self.find_prefixed("Address")?;
        let text = self.require_single_line(parameter)?;
        match Address::parse(&text) {
            Ok(address) => Some(address),
            Err(why) => {
                let shown =
                    if text.contains(SENSITIVE_URL_CHARS) { String::new() } else { format!("{} ", quote(&text)) };
                self.findings.add(parameter.name, format!("{shown}{why}"));
                None
            }
        }
    }

    fn parse_server_name(&mut self) -> Option<String> {
        let parameter = self.find_prefixed("TLSServerName")?;
        let name = self.require_single_line(parameter)?;
        if !is_server_name(&name) {
            let problem = "is neither a host name nor an IP address; write it without scheme and port";
            self.findings.add(parameter.name, problem);
            return None;
        }
        Some(name)
    }

    /// Parses a namespace and trims its surrounding slashes. `/` alone is the root namespace, which Vault also calls
    /// `root`.
    fn parse_namespace(&mut self, suffix: &'a str) -> Option<String> {
        let parameter = self.find_prefixed(suffix)?;
        let (name, namespace) = (parameter.name.to_owned(), self.require_single_line(parameter)?);
        // Whitespace around a header's value is not part of the value.
        let trimmed = namespace.trim_matches(|c: char| c == '/' || c.is_whitespace());
        if trimmed.split('/').any(|part| part.is_empty() && !trimmed.is_empty() || matches!(part.trim(), "." | "..")) {
            let problem = "contains an empty part, `.` or `..`; write the namespace itself";
            self.findings.add(FindingLocation::Parameters(vec![name]), problem);
        }
        Some(if trimmed.is_empty() { "root" } else { trimmed }.to_owned())
    }

    fn parse_auth_mount(&mut self) -> Option<String> {
        let (kubernetes, auth) = (self.find_prefixed("KubernetesMountPath"), self.find_prefixed("AuthMountPath"));
        if let (Some(kubernetes), Some(auth)) = (kubernetes, auth) {
            let both = [kubernetes.name, auth.name].map(str::to_owned).to_vec();
            self.findings
                .add(FindingLocation::Parameters(both), "both are set, and both name the auth mount; remove one");
            return None;
        }
        let parameter = auth.or(kubernetes)?;
        match parse_mount_path(parameter.value) {
            Ok(mount) if mount.starts_with("auth/") => {
                let suggestion = quote(mount.trim_start_matches("auth/"));
                self.warnings.add(parameter.name, format!("auth/ comes before it anyway; did you mean {suggestion}?"));
                Some(mount)
            }
            Ok(mount) => (!mount.is_empty()).then_some(mount),
            Err(why) => {
                self.findings.add(parameter.name, why);
                None
            }
        }
    }

    fn parse_ca(&mut self) -> Option<Ca> {
        if let Some(pem) = self.find_prefixed("CACert") {
            if !pem.value.contains("-----BEGIN ") {
                self.findings.add(pem.name, "is no PEM text; to name a file use the parameter that ends in CACertPath");
            }
            return Some(Ca::Pem(pem.value.to_owned()));
        }
        let file = self.parse_prefixed("CACertPath").map(|path| Ca::File(path.into()));
        file.or_else(|| self.parse_prefixed("CADirectory").map(|path| Ca::Directory(path.into())))
    }

    fn parse_client_certificate(&mut self) -> Option<(PathBuf, PathBuf)> {
        let (certificate, key) = (self.find_prefixed("TLSClientCertPath"), self.find_prefixed("TLSClientKeyPath"));
        let unpaired = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                return Some((self.require_single_line(certificate)?.into(), self.require_single_line(key)?.into()));
            }
            (Some(certificate), None) => (certificate.name, "TLSClientKeyPath"),
            (None, Some(key)) => (key.name, "TLSClientCertPath"),
            (None, None) => return None,
        };
        self.findings.add(unpaired.0, format!("is set without the one that ends in {}; set both or none", unpaired.1));
        None
    }

    fn parse_skip_verify(&mut self) -> bool {
        let Some(parameter) = self.find_prefixed("SkipTLSVerify") else { return false };
        parse_go_bool(parameter.value).unwrap_or_else(|| {
            self.findings.add(parameter.name, format!("is {}; write true or false", quote(parameter.value)));
            false
        })
    }
}

#[cfg(test)]
mod tests;
