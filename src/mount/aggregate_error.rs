//! All errors of a mount's objects as one error.

use std::collections::BTreeMap;

use crate::{error::Error, request::Object};

/// Errors of a mount's objects. Objects that fail for the same reason are listed together.
#[derive(Default)]
pub(super) struct ObjectErrors {
    by_text: BTreeMap<String, (Error, Vec<String>)>,
}

/// Maximum number of reasons listed.
const MAX_LISTED_REASONS: usize = 8;
/// Maximum number of object names listed per reason.
const MAX_LISTED_NAMES: usize = 8;

impl ObjectErrors {
    pub(super) fn add<'a>(&mut self, error: &Error, objects: impl IntoIterator<Item = &'a Object>) {
        let names: Vec<String> = objects.into_iter().map(|o| o.file_spec.path.clone()).collect();
        if !names.is_empty() {
            self.by_text.entry(error.to_string()).or_insert_with(|| (error.clone(), Vec::new())).1.extend(names);
        }
    }

    /// Returns one error. Its cause is permanent if any error's is, so that the driver does not retry without need.
    pub(super) fn into_result(self, objects: usize) -> Result<(), Error> {
        let mut failures = merge_denials(self.by_text.into_values());
        failures.sort_by_key(|(error, _)| error.is_transient());
        let Some((first, _)) = failures.first() else { return Ok(()) };
        let cause = first.cause();
        if failures.len() == 1 {
            return failures.pop().map_or(Ok(()), |(error, names)| Err(error.with_subject(format_objects(&names))));
        }
        let failed: usize = failures.iter().map(|(_, names)| names.len()).sum();
        let listed: Vec<String> = failures
            .iter()
            .take(MAX_LISTED_REASONS)
            .map(|(error, names)| format!("{}: {error}", format_objects(names)))
            .collect();
        let shown = if failures.len() > MAX_LISTED_REASONS {
            format!(" for {} reasons, of which {MAX_LISTED_REASONS} are shown", failures.len())
        } else {
            String::new()
        };
        Err(Error::aggregate(cause, format!("{failed} of {objects} objects failed{shown}: {}", listed.join(" | "))))
    }
}

/// Merges requests denied for one reason into one error with every missing policy stanza: a pod event is short.
fn merge_denials(failures: impl Iterator<Item = (Error, Vec<String>)>) -> Vec<(Error, Vec<String>)> {
    let (mut groups, mut others) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
    for (error, names) in failures {
        match error.denial().cloned() {
            Some(denial) => {
                let advice = error.fix().unwrap_or_default().replacen(&denial.stanza, PLACEHOLDER, 1);
                let reason = (
                    error.summary().replacen(&denial.request, PLACEHOLDER, 1),
                    error.server_message().map(str::to_owned),
                    advice,
                );
                groups.entry(reason).or_default().push((error.cause(), denial, names));
            }
            None => others.push((error, names)),
        }
    }
    for ((what, words, advice), group) in groups {
        let what =
            what.replacen(PLACEHOLDER, &join_truncated(group.iter().map(|(_, denial, _)| &*denial.request), ", "), 1);
        let advice =
            advice.replacen(PLACEHOLDER, &join_truncated(group.iter().map(|(_, denial, _)| &*denial.stanza), " "), 1);
        let error = Error::new(group[0].0, what).with_server_message(words.unwrap_or_default()).with_fix(advice);
        others.push((error, group.into_iter().flat_map(|(.., names)| names).collect()));
    }
    others
}

/// Placeholder for the part that differs between errors of one reason; no name contains it.
const PLACEHOLDER: &str = "\0";

/// Joins the first of several texts, and adds the number of the others.
fn join_truncated<'a>(texts: impl ExactSizeIterator<Item = &'a str>, between: &str) -> String {
    let more = texts.len().saturating_sub(MAX_LISTED_REASONS);
    let listed = texts.take(MAX_LISTED_REASONS).collect::<Vec<_>>().join(between);
    if more > 0 { format!("{listed} and {more} more") } else { listed }
}

fn format_objects(names: &[String]) -> String {
    match names {
        [one] => format!("object {one:?}"),
        many => {
            let mut listed: Vec<String> = many.iter().take(MAX_LISTED_NAMES).map(|n| format!("{n:?}")).collect();
            if many.len() > MAX_LISTED_NAMES {
                listed.push(format!("{} more", many.len() - MAX_LISTED_NAMES));
            }
            format!("objects {}", listed.join(", "))
        }
    }
}
