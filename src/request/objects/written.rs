//! An entry of `objects` as the class writes it, types understood but nothing judged.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::args::Node;

/// The fields of an object. What is absent or null is empty; Go takes the text of any scalar, so `secretKey: 1.50` is `1.50`.
#[derive(Default)]
pub(super) struct Written {
    pub(super) object_name: String,
    pub(super) secret_path: String,
    pub(super) secret_key: String,
    pub(super) method: String,
    pub(super) secret_args: Option<Node>,
    pub(super) file_permission: String,
    pub(super) encoding: String,
    pub(super) secret_pointer: Option<String>,
    pub(super) format: String,
    pub(super) optional: String,
    pub(super) kind: String,
    /// Fields nobody knows.
    pub(super) unknown: Vec<String>,
}

/// Every field there is.
pub const FIELDS: [&str; 11] = [
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

/// A scalar's text; none when it is null.
struct Scalar(Option<String>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object's fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Written, A::Error> {
        let mut written = Written::default();
        while let Some(Scalar(name)) = access.next_key()? {
            written.take(&name.unwrap_or_default(), &mut access)?;
        }
        Ok(written)
    }
}

impl Written {
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, access: &mut A) -> Result<(), A::Error> {
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
                self.secret_pointer = access.next_value::<Scalar>()?.0;
                return Ok(());
            }
            "secretArgs" => {
                self.secret_args = Some(access.next_value()?);
                return Ok(());
            }
            other => {
                self.unknown.push(other.to_owned());
                access.next_value::<serde::de::IgnoredAny>()?;
                return Ok(());
            }
        };
        *field = access.next_value::<Scalar>()?.0.unwrap_or_default();
        Ok(())
    }
}
