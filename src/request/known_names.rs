//! Names of parameters and fields: known ones, unsupported ones, and names that users confuse with them.

use super::{attributes::PARAMETER_PREFIXES, pod::DRIVER_ATTRIBUTE_PREFIX};

/// Parameters that carry one of the prefixes, as in `vaultAddress`.
pub(super) const PREFIXED_PARAMETERS: [&str; 14] = [
    "Endpoint",
    "Address",
    "Namespace",
    "AuthNamespace",
    "SkipTLSVerify",
    "CACert",
    "CACertPath",
    "CADirectory",
    "TLSServerName",
    "TLSClientCertPath",
    "TLSClientKeyPath",
    "KubernetesMountPath",
    "AuthMountPath",
    "RoleName",
];

/// Parameters without a prefix. The driver adds `secretProviderClass`.
pub(super) const UNPREFIXED_PARAMETERS: [&str; 6] =
    ["roleName", "audience", "objects", "refreshInterval", "tokenScope", "secretProviderClass"];

/// Parameters that this version recognizes but ignores; the Go provider has `auth` from 1.8.
pub(super) const UNSUPPORTED_PARAMETERS: [&str; 1] = ["auth"];

/// Synonyms from other providers and from Vault's own tools, with the name used here. Lower case, without a parameter's
/// prefix; parameters first, then fields.
const ALIASES: [(&str, &str); 22] = [
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

/// Returns true if a parameter has that name.
#[must_use]
pub fn is_parameter(name: &str) -> bool {
    let prefixed = || {
        PARAMETER_PREFIXES.iter().filter_map(|p| name.strip_prefix(p)).any(|rest| PREFIXED_PARAMETERS.contains(&rest))
    };
    UNPREFIXED_PARAMETERS.contains(&name) || name.starts_with(DRIVER_ATTRIBUTE_PREFIX) || prefixed()
}

/// Returns the candidates for a mistyped name, with the prefix that the name starts with or else with `vault`.
pub(super) fn candidates(name: &str) -> Vec<String> {
    let lower = name.get(..7).unwrap_or(name).to_lowercase();
    let prefix = PARAMETER_PREFIXES.iter().find(|prefix| lower.starts_with(*prefix)).unwrap_or(&"vault");
    let prefixed = PREFIXED_PARAMETERS.iter().map(|suffix| format!("{prefix}{suffix}"));
    UNPREFIXED_PARAMETERS.iter().chain(&UNSUPPORTED_PARAMETERS).map(|&plain| plain.to_owned()).chain(prefixed).collect()
}

/// Returns the known name that is a synonym, or that differs only in its prefix.
pub(super) fn find_alias<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let without_prefix = |name: &str| {
        PARAMETER_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_lowercase()
    };
    let bare_name = without_prefix(name);
    let target = ALIASES.iter().find(|(slip, _)| *slip == bare_name).map_or(bare_name.as_str(), |(_, meant)| meant);
    known
        .iter()
        .copied()
        .find(|known| known.eq_ignore_ascii_case(target) || without_prefix(known).eq_ignore_ascii_case(target))
}
