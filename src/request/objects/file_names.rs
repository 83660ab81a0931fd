//! Checks that the driver accepts each file name, and that the files of one class do not conflict.

use std::collections::BTreeMap;

use crate::{
    error::Cause,
    request::findings::{Findings, ObjectEntry},
    text::quote,
};

/// The maximum lengths of one part of a path and of the whole path, in bytes.
const MAX_PART_AND_PATH_BYTES: (usize, usize) = (255, 4096);

/// The paths that the objects write, each with the index of its object.
#[derive(Default)]
pub(super) struct FileNames(BTreeMap<String, NamedFile>);

struct NamedFile {
    object_index: usize,
    is_directory: bool,
}

/// Checks that an `objectName` is relative and normalized, does not start with `..`, and has at most 255 bytes per part
/// and 4096 in all. `.` is the mount's root, which only an object with `secretKey: "*"` can name. The error contains
/// the fix.
pub(super) fn check_name(name: &str, is_directory: bool) -> Result<(), String> {
    if name == "." {
        let why = "names the mount itself, which needs secretKey \"*\"; name a file";
        return if is_directory { Ok(()) } else { Err(why.to_owned()) };
    }
    let problem = if name.is_empty() {
        "missing; name the file"
    } else if name.chars().any(char::is_control) {
        "contains a control character or line break; remove it"
    } else if name.starts_with('/') {
        "starts with a slash; write it relative to the mount"
    } else if name.starts_with("..") {
        "starts with `..`; choose another name"
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "has an empty, `.` or `..` part; write the plain path"
    } else if name.len() > MAX_PART_AND_PATH_BYTES.1
        || name.split('/').any(|part| part.len() > MAX_PART_AND_PATH_BYTES.0)
    {
        "is too long: at most 255 bytes between slashes, and 4096 in all"
    } else {
        return Ok(());
    };
    Err(problem.to_owned())
}

impl FileNames {
    /// Adds an object's name. Records a finding if another object already has that name.
    pub(super) fn add(&mut self, object_index: usize, name: &str, is_directory: bool, findings: &mut Findings) {
        if let Some(first) = self.0.get(name) {
            let problem =
                format!("is that of objects[{}] and objects[{object_index}]; each needs its own", first.object_index);
            let entry = ObjectEntry { index: object_index, name: name.to_owned() };
            return findings.add_with_cause(Cause::DuplicateFile, entry.field_location("objectName"), problem);
        }
        self.0.insert(name.to_owned(), NamedFile { object_index, is_directory });
    }

    /// Records a finding for every object with a path below another object's file.
    pub(super) fn check_no_file_is_directory(&self, findings: &mut Findings) {
        for (name, file) in &self.0 {
            for (end, _) in name.match_indices('/') {
                let parent = &name[..end];
                if self.0.get(parent).is_some_and(|above| !above.is_directory) {
                    let why = format!("{} is the file of another object; choose another name", quote(parent));
                    let entry = ObjectEntry { index: file.object_index, name: name.clone() };
                    findings.add_with_cause(Cause::DuplicateFile, entry.field_location("objectName"), why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_name_driver_accepts_is_valid() {
        let long = format!("{}/{}", "a".repeat(255), "é".repeat(127));
        for name in ["a", "a/b/c.pem", ".hidden", "a..b", "a/..b", "with space", "ü", &long] {
            assert_eq!(check_name(name, false), Ok(()), "{name}");
        }
        assert!(check_name(".", true).is_ok());
    }

    #[test]
    fn object_name_driver_rejects_is_invalid_with_reason() {
        for (name, expected) in [
            ("", "missing"),
            (".", "secretKey"),
            ("/a", "relative"),
            ("..", "starts with `..`"),
            ("../a", "starts with `..`"),
            ("..data", "starts with `..`"),
            ("a/../b", "empty, `.` or `..`"),
            ("a/..", "empty, `.` or `..`"),
            ("./a", "empty, `.` or `..`"),
            ("a/.", "empty, `.` or `..`"),
            ("a//b", "empty, `.` or `..`"),
            ("a/", "empty, `.` or `..`"),
            ("a\0b", "control"),
            ("a\nb", "control"),
            (&"a".repeat(256), "too long"),
            (&"é".repeat(128), "too long"),
            (&"a/".repeat(2049)[..4097], "too long"),
        ] {
            let why = check_name(name, false).unwrap_err();
            assert!(why.contains(expected), "{name:?}: {why}");
        }
    }

    fn conflicts(names: &[(&str, bool)]) -> String {
        let (mut all, mut findings) = (FileNames::default(), Findings::default());
        for (index, (name, each_key)) in names.iter().enumerate() {
            all.add(index, name, *each_key, &mut findings);
        }
        all.check_no_file_is_directory(&mut findings);
        findings.into_error("", None).map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn object_names_without_conflict_are_accepted() {
        for names in [
            &[("a", false), ("a.b", false), ("b/a", false), ("b/c", false)][..],
            &[("d", true), ("d/x", false), (".", true), ("e", false)],
            &[("d/e", true), ("d", true)],
        ] {
            assert_eq!(conflicts(names), "", "{names:?}");
        }
    }

    #[test]
    fn object_names_duplicate_or_below_a_file_are_rejected() {
        for (names, expected) in [
            (
                &[("a", false), ("b", false), ("a", false)][..],
                "object \"a\": objectName: is that of objects[0] and objects[2]",
            ),
            (&[("d", true), ("d", false)], "object \"d\": objectName: is that of objects[0] and objects[1]"),
            (&[(".", true), (".", true)], "object \".\": objectName: is that"),
            (&[("a/b", false), ("a", false)], "object \"a/b\": objectName: \"a\" is the file of another"),
            (&[("a", false), ("a/b/c", true)], "object \"a/b/c\": objectName: \"a\" is the file"),
        ] {
            assert!(conflicts(names).contains(expected), "{names:?}: {}", conflicts(names));
        }
    }
}
