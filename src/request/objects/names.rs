//! File names as the driver takes them, and whether the files of one class can stand beside each other.

use std::collections::BTreeMap;

use crate::{
    error::Cause,
    request::mistakes::{Entry, Mistakes},
    text::quoted,
};

/// The longest part of a path, and the longest path, in bytes.
const LONGEST: (usize, usize) = (255, 4096);

/// What the objects so far will write: the path, and by which object.
#[derive(Default)]
pub(super) struct Names(BTreeMap<String, Named>);

struct Named {
    index: usize,
    each_key: bool,
}

/// Checks an `objectName`: relative and clean, not starting with `..`, each part at most 255 bytes, 4096 in all. `.` is the
/// mount's root, which only an object with `secretKey: "*"` can name. The error says how to mend it.
pub(super) fn check(name: &str, each_key: bool) -> Result<(), String> {
    if name == "." {
        let why = "names the mount itself, which needs secretKey \"*\"; name a file";
        return if each_key { Ok(()) } else { Err(why.to_owned()) };
    }
    let fault = if name.is_empty() {
        "missing; name the file"
    } else if name.chars().any(char::is_control) {
        "contains a control character or line break; remove it"
    } else if name.starts_with('/') {
        "starts with a slash; write it relative to the mount"
    } else if name.starts_with("..") {
        "starts with `..`; choose another name"
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "has an empty, `.` or `..` part; write the plain path"
    } else if name.len() > LONGEST.1 || name.split('/').any(|part| part.len() > LONGEST.0) {
        "is too long: at most 255 bytes between slashes, and 4096 in all"
    } else {
        return Ok(());
    };
    Err(fault.to_owned())
}

impl Names {
    /// Adds an object's name and notes it if another has it.
    pub(super) fn add(&mut self, index: usize, name: &str, each_key: bool, mistakes: &mut Mistakes) {
        if let Some(first) = self.0.get(name) {
            let what = format!("is that of objects[{}] and objects[{index}]; each needs its own", first.index);
            let entry = Entry { index, name: name.to_owned() };
            return mistakes.add_as(Cause::DuplicateFile, entry.field("objectName"), what);
        }
        self.0.insert(name.to_owned(), Named { index, each_key });
    }

    /// Notes every object whose file would have to be a directory for another.
    pub(super) fn check_directories(&self, mistakes: &mut Mistakes) {
        for (name, named) in &self.0 {
            for (end, _) in name.match_indices('/') {
                let above = &name[..end];
                if self.0.get(above).is_some_and(|above| !above.each_key) {
                    let why = format!("{} is the file of another object; choose another name", quoted(above));
                    let entry = Entry { index: named.index, name: name.clone() };
                    mistakes.add_as(Cause::DuplicateFile, entry.field("objectName"), why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_driver_takes_pass() {
        let long = format!("{}/{}", "a".repeat(255), "é".repeat(127));
        for name in ["a", "a/b/c.pem", ".hidden", "a..b", "a/..b", "with space", "ü", &long] {
            assert_eq!(check(name, false), Ok(()), "{name}");
        }
        assert!(check(".", true).is_ok());
    }

    #[test]
    fn names_the_driver_refuses_say_why() {
        for (name, says) in [
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
            let why = check(name, false).unwrap_err();
            assert!(why.contains(says), "{name:?}: {why}");
        }
    }

    fn said(names: &[(&str, bool)]) -> String {
        let (mut all, mut mistakes) = (Names::default(), Mistakes::default());
        for (index, (name, each_key)) in names.iter().enumerate() {
            all.add(index, name, *each_key, &mut mistakes);
        }
        all.check_directories(&mut mistakes);
        mistakes.into_error("", None).map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn files_stand_beside_each_other_and_in_directories_of_each_key() {
        for names in [
            &[("a", false), ("a.b", false), ("b/a", false), ("b/c", false)][..],
            &[("d", true), ("d/x", false), (".", true), ("e", false)],
            &[("d/e", true), ("d", true)],
        ] {
            assert_eq!(said(names), "", "{names:?}");
        }
    }

    #[test]
    fn what_cannot_stand_together_is_said() {
        for (names, says) in [
            (
                &[("a", false), ("b", false), ("a", false)][..],
                "object \"a\": objectName: is that of objects[0] and objects[2]",
            ),
            (&[("d", true), ("d", false)], "object \"d\": objectName: is that of objects[0] and objects[1]"),
            (&[(".", true), (".", true)], "object \".\": objectName: is that"),
            (&[("a/b", false), ("a", false)], "object \"a/b\": objectName: \"a\" is the file of another"),
            (&[("a", false), ("a/b/c", true)], "object \"a/b/c\": objectName: \"a\" is the file"),
        ] {
            assert!(said(names).contains(says), "{names:?}: {}", said(names));
        }
    }
}
