//! A policy file's text, checked: every mistake is told at once, with its place, and nothing of a wrong file is used.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    Server,
    allow::Pattern,
    glob::Glob,
    rules::{DEFAULT, Policy, Rule},
};
use crate::{
    text::{nearest, quoted},
    tls::{Ca, ClientCertificate, Tls, is_server_name},
    vault::{Address, SENSITIVE_URL_CHARS},
    yaml::{
        At,
        node::{Node, Value},
    },
};

/// The kind and version of the format.
const VERSION: (&str, &str) = ("vaultmount/v1", "Policy");
/// How many endpoints there may be: each is a series of some metrics.
const MOST_ENDPOINTS: usize = 64;

/// The fields by where they stand, as the schema has them.
pub const FIELDS: [(&str, &[&str]); 4] = [
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

/// Something wrong in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub at: At,
    /// What it is about, in bytes of the file.
    pub span: Range<usize>,
    /// The field, what is wrong with it and how to mend it.
    pub what: String,
}

/// Whether a document is meant to be a policy file, as far as others leave that open: theirs have `metadata` and `spec`.
#[must_use]
pub fn is_policy(document: &Node) -> bool {
    let version = document.get("apiVersion").and_then(Node::text).unwrap_or_default();
    let is_no_resource = document.get("metadata").is_none() && document.get("spec").is_none();
    let has_ours = document.get("endpoints").is_some() || document.get("rules").is_some();
    version.split('/').next() == Some("vaultmount")
        || is_no_resource && has_ours && document.get("kind").and_then(Node::text) == Some(VERSION.1)
}

/// Whether a text is meant to be a policy file, even if it is no YAML.
#[must_use]
pub fn is_policy_text(text: &str) -> bool {
    let version = |line: &str| line.strip_prefix("apiVersion:").is_some_and(|rest| rest.contains("vaultmount/"));
    text.lines().any(version)
}

/// Reads a policy file's one document. `forbids_skip_verify` is what `--allow-skip-verify=false` says.
#[must_use]
pub fn parse(document: &Node, file: &str, forbids_skip_verify: bool) -> (Policy, Vec<Mistake>) {
    let mut reader = Reader { mistakes: Vec::new(), forbids_skip_verify };
    let (api_version, kind) = VERSION;
    let fields = reader.fields(document, "", FIELDS[0].1);
    for (name, value) in [("apiVersion", api_version), ("kind", kind)] {
        match fields.get(name) {
            Some((_, node)) if node.text() == Some(value) => {}
            Some((_, node)) => reader.say(node, format!("{name}: is not {value}")),
            None => reader.say(document, format!("{name}: missing; write {name}: {value}")),
        }
    }
    let endpoints = fields.get("endpoints").map(|(_, node)| reader.endpoints(node)).unwrap_or_default();
    let rules = fields.get("rules").map(|(_, node)| reader.rules(node, &endpoints)).unwrap_or_default();
    (Policy { file: file.to_owned(), endpoints, rules }, reader.mistakes)
}

struct Reader {
    mistakes: Vec<Mistake>,
    forbids_skip_verify: bool,
}

/// The fields of a mapping that are set, each with its key and value.
type Fields<'n> = BTreeMap<&'static str, (&'n Node, &'n Node)>;

impl Reader {
    fn say(&mut self, node: &Node, what: String) {
        self.mistakes.push(Mistake { at: node.at, span: node.span.clone(), what });
    }

    /// What a mapping says of the fields that are known; the others are mistakes. What is empty is not set.
    fn fields<'n>(&mut self, node: &'n Node, place: &str, known: &[&'static str]) -> Fields<'n> {
        if !matches!(node.value, Value::Map(_)) {
            let place = place.trim_end_matches('.');
            let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
            self.say(node, format!("{place}is {}, not a mapping", node.kind()));
        }
        let mut fields = Fields::new();
        for (key, value) in node.entries() {
            let name = key.text().unwrap_or_default();
            match known.iter().find(|known| **known == name) {
                Some(_) if value.is_null() => {}
                Some(known) => drop(fields.insert(known, (key, value))),
                None => {
                    let next = match nearest(name, known.iter().copied()) {
                        Some(meant) => format!("did you mean {meant}?"),
                        None => format!("what is known here is {}", known.join(", ")),
                    };
                    self.say(key, format!("{place}{}: is unknown; {next}", quoted(name).trim_matches('"')));
                }
            }
        }
        fields
    }

    fn text<'n>(&mut self, fields: &Fields<'n>, place: &str, name: &str) -> Option<(&'n Node, &'n str)> {
        let (_, node) = fields.get(name)?;
        match node.text() {
            Some(text)
                if name == "caCert"
                    || !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control) =>
            {
                Some((node, text))
            }
            Some(_) => {
                let what = "is empty, or begins or ends with a blank, or holds a control character";
                self.say(node, format!("{place}{name}: {what}"));
                None
            }
            None => {
                self.say(node, format!("{place}{name}: is {}, not text; put it in quotes", node.kind()));
                None
            }
        }
    }

    fn boolean(&mut self, fields: &Fields<'_>, place: &str, name: &str) -> bool {
        match fields.get(name).map(|(_, node)| (node, &node.value)) {
            None => false,
            Some((_, Value::Bool(value))) => *value,
            Some((node, _)) => {
                self.say(node, format!("{place}{name}: is {}; write true or false", node.kind()));
                false
            }
        }
    }

    /// Whether certificates need not be verified, which the flag goes before.
    fn skip_verify(&mut self, fields: &Fields<'_>, place: &str) -> bool {
        let skips = self.boolean(fields, place, "skipVerify");
        if let (true, true, Some((key, _))) = (skips, self.forbids_skip_verify, fields.get("skipVerify")) {
            self.say(key, format!("{place}skipVerify: is what --allow-skip-verify=false forbids; change one of them"));
        }
        skips
    }

    fn endpoints(&mut self, node: &Node) -> BTreeMap<String, Arc<Server>> {
        if !matches!(node.value, Value::Map(_)) {
            self.say(node, format!("endpoints: is {}; write a mapping of names", node.kind()));
        }
        let mut endpoints = BTreeMap::new();
        for (key, node) in node.entries() {
            let name = key.text().unwrap_or_default();
            let is_name = (1..=63).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !is_name {
                self.say(key, "endpoints: a name is 1 to 63 letters, digits, `-`, `_` or `.`".to_owned());
                continue;
            }
            if name == DEFAULT {
                let what = "endpoints.default: is the server of flags and environment; choose another name";
                self.say(key, what.to_owned());
                continue;
            }
            if endpoints.len() == MOST_ENDPOINTS {
                self.say(key, format!("endpoints: there are more than {MOST_ENDPOINTS}"));
                break;
            }
            if let Some(server) = self.endpoint(key, node, &format!("endpoints.{name}.")) {
                endpoints.insert(name.to_owned(), Arc::new(server));
            }
        }
        endpoints
    }

    fn endpoint(&mut self, key: &Node, node: &Node, place: &str) -> Option<Server> {
        let fields = self.fields(node, place, FIELDS[1].1);
        if !fields.contains_key("address") && matches!(node.value, Value::Map(_)) {
            self.say(key, format!("{place}address: missing; write https://host:port"));
        }
        let address = self.text(&fields, place, "address").and_then(|(node, text)| {
            let shown = if text.contains(SENSITIVE_URL_CHARS) { String::new() } else { format!("{} ", quoted(text)) };
            Address::parse(text).map_err(|why| self.say(node, format!("{place}address: {shown}{why}"))).ok()
        });
        let namespace = self.text(&fields, place, "namespace").map(|(node, text)| {
            let namespace = text.trim_matches('/');
            if namespace.split('/').any(|part| matches!(part, "." | "..")) {
                self.say(node, format!("{place}namespace: contains a `.` or `..` part"));
            }
            namespace.to_owned()
        });
        let auth_mount = self.text(&fields, place, "authMount").and_then(|(node, text)| {
            let mount = text.trim_matches('/');
            if mount.starts_with("auth/") || mount.split('/').any(|part| matches!(part, "" | "." | "..")) {
                self.say(node, format!("{place}authMount: write the path alone, without auth/, `.` and `..`"));
                return None;
            }
            Some(mount.to_owned())
        });
        let tls = fields.get("tls").map(|(_, node)| self.tls(node, &format!("{place}tls."))).unwrap_or_default();
        Some(Server {
            address: address?,
            namespace: namespace.filter(|namespace| !namespace.is_empty()),
            auth_mount: auth_mount.unwrap_or_else(|| "kubernetes".to_owned()),
            tls,
        })
    }

    fn tls(&mut self, node: &Node, place: &str) -> Tls {
        let fields = self.fields(node, place, FIELDS[2].1);
        let authorities = ["caCert", "caCertPath", "caDirectory"];
        if let [_, (second, node), ..] =
            authorities.iter().filter_map(|name| Some((name, fields.get(name)?.0))).collect::<Vec<_>>()[..]
        {
            self.say(node, format!("{place}{second}: another one says which authority to trust, too; remove one"));
        }
        let ca = [
            self.text(&fields, place, "caCert").map(|(node, text)| {
                if !text.contains("-----BEGIN CERTIFICATE-----") {
                    self.say(node, format!("{place}caCert: is no PEM certificate; to name a file write caCertPath"));
                }
                Ca::Pem(text.to_owned())
            }),
            self.file(&fields, place, "caCertPath").map(|path| Ca::File(path.into())),
            self.file(&fields, place, "caDirectory").map(|path| Ca::Directory(path.into())),
        ];
        let server_name = self.text(&fields, place, "serverName").map(|(node, name)| {
            if !is_server_name(name) {
                self.say(node, format!("{place}serverName: is neither a host name nor an IP address"));
            }
            name.to_owned()
        });
        for (there, other) in [("clientCertPath", "clientKeyPath"), ("clientKeyPath", "clientCertPath")] {
            if let (Some((key, _)), false) = (fields.get(there), fields.contains_key(other)) {
                self.say(key, format!("{place}{there}: is of no use without {other}; set both or none"));
            }
        }
        let certificate = self.file(&fields, place, "clientCertPath");
        let key = self.file(&fields, place, "clientKeyPath");
        let client = certificate
            .zip(key)
            .map(|(certificate, key)| ClientCertificate { certificate: certificate.into(), key: key.into() });
        Tls {
            ca: ca.into_iter().flatten().next().unwrap_or_default(),
            client,
            server_name,
            skip_verify: self.skip_verify(&fields, place),
        }
    }

    fn file<'n>(&mut self, fields: &Fields<'n>, place: &str, name: &str) -> Option<&'n str> {
        let (node, path) = self.text(fields, place, name)?;
        if !path.starts_with('/') {
            self.say(node, format!("{place}{name}: is no absolute path"));
        }
        Some(path)
    }

    fn rules(&mut self, node: &Node, endpoints: &BTreeMap<String, Arc<Server>>) -> Vec<Rule> {
        if !matches!(node.value, Value::List(_)) {
            self.say(node, format!("rules: is {}; write a list", node.kind()));
        }
        let mut rules: Vec<Rule> = Vec::new();
        for (index, node) in node.items().iter().enumerate() {
            let place = format!("rules[{index}].");
            let fields = self.fields(node, &place, FIELDS[3].1);
            let names = self.names(node, &fields, &place, &rules);
            rules.push(Rule {
                names,
                endpoints: self.allowed(&fields, &place, endpoints),
                addresses: self.addresses(&fields, &place),
                vault_namespaces: self.paths(&fields, &place, "vaultNamespaces"),
                auth_mounts: self.paths(&fields, &place, "authMounts"),
                audiences: self.globs(&fields, &place, "audiences"),
                skip_verify: self.skip_verify(&fields, &place),
                certificate_files: self.files(&fields, &place),
            });
        }
        rules
    }

    /// The namespaces of a rule, none of which one before it names.
    fn names(&mut self, rule: &Node, fields: &Fields<'_>, place: &str, before: &[Rule]) -> Vec<Glob> {
        let mut names = Vec::new();
        for (node, text) in self.list(fields, place, "namespaces").unwrap_or_default() {
            let (name, shown) = (Glob::new(text), quoted(text));
            let may = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'*');
            if !text.bytes().all(may) {
                let what = "names no namespace: small letters, digits, `-` and `*`";
                self.say(node, format!("{place}namespaces: {shown} {what}"));
            }
            // A pattern, too, is one that another pattern matches.
            let covers = |other: &Glob| *other == name || other.matches(text);
            if let Some(first) = before.iter().position(|rule| rule.names.iter().any(covers)) {
                let what = format!("is named by rules[{first}] before; the first counts, remove one");
                self.say(node, format!("{place}namespaces: {shown} {what}"));
            }
            names.push(name);
        }
        if names.is_empty() && matches!(rule.value, Value::Map(_)) {
            self.say(rule, format!("{place}namespaces: missing; list namespaces, or \"*\" for all others"));
        }
        names
    }

    /// The endpoints of a rule, each of which is there.
    fn allowed(
        &mut self,
        fields: &Fields<'_>,
        place: &str,
        endpoints: &BTreeMap<String, Arc<Server>>,
    ) -> Option<Vec<Glob>> {
        let known = || endpoints.keys().map(String::as_str).chain([DEFAULT]);
        let mut allowed = Vec::new();
        for (node, text) in self.list(fields, place, "endpoints")? {
            let name = Glob::new(text);
            if !known().any(|known| name.matches(known)) {
                let meant = nearest(text, known()).map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
                self.say(node, format!("{place}endpoints: there is no endpoint {}{meant}", quoted(text)));
            }
            allowed.push(name);
        }
        Some(allowed)
    }

    /// A list of texts; of which something is no text it has fewer.
    fn list<'n>(&mut self, fields: &Fields<'n>, place: &str, name: &str) -> Option<Vec<(&'n Node, &'n str)>> {
        let (_, node) = fields.get(name)?;
        if !matches!(node.value, Value::List(_)) {
            self.say(node, format!("{place}{name}: is {}; write a list", node.kind()));
        }
        let mut texts = Vec::new();
        for item in node.items() {
            match item.text() {
                None => self.say(item, format!("{place}{name}: an item is {}; put it in quotes", item.kind())),
                Some(text) if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) => {
                    let what = "an item is empty, or begins or ends with a blank, or holds a control character";
                    self.say(item, format!("{place}{name}: {what}"));
                }
                Some(text) => texts.push((item, text)),
            }
        }
        Some(texts)
    }

    fn globs(&mut self, fields: &Fields<'_>, place: &str, name: &str) -> Option<Vec<Glob>> {
        Some(self.list(fields, place, name)?.into_iter().map(|(_, text)| Glob::new(text)).collect())
    }

    /// Patterns of paths, which are compared without slashes around them. `root` is one that may be written as a slash.
    fn paths(&mut self, fields: &Fields<'_>, place: &str, name: &str) -> Option<Vec<Glob>> {
        let is_mount = name == "authMounts";
        let mut paths = Vec::new();
        for (node, text) in self.list(fields, place, name)? {
            let path = text.trim_matches('/');
            let dots = path.split('/').any(|part| matches!(part, "." | ".."));
            if dots || is_mount && (path.is_empty() || path.starts_with("auth/")) {
                let what = if is_mount {
                    "write the path alone, without auth/, `.` and `..`"
                } else {
                    "contains a `.` or `..` part"
                };
                self.say(node, format!("{place}{name}: {what}"));
            }
            paths.push(Glob::new(if path.is_empty() { "root" } else { path }));
        }
        Some(paths)
    }

    fn files(&mut self, fields: &Fields<'_>, place: &str) -> Vec<Glob> {
        let files = self.list(fields, place, "certificateFiles").unwrap_or_default();
        for (node, text) in &files {
            let dots = text.split('/').any(|part| matches!(part, "." | ".."));
            if (!text.starts_with('/') || dots) && !Glob::new(*text).is_any() {
                self.say(
                    node,
                    format!("{place}certificateFiles: {} is no absolute path without `.` and `..`", quoted(text)),
                );
            }
        }
        files.into_iter().map(|(_, text)| Glob::of_files(text)).collect()
    }

    fn addresses(&mut self, fields: &Fields<'_>, place: &str) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for (node, text) in self.list(fields, place, "addresses").unwrap_or_default() {
            match Pattern::parse(text) {
                Ok(pattern) if pattern.has_path() => {
                    let what = "has a path, at which nobody looks; write scheme, host and port";
                    self.say(node, format!("{place}addresses: {} {what}", quoted(text)));
                }
                Ok(pattern) => patterns.push(pattern),
                Err(why) => self.say(node, format!("{place}addresses: {why}")),
            }
        }
        patterns
    }
}

#[cfg(test)]
mod tests;
