//! `KEY='value'` lines that POSIX sh reads exactly (`set -a; . ./file`), and dotenv parsers as well as they can.
//!
//! In single quotes, sh and dotenv parsers read every character but `'` literally, including line breaks. A value is
//! written in double quotes with sh's escapes only if it contains a `'` or ends with a backslash, which dotenv parsers
//! would take for a quote. If sh and a dotenv parser disagree, the file follows sh. These parsers differ from sh:
//!
//! - The parsers of Node.js keep backslashes in double quotes and change CR to LF.
//! - python-dotenv reads two backslashes as one everywhere, and keeps the backslash of `\$`.
//! - godotenv rejects a backslash at the end.

use super::{
    super::{
        json::Fields,
        key_suggestions::{quote_key, quote_names},
    },
    SecretTextBuffer,
};
use crate::error::{Cause, Error};

/// Writes the members. Values that are not strings are written as JSON text.
pub(super) fn write_env(out: &mut SecretTextBuffer, fields: &Fields<'_>) -> Result<(), Error> {
    let invalid: Vec<&str> = fields.keys().map(String::as_str).filter(|key| !is_variable_name(key)).collect();
    if !invalid.is_empty() {
        return Err(Error::new(Cause::RenderFailed, format!("no names of variables, so not for format env: {}", quote_names(invalid.into_iter())))
            .with_fix("a name is letters, digits and `_`, and does not begin with a digit; rename the keys in Vault, or use another format"));
    }
    for (key, member) in fields {
        let text = member.to_file_text();
        if text.contains('\0') {
            return Err(Error::new(
                Cause::RenderFailed,
                format!("{} holds a NUL character, which no variable can", quote_key(key)),
            )
            .with_fix("take it with secretKey into a file of its own"));
        }
        out.push_str(key);
        out.push('=');
        write_quoted(out, &text);
        out.push('\n');
    }
    Ok(())
}

fn is_variable_name(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn write_quoted(out: &mut SecretTextBuffer, text: &str) {
    if !text.contains('\'') && !text.ends_with('\\') {
        out.push('\'');
        out.push_str(text);
        out.push('\'');
        return;
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '$' | '`' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Write, process::Command};

    use proptest::prelude::*;

    use super::{super::super::json::JsonText, *};

    fn env_file(data: &str) -> Result<String, String> {
        let mut out = SecretTextBuffer::default();
        write_env(&mut out, &JsonText::new(data).fields().unwrap()).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out.finish().expose().to_vec()).unwrap())
    }

    /// Returns the value of each variable after sh has read the file.
    fn read_by_sh(file: &str, names: &[&str]) -> Vec<String> {
        let mut script = tempfile::NamedTempFile::new().unwrap();
        script.write_all(file.as_bytes()).unwrap();
        let print =
            names.iter().fold(". \"$0\"".to_owned(), |line, name| format!("{line}; printf '%s\\0' \"${name}\""));
        let output = Command::new("sh").arg("-uc").arg(print).arg(script.path()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?} of {file}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn env_format_quotes_values_for_sh_and_dotenv() {
        for (data, expected) in [
            ("{}", ""),
            (r#"{"B":"","A":"x y"}"#, "A='x y'\nB=''\n"),
            (r#"{"A":1.50,"b_2":null,"_":{"k": "v"}}"#, "A=1.50\n_={}\nb_2=null\n"),
            (r#"{"A":"$HOME `x` \"q\" \\n #!"}"#, "A='$HOME `x` \"q\" \\n #!'\n"),
            (r#"{"A":"-----BEGIN\nx\n"}"#, "A='-----BEGIN\nx\n'\n"),
            (r#"{"A":"it's"}"#, "A=\"it's\"\n"),
            (r#"{"A":"it's $5 `\\\""}"#, "A=\"it's \\$5 \\`\\\\\\\"\"\n"),
            (r#"{"A":"C:\\"}"#, "A=\"C:\\\\\"\n"),
        ] {
            let expected =
                expected.replace("=1.50", "='1.50'").replace("={}", "='{\"k\":\"v\"}'").replace("=null", "='null'");
            assert_eq!(env_file(data).as_deref(), Ok(expected.as_str()));
        }
    }

    #[test]
    fn env_format_rejects_invalid_variables_by_name() {
        let refused = env_file(r#"{"1a":1,"a-b":"hunter2","ok":2,"":3,"é":4}"#).unwrap_err();
        assert!(
            refused.starts_with(r#"no names of variables, so not for format env: "", "1a", "a-b", "é"; "#),
            "{refused}"
        );
        let refused = env_file(r#"{"A":"hunter2\u0000"}"#).unwrap_err();
        assert!(refused.starts_with(r#"key "A" holds a NUL character"#) && !refused.contains("hunter2"), "{refused}");
    }

    #[test]
    fn env_format_of_every_character_is_read_by_sh() {
        let ascii: String = (1..=0x7fu8).map(char::from).collect();
        let quoteless = ascii.replace('\'', "");
        let members = BTreeMap::from([("A", format!("{ascii}é\u{85}😀")), ("B", quoteless), ("C", "\n\n".to_owned())]);
        let file = env_file(&serde_json::json!(members).to_string()).unwrap();
        assert_eq!(read_by_sh(&file, &["A", "B", "C"]), members.into_values().collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn env_format_values_round_trip_through_sh(values in proptest::collection::vec(prop_oneof!["[^\0]{0,20}", "['\"$`\\\\!#{}()=; \n\r\tHOMEab~*-]{0,12}"], 1..5)) {
            let names: Vec<String> = (0..values.len()).map(|i| format!("KEY_{i}")).collect();
            let members: BTreeMap<&String, &String> = names.iter().zip(&values).collect();
            let file = env_file(&serde_json::json!(members).to_string()).unwrap();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            prop_assert_eq!(read_by_sh(&file, &names), values);
        }
    }
}
