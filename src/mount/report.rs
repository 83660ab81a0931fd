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
        let mut failures: Vec<(Error, Vec<String>)> = self.by_text.into_values().collect();
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
