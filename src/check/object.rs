//! The objects of a class, one by one: what would be read, what was, and what files it makes.

use std::{collections::HashMap, sync::Arc};

use super::{Check, Outcome, Step, count};
use crate::{
    error::{Cause, Error},
    lease::Lease,
    mount::Way,
    render::{self, File},
    request::Object,
    vault::{client::inspect::Prospect, wire::Method, wire::Read},
};

/// What came of a request.
pub(super) enum Found {
    /// Its answer.
    Lease(Arc<Lease>),
    /// It was not sent, and why.
    Skipped(String),
    /// It failed.
    Failed(Error),
}

/// What a request made.
pub(super) struct Created {
    /// What it is, for a person.
    pub(super) name: String,
    /// Whether it ends with the token.
    pub(super) is_leased: bool,
}

/// The most file names that a line shows.
const MAX_NAMES: usize = 8;

impl<'a> Check<'a> {
    pub(super) async fn objects(
        &self,
        way: &Way,
        tell: &mut impl FnMut(Step),
        created: &mut Vec<Created>,
    ) -> HashMap<&'a Read, Found> {
        let mut found: HashMap<&Read, Found> = HashMap::new();
        let mut engines = HashMap::new();
        for object in &self.spec.objects {
            if !found.contains_key(&object.read) {
                let (engine, outcome) = self.read(way, &object.read, created).await;
                engines.insert(&object.read, engine);
                found.insert(&object.read, outcome);
            }
            let Some(outcome) = found.get(&object.read) else { continue };
            let engine = engines.get(&object.read).and_then(Option::as_deref);
            let outcome = describe(object, outcome, engine);
            tell(Step { name: "object", object: Some(object.recipe.file.clone()), outcome });
        }
        found
    }

    /// Sends a request, unless it would create something and must not; and the engine's name if it is known.
    async fn read(&self, way: &Way, read: &Read, created: &mut Vec<Created>) -> (Option<String>, Found) {
        let (prospect, known_to_fail) = match way.session.prospect(read, &way.prover, self.deadline()).await {
            Ok(looked) => looked,
            Err(error) => return (None, Found::Failed(error)),
        };
        let engine = prospect.engine.as_ref().map(|engine| engine.name());
        if prospect.creates && !self.create {
            return (engine, known_to_fail.map_or_else(|| Found::Skipped(skipped(&prospect)), Found::Failed));
        }
        match way.session.read(read, &way.prover, self.deadline()).await {
            Ok(lease) => {
                if prospect.creates {
                    created.push(Created::of(read, &lease));
                }
                (engine, Found::Lease(lease))
            }
            Err(error) if error.cause() == Cause::SecretMissing => {
                (engine, Found::Failed(way.session.look_near(read, error, self.deadline()).await))
            }
            Err(error) => (engine, Found::Failed(error)),
        }
    }
}

fn skipped(prospect: &Prospect) -> String {
    let why = match prospect.engine {
        Some(_) => "not sent, as it would create something",
        None => "not sent, as it may create something: Vault does not tell which engine is there",
    };
    let allowed = if prospect.allowed == Some(true) { "; the policies allow it" } else { "" };
    format!("{why} (--create sends it){allowed}")
}

impl Created {
    fn of(read: &Read, lease: &Lease) -> Self {
        let serial = serde_json::from_str::<Issued>(lease.answer.data().unwrap_or_default());
        let serial = serial.ok().and_then(|issued| issued.serial_number).filter(|serial| is_serial(serial));
        let name = match (serial, read.method) {
            (Some(serial), _) => format!("certificate {serial}, which {} issued", read.path),
            (None, Method::Get | Method::List) => format!("what {} made, if it made something", read.path),
            (None, _) => format!("what {} wrote or made", read.path),
        };
        Self { name, is_leased: !lease.answer.lease_id.is_empty() }
    }
}

#[derive(serde::Deserialize)]
struct Issued {
    serial_number: Option<String>,
}

/// Whether it is a certificate's number as Vault writes them, and no secret of that name.
fn is_serial(text: &str) -> bool {
    text.len() <= 64
        && text.split([':', '-']).all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether the answer can be made the object's files.
pub(super) fn renders(object: &Object, lease: &Lease) -> bool {
    render::render(&object.recipe, &lease.answer).is_ok()
}

fn describe(object: &Object, found: &Found, engine: Option<&str>) -> Outcome {
    let lease = match found {
        Found::Lease(lease) => lease,
        Found::Skipped(why) => return Outcome::Skipped(format!("{}: {why}", request(object, engine))),
        Found::Failed(error) => return failed(object, error, engine),
    };
    match render::render(&object.recipe, &lease.answer) {
        Ok(files) => Outcome::Good(format!("{}: {}", request(object, engine), shown(&files))),
        Err(error) => failed(object, &error, engine),
    }
}

fn failed(object: &Object, error: &Error, engine: Option<&str>) -> Outcome {
    if object.may_lack(error) {
        return Outcome::Good(format!("{}: {}, which `optional: true` allows", request(object, engine), error.what()));
    }
    Outcome::Failed(error.clone())
}

/// `GET secret/data/shop/payment (KV version 2)`.
fn request(object: &Object, engine: Option<&str>) -> String {
    let read = &object.read;
    match engine {
        Some(engine) => format!("{} {} ({engine})", read.method, read.path),
        None => format!("{} {}", read.method, read.path),
    }
}

fn shown(files: &[File]) -> String {
    match files {
        [file] => format!("{}, {:04o}", count(file.contents.len(), "byte"), file.mode),
        files => {
            let names: Vec<String> = files.iter().take(MAX_NAMES).map(|file| format!("{:?}", file.path)).collect();
            let more = if files.len() > MAX_NAMES { ", …" } else { "" };
            format!("{}: {}{more}", count(files.len(), "file"), names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_shown_and_secrets_of_that_name_are_not() {
        for (text, is) in
            [("39:dd:2e:90", true), ("39-DD", true), ("hunter2", false), ("", false), ("1234", false), ("39:d", false)]
        {
            assert_eq!(is_serial(text), is, "{text}");
        }
    }
}
