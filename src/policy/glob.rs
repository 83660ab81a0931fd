//! Glob patterns: `*` matches any run of characters except `/`. `**`, and a pattern that is only `*`, match any run.
//! A star that is the whole text between two slashes matches at least one character, because path segments are never empty.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A glob pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Creates a pattern. Every text is valid.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Creates a pattern for file paths.
    #[must_use]
    pub fn for_files(text: &str) -> Self {
        Self(normalize_path(Path::new(text)).unwrap_or_default())
    }

    /// Returns true if the pattern matches a file path.
    #[must_use]
    pub fn matches_file(&self, path: &Path) -> bool {
        normalize_path(path).is_some_and(|path| self.matches(&path))
    }

    /// Returns true if the pattern matches a name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.matches_everything() || matches(&self.0, name, &['/'])
    }

    /// Returns true if the pattern matches everything.
    #[must_use]
    pub fn matches_everything(&self) -> bool {
        matches!(self.0.as_str(), "*" | "**")
    }

    /// Returns true if the pattern contains no star.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }

    /// Returns the pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Removes repeated and trailing slashes from a path. Returns none if the path is not UTF-8.
fn normalize_path(path: &Path) -> Option<String> {
    path.components().collect::<PathBuf>().into_os_string().into_string().ok()
}

/// Returns true if `text` matches `pattern`. `*` stops at `boundaries`, `**` does not. Takes time proportional to the product of
/// the lengths.
pub(super) fn matches(pattern: &str, text: &str, boundaries: &[char]) -> bool {
    // `reached[n]` is true if the first n characters match the pattern read so far.
    let characters: Vec<char> = text.chars().collect();
    let mut reached = vec![false; characters.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some(next) = rest.chars().next() {
        let stars = rest.len() - rest.trim_start_matches('*').len();
        let accepts = |character| match stars {
            0 => character == next,
            1 => !boundaries.contains(&character),
            _ => true,
        };
        let behind = &rest[stars.max(next.len_utf8())..];
        let before = &pattern[..pattern.len() - rest.len()];
        let is_part = (before.is_empty() || before.ends_with(boundaries))
            && (behind.is_empty() || behind.starts_with(boundaries));
        if stars == 0 || is_part {
            for at in (0..characters.len()).rev() {
                reached[at + 1] = reached[at] && accepts(characters[at]);
            }
            reached[0] = false;
        }
        if stars > 0 {
            for at in 0..characters.len() {
                reached[at + 1] |= reached[at] && accepts(characters[at]);
            }
        }
        rest = behind;
    }
    reached[characters.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_star_stops_at_slash_unless_double_or_alone() {
        for (pattern, name, matches) in [
            ("shop", "shop", true),
            ("shop", "shops", false),
            ("", "", true),
            ("", "x", false),
            ("team-*", "team-", true),
            ("team-*", "team-a-b", true),
            ("team-*", "a-team-b", false),
            ("*-prod", "shop-prod", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("team/*", "team/a", true),
            ("team/*", "team/a/b", false),
            ("team/**", "team/a/b", true),
            ("team/**", "team", false),
            ("team/*", "team/", false),
            ("team/**", "team/", false),
            ("team/*/x", "team//x", false),
            ("team/*/x", "team/a/x", true),
            ("team/a*/x", "team/a/x", true),
            ("/*", "/", false),
            ("**/b", "a/x/b", true),
            ("*", "team/a/b", true),
            ("**", "", true),
            ("/vault/tls/*.crt", "/vault/tls/ca.crt", true),
            ("/vault/tls/*.crt", "/vault/tls/x/ca.crt", false),
            ("ä*", "äö", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn file_glob_ignores_redundant_slashes() {
        for (pattern, path, matches) in [
            ("/x/tls/*/ca.pem", "/x/tls/a//ca.pem", true),
            ("/x/tls/*/ca.pem", "/x/tls//ca.pem", false),
            ("/x/tls/*/ca.pem", "/x/tls/ca.pem", false),
            ("/x//tls/", "/x/tls", true),
            ("/x/tls/*", "/x/tls/", false),
            ("/x/tls/*", "//x/tls/lab//", true),
            ("/x/tls/**", "/x/tls//", false),
            ("*", "/x/tls/", true),
        ] {
            assert_eq!(Glob::for_files(pattern).matches_file(Path::new(path)), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn glob_of_many_stars_takes_bounded_time() {
        assert!(!Glob::new("*a".repeat(200) + "b").matches(&"a".repeat(5000)));
    }
}
