//! An entry of `objects` as written in the class: types are parsed, values are not checked.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::args::SpannedValue;

/// The fields of an object. Absent and null fields are empty. As in Go, a field is the text of any scalar, so
/// `secretKey: 1.50` is `1.50`.
#[derive(Default)]
pub(super) struct RawObject {
    pub(super) object_name: String,
    pub(super) secret_path: String,
    pub(super) secret_key: String,
    pub(super) method: String,
    pub(super) secret_args: Option<SpannedValue>,
    pub(super) file_permission: String,
    pub(super) encoding: String,
    pub(super) secret_pointer: Option<String>,
    pub(super) format: String,
    pub(super) optional: String,
    pub(super) kind: String,
    /// The names of unknown fields.
    pub(super) unknown_fields: Vec<String>,
}

/// The names of all fields.
pub const OBJECT_FIELDS: [&str; 11] = [
    "objectName",
    "secretPath",
    "secretKey",
    "method",
    "secretArgs",
    "filePermission",
    "encoding",
    "secretPointer",
    "format",
    "optional",
    "type",
];

/// A scalar's text; `None` if it is null.
struct ScalarText(Option<String>);

impl<'de> Deserialize<'de> for ScalarText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawObjectVisitor)
    }
}

struct RawObjectVisitor;

impl<'de> Visitor<'de> for RawObjectVisitor {
    type Value = RawObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object's fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RawObject, A::Error> {
        let mut raw = RawObject::default();
        while let Some(ScalarText(name)) = access.next_key()? {
            raw.read_field(&name.unwrap_or_default(), &mut access)?;
        }
        Ok(raw)
    }
}

impl RawObject {
    fn read_field<'de, A: MapAccess<'de>>(&mut self, name: &str, access: &mut A) -> Result<(), A::Error> {
        let field = match name {
            "objectName" => &mut self.object_name,
            "secretPath" => &mut self.secret_path,
            "secretKey" => &mut self.secret_key,
            "method" => &mut self.method,
            "filePermission" => &mut self.file_permission,
            "encoding" => &mut self.encoding,
            "format" => &mut self.format,
            "optional" => &mut self.optional,
            "type" => &mut self.kind,
            "secretPointer" => {
                self.secret_pointer = access.next_value::<ScalarText>()?.0;
                return Ok(());
            }
            "secretArgs" => {
                self.secret_args = Some(access.next_value()?);
                return Ok(());
            }
            other => {
                self.unknown_fields.push(other.to_owned());
                access.next_value::<serde::de::IgnoredAny>()?;
                return Ok(());
            }
        };
        *field = access.next_value::<ScalarText>()?.0.unwrap_or_default();
        Ok(())
    }
}
