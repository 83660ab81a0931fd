//! `vaultmount explain`: prints rows of the error table.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;

use super::style::{self, HEADING, SECONDARY, paint, wrap_words};
use crate::{
    error::cause::{Cause, SECTIONS, render_markdown},
    text::closest_match,
};

/// Flags of `vaultmount explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// IDs (VM0050), or a message that contains IDs; lists all errors if omitted
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,

    /// Print all errors as the page docs/errors.md
    #[arg(long, conflicts_with = "ids")]
    pub markdown: bool,
}

/// Prints the rows. An unknown ID is a usage error (exit code 2).
#[must_use]
pub fn run(args: &ExplainArgs) -> ExitCode {
    let result = if args.markdown {
        io::stdout().write_all(render_markdown().as_bytes())
    } else if args.ids.is_empty() {
        style::stdout().write_all(list_causes().as_bytes())
    } else {
        let (causes, unknown) = find_causes(&args.ids.join(" "));
        let rows: Vec<String> = causes.into_iter().map(format_cause).collect();
        let done = style::stdout().write_all(rows.join("\n").as_bytes());
        if !unknown.is_empty() {
            super::print_error(&unknown.join("\n"));
            return ExitCode::from(2);
        }
        done
    };
    super::exit_code(super::ignore_broken_pipe(result))
}

/// Returns the causes whose IDs a text contains, each once and in order, and an error for each unknown ID.
fn find_causes(text: &str) -> (Vec<Cause>, Vec<String>) {
    let (mut causes, mut unknown_ids) = (Vec::new(), Vec::new());
    for id in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_id(word)) {
        match Cause::from_id(id) {
            Some(cause) if causes.contains(&cause) => {}
            Some(cause) => causes.push(cause),
            None => unknown_ids.push(unknown_id_error(id)),
        }
    }
    if causes.is_empty() && unknown_ids.is_empty() {
        unknown_ids.push(unknown_id_error(text));
    }
    (causes, unknown_ids)
}

fn is_id(word: &str) -> bool {
    let digits = word.get(..2).filter(|start| start.eq_ignore_ascii_case("VM")).map(|_| &word[2..]);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn unknown_id_error(text: &str) -> String {
    let suggestion = closest_match(text, Cause::all().map(Cause::id)).map(|id| format!("; did you mean {id}?"));
    format!(
        "{text:?} is not a known error ID; run vaultmount explain to list all IDs{}",
        suggestion.unwrap_or_default()
    )
}

fn list_causes() -> String {
    let mut text = String::new();
    for (number, section) in SECTIONS.iter().enumerate() {
        let gap = if number == 0 { "" } else { "\n" };
        let _ = writeln!(text, "{gap}{}", paint(HEADING, section.title));
        for row in section.causes.iter().map(|cause| cause.info()) {
            let _ = writeln!(text, "  {}  {}", row.id, row.title);
        }
    }
    text
}

fn format_cause(cause: Cause) -> String {
    let row = cause.info();
    let code = paint(SECONDARY, format_args!("({})", row.code)).to_string();
    let fix = format!("Fix: {}", row.fix);
    format!(
        "{} {code}\n\n{}\n{}",
        paint(HEADING, format_args!("{} {}", row.id, row.title)),
        indent(row.explanation),
        indent(&fix)
    )
}

/// Wraps words into indented lines.
fn indent(text: &str) -> String {
    format!("  {}\n", wrap_words(text, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_ids_are_found_in_any_case_and_in_messages() {
        for text in ["vm0050", "[VM0050]", "object \"a\" is denied (it said: x) [VM0050] | again [VM0050]"] {
            assert_eq!(find_causes(text), (vec![Cause::VaultPolicyDenied], Vec::new()), "{text}");
        }
        assert_eq!(find_causes("VM0020 vm0050"), (vec![Cause::Sealed, Cause::VaultPolicyDenied], Vec::new()));
        assert!(find_causes("VM50").1[0].contains("did you mean VM00"));
        assert!(find_causes("VM9999").1[0].contains("is not a known error ID"));
        assert!(find_causes("nothing").1[0].contains("run vaultmount explain"));
    }

    #[test]
    fn explained_causes_fit_screen_width() {
        for cause in Cause::all() {
            let row = anstream::adapter::strip_str(&format_cause(cause)).to_string();
            assert!(row.lines().all(|line| line.chars().count() <= style::LINE_WIDTH), "{row}");
        }
    }

    #[test]
    fn errors_page_matches_cause_table() {
        let page = include_str!("../../docs/errors.md");
        assert!(page == render_markdown(), "docs/errors.md differs from the table: run `make docs`");
    }
}
