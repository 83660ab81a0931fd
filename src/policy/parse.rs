//! Parser of policy files. Reports every error at once, with its position. An invalid file is rejected as a whole.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    VaultServer,
    addresses::AddressPattern,
    glob::Glob,
    rules::{DEFAULT_ENDPOINT, Policy, Rule},
};
use crate::{
    text::{closest_match, quote},
    tls::{Ca, ClientCertificate, Tls, is_server_name},
    vault::{Address, SENSITIVE_URL_CHARS},
    yaml::{
        Position,
        node::{Node, Value},
    },
};

/// API version and kind of the format.
const API_VERSION_AND_KIND: (&str, &str) = ("vaultmount/v1", "Policy");
/// Maximum number of endpoints, because each is a time series in some metrics.
const MAX_POLICY_ENDPOINTS: usize = 64;

/// Known fields by their parent, as in the schema.
pub const POLICY_FIELDS: [(&str, &[&str]); 4] = [
    ("", &["apiVersion", "kind", "endpoints", "rules"]),
    ("endpoints.", &["address", "namespace", "authMount", "tls"]),
    (
        "endpoints.tls.",
        &["caCert", "caCertPath", "caDirectory", "serverName", "clientCertPath", "clientKeyPath", "skipVerify"],
    ),
    (
        "rules.",
        &[
            "namespaces",
            "endpoints",
            "addresses",
            "vaultNamespaces",
            "authMounts",
            "audiences",
            "skipVerify",
            "certificateFiles",
        ],
    ),
];

/// An error in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// Position in the file.
    pub position: Position,
    /// Range of the invalid text, in bytes of the file.
    pub span: Range<usize>,
    /// The field, the problem and its fix.
    pub problem: String,
}

/// Returns true if a document is meant to be a policy file. Kubernetes resources of the same kind have `metadata` or `spec`.
#[must_use]
pub fn is_policy(document: &Node) -> bool {
    let version = document.get("apiVersion").and_then(Node::as_text).unwrap_or_default();
    let is_no_resource = document.get("metadata").is_none() && document.get("spec").is_none();
    let has_our_fields = document.get("endpoints").is_some() || document.get("rules").is_some();
    version.split('/').next() == Some("vaultmount")
        || is_no_resource
            && has_our_fields
            && document.get("kind").and_then(Node::as_text) == Some(API_VERSION_AND_KIND.1)
}

/// Returns true if a text is meant to be a policy file, even if it is not valid YAML.
#[must_use]
pub fn is_policy_text(text: &str) -> bool {
    let version = |line: &str| line.strip_prefix("apiVersion:").is_some_and(|rest| rest.contains("vaultmount/"));
    text.lines().any(version)
}

/// Parses the document of a policy file. `forbids_skip_verify` is true with `--allow-skip-verify=false`.
#[must_use]
pub fn parse(document: &Node, file: &str, forbids_skip_verify: bool) -> (Policy, Vec<PolicyError>) {
    let mut reader = PolicyParser { errors: Vec::new(), forbids_skip_verify };
    let (api_version, kind) = API_VERSION_AND_KIND;
    let fields = reader.known_fields(document, "", POLICY_FIELDS[0].1);
    for (name, value) in [("apiVersion", api_version), ("kind", kind)] {
        match fields.get(name) {
            Some((_, node)) if node.as_text() == Some(value) => {}
            Some((_, node)) => reader.report(node, format!("{name}: is not {value}")),
            None => reader.report(document, format!("{name}: missing; write {name}: {value}")),
        }
    }
    let endpoints = fields.get("endpoints").map(|(_, node)| reader.parse_endpoints(node)).unwrap_or_default();
    let rules = fields.get("rules").map(|(_, node)| reader.parse_rules(node, &endpoints)).unwrap_or_default();
    (Policy { file_name: file.to_owned(), endpoints, rules }, reader.errors)
}

struct PolicyParser {
    errors: Vec<PolicyError>,
    forbids_skip_verify: bool,
}

/// The fields of a mapping that are set, each with its key and value.
type PresentFields<'n> = BTreeMap<&'static str, (&'n Node, &'n Node)>;

impl PolicyParser {
    fn report(&mut self, node: &Node, problem: String) {
        self.errors.push(PolicyError { position: node.position, span: node.span.clone(), problem });
    }

    /// Returns the known fields of a mapping, and reports unknown ones. An empty field counts as not set.
    fn known_fields<'n>(&mut self, node: &'n Node, prefix: &str, known: &[&'static str]) -> PresentFields<'n> {
        if !matches!(node.value, Value::Map(_)) {
            let trimmed_prefix = prefix.trim_end_matches('.');
            let trimmed_prefix = if trimmed_prefix.is_empty() { String::new() } else { format!("{trimmed_prefix}: ") };
            self.report(node, format!("{trimmed_prefix}is {}, not a mapping", node.type_name()));
        }
        let mut fields = PresentFields::new();
        for (key, value) in node.entries() {
            let name = key.as_text().unwrap_or_default();
            match known.iter().find(|known| **known == name) {
                Some(_) if value.is_null() => {}
                Some(known) => drop(fields.insert(known, (key, value))),
                None => {
                    let fix = match closest_match(name, known.iter().copied()) {
                        Some(name) => format!("did you mean {name}?"),
                        None => format!("known fields are {}", known.join(", ")),
                    };
                    self.report(key, format!("{prefix}{}: is unknown; {fix}", quote(name).trim_matches('"')));
                }
            }
        }
        fields
    }

    fn text_field<'n>(&mut self, fields: &PresentFields<'n>, prefix: &str, name: &str) -> Option<(&'n Node, &'n str)> {
        let (_, node) = fields.get(name)?;
        match node.as_text() {
            Some(text)
                if name == "caCert"
                    || !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control) =>
            {
                Some((node, text))
            }
            Some(_) => {
                let problem = "is empty, begins or ends with a space, or contains a control character";
                self.report(node, format!("{prefix}{name}: {problem}"));
                None
            }
            None => {
                self.report(node, format!("{prefix}{name}: is {}, not text; put it in quotes", node.type_name()));
                None
            }
        }
    }

    fn boolean_field(&mut self, fields: &PresentFields<'_>, prefix: &str, name: &str) -> bool {
        match fields.get(name).map(|(_, node)| (node, &node.value)) {
            None => false,
            Some((_, Value::Bool(value))) => *value,
            Some((node, _)) => {
                self.report(node, format!("{prefix}{name}: is {}; write true or false", node.type_name()));
                false
            }
        }
    }

    /// Parses `skipVerify`. `--allow-skip-verify=false` overrides it, so that setting both is an error.
    fn parse_skip_verify(&mut self, fields: &PresentFields<'_>, prefix: &str) -> bool {
        let skips = self.boolean_field(fields, prefix, "skipVerify");
        if let (true, true, Some((key, _))) = (skips, self.forbids_skip_verify, fields.get("skipVerify")) {
            self.report(
                key,
                format!("{prefix}skipVerify: conflicts with --allow-skip-verify=false; change one of them"),
            );
        }
        skips
    }

    fn parse_endpoints(&mut self, node: &Node) -> BTreeMap<String, Arc<VaultServer>> {
        if !matches!(node.value, Value::Map(_)) {
            self.report(node, format!("endpoints: is {}; write a mapping of names", node.type_name()));
        }
        let mut endpoints = BTreeMap::new();
        for (key, node) in node.entries() {
            let name = key.as_text().unwrap_or_default();
            let is_name = (1..=63).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !is_name {
                self.report(key, "endpoints: a name is 1 to 63 letters, digits, `-`, `_` or `.`".to_owned());
                continue;
            }
            if name == DEFAULT_ENDPOINT {
                let problem =
                    "endpoints.default: is reserved for the server of flags and environment; choose another name";
                self.report(key, problem.to_owned());
                continue;
            }
            if endpoints.len() == MAX_POLICY_ENDPOINTS {
                self.report(key, format!("endpoints: there are more than {MAX_POLICY_ENDPOINTS}"));
                break;
            }
            if let Some(server) = self.parse_endpoint(key, node, &format!("endpoints.{name}.")) {
                endpoints.insert(name.to_owned(), Arc::new(server));
            }
        }
        endpoints
    }

    fn parse_endpoint(&mut self, key: &Node, node: &Node, prefix: &str) -> Option<VaultServer> {
        let fields = self.known_fields(node, prefix, POLICY_FIELDS[1].1);
        if !fields.contains_key("address") && matches!(node.value, Value::Map(_)) {
            self.report(key, format!("{prefix}address: missing; write https://host:port"));
        }
        let address = self.text_field(&fields, prefix, "address").and_then(|(node, text)| {
            let quoted_text =
                if text.contains(SENSITIVE_URL_CHARS) { String::new() } else { format!("{} ", quote(text)) };
            Address::parse(text).map_err(|why| self.report(node, format!("{prefix}address: {quoted_text}{why}"))).ok()
        });
        let namespace = self.text_field(&fields, prefix, "namespace").map(|(node, text)| {
            let namespace = text.trim_matches('/');
            if namespace.split('/').any(|part| matches!(part, "." | "..")) {
                self.report(node, format!("{prefix}namespace: contains a `.` or `..` part"));
            }
            namespace.to_owned()
        });
        let auth_mount = self.text_field(&fields, prefix, "authMount").and_then(|(node, text)| {
            let mount = text.trim_matches('/');
            if mount.starts_with("auth/") || mount.split('/').any(|part| matches!(part, "" | "." | "..")) {
                self.report(node, format!("{prefix}authMount: write only the path, without auth/, `.` and `..`"));
                return None;
            }
            Some(mount.to_owned())
        });
        let tls = fields.get("tls").map(|(_, node)| self.parse_tls(node, &format!("{prefix}tls."))).unwrap_or_default();
        Some(VaultServer {
            address: address?,
            namespace: namespace.filter(|namespace| !namespace.is_empty()),
            auth_mount: auth_mount.unwrap_or_else(|| "kubernetes".to_owned()),
            tls,
        })
    }

    fn parse_tls(&mut self, node: &Node, prefix: &str) -> Tls {
        let fields = self.known_fields(node, prefix, POLICY_FIELDS[2].1);
        let authorities = ["caCert", "caCertPath", "caDirectory"];
        if let [_, (second, node), ..] =
            authorities.iter().filter_map(|name| Some((name, fields.get(name)?.0))).collect::<Vec<_>>()[..]
        {
            self.report(
                node,
                format!("{prefix}{second}: another field already sets the trusted authority; remove one"),
            );
        }
        let ca = [
            self.text_field(&fields, prefix, "caCert").map(|(node, text)| {
                if !text.contains("-----BEGIN CERTIFICATE-----") {
                    self.report(
                        node,
                        format!("{prefix}caCert: is not a PEM certificate; to name a file write caCertPath"),
                    );
                }
                Ca::Pem(text.to_owned())
            }),
            self.path_field(&fields, prefix, "caCertPath").map(|path| Ca::File(path.into())),
            self.path_field(&fields, prefix, "caDirectory").map(|path| Ca::Directory(path.into())),
        ];
        let server_name = self.text_field(&fields, prefix, "serverName").map(|(node, name)| {
            if !is_server_name(name) {
                self.report(node, format!("{prefix}serverName: is neither a host name nor an IP address"));
            }
            name.to_owned()
        });
        for (present, other) in [("clientCertPath", "clientKeyPath"), ("clientKeyPath", "clientCertPath")] {
            if let (Some((key, _)), false) = (fields.get(present), fields.contains_key(other)) {
                self.report(key, format!("{prefix}{present}: requires {other}; set both or none"));
            }
        }
        let certificate = self.path_field(&fields, prefix, "clientCertPath");
        let key = self.path_field(&fields, prefix, "clientKeyPath");
        let client = certificate
            .zip(key)
            .map(|(certificate, key)| ClientCertificate { certificate: certificate.into(), key: key.into() });
        Tls {
            ca: ca.into_iter().flatten().next().unwrap_or_default(),
            client,
            server_name,
            skip_verify: self.parse_skip_verify(&fields, prefix),
        }
    }

    fn path_field<'n>(&mut self, fields: &PresentFields<'n>, prefix: &str, name: &str) -> Option<&'n str> {
        let (node, path) = self.text_field(fields, prefix, name)?;
        if !path.starts_with('/') {
            self.report(node, format!("{prefix}{name}: is not an absolute path"));
        }
        Some(path)
    }

    fn parse_rules(&mut self, node: &Node, endpoints: &BTreeMap<String, Arc<VaultServer>>) -> Vec<Rule> {
        if !matches!(node.value, Value::List(_)) {
            self.report(node, format!("rules: is {}; write a list", node.type_name()));
        }
        let mut rules: Vec<Rule> = Vec::new();
        for (index, node) in node.items().iter().enumerate() {
            let prefix = format!("rules[{index}].");
            let fields = self.known_fields(node, &prefix, POLICY_FIELDS[3].1);
            let namespaces = self.parse_namespaces(node, &fields, &prefix, &rules);
            rules.push(Rule {
                namespaces,
                endpoints: self.parse_allowed_endpoints(&fields, &prefix, endpoints),
                addresses: self.parse_addresses(&fields, &prefix),
                vault_namespaces: self.parse_path_globs(&fields, &prefix, "vaultNamespaces"),
                auth_mounts: self.parse_path_globs(&fields, &prefix, "authMounts"),
                audiences: self.parse_globs(&fields, &prefix, "audiences"),
                skip_verify: self.parse_skip_verify(&fields, &prefix),
                certificate_files: self.parse_certificate_files(&fields, &prefix),
            });
        }
        rules
    }

    /// Parses the namespaces of a rule, and reports those that an earlier rule already matches.
    fn parse_namespaces(
        &mut self,
        rule: &Node,
        fields: &PresentFields<'_>,
        prefix: &str,
        earlier_rules: &[Rule],
    ) -> Vec<Glob> {
        let mut namespaces = Vec::new();
        for (node, text) in self.list_field(fields, prefix, "namespaces").unwrap_or_default() {
            let (name, shown) = (Glob::new(text), quote(text));
            let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'*');
            if !text.bytes().all(is_allowed) {
                let problem = "is not a namespace; use lower case letters, digits, `-` and `*`";
                self.report(node, format!("{prefix}namespaces: {shown} {problem}"));
            }
            // A pattern is also covered if another pattern matches its text.
            let is_covered = |other: &Glob| *other == name || other.matches(text);
            if let Some(first) = earlier_rules.iter().position(|rule| rule.namespaces.iter().any(is_covered)) {
                let problem = format!("is already in rules[{first}]; the first rule applies, remove one");
                self.report(node, format!("{prefix}namespaces: {shown} {problem}"));
            }
            namespaces.push(name);
        }
        if namespaces.is_empty() && matches!(rule.value, Value::Map(_)) {
            self.report(rule, format!("{prefix}namespaces: missing; list namespaces, or \"*\" for all others"));
        }
        namespaces
    }

    /// Parses the endpoints of a rule, and reports those that do not exist.
    fn parse_allowed_endpoints(
        &mut self,
        fields: &PresentFields<'_>,
        prefix: &str,
        endpoints: &BTreeMap<String, Arc<VaultServer>>,
    ) -> Option<Vec<Glob>> {
        let known = || endpoints.keys().map(String::as_str).chain([DEFAULT_ENDPOINT]);
        let mut allowed = Vec::new();
        for (node, text) in self.list_field(fields, prefix, "endpoints")? {
            let name = Glob::new(text);
            if !known().any(|known| name.matches(known)) {
                let suggestion =
                    closest_match(text, known()).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                self.report(node, format!("{prefix}endpoints: endpoint {} does not exist{suggestion}", quote(text)));
            }
            allowed.push(name);
        }
        Some(allowed)
    }

    /// Parses a list of texts. Items that are not text are reported and omitted.
    fn list_field<'n>(
        &mut self,
        fields: &PresentFields<'n>,
        prefix: &str,
        name: &str,
    ) -> Option<Vec<(&'n Node, &'n str)>> {
        let (_, node) = fields.get(name)?;
        if !matches!(node.value, Value::List(_)) {
            self.report(node, format!("{prefix}{name}: is {}; write a list", node.type_name()));
        }
        let mut texts = Vec::new();
        for item in node.items() {
            match item.as_text() {
                None => self.report(item, format!("{prefix}{name}: an item is {}; put it in quotes", item.type_name())),
                Some(text) if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) => {
                    let problem = "an item is empty, begins or ends with a space, or contains a control character";
                    self.report(item, format!("{prefix}{name}: {problem}"));
                }
                Some(text) => texts.push((item, text)),
            }
        }
        Some(texts)
    }

    fn parse_globs(&mut self, fields: &PresentFields<'_>, prefix: &str, name: &str) -> Option<Vec<Glob>> {
        Some(self.list_field(fields, prefix, name)?.into_iter().map(|(_, text)| Glob::new(text)).collect())
    }

    /// Parses patterns of paths, without leading and trailing slashes. `/` means `root`.
    fn parse_path_globs(&mut self, fields: &PresentFields<'_>, prefix: &str, name: &str) -> Option<Vec<Glob>> {
        let is_mount = name == "authMounts";
        let mut paths = Vec::new();
        for (node, text) in self.list_field(fields, prefix, name)? {
            let path = text.trim_matches('/');
            let has_dot_segments = path.split('/').any(|part| matches!(part, "." | ".."));
            if has_dot_segments || is_mount && (path.is_empty() || path.starts_with("auth/")) {
                let problem = if is_mount {
                    "write only the path, without auth/, `.` and `..`"
                } else {
                    "contains a `.` or `..` part"
                };
                self.report(node, format!("{prefix}{name}: {problem}"));
            }
            paths.push(Glob::new(if path.is_empty() { "root" } else { path }));
        }
        Some(paths)
    }

    fn parse_certificate_files(&mut self, fields: &PresentFields<'_>, prefix: &str) -> Vec<Glob> {
        let files = self.list_field(fields, prefix, "certificateFiles").unwrap_or_default();
        for (node, text) in &files {
            let has_dot_segments = text.split('/').any(|part| matches!(part, "." | ".."));
            if (!text.starts_with('/') || has_dot_segments) && !Glob::new(*text).matches_everything() {
                self.report(
                    node,
                    format!("{prefix}certificateFiles: {} is not an absolute path without `.` and `..`", quote(text)),
                );
            }
        }
        files.into_iter().map(|(_, text)| Glob::for_files(text)).collect()
    }

    fn parse_addresses(&mut self, fields: &PresentFields<'_>, prefix: &str) -> Vec<AddressPattern> {
        let mut patterns = Vec::new();
        for (node, text) in self.list_field(fields, prefix, "addresses").unwrap_or_default() {
            match AddressPattern::parse(text) {
                Ok(pattern) if pattern.has_path() => {
                    let problem = "has a path, which would be ignored; write scheme, host and port";
                    self.report(node, format!("{prefix}addresses: {} {problem}", quote(text)));
                }
                Ok(pattern) => patterns.push(pattern),
                Err(why) => self.report(node, format!("{prefix}addresses: {why}")),
            }
        }
        patterns
    }
}

#[cfg(test)]
mod tests;
