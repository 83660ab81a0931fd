//! Everything that is wrong with a mount, as one error.

use std::collections::BTreeMap;

use crate::{error::Error, request::Object};

/// The failures of a mount's objects. Objects that fail for the same reason are named together.
#[derive(Default)]
pub(super) struct Failures {
    by_text: BTreeMap<String, (Error, Vec<String>)>,
}

/// Reasons listed at most; one is seldom due to more.
const MAX_LISTED: usize = 8;
/// Names listed at most before one reason.
const MAX_NAMES: usize = 8;

impl Failures {
    pub(super) fn add<'a>(&mut self, error: &Error, objects: impl IntoIterator<Item = &'a Object>) {
        let names: Vec<String> = objects.into_iter().map(|o| o.recipe.file.clone()).collect();
        if !names.is_empty() {
            self.by_text.entry(error.to_string()).or_insert_with(|| (error.clone(), Vec::new())).1.extend(names);
        }
    }

    /// One error with the cause that trying again cannot mend, if there is one: the driver must not try in vain.
    pub(super) fn into_result(self, objects: usize) -> Result<(), Error> {
        let mut failures = woven(self.by_text.into_values());
        failures.sort_by_key(|(error, _)| error.is_passing());
        let Some((first, _)) = failures.first() else { return Ok(()) };
        let cause = first.cause();
        if failures.len() == 1 {
            return failures.pop().map_or(Ok(()), |(error, names)| Err(error.about(subject(&names))));
        }
        let failed: usize = failures.iter().map(|(_, names)| names.len()).sum();
        let listed: Vec<String> =
            failures.iter().take(MAX_LISTED).map(|(error, names)| format!("{}: {error}", subject(names))).collect();
        let shown = if failures.len() > MAX_LISTED {
            format!(" for {} reasons, of which {MAX_LISTED} are shown", failures.len())
        } else {
            String::new()
        };
        Err(Error::listing(cause, format!("{failed} of {objects} objects failed{shown}: {}", listed.join(" | "))))
    }
}

/// What is denied for one reason as one failure, with every stanza that lacks: an event has no room to repeat the rest.
fn woven(failures: impl Iterator<Item = (Error, Vec<String>)>) -> Vec<(Error, Vec<String>)> {
    let (mut groups, mut others) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
    for (error, names) in failures {
        match error.grant() {
            Some((advice, _)) => {
                let reason = (error.words().map(str::to_owned), advice.to_owned());
                groups.entry(reason).or_default().push((error, names));
            }
            None => others.push((error, names)),
        }
    }
    for ((words, advice), group) in groups {
        let whats: Vec<Vec<&str>> = group.iter().map(|(error, _)| error.what().split(' ').collect()).collect();
        let stanzas = group.iter().filter_map(|(error, _)| error.grant()).map(|(_, stanza)| stanza).take(MAX_LISTED);
        let stanzas = stanzas.collect::<Vec<_>>().join(" ");
        let error = Error::new(group[0].0.cause(), joined(&whats));
        let error = error.said(words.unwrap_or_default()).advice(advice).stanza(&stanzas);
        others.push((error, group.into_iter().flat_map(|(_, names)| names).collect()));
    }
    others
}

/// Sentences as one: the words that all begin and end with once, and between them each one's own.
fn joined(sentences: &[Vec<&str>]) -> String {
    let first = &sentences[0];
    let shortest = sentences.iter().map(Vec::len).min().unwrap_or_default();
    let all = |same: &dyn Fn(&[&str]) -> bool| sentences.iter().all(|words| same(words));
    let start = (0..shortest).take_while(|i| all(&|words| words[*i] == first[*i])).count();
    let from_end = |words: &[&str], i: usize| words[words.len() - 1 - i].to_owned();
    let end = (0..shortest - start).take_while(|i| all(&|words| from_end(words, *i) == from_end(first, *i))).count();
    let own = sentences.iter().map(|words| words[start..words.len() - end].join(" ")).take(MAX_LISTED);
    let own = own.filter(|own| !own.is_empty()).collect::<Vec<_>>().join(", ");
    let parts = [first[..start].join(" "), own, first[first.len() - end..].join(" ")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn subject(names: &[String]) -> String {
    match names {
        [one] => format!("object {one:?}"),
        many => {
            let mut listed: Vec<String> = many.iter().take(MAX_NAMES).map(|n| format!("{n:?}")).collect();
            if many.len() > MAX_NAMES {
                listed.push(format!("{} more", many.len() - MAX_NAMES));
            }
            format!("objects {}", listed.join(", "))
        }
    }
}
