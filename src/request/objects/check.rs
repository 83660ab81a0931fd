//! One entry of `objects` against every rule: what it reads, which part of the answer it wants, and as what file.

use std::sync::Arc;

use super::{args::Unfit, version, written::Written};
use crate::{
    render::{Encoding, Format, Recipe, Select},
    request::{
        Object,
        go_json::{Json, Map, Value, float},
        go_yaml,
        mistakes::{Entry, Mistakes, Place},
        path::secret_path,
        query::{Conflict, Query},
        warnings::Warnings,
    },
    text::{nearest, quoted},
    vault::wire::{Method, SecretRequest},
};

/// The object, or nothing if there is a mistake in it other than in its name.
pub(super) fn object(
    mut written: Written,
    source: &str,
    permission: u32,
    entry: &Entry,
    mistakes: &mut Mistakes,
    warnings: &mut Warnings,
) -> Option<Object> {
    let before = mistakes.len();
    let mut field = Field { entry, mistakes };
    field.kind(&written, warnings);
    let file_permission = field.file_permission(&written.file_permission, warnings);
    let args = field.arguments(&mut written, source);
    let recipe = Recipe {
        file: written.object_name.clone(),
        mode: if file_permission == 0 { permission } else { file_permission },
        select: if written.is_token() { Select::Key("token".to_owned()) } else { field.select(&written) },
        encoding: field.encoding(&written),
    };
    let read = if written.is_token() { Some(SecretRequest::for_token()) } else { field.read(&written, args.as_ref()) };
    let optional = field.optional(&written.optional);
    if mistakes.len() > before {
        return None;
    }
    let version_config = version::config(&written, args.as_ref(), file_permission);
    Some(Object { read: Arc::new(read?), recipe, optional, version_config })
}

impl Written {
    /// Whether every key becomes a file.
    pub(super) fn is_each_key(&self) -> bool {
        self.secret_key == "*"
    }

    /// Whether the Vault token itself becomes the file.
    pub(super) fn is_token(&self) -> bool {
        self.kind.eq_ignore_ascii_case("token")
    }

    /// The fields that are set and say what is read, or how it is.
    fn reading(&self) -> Vec<&'static str> {
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

/// Where mistakes in one object's fields go.
struct Field<'a> {
    entry: &'a Entry,
    mistakes: &'a mut Mistakes,
}

impl Field<'_> {
    fn wrong(&mut self, field: &str, what: &str) {
        self.mistakes.add(self.entry.field(field), what);
    }

    /// With `type: token` nothing else says what is read: it is the pod's Vault token.
    fn kind(&mut self, written: &Written, warnings: &mut Warnings) {
        if written.is_token() {
            let set = written.reading();
            if !set.is_empty() {
                self.mistakes
                    .add(self.entry.fields(&set), "does not go with type: token, which reads no secret; remove it");
            }
        } else if !written.kind.is_empty() {
            warnings.unsupported(self.entry.field("type"), &written.kind);
        }
    }

    /// 0 when absent. In quotes it means the same.
    fn file_permission(&mut self, text: &str, warnings: &mut Warnings) -> u32 {
        if text.is_empty() {
            return 0;
        }
        match go_yaml::integer(text).and_then(|number| u32::try_from(number).ok()) {
            Some(mode @ 0..=0o777) => {
                if let Some(meant) = octal(text).filter(|meant| *meant != mode && is_usual(*meant)) {
                    let what = format!("{text} is 0{mode:o}, as it has no 0 before it; did you mean 0{meant:o}?");
                    warnings.say(self.entry.field("filePermission"), what);
                }
                mode
            }
            Some(mode) => {
                let octal = octal(text).filter(|octal| *octal <= 0o777);
                let meant = octal.map(|octal| format!("; did you mean 0{octal:o}?")).unwrap_or_default();
                self.wrong("filePermission", &format!("{mode} is 0{mode:o}, more than 0777{meant}"));
                0
            }
            None => {
                self.wrong("filePermission", &format!("{} is no permission; write it as in 0440", quoted(text)));
                0
            }
        }
    }

    fn arguments(&mut self, written: &mut Written, source: &str) -> Option<Map> {
        match written.secret_args.take()?.arguments(source) {
            Ok(args) => args,
            Err(Unfit { what, at }) => {
                let place = Place::Object(self.entry.clone(), vec!["secretArgs".to_owned()], Some(at));
                self.mistakes.add(place, what);
                None
            }
        }
    }

    /// The whole answer unless one of secretKey, secretPointer and format says otherwise.
    fn select(&mut self, written: &Written) -> Select {
        let pointer = written.secret_pointer.as_deref();
        let set = [
            ("secretKey", !written.secret_key.is_empty()),
            ("secretPointer", pointer.is_some()),
            ("format", !written.format.is_empty()),
        ];
        let set: Vec<&str> = set.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect();
        if set.len() > 1 {
            self.mistakes.add(self.entry.fields(&set), "each says which part of the secret it is; keep one");
        }
        let format = self.format(&written.format);
        match pointer {
            _ if written.is_each_key() => Select::EachKey,
            _ if !written.secret_key.is_empty() => Select::Key(written.secret_key.clone()),
            Some(pointer) => {
                self.check_pointer(pointer);
                Select::Pointer(pointer.to_owned())
            }
            None => format.map_or(Select::Whole, Select::Formatted),
        }
    }

    fn check_pointer(&mut self, pointer: &str) {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            self.wrong("secretPointer", &format!("starts without a slash; write {}", quoted(&format!("/{pointer}"))));
        }
        if pointer.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
            self.wrong("secretPointer", "has a ~ that escapes nothing; write ~0 for ~ and ~1 for / in a key");
        }
    }

    fn format(&mut self, text: &str) -> Option<Format> {
        const KNOWN: [&str; 4] = ["json", "yaml", "env", "properties"];
        Some(match text.to_ascii_lowercase().as_str() {
            "" => return None,
            "json" => Format::Json,
            "yaml" => Format::Yaml,
            "env" => Format::Env,
            "properties" => Format::Properties,
            _ => return self.unknown_word("format", text, &KNOWN),
        })
    }

    fn encoding(&mut self, written: &Written) -> Encoding {
        const KNOWN: [&str; 3] = ["utf-8", "base64", "hex"];
        let text = written.encoding.as_str();
        if !text.is_empty() && !written.format.is_empty() {
            self.wrong("encoding", "does not go with format, which takes the values as they are; remove one");
        }
        match text.to_ascii_lowercase().as_str() {
            "" | "utf-8" => Encoding::Utf8,
            "base64" => Encoding::Base64,
            "hex" => Encoding::Hex,
            _ => self.unknown_word("encoding", text, &KNOWN).unwrap_or_default(),
        }
    }

    fn method(&mut self, text: &str) -> Option<Method> {
        const KNOWN: [&str; 4] = ["GET", "LIST", "PUT", "POST"];
        Some(match text.to_ascii_uppercase().as_str() {
            "" | "GET" => Method::Get,
            "LIST" => Method::List,
            "PUT" => Method::Put,
            "POST" => Method::Post,
            _ => return self.unknown_word("method", text, &KNOWN),
        })
    }

    fn unknown_word<T>(&mut self, field: &str, word: &str, known: &[&str]) -> Option<T> {
        let meant = nearest(word, known.iter().copied()).map(|meant| format!(" (did you mean {meant}?)"));
        let what = format!("{} is none of {}{}", quoted(word), known.join(", "), meant.unwrap_or_default());
        self.wrong(field, &what);
        None
    }

    fn optional(&mut self, text: &str) -> bool {
        match text {
            "true" | "True" | "TRUE" => true,
            "" | "false" | "False" | "FALSE" => false,
            other => {
                self.wrong("optional", &format!("is {}; write true or false", quoted(other)));
                false
            }
        }
    }

    fn read(&mut self, written: &Written, args: Option<&Map>) -> Option<SecretRequest> {
        let method = self.method(&written.method);
        if written.secret_path.is_empty() {
            self.wrong("secretPath", "missing; name the secret, as in secret/data/app");
            return None;
        }
        let (path, mut query) = secret_path(&written.secret_path).map_err(|why| self.wrong("secretPath", &why)).ok()?;
        let method = method?;
        let body = match (method, args) {
            (Method::Put | Method::Post, Some(args)) => {
                let mut json = Json::default();
                json.map(args);
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

    /// GET and LIST have no body: their arguments are query parameters.
    fn add_to_query(&mut self, query: &mut Query, args: &Map) {
        for (name, value) in args {
            let added = match value {
                Value::Text(text) => query.insert(name, text.expose()),
                Value::Bool(word) => query.insert(name, if *word { "true" } else { "false" }),
                Value::Int(number) => query.insert(name, &number.to_string()),
                Value::Float(number) => query.insert(name, &float(*number)),
                Value::Null | Value::List(_) | Value::Map(_) => {
                    let why = format!(
                        "{} has no single value, which GET and LIST need; use method PUT or remove it",
                        quoted(name)
                    );
                    self.wrong("secretArgs", &why);
                    continue;
                }
            };
            if added == Err(Conflict) {
                let why = format!("{} has another value in secretPath's query; remove one", quoted(name));
                self.wrong("secretArgs", &why);
            }
        }
    }
}

/// What a number without a 0 before it is if it was meant to be octal; nothing if it has an 8 or 9 in it.
fn octal(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    if digits && !text.starts_with('0') { u32::from_str_radix(text, 8).ok() } else { None }
}

/// Whether people give such permissions: each digit is none or can read, and owner, group and others may ever less. So
/// 400 is no 0620, but 256 a good 0400.
fn is_usual(mode: u32) -> bool {
    let [owner, group, others] = [mode >> 6 & 7, mode >> 3 & 7, mode & 7];
    let reads = [owner, group, others].iter().all(|digit| *digit == 0 || digit & 4 != 0);
    reads && group & !owner == 0 && others & !group == 0
}
