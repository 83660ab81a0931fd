//! Suggestions for a mistyped path: names that a KV engine lists near a missing secret.

use super::{
    engine::Engine,
    request::{Method, SecretRequest},
};
use crate::text::{closest_match, one_line};

/// Maximum number of folders to list, from the path's own folder upwards.
const MAX_LISTED_FOLDERS: usize = 4;
/// Maximum number of names in a message without a close match.
const MAX_LISTED_NAMES: usize = 5;
/// Maximum length of one name in a message, in bytes.
const MAX_NAME_BYTES: usize = 60;

/// A folder of a KV engine, and the requested name in it.
#[derive(Clone, Debug)]
pub(super) struct ListedFolder {
    /// Path prefix for reading secrets: the mount path, and `data/` in version 2.
    read_prefix: String,
    /// Path prefix for listing names.
    list_prefix: String,
    /// The folder below both prefixes, with a trailing slash unless it is the topmost.
    folder: String,
    /// The missing name: a secret, or a folder with a trailing slash.
    missing: String,
    /// Cause and fix for a read without data though the name exists.
    exists_hint: &'static str,
}

/// Hints for a listed name without data.
const MISSING_VERSION_HINT: &str = "name a version that it has, or none";
const NEVER_WRITTEN_HINT: &str = "it has no version yet: write one";
const JUST_WRITTEN_HINT: &str = "it was written a moment ago, or secretPath has a slash too many";

impl ListedFolder {
    /// Returns the folders to list, in order, until one exists.
    pub(super) fn candidates(request: &SecretRequest, engine: &Engine) -> Vec<Self> {
        if request.method != Method::Get || engine.kind != "kv" {
            return Vec::new();
        }
        let mount = &engine.path;
        let (read_prefix, list_prefix) = if engine.is_kv2() {
            (format!("{mount}data/"), format!("{mount}metadata/"))
        } else {
            (mount.clone(), mount.clone())
        };
        let Some(inner) = request.path.strip_prefix(&read_prefix) else { return Vec::new() };
        let mut rest = inner.trim_end_matches('/');
        let exists_hint = match (engine.is_kv2(), request.secret_version()) {
            (true, Some(_)) => MISSING_VERSION_HINT,
            (true, None) => NEVER_WRITTEN_HINT,
            (false, _) => JUST_WRITTEN_HINT,
        };
        let mut candidates = Vec::new();
        while !rest.is_empty() && candidates.len() < MAX_LISTED_FOLDERS {
            let (folder, missing) =
                rest.rsplit_once('/').map_or(("", rest), |(_, last)| rest.split_at(rest.len() - last.len()));
            let missing = if candidates.is_empty() { missing.to_owned() } else { format!("{missing}/") };
            let (read_prefix, list_prefix) = (read_prefix.clone(), list_prefix.clone());
            candidates.push(Self { read_prefix, list_prefix, folder: folder.to_owned(), missing, exists_hint });
            rest = folder.trim_end_matches('/');
        }
        candidates
    }

    /// Returns the request that lists the names in the folder.
    pub(super) fn list_request(&self) -> SecretRequest {
        SecretRequest {
            method: Method::List,
            path: format!("{}{}", self.list_prefix, self.folder),
            query: None,
            body: None,
        }
    }

    /// Describes the existing names and the fix for the missing one, in one line.
    pub(super) fn describe(&self, names: &[String]) -> String {
        const CREATE_HINT: &str = "create the secret (`optional: true` makes its absence no error)";
        let Self { missing, exists_hint, .. } = self;
        let existing = || names.iter().map(String::as_str);
        if existing().any(|name| name == missing) {
            return format!("the secret is there: {exists_hint}");
        }
        let is_folder = missing.ends_with('/');
        let no_folder =
            if is_folder { format!("there is no folder {}; ", self.secret_path(missing)) } else { String::new() };
        match closest_match(missing, existing().filter(|name| !is_folder || name.ends_with('/'))) {
            Some(suggestion) if suggestion.ends_with('/') => {
                format!("{no_folder}did you mean the folder {}? If not, {CREATE_HINT}", self.secret_path(suggestion))
            }
            Some(suggestion) => {
                format!("did you mean secretPath: {}? If not, {CREATE_HINT}", self.secret_path(suggestion))
            }
            None => format!("{no_folder}{}: correct secretPath, or {CREATE_HINT}", self.describe_contents(names)),
        }
    }

    fn describe_contents(&self, names: &[String]) -> String {
        let folder_path = self.secret_path("");
        let folder_path = folder_path.trim_end_matches('/');
        let shown: Vec<String> =
            names.iter().take(MAX_LISTED_NAMES).map(|name| format!("{:?}", one_line(name, MAX_NAME_BYTES))).collect();
        match (names.len(), names.len().saturating_sub(MAX_LISTED_NAMES)) {
            (0, _) => format!("nothing is in {folder_path}"),
            (1, _) => format!("only {} is in {folder_path}", shown.join("")),
            (_, 0) => format!("in {folder_path} are {}", shown.join(", ")),
            (_, more) => format!("in {folder_path} are {} and {more} more", shown.join(", ")),
        }
    }

    /// Returns the path that reads a name in the folder.
    fn secret_path(&self, name: &str) -> String {
        format!("{}{}{}", self.read_prefix, self.folder, one_line(name, MAX_NAME_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(version: &str, path: &str) -> Vec<ListedFolder> {
        let options = Some([("version".to_owned(), version.to_owned())].into());
        let engine = Engine { path: "team/kv/".into(), kind: "kv".into(), options };
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.into())));
        let request = SecretRequest { method: Method::Get, path: path.to_owned(), query, body: None };
        ListedFolder::candidates(&request, &engine)
    }

    #[test]
    fn path_suggestion_lists_folders_upwards() {
        let lists = |version, path| candidates(version, path).iter().map(|s| s.list_request().path).collect::<Vec<_>>();
        let up = ["team/kv/metadata/a/b/", "team/kv/metadata/a/", "team/kv/metadata/"];
        assert_eq!(lists("2", "team/kv/data/a/b/c"), up);
        assert_eq!(lists("2", "team/kv/data/c"), ["team/kv/metadata/"]);
        assert_eq!(lists("1", "team/kv/a/c"), ["team/kv/a/", "team/kv/"]);
        assert_eq!(lists("2", "team/kv/data/a/b/c/d/e/f").len(), MAX_LISTED_FOLDERS);
        assert!(lists("2", "team/kv/data/").is_empty() && lists("2", "team/kv/config").is_empty());
    }

    #[test]
    fn path_suggestion_of_existing_name_explains_version() {
        for (version, path, expected) in [
            ("2", "team/kv/data/db", NEVER_WRITTEN_HINT),
            ("2", "team/kv/data/db?version=3", MISSING_VERSION_HINT),
            ("1", "team/kv/db", JUST_WRITTEN_HINT),
            ("1", "team/kv/db?version=3", JUST_WRITTEN_HINT),
        ] {
            let described = candidates(version, path)[0].describe(&["db".to_owned()]);
            assert_eq!(described, format!("the secret is there: {expected}"), "{version} {path}");
        }
    }

    #[test]
    fn path_suggestion_names_closest_match_or_contents() {
        let candidates = candidates("2", "team/kv/data/shop/paymnt");
        let describe = |spot: &ListedFolder, names: &[&str]| {
            spot.describe(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        for (spot, names, expected) in [
            (0, &["payment", "web"][..], "did you mean secretPath: team/kv/data/shop/payment?"),
            (0, &["payment/", "web"], "did you mean the folder team/kv/data/shop/payment/?"),
            (0, &["web", "x/"], "in team/kv/data/shop are \"web\", \"x/\": correct secretPath"),
            (0, &["1", "2", "3", "4", "5", "6"], "\"5\" and 1 more: "),
            (0, &["paymnt"], "it has no version yet: write one"),
            (
                1,
                &["shops/", "shop"],
                "there is no folder team/kv/data/shop/; did you mean the folder team/kv/data/shops/?",
            ),
            (1, &["other/"], "no folder team/kv/data/shop/; only \"other/\" is in team/kv/data: correct"),
            (1, &[], "nothing is in team/kv/data: correct secretPath, or create"),
        ] {
            assert!(describe(&candidates[spot], names).contains(expected), "{}", describe(&candidates[spot], names));
        }
    }
}
