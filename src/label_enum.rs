//! Enums whose variants are words that users see.

/// Defines an enum whose variants are label values: the same word in metrics, JSON, logs and on the command line.
macro_rules! label_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the word used in metrics, JSON and output.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

pub(crate) use label_enum;

#[cfg(test)]
#[allow(unreachable_pub, reason = "the macro defines public enums")]
mod tests {
    use serde::{Deserialize, Serialize};

    label_enum! {
        /// An example.
        Example {
            /// Its first word.
            First = "first_word",
            /// Its second word.
            Second = "second",
        }
    }

    #[test]
    fn label_enum_has_the_same_word_in_json() {
        for example in Example::ALL {
            let json = serde_json::to_string(example).unwrap();
            assert_eq!(json, format!("\"{}\"", example.as_str()));
            assert_eq!(serde_json::from_str::<Example>(&json).unwrap(), *example);
        }
    }
}
