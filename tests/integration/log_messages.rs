//! Log messages are constants, so that they can be grouped, counted and alerted on: every value is a field.

use std::{
    fs,
    path::{Path, PathBuf},
};

const LOG_MACROS: [&str; 5] = ["error!", "warn!", "info!", "debug!", "trace!"];

/// The calls of log macros in a source text: line number and arguments.
fn log_calls(text: &str) -> Vec<(usize, String)> {
    let mut calls = Vec::new();
    for name in LOG_MACROS {
        for (at, _) in text.match_indices(&format!("tracing::{name}(")) {
            let arguments = &text[at + "tracing::".len() + name.len() + 1..];
            let (mut depth, mut in_string, mut escaped, mut end) = (1, false, false, 0);
            for (index, c) in arguments.char_indices() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if in_string => escaped = true,
                    '"' => in_string = !in_string,
                    '(' | '[' | '{' if !in_string => depth += 1,
                    ')' | ']' | '}' if !in_string => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    end = index;
                    break;
                }
            }
            let line = text[..at].matches('\n').count() + 1;
            calls.push((line, arguments[..end].to_owned()));
        }
    }
    calls
}

/// The message of a log call: its last string literal that is not a field value.
fn message(arguments: &str) -> Option<&str> {
    let arguments = arguments.trim_end().trim_end_matches(',').trim_end();
    let body = arguments.strip_suffix('"')?;
    body.rsplit_once('"').map(|(_, message)| message)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn log_messages_are_lower_case_constants() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let (mut wrong, mut count) = (Vec::new(), 0);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (line, arguments) in log_calls(&text) {
            count += 1;
            let place = format!("{}:{line}", file.display());
            // Names, not sentences.
            let names = ["Vault", "TLS", "SIGHUP", "DNS", "HMAC", "API", "Kubernetes"];
            match message(&arguments) {
                None => wrong.push(format!("{place}: the message is not the last argument, or has format arguments")),
                Some(message) if message.contains('{') => {
                    wrong.push(format!("{place}: {message:?} has a format argument"));
                }
                Some(message)
                    if message.starts_with(char::is_uppercase)
                        && !names.iter().any(|name| message.starts_with(name)) =>
                {
                    wrong.push(format!("{place}: {message:?} begins with a capital"));
                }
                Some(message) if message.len() > 90 => {
                    wrong.push(format!("{place}: {message:?} is longer than 90 bytes"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(count > 50, "only {count} log calls found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn log_message_is_found_behind_fields() {
    let text = "tracing::warn!(%error, path = f(\"a)\"), \"renewal failed\");\n    tracing::info!(\n        n,\n        \"it {n}\",\n    );";
    let calls = log_calls(text);
    let messages: Vec<_> = calls.iter().map(|(line, arguments)| (*line, message(arguments))).collect();
    assert_eq!(messages, [(1, Some("renewal failed")), (2, Some("it {n}"))]);
    assert_eq!(message("\"{} of {}\", a, b"), None);
}
