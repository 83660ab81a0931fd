//! Checks of one entry of `objects`: its request, its part of the response, and its file.

use std::sync::Arc;

use super::{args::UnsupportedArg, raw::RawObject, version_config};
use crate::{
    render::{Encoding, FileSpec, Format, Selector},
    request::{
        Object,
        findings::{FindingLocation, Findings, ObjectEntry},
        go_json::{GoMap, GoValue, JsonWriter, format_float},
        go_yaml,
        query::{Query, QueryConflict},
        vault_path::parse_secret_path,
        warnings::Warnings,
    },
    text::{closest_match, quote},
    vault::request::{Method, SecretRequest},
};

/// Returns the object, or `None` if it has a mistake other than in its name.
pub(super) fn parse_object(
    mut raw: RawObject,
    source: &str,
    default_permission: u32,
    entry: &ObjectEntry,
    findings: &mut Findings,
    warnings: &mut Warnings,
) -> Option<Object> {
    let findings_before = findings.len();
    let mut parser = FieldParser { entry, findings };
    parser.check_type(&raw, warnings);
    let file_permission = parser.parse_file_permission(&raw.file_permission, warnings);
    let args = parser.parse_arguments(&mut raw, source);
    let file_spec = FileSpec {
        path: raw.object_name.clone(),
        mode: if file_permission == 0 { default_permission } else { file_permission },
        selector: if raw.is_token() { Selector::Key("token".to_owned()) } else { parser.parse_selector(&raw) },
        encoding: parser.parse_encoding(&raw),
    };
    let request =
        if raw.is_token() { Some(SecretRequest::for_token()) } else { parser.build_request(&raw, args.as_ref()) };
    let optional = parser.parse_optional(&raw.optional);
    if findings.len() > findings_before {
        return None;
    }
    let version_config = version_config::version_config(&raw, args.as_ref(), file_permission);
    Some(Object { request: Arc::new(request?), file_spec, optional, version_config })
}

impl RawObject {
    /// Returns true if every key becomes a file.
    pub(super) fn selects_all_keys(&self) -> bool {
        self.secret_key == "*"
    }

    /// Returns true if the Vault token itself becomes the file.
    pub(super) fn is_token(&self) -> bool {
        self.kind.eq_ignore_ascii_case("token")
    }

    /// Returns the fields that are set and describe the request or the use of its response.
    fn present_request_fields(&self) -> Vec<&'static str> {
        let set = [
            ("secretPath", !self.secret_path.is_empty()),
            ("secretKey", !self.secret_key.is_empty()),
            ("method", !self.method.is_empty()),
            ("secretArgs", self.secret_args.is_some()),
            ("encoding", !self.encoding.is_empty()),
            ("secretPointer", self.secret_pointer.is_some()),
            ("format", !self.format.is_empty()),
            ("optional", !self.optional.is_empty()),
        ];
        set.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect()
    }
}

/// Parser of one object's fields, which records their mistakes.
struct FieldParser<'a> {
    entry: &'a ObjectEntry,
    findings: &'a mut Findings,
}

impl FieldParser<'_> {
    fn report(&mut self, field: &str, problem: &str) {
        self.findings.add(self.entry.field_location(field), problem);
    }

    /// Rejects `type: token` together with request fields, because the content is the pod's Vault token.
    fn check_type(&mut self, raw: &RawObject, warnings: &mut Warnings) {
        if raw.is_token() {
            let set = raw.present_request_fields();
            if !set.is_empty() {
                self.findings.add(
                    self.entry.fields_location(&set),
                    "does not go with type: token, which reads no secret; remove it",
                );
            }
        } else if !raw.kind.is_empty() {
            warnings.add_unsupported(self.entry.field_location("type"), &raw.kind);
        }
    }

    /// Parses the permission; 0 if absent. A quoted number has the same meaning.
    fn parse_file_permission(&mut self, text: &str, warnings: &mut Warnings) -> u32 {
        if text.is_empty() {
            return 0;
        }
        match go_yaml::parse_integer(text).and_then(|number| u32::try_from(number).ok()) {
            Some(mode @ 0..=0o777) => {
                if let Some(suggestion) =
                    read_as_octal(text).filter(|meant| *meant != mode && is_plausible_mode(*meant))
                {
                    let problem =
                        format!("{text} is 0{mode:o}, as it has no 0 before it; did you mean 0{suggestion:o}?");
                    warnings.add(self.entry.field_location("filePermission"), problem);
                }
                mode
            }
            Some(mode) => {
                let octal = read_as_octal(text).filter(|octal| *octal <= 0o777);
                let suggestion = octal.map(|octal| format!("; did you mean 0{octal:o}?")).unwrap_or_default();
                self.report("filePermission", &format!("{mode} is 0{mode:o}, more than 0777{suggestion}"));
                0
            }
            None => {
                self.report("filePermission", &format!("{} is no permission; write it as in 0440", quote(text)));
                0
            }
        }
    }

    fn parse_arguments(&mut self, raw: &mut RawObject, source: &str) -> Option<GoMap> {
        match raw.secret_args.take()?.into_arguments(source) {
            Ok(args) => args,
            Err(UnsupportedArg { problem, position }) => {
                let location =
                    FindingLocation::Object(self.entry.clone(), vec!["secretArgs".to_owned()], Some(position));
                self.findings.add(location, problem);
                None
            }
        }
    }

    /// Returns the whole response, unless secretKey, secretPointer or format selects a part of it.
    fn parse_selector(&mut self, raw: &RawObject) -> Selector {
        let pointer = raw.secret_pointer.as_deref();
        let set = [
            ("secretKey", !raw.secret_key.is_empty()),
            ("secretPointer", pointer.is_some()),
            ("format", !raw.format.is_empty()),
        ];
        let set: Vec<&str> = set.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect();
        if set.len() > 1 {
            self.findings.add(self.entry.fields_location(&set), "each says which part of the secret it is; keep one");
        }
        let format = self.parse_format(&raw.format);
        match pointer {
            _ if raw.selects_all_keys() => Selector::AllKeys,
            _ if !raw.secret_key.is_empty() => Selector::Key(raw.secret_key.clone()),
            Some(pointer) => {
                self.check_pointer(pointer);
                Selector::Pointer(pointer.to_owned())
            }
            None => format.map_or(Selector::FullResponse, Selector::Formatted),
        }
    }

    fn check_pointer(&mut self, pointer: &str) {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            self.report("secretPointer", &format!("starts without a slash; write {}", quote(&format!("/{pointer}"))));
        }
        if pointer.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
            self.report("secretPointer", "has a ~ that escapes nothing; write ~0 for ~ and ~1 for / in a key");
        }
    }

    fn parse_format(&mut self, text: &str) -> Option<Format> {
        const KNOWN: [&str; 4] = ["json", "yaml", "env", "properties"];
        Some(match text.to_ascii_lowercase().as_str() {
            "" => return None,
            "json" => Format::Json,
            "yaml" => Format::Yaml,
            "env" => Format::Env,
            "properties" => Format::Properties,
            _ => return self.report_unknown_value("format", text, &KNOWN),
        })
    }

    fn parse_encoding(&mut self, raw: &RawObject) -> Encoding {
        const KNOWN: [&str; 3] = ["utf-8", "base64", "hex"];
        let text = raw.encoding.as_str();
        if !text.is_empty() && !raw.format.is_empty() {
            self.report("encoding", "does not go with format, which takes the values as they are; remove one");
        }
        match text.to_ascii_lowercase().as_str() {
            "" | "utf-8" => Encoding::Utf8,
            "base64" => Encoding::Base64,
            "hex" => Encoding::Hex,
            _ => self.report_unknown_value("encoding", text, &KNOWN).unwrap_or_default(),
        }
    }

    fn parse_method(&mut self, text: &str) -> Option<Method> {
        const KNOWN: [&str; 4] = ["GET", "LIST", "PUT", "POST"];
        Some(match text.to_ascii_uppercase().as_str() {
            "" | "GET" => Method::Get,
            "LIST" => Method::List,
            "PUT" => Method::Put,
            "POST" => Method::Post,
            _ => return self.report_unknown_value("method", text, &KNOWN),
        })
    }

    fn report_unknown_value<T>(&mut self, field: &str, value: &str, known: &[&str]) -> Option<T> {
        let suggestion = closest_match(value, known.iter().copied()).map(|meant| format!(" (did you mean {meant}?)"));
        let problem = format!("{} is none of {}{}", quote(value), known.join(", "), suggestion.unwrap_or_default());
        self.report(field, &problem);
        None
    }

    fn parse_optional(&mut self, text: &str) -> bool {
        match text {
            "true" | "True" | "TRUE" => true,
            "" | "false" | "False" | "FALSE" => false,
            other => {
                self.report("optional", &format!("is {}; write true or false", quote(other)));
                false
            }
        }
    }

    fn build_request(&mut self, raw: &RawObject, args: Option<&GoMap>) -> Option<SecretRequest> {
        let method = self.parse_method(&raw.method);
        if raw.secret_path.is_empty() {
            self.report("secretPath", "missing; name the secret, as in secret/data/app");
            return None;
        }
        let (path, mut query) =
            parse_secret_path(&raw.secret_path).map_err(|why| self.report("secretPath", &why)).ok()?;
        let method = method?;
        let body = match (method, args) {
            (Method::Put | Method::Post, Some(args)) => {
                let mut json = JsonWriter::default();
                json.push_map(args);
                Some(json.into())
            }
            (Method::Get | Method::List, Some(args)) => {
                self.add_to_query(&mut query, args);
                None
            }
            (_, None) => None,
        };
        Some(SecretRequest { method, path, query: query.encode(), body })
    }

    /// Adds the arguments of GET and LIST to the query, because these methods have no body.
    fn add_to_query(&mut self, query: &mut Query, args: &GoMap) {
        for (name, value) in args {
            let inserted = match value {
                GoValue::Text(text) => query.insert(name, text.expose()),
                GoValue::Bool(word) => query.insert(name, if *word { "true" } else { "false" }),
                GoValue::Int(number) => query.insert(name, &number.to_string()),
                GoValue::Float(number) => query.insert(name, &format_float(*number)),
                GoValue::Null | GoValue::List(_) | GoValue::Map(_) => {
                    let why = format!(
                        "{} has no single value, which GET and LIST need; use method PUT or remove it",
                        quote(name)
                    );
                    self.report("secretArgs", &why);
                    continue;
                }
            };
            if inserted == Err(QueryConflict) {
                let why = format!("{} has another value in secretPath's query; remove one", quote(name));
                self.report("secretArgs", &why);
            }
        }
    }
}

/// Parses a number without a leading 0 as octal. Returns `None` if it contains an 8 or 9.
fn read_as_octal(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    if digits && !text.starts_with('0') { u32::from_str_radix(text, 8).ok() } else { None }
}

/// Returns true for a common permission: each digit is 0 or includes read, and group and others have no more rights
/// than the one before. 400 (0620) is therefore implausible, but 256 (0400) is plausible.
fn is_plausible_mode(mode: u32) -> bool {
    let [owner, group, others] = [mode >> 6 & 7, mode >> 3 & 7, mode & 7];
    let reads = [owner, group, others].iter().all(|digit| *digit == 0 || digit & 4 != 0);
    reads && group & !owner == 0 && others & !group == 0
}
