//! What stops no mount but should be told: names nobody knows, and names that only later versions know.

use super::{
    attributes::{Attributes, PREFIXES},
    mistakes::{Finding, Kept, MOST_LISTED, Place, row},
    parameters::PREFIXED,
    pod::DRIVER_PREFIX,
};
use crate::{
    error::Cause,
    text::{nearest, quoted},
};

/// Parameters without a prefix. The driver adds `secretProviderClass`.
const PLAIN: [&str; 6] = ["roleName", "audience", "objects", "refreshInterval", "tokenScope", "secretProviderClass"];

/// Parameters that this version knows of but does nothing with; `auth` is the Go provider's from 1.8.
const LATER: [&str; 1] = ["auth"];

/// Names that are near in sense alone: what other providers and Vault's own tools call it. In small letters and
/// without the prefix of a parameter; parameters first, then fields.
const SLIPS: [(&str, &str); 22] = [
    ("role", "RoleName"),
    ("addr", "Address"),
    ("url", "Address"),
    ("authpath", "AuthMountPath"),
    ("authmount", "AuthMountPath"),
    ("mountpath", "AuthMountPath"),
    ("mount", "AuthMountPath"),
    ("kubernetespath", "KubernetesMountPath"),
    ("skipverify", "SkipTLSVerify"),
    ("cafile", "CACertPath"),
    ("servername", "TLSServerName"),
    ("name", "objectName"),
    ("filename", "objectName"),
    ("objectalias", "objectName"),
    ("path", "secretPath"),
    ("key", "secretKey"),
    ("field", "secretKey"),
    ("property", "secretKey"),
    ("pointer", "secretPointer"),
    ("args", "secretArgs"),
    ("mode", "filePermission"),
    ("permission", "filePermission"),
];

/// Warnings, and the names nobody knows.
#[derive(Default)]
pub(super) struct Warnings {
    others: Kept<Finding>,
    unknown: Kept<Unknown>,
}

/// A name nobody knows, and the one that may be meant.
struct Unknown {
    place: Place,
    meant: Option<String>,
}

impl Warnings {
    /// Adds one.
    pub(super) fn say(&mut self, place: impl Into<Place>, what: String) {
        self.say_as(Cause::InvalidRequest, place, what);
    }

    fn say_as(&mut self, cause: Cause, place: impl Into<Place>, what: String) {
        self.others.add(|| Finding { cause, place: place.into(), what });
    }

    /// Adds a name that is known but not supported yet; `value` if only that is not.
    pub(super) fn unsupported(&mut self, place: impl Into<Place>, value: &str) {
        let value = if value.is_empty() { String::new() } else { format!("{} ", quoted(value)) };
        self.say_as(Cause::UnknownName, place, format!("{value}is not supported yet by this version and is ignored"));
    }

    /// Adds a name nobody knows, and which of the `known` may be meant.
    pub(super) fn unknown<'a>(
        &mut self,
        place: impl Into<Place>,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) {
        self.unknown.add(|| {
            let known: Vec<&str> = known.into_iter().collect();
            let meant = slip(name, &known).or_else(|| nearest(name, known.iter().copied()));
            Unknown { place: place.into(), meant: meant.map(str::to_owned) }
        });
    }

    /// Looks at the names of all attributes.
    pub(super) fn names(&mut self, attributes: &Attributes) {
        for name in attributes.names().filter(|name| !is_known(name)) {
            if LATER.contains(&name) {
                self.unsupported(name, "");
            } else {
                let known = known_like(name);
                self.unknown(name, name, known.iter().map(String::as_str));
            }
        }
    }

    /// All of them for a log: the first few, and in one all names nobody knows.
    pub(super) fn into_texts(self) -> Vec<String> {
        let mut texts: Vec<String> = self.others.items.iter().take(MOST_LISTED).map(Finding::told).collect();
        let Kept { items, count } = self.unknown;
        if count > 0 {
            texts.push(format!("unknown and ignored: {}", row(items.iter().map(Unknown::told), count)));
        }
        texts
    }

    /// The names nobody knows that are near to one that is known, in a line.
    pub(super) fn slips(&self) -> Option<String> {
        let slips: Vec<&Unknown> = self.unknown.items.iter().filter(|unknown| unknown.meant.is_some()).collect();
        (!slips.is_empty())
            .then(|| format!("unknown and ignored: {}", row(slips.iter().map(|unknown| unknown.told()), slips.len())))
    }

    /// The names nobody knows, and the others.
    pub(super) fn into_findings(self) -> (Kept<Finding>, Kept<Finding>) {
        let Kept { items, count } = self.unknown;
        (Kept { items: items.into_iter().map(Unknown::into_finding).collect(), count }, self.others)
    }
}

impl Unknown {
    fn told(&self) -> String {
        let names = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<String>();
        let subject = match &self.place {
            Place::Object(entry, fields, _) => format!("{entry} field {}", names(fields)),
            Place::Parameters(parameters) => format!("parameter {}", names(parameters)),
            other => other.to_string(),
        };
        let meant = self.meant.as_ref().map(|meant| format!(" (did you mean {meant}?)"));
        subject + &meant.unwrap_or_default()
    }

    fn into_finding(self) -> Finding {
        let what = match (&self.meant, &self.place) {
            (Some(meant), _) => format!("is unknown and would be ignored; did you mean {meant}?"),
            (None, Place::Object(..)) => "is no field of an object and would be ignored; remove it".to_owned(),
            (None, _) => "is no parameter and would be ignored; remove it".to_owned(),
        };
        Finding { cause: Cause::UnknownName, place: self.place, what }
    }
}

/// Whether a parameter goes by that name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    let prefixed = || PREFIXES.iter().filter_map(|p| name.strip_prefix(p)).any(|rest| PREFIXED.contains(&rest));
    PLAIN.contains(&name) || name.starts_with(DRIVER_PREFIX) || prefixed()
}

/// The names that a mistyped one may stand for, those with the prefix it starts with or else with `vault`.
fn known_like(name: &str) -> Vec<String> {
    let lower = name.get(..7).unwrap_or(name).to_lowercase();
    let prefix = PREFIXES.iter().find(|prefix| lower.starts_with(*prefix)).unwrap_or(&"vault");
    let prefixed = PREFIXED.iter().map(|suffix| format!("{prefix}{suffix}"));
    PLAIN.iter().chain(&LATER).map(|&plain| plain.to_owned()).chain(prefixed).collect()
}

/// The known name that is near in sense, or is the same but for its prefix.
fn slip<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let bare = |name: &str| PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_lowercase();
    let written = bare(name);
    let meant = SLIPS.iter().find(|(slip, _)| *slip == written).map_or(written.as_str(), |(_, meant)| meant);
    known.iter().copied().find(|known| known.eq_ignore_ascii_case(meant) || bare(known).eq_ignore_ascii_case(meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(json: &str) -> Vec<String> {
        let mut warnings = Warnings::default();
        warnings.names(&Attributes::parse(json).unwrap());
        warnings.into_texts()
    }

    #[test]
    fn what_the_driver_and_a_class_write_is_known() {
        let known = r#"{"roleName":"","audience":"","objects":"","secretProviderClass":"","vaultAddress":"","openbaoRoleName":"",
            "baoCACert":"","csi.storage.k8s.io/ephemeral":"true","csi.storage.k8s.io/anything":""}"#;
        assert_eq!(warned(known), Vec::<String>::new());
    }

    #[test]
    fn unknown_names_are_one_warning_with_what_may_be_meant() {
        assert_eq!(
            warned(r#"{"vaultAdress":"","rolename":"","openbaoNamespce":"","usePodIdentity":"","a\nb":""}"#),
            [
                r#"unknown and ignored: parameter "a b", parameter "openbaoNamespce" (did you mean openbaoNamespace?), parameter "rolename" (did you mean roleName?), parameter "usePodIdentity", parameter "vaultAdress" (did you mean vaultAddress?)"#
            ]
        );
    }

    #[test]
    fn what_is_near_in_sense_is_what_is_meant() {
        for (name, meant) in [
            ("role", "roleName"),
            ("vaultRole", "roleName"),
            ("vaultAuthPath", "vaultAuthMountPath"),
            ("openbaoMountPath", "openbaoAuthMountPath"),
            ("namespace", "vaultNamespace"),
            ("vaultAddr", "vaultAddress"),
            ("skipVerify", "vaultSkipTLSVerify"),
        ] {
            let said = format!("unknown and ignored: parameter \"{name}\" (did you mean {meant}?)");
            assert_eq!(warned(&format!("{{\"{name}\":\"\"}}")), [said]);
        }
    }

    #[test]
    fn later_names_are_said_to_be_later() {
        assert_eq!(warned(r#"{"auth":"5m"}"#), ["auth: is not supported yet by this version and is ignored"]);
    }

    #[test]
    fn a_flood_is_bounded() {
        let names: Vec<String> = (0..10_000).map(|i| format!("\"{}{i}\":\"\"", "x".repeat(300))).collect();
        let texts = warned(&format!("{{{}}}", names.join(",")));
        assert!(texts.len() == 1 && texts[0].len() < 3000 && texts[0].ends_with("and 9980 more"), "{texts:?}");
    }
}
