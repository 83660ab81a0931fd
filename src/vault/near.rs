//! What a KV engine holds near a path where nothing is: names, for the person who mistyped one.

use super::{
    engine::Engine,
    wire::{Method, Read},
};
use crate::text::{nearest, one_line};

/// Folders looked into at most, from that of the path upwards.
const MAX_STEPS: usize = 4;
/// Names told at most when none is near.
const MAX_NAMES: usize = 5;
/// The most of one name that a message repeats, in bytes.
const MAX_NAME: usize = 60;

/// A folder of a KV engine, and the name that was looked for in it.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// Where secrets are read: the mount path, and `data/` in version 2.
    secrets: String,
    /// Where names are listed.
    names: String,
    /// The folder below both, with a slash at its end unless it is the topmost.
    folder: String,
    /// What is not in it: a secret, or a folder with a slash at its end.
    missing: String,
    /// Why nothing is there though the name is, and what to do.
    empty: &'static str,
}

/// What an answer of "nothing" means where the name is listed.
const NO_SUCH_VERSION: &str = "name a version that it has, or none";
const NO_VERSION: &str = "it has no version yet: write one";
const NO_VERSIONS: &str = "it was written a moment ago, or secretPath has a slash too many";

impl Spot {
    /// The folders to look into, in turn, until one is there.
    pub(super) fn all(read: &Read, engine: &Engine) -> Vec<Self> {
        if read.method != Method::Get || engine.kind != "kv" {
            return Vec::new();
        }
        let mount = &engine.path;
        let (secrets, names) = if engine.is_kv2() {
            (format!("{mount}data/"), format!("{mount}metadata/"))
        } else {
            (mount.clone(), mount.clone())
        };
        let Some(inner) = read.path.strip_prefix(&secrets) else { return Vec::new() };
        let mut rest = inner.trim_end_matches('/');
        let empty = match (engine.is_kv2(), read.version()) {
            (true, Some(_)) => NO_SUCH_VERSION,
            (true, None) => NO_VERSION,
            (false, _) => NO_VERSIONS,
        };
        let mut spots = Vec::new();
        while !rest.is_empty() && spots.len() < MAX_STEPS {
            let (folder, missing) =
                rest.rsplit_once('/').map_or(("", rest), |(_, last)| rest.split_at(rest.len() - last.len()));
            let missing = if spots.is_empty() { missing.to_owned() } else { format!("{missing}/") };
            let (secrets, names) = (secrets.clone(), names.clone());
            spots.push(Self { secrets, names, folder: folder.to_owned(), missing, empty });
            rest = folder.trim_end_matches('/');
        }
        spots
    }

    /// The request for the names there.
    pub(super) fn list(&self) -> Read {
        Read { method: Method::List, path: format!("{}{}", self.names, self.folder), query: None, body: None }
    }

    /// What the names there mean for who looked for another, and what to do. One line.
    pub(super) fn told(&self, names: &[String]) -> String {
        const CREATE: &str = "create the secret (`optional: true` makes its absence no error)";
        let Self { missing, empty, .. } = self;
        let known = || names.iter().map(String::as_str);
        if known().any(|name| name == missing) {
            return format!("the secret is there: {empty}");
        }
        let is_folder = missing.ends_with('/');
        let told = if is_folder { format!("there is no folder {}; ", self.path(missing)) } else { String::new() };
        match nearest(missing, known().filter(|name| !is_folder || name.ends_with('/'))) {
            Some(meant) if meant.ends_with('/') => {
                format!("{told}did you mean the folder {}? If not, {CREATE}", self.path(meant))
            }
            Some(meant) => format!("did you mean secretPath: {}? If not, {CREATE}", self.path(meant)),
            None => format!("{told}{}: correct secretPath, or {CREATE}", self.listed(names)),
        }
    }

    fn listed(&self, names: &[String]) -> String {
        let place = self.path("");
        let place = place.trim_end_matches('/');
        let shown: Vec<String> =
            names.iter().take(MAX_NAMES).map(|name| format!("{:?}", one_line(name, MAX_NAME))).collect();
        match (names.len(), names.len().saturating_sub(MAX_NAMES)) {
            (0, _) => format!("nothing is in {place}"),
            (1, _) => format!("only {} is in {place}", shown.join("")),
            (_, 0) => format!("in {place} are {}", shown.join(", ")),
            (_, more) => format!("in {place} are {} and {more} more", shown.join(", ")),
        }
    }

    /// A name there as a path to read.
    fn path(&self, name: &str) -> String {
        format!("{}{}{}", self.secrets, self.folder, one_line(name, MAX_NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spots(version: &str, path: &str) -> Vec<Spot> {
        let options = Some([("version".to_owned(), version.to_owned())].into());
        let engine = Engine { path: "team/kv/".into(), kind: "kv".into(), options };
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.into())));
        let read = Read { method: Method::Get, path: path.to_owned(), query, body: None };
        Spot::all(&read, &engine)
    }

    #[test]
    fn folders_are_looked_into_from_the_path_upwards() {
        let lists = |version, path| spots(version, path).iter().map(|s| s.list().path).collect::<Vec<_>>();
        let up = ["team/kv/metadata/a/b/", "team/kv/metadata/a/", "team/kv/metadata/"];
        assert_eq!(lists("2", "team/kv/data/a/b/c"), up);
        assert_eq!(lists("2", "team/kv/data/c"), ["team/kv/metadata/"]);
        assert_eq!(lists("1", "team/kv/a/c"), ["team/kv/a/", "team/kv/"]);
        assert_eq!(lists("2", "team/kv/data/a/b/c/d/e/f").len(), MAX_STEPS);
        assert!(lists("2", "team/kv/data/").is_empty() && lists("2", "team/kv/config").is_empty());
    }

    #[test]
    fn a_name_that_is_there_is_told_by_the_engines_version() {
        for (version, path, expected) in [
            ("2", "team/kv/data/db", NO_VERSION),
            ("2", "team/kv/data/db?version=3", NO_SUCH_VERSION),
            ("1", "team/kv/db", NO_VERSIONS),
            ("1", "team/kv/db?version=3", NO_VERSIONS),
        ] {
            let told = spots(version, path)[0].told(&["db".to_owned()]);
            assert_eq!(told, format!("the secret is there: {expected}"), "{version} {path}");
        }
    }

    #[test]
    fn what_is_near_is_named() {
        let spots = spots("2", "team/kv/data/shop/paymnt");
        let told = |spot: &Spot, names: &[&str]| spot.told(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
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
            assert!(told(&spots[spot], names).contains(expected), "{}", told(&spots[spot], names));
        }
    }
}
