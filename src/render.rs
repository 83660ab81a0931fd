//! Lease and object in, file bytes out; pure.

/// What of an answer an object wants, and as which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// `objectName`: the file's path below the mount, or the directory when every key is a file (`.`: the mount itself).
    pub file: String,
    /// Permission bits, up to 0o777.
    pub mode: u32,
    /// Which part of the answer.
    pub select: Select,
    /// How the value is decoded on its way to the file.
    pub encoding: Encoding,
}

/// Which part of an answer goes to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// The whole response as JSON.
    Whole,
    /// One key of the data.
    Key(String),
    /// One value by RFC 6901 pointer into the data.
    Pointer(String),
    /// One file per key.
    EachKey,
    /// The data alone, in a format.
    Formatted(Format),
}

/// A text format for the data alone, keys sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `KEY='value'` lines, readable by POSIX sh and by dotenv.
    Env,
    /// Java properties.
    Properties,
}

/// How a value is decoded on its way to the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    #[default]
    Utf8,
    /// From base64, standard alphabet.
    Base64,
    /// From hexadecimal.
    Hex,
}
