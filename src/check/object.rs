//! The objects of a class, one by one: what would be read, what was, and what files it makes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use super::{Check, Outcome, Step, Stop, count, go_on, traces::Traces};
use crate::{
    error::{Cause, Error},
    lease::{self, Lease, Refresh},
    mount::Way,
    render::{self, File},
    request::Object,
    vault::{client::inspect::Preflight, wire::SecretRequest},
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

/// The most file names that a line shows.
const MAX_NAMES: usize = 8;

impl<'a> Check<'a> {
    pub(super) async fn objects(
        &self,
        way: &Way,
        tell: &mut impl FnMut(Step),
        traces: &mut Traces,
        stopping: &AtomicBool,
    ) -> Result<HashMap<&'a SecretRequest, Found>, Stop> {
        let mut found: HashMap<&SecretRequest, Found> = HashMap::new();
        let mut engines = HashMap::new();
        let mut failed: HashMap<&SecretRequest, &str> = HashMap::new();
        for object in &self.spec.class.objects {
            if !found.contains_key(&*object.read) {
                go_on(stopping)?;
                let (engine, outcome) = self.read(way, &object.read, traces).await;
                engines.insert(&*object.read, engine);
                found.insert(&*object.read, outcome);
            }
            let Some(outcome) = found.get(&*object.read) else { continue };
            let engine = engines.get(&*object.read).and_then(Option::as_deref);
            let fails = matches!(outcome, Found::Failed(error) if !object.may_lack(error));
            let told = match failed.get(&*object.read) {
                Some(first) if fails => Outcome::Skipped(format!("the same request as that of {first:?}")),
                _ => describe(object, outcome, engine),
            };
            if fails {
                failed.entry(&*object.read).or_insert(&object.recipe.file);
            }
            tell(Step { object: Some(object.recipe.file.clone()), ..Step::new("object", told) });
        }
        Ok(found)
    }

    /// Sends a request, unless it would create something and must not; and the engine's name if it is known.
    async fn read(&self, way: &Way, read: &Arc<SecretRequest>, traces: &mut Traces) -> (Option<String>, Found) {
        let looked = way.session.prospect(read, &way.prover, self.deadline()).await;
        traces.note(way);
        let (prospect, known_to_fail) = match looked {
            Ok(looked) => looked,
            Err(error) => return (None, Found::Failed(error)),
        };
        let engine = prospect.engine.as_ref().map(|engine| engine.display_name());
        if prospect.mutating && !self.create {
            return (engine, known_to_fail.map_or_else(|| Found::Skipped(skipped(&prospect)), Found::Failed));
        }
        if prospect.mutating {
            traces.sent(read);
        }
        let outcome = match way.session.look(read, Refresh::Never) {
            lease::Found::Good(lease) => Ok(lease),
            lease::Found::Due(due) => {
                way.session.read(read, &due, &way.prover, self.deadline()).await.map(|(brought, _)| brought.lease)
            }
        };
        traces.note(way);
        match &outcome {
            Ok(lease) if prospect.mutating => traces.created(read, lease),
            Err(error) if prospect.mutating => traces.may_have_created(read, error.cause()),
            _ => {}
        }
        match outcome {
            Ok(lease) => (engine, Found::Lease(lease)),
            Err(error) if error.cause() == Cause::SecretMissing => {
                (engine, Found::Failed(way.session.look_near(read, error, self.deadline()).await))
            }
            Err(error) => (engine, Found::Failed(error)),
        }
    }
}

fn skipped(prospect: &Preflight) -> String {
    let why = match prospect.engine {
        Some(_) => "not sent, as it would create something",
        None => "not sent, as it may create something: Vault does not tell which engine is there",
    };
    let allowed = if prospect.is_allowed == Some(true) { "; the policies allow it" } else { "" };
    format!("{why} (--create sends it){allowed}")
}

impl Found {
    /// Whether a mount would make the object's files of it, or do without.
    pub(super) fn makes_files(&self, object: &Object) -> bool {
        match self {
            Self::Lease(lease) => {
                render::render(&object.recipe, &lease.answer).map_or_else(|error| object.may_lack(&error), |_| true)
            }
            Self::Failed(error) => object.may_lack(error),
            Self::Skipped(_) => false,
        }
    }
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
    Outcome::Failed(Box::new(error.clone()))
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
        [] => "no files, as the secret has no keys".to_owned(),
        [file] => format!("{}, {:04o}", count(file.contents.len(), "byte"), file.mode),
        files => {
            let names: Vec<String> = files.iter().take(MAX_NAMES).map(|file| format!("{:?}", file.path)).collect();
            let more = if files.len() > MAX_NAMES { ", …" } else { "" };
            format!("{}: {}{more}", count(files.len(), "file"), names.join(", "))
        }
    }
}
