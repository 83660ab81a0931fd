//! Kubernetes manifests from files: YAML or JSON documents with the position of each key and value.

mod class;
mod file_content;

use std::path::Path;

pub(crate) use self::class::not_a_string;
pub use self::{
    class::{CLASS_GROUP, ClassManifest, read_class},
    file_content::{DRIVER_MARKER, FileContent, NotText, read_content, read_text},
};
use crate::{
    policy,
    text::replace_control_chars,
    yaml::{
        Budget, ParseError,
        node::{self, Node, Offset},
    },
};

/// Formats a path for messages, on one line. The path `-` becomes `<stdin>`.
#[must_use]
pub fn display_path(path: &Path) -> String {
    if path == Path::new("-") { "<stdin>".to_owned() } else { replace_control_chars(&path.to_string_lossy()) }
}

/// A document of a file, or its parse error, together with its text.
pub struct Document<'a> {
    /// The parsed tree, or the parse error.
    pub node: Result<Node, ParseError>,
    /// The text of the document.
    pub text: &'a str,
    /// The line of the file on which the document begins, from 1.
    pub first_line: usize,
}

/// Splits a text into documents and parses each of them. Documents without content are left out.
///
/// A document that does not parse leaves the others readable. Policies get the parser budget of the provider.
#[must_use]
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    for (offset, text) in split_documents(text) {
        let node = match node::parse(text, offset, Budget::MANIFEST) {
            Ok(node) if policy::is_policy(&node) => node::parse(text, offset, Budget::POLICY),
            read => read,
        };
        if !node.as_ref().is_ok_and(Node::is_null) {
            documents.push(Document { node, text, first_line: offset.lines + 1 });
        }
    }
    documents
}

/// Splits a text at each separator line, `---`. No line inside a document can begin like that.
fn split_documents(text: &str) -> Vec<(Offset, &str)> {
    let mut pieces = Vec::new();
    let (mut start, mut offset) = (Offset::default(), Offset::default());
    for line in text.split_inclusive('\n') {
        let is_separator =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_separator {
            pieces.push((start, &text[start.bytes..offset.bytes]));
            start = offset;
        }
        offset.lines += 1;
        offset.bytes += line.len();
    }
    pieces.push((start, &text[start.bytes..]));
    // The piece before the first separator may hold only directives, and those are not a document.
    pieces.retain(|(_, piece)| piece.lines().any(|line| !line.trim().is_empty() && !line.starts_with(['#', '%'])));
    pieces
}

/// Returns the resources of a document: the items of a list (`kind: List`), or else the document itself.
pub fn resources(document: &Node) -> Vec<&Node> {
    let is_list = document.get("kind").and_then(Node::as_text).is_some_and(|kind| kind.ends_with("List"));
    match document.get("items") {
        Some(items) if is_list => items.items().iter().collect(),
        _ => vec![document],
    }
}

/// Returns true if a resource has this kind and API group, in any version of the group.
#[must_use]
pub fn is_kind(resource: &Node, group: &str, kind: &str) -> bool {
    let version = resource.get("apiVersion").and_then(Node::as_text).unwrap_or_default();
    let its_group = version.split_once('/').map_or("", |(group, _)| group);
    its_group == group && resource.get("kind").and_then(Node::as_text) == Some(kind)
}

/// Returns a text field of a resource's `metadata`. It is empty if the field is missing or is not text.
#[must_use]
pub fn metadata_text<'n>(resource: &'n Node, field: &str) -> &'n str {
    resource.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Node::as_text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::yaml::Position;

    #[test]
    fn manifest_nodes_have_positions_in_the_file() {
        let text = "%YAML 1.2\n---\na:\n  ü: [x, y]\n--- # two\r\nb: 'z'\n...\n---\n# nothing\n";
        let documents = documents(text);
        let [first, second] = documents.as_slice() else { panic!("{}", documents.len()) };
        let list = &first.node.as_ref().ok().unwrap().get("a").unwrap().entries()[0];
        assert_eq!(
            (list.0.position, list.1.items()[1].position),
            (Position { line: 4, column: 3 }, Position { line: 4, column: 10 })
        );
        assert_eq!(&text[list.1.items()[1].span.clone()], "y");
        let b = second.node.as_ref().ok().unwrap().get("b").unwrap();
        assert_eq!((b.position, &text[b.span.clone()]), (Position { line: 6, column: 4 }, "'z'"));
    }

    #[test]
    fn manifest_positions_allow_for_bom_and_crlf() {
        for text in ["\u{feff}a: x\r\nb: 'yz'\r\n", "\u{feff}---\r\na: x\r\n---\r\nb: 'yz'\r\n"] {
            let documents = documents(text);
            let b = documents.iter().find_map(|document| document.node.as_ref().ok()?.get("b")).unwrap();
            assert_eq!(&text[b.span.clone()], "'yz'", "{text:?}");
            let first = documents[0].node.as_ref().ok().unwrap().get("a").unwrap();
            assert_eq!((&text[first.span.clone()], first.position.column), ("x", 4), "{text:?}");
        }
    }

    #[test]
    fn manifest_invalid_document_leaves_others_readable() {
        let documents = documents("a: 1\n---\nb: [\n---\nc: 1\n");
        let faults: Vec<_> =
            documents.iter().map(|d| d.node.as_ref().err().and_then(|f| f.position).map(|at| at.line)).collect();
        assert!(matches!(faults[..], [None, Some(3 | 4), None]), "{faults:?}");
    }

    #[test]
    fn manifest_alias_has_position_of_its_anchor() {
        let documents = documents("x: &x {k: v}\nu: *x\nz: {<<: *x}\n");
        let node = documents[0].node.as_ref().ok().unwrap();
        for name in ["x", "u", "z"] {
            assert_eq!(node.get(name).unwrap().get("k").unwrap().position, Position { line: 1, column: 11 }, "{name}");
        }
    }

    proptest! {
        #[test]
        fn manifest_of_arbitrary_text_does_not_panic(text in "(?s)([a-z:\\-\\[\\]{}|>&*!'\" \n\t#%é]|---\n){0,80}") {
            for document in documents(&text) {
                if let Ok(node) = &document.node {
                    for (key, value) in node.entries() {
                        prop_assert!(text.get(key.span.clone()).is_some() && text.get(value.span.clone()).is_some());
                    }
                }
            }
        }
    }
}
