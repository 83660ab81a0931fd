//! YAML parser with resource limits. Its errors do not repeat the document's contents.

pub mod node;
pub(crate) mod value;

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, NonFiniteFloatPolicy, Options, budget::BudgetBreach};

use crate::text::one_line;

/// Position in a text: line and column in characters, starting at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, starting at 1.
    pub line: usize,
    /// Column, starting at 1.
    pub column: usize,
}

/// Error of a text that is not valid YAML, or not accepted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Problem in one clause.
    pub problem: String,
    /// Position of the problem, if known.
    pub position: Option<Position>,
}

/// Size limits of one document, and its spelling of booleans.
#[derive(Clone, Copy)]
pub struct Budget {
    max_nodes: usize,
    max_depth: usize,
    /// If true, only `true` and `false` are booleans. Otherwise `yes`, `no`, `on`, `off` and their variants are booleans too.
    strict_booleans: bool,
}

impl Budget {
    /// Limits for `objects`. 256 objects of ten fields have 5,000 nodes. Documents far beyond that are a mistake or an attack.
    pub const OBJECTS: Self = Self { max_nodes: 20_000, max_depth: 32, strict_booleans: true };
    /// Limits for a manifest of any kind. A large custom resource definition has 100,000 nodes.
    /// Booleans are those of kubectl, which reads YAML 1.1. 64 levels take 2 MiB of stack without optimization.
    pub const MANIFEST: Self = Self { max_nodes: 500_000, max_depth: 64, strict_booleans: false };
    /// Limits for a policy file, which may be embedded in manifests. Booleans are those of YAML 1.2, as in editors.
    pub const POLICY: Self = Self { strict_booleans: true, ..Self::MANIFEST };
}

/// Parses one document. Anchors and merge keys are supported. Duplicate keys are an error.
pub fn parse<T: DeserializeOwned>(text: &str, budget: Budget) -> Result<T, Error> {
    serde_saphyr::from_str_with_options(text, parser_options(budget))
}

fn parser_options(Budget { max_nodes: nodes, max_depth: deepest, strict_booleans }: Budget) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 2 * nodes,
            max_nodes: nodes,
            max_aliases: 2_000,
            max_anchors: 500,
            max_recorded_anchor_events: 100_000,
            max_recorded_anchor_bytes: 4 << 20,
            max_depth: deepest,
            flow_nesting_limit: deepest,
            max_documents: 2,
            max_total_scalar_bytes: 100 * nodes,
            max_merge_keys: 1_000,
            // One anchor merged into 256 objects is a valid class. The cost of aliases is limited below.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 40_000,
            max_replay_stack_depth: 16,
        },
        legacy_octal_numbers: true,
        strict_booleans: strict_booleans,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

impl ParseError {
    /// Converts a parser error of `text` to a problem and its position.
    ///
    /// The parser's messages may quote values. Only its syntax messages are passed on, and only names in `known_names`.
    #[must_use]
    pub fn from_error(error: &Error, text: &str, known_names: &[&str]) -> Self {
        let position = error.location().and_then(|at| Position::from_location(&at));
        let problem = describe_error(error, known_names);
        if problem.contains("tab")
            && let Some(tab_position) = position.and_then(|at| find_tab(text, at))
        {
            return Self { problem: "a tab indents this line; use spaces".to_owned(), position: Some(tab_position) };
        }
        Self { problem, position }
    }
}

/// Returns the position of a tab that indents the line at `position` or the next one. The parser may stop at the end of the line
/// before.
fn find_tab(text: &str, position: Position) -> Option<Position> {
    let lines = text.lines().enumerate().skip(position.line - 1);
    lines.filter(|(_, line)| !line.trim().is_empty()).take(2).find_map(|(index, line)| {
        let column = line.chars().take_while(|c| *c == ' ').count() + 1;
        line.chars().nth(column - 1).filter(|c| *c == '\t').map(|_| Position { line: index + 1, column })
    })
}

impl Position {
    /// Converts the parser's location. `None` if it is unknown.
    #[must_use]
    pub fn from_location(location: &serde_saphyr::Location) -> Option<Self> {
        let (line, column) = (usize::try_from(location.line()).ok()?, usize::try_from(location.column()).ok()?);
        (line > 0 && column > 0).then_some(Self { line, column })
    }
}

fn describe_error(error: &Error, known_names: &[&str]) -> String {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => describe_error(error, known_names),
        Error::ExternalMessage { msg, .. } if msg.starts_with("unexpected character") => {
            "a value starts with a reserved character; put it in quotes".to_owned()
        }
        Error::ExternalMessage { msg, .. } if msg.starts_with("recursion limit") => "it nests too deep".to_owned(),
        Error::ExternalMessage { msg, .. } => describe_syntax_error(msg),
        Error::DuplicateMappingKey { key, .. } => match key.as_deref().filter(|key| known_names.contains(key)) {
            Some(key) => format!("{key} appears twice in one mapping; remove one"),
            None => "a key appears twice in one mapping; remove one".to_owned(),
        },
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => "it nests too deep".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "it is larger than the limit, counted with its aliases expanded".to_owned()
        }
        Error::MultipleDocuments { .. } => "there is more than one document; remove the line `---`".to_owned(),
        Error::UnknownAnchor { .. } => {
            "an alias refers to an anchor that is not defined before it; define it with &".to_owned()
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias contains itself".to_owned(),
        Error::MergeValueNotMapOrSeqOfMaps { .. } => "the value merged with << is not a mapping".to_owned(),
        Error::Eof { .. } => "it ends too early".to_owned(),
        Error::TaggedScalarCannotDeserializeIntoString { .. } => "a tag does not fit its value; remove it".to_owned(),
        _ => "something here has the wrong type".to_owned(),
    }
}

/// Returns the parser's message, or a plainer one for the most common errors.
fn describe_syntax_error(message: &str) -> String {
    const PLAIN_MESSAGES: [(&str, &str); 5] = [
        (
            "while scanning an anchor or alias",
            "a value begins with * or &, which mean an alias; put it in quotes: \"*\"",
        ),
        ("while parsing a block collection", "this line is indented differently from the list it is in"),
        (
            "while parsing a block mapping",
            "this line is indented differently from the fields before it, or continues after the end of a value",
        ),
        ("simple key expected ':'", "colon and space missing after a name, as in `name: value`"),
        (
            "mapping values are not allowed",
            "an unexpected colon: indent the line as those before it, or put the value in quotes",
        ),
    ];
    let plain_message = PLAIN_MESSAGES.iter().find(|(begins, _)| message.starts_with(begins));
    plain_message.map_or_else(|| one_line(message, 300), |(_, plain)| (*plain).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_message(text: &str) -> String {
        let parse_error = ParseError::from_error(
            &parse::<serde_json::Value>(text, Budget::OBJECTS).unwrap_err(),
            text,
            &["objectName"],
        );
        let location = parse_error.position.map(|at| format!(" (line {}, column {})", at.line, at.column));
        parse_error.problem + &location.unwrap_or_default()
    }

    #[test]
    fn yaml_error_has_position_and_no_values() {
        for (text, expected) in [
            ("- a: @hunter2", "reserved character; put it in quotes (line 1, column 6)"),
            ("- a: `hunter2", "reserved character"),
            ("- a: 1\n  hunter2: 2\n  hunter2: 3", "a key appears twice in one mapping; remove one (line 3, column 3"),
            ("- objectName: a\n  objectName: hunter2", "objectName appears twice"),
            ("- a: [hunter2", "(line "),
            ("- a: 'hunter2", "unclosed quote"),
            ("- a: *hunter2", "(line 1, column 6)"),
            ("- &x [*x]", "contains itself"),
            ("- <<: hunter2", "is not a mapping"),
            ("- a\n---\n- hunter2", "more than one document"),
            ("- a: !!int hunter2", "wrong type"),
            ("- hunter2: a: b", "an unexpected colon"),
            ("- a:\n\t- hunter2", "a tab indents this line; use spaces (line 2, column 1)"),
            ("- a: b\n  c: hunter2\n  \td: e", "a tab indents this line; use spaces (line 3, column 3)"),
            ("- a: *", "put it in quotes: \"*\" (line 1, column 6)"),
            ("- a: b\n - hunter2: c", "indented differently from the list it is in (line 2, column 2)"),
            ("- a: b\n  c: hunter2\n   - d: e", "an unexpected colon"),
            ("- a: b\n  hunter2\n", "colon and space missing after a name"),
        ] {
            let message = parse_message(text);
            assert!(message.contains(expected) && !message.contains("hunter2"), "{text}: {message}");
        }
    }

    #[test]
    fn yaml_bombs_exceed_budget() {
        let nested = "[".repeat(100_000);
        let lines = |count: usize, line: fn(usize) -> String| (0..count).map(line).collect::<Vec<_>>().join("\n");
        let blocks = lines(200, |i| format!("{}-", " ".repeat(i)));
        let doubling = lines(30, |i| format!("- &a{} [*a{i}, *a{i}]", i + 1));
        let laughs = format!("- &a0 [x, x, x, x, x, x, x, x]\n{doubling}");
        let wide = "- a\n".repeat(200_000);
        let anchors = lines(5_000, |i| format!("- &a{i} x"));
        let merges = format!("- &m {{k: v}}\n{}", "- {<<: *m}\n".repeat(50_000));
        let keys = format!("- {{{}}}", lines(100_000, |i| format!("k{i}: v,")));
        for bomb in [nested, blocks, laughs, wide, anchors, merges, keys] {
            let message = parse_message(&bomb);
            assert!(message.contains("larger than") || message.contains("too deep"), "{message}");
        }
    }

    #[test]
    fn yaml_anchor_merges_into_256_objects() {
        let class = format!("- &base {{a: 1, b: 2}}\n{}", "- {<<: *base, c: 3}\n".repeat(255));
        assert_eq!(parse::<Vec<serde_json::Value>>(&class, Budget::OBJECTS).unwrap().len(), 256);
    }
}
