//! Classes (`SecretProviderClass`) read from a file, for a mount that is run manually.

use std::{collections::BTreeMap, path::Path};

use super::{display_path, documents, is_kind, metadata_text, read_text, resources};
use crate::{
    error::{Cause, Error},
    text::one_line,
    yaml::node::{Node, Value},
};

/// The API group of the classes.
pub const CLASS_GROUP: &str = "secrets-store.csi.x-k8s.io";

/// A SecretProviderClass. Never print it: its parameters can hold secret arguments.
pub struct ClassManifest {
    /// The class name; empty if it has none.
    pub name: String,
    /// The namespace; empty if the manifest sets none.
    pub namespace: String,
    /// The provider that serves the class.
    pub provider: String,
    /// The parameters of the class.
    pub parameters: BTreeMap<String, String>,
}

/// Reads the classes of a file, or of standard input if the path is `-`. Resources of other kinds are skipped.
fn read_classes(path: &Path) -> Result<Vec<ClassManifest>, Error> {
    let text = read_text(path)?;
    let mut classes = Vec::new();
    for document in documents(&text) {
        let node = document.node.map_err(|fault| {
            let position = fault.position.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
            Error::new(
                Cause::Manifest,
                format!("{}{position}: is not valid YAML: {}", display_path(path), fault.problem),
            )
        })?;
        for resource in resources(&node).into_iter().filter(|node| is_kind(node, CLASS_GROUP, "SecretProviderClass")) {
            classes.push(class_from_resource(resource, path)?);
        }
    }
    Ok(classes)
}

/// Reads the SecretProviderClass of a file. `name` selects it and is required if the file holds more than one.
pub fn read_class(path: &Path, name: Option<&str>) -> Result<ClassManifest, Error> {
    let mut classes = read_classes(path)?;
    let error = |problem: String| Error::new(Cause::Manifest, format!("{} {problem}", display_path(path)));
    let list = classes.iter().map(|class| one_line(&class.name, 80)).collect::<Vec<_>>().join(", ");
    let selected = match name {
        _ if classes.is_empty() => return Err(error("holds no SecretProviderClass".to_owned())),
        None if classes.len() > 1 => {
            return Err(error(format!("holds {} SecretProviderClasses: {list}", classes.len()))
                .with_fix("name one with --class"));
        }
        None => Some(0),
        Some(name) => classes.iter().position(|class| class.name == name),
    };
    match selected {
        Some(index) => Ok(classes.swap_remove(index)),
        None => Err(error(format!("holds no SecretProviderClass {:?}, but {list}", name.unwrap_or_default()))),
    }
}

fn class_from_resource(resource: &Node, path: &Path) -> Result<ClassManifest, Error> {
    let error = |node: &Node, problem: String| {
        let position = format!("{}:{}:{}", display_path(path), node.position.line, node.position.column);
        Error::new(Cause::Manifest, format!("{position}: {problem}"))
    };
    let spec = resource.get("spec").ok_or_else(|| error(resource, "the class has no spec".to_owned()))?;
    let mut parameters = BTreeMap::new();
    for (key, value) in spec.get("parameters").map(Node::entries).unwrap_or_default() {
        let name = key.as_text().unwrap_or_default();
        if let Some(problem) = not_a_string(name, value) {
            return Err(error(value, format!("{}: {problem}", one_line(name, 80))));
        }
        parameters.extend(value.as_text().map(|text| (name.to_owned(), text.to_owned())));
    }
    Ok(ClassManifest {
        name: metadata_text(resource, "name").to_owned(),
        namespace: metadata_text(resource, "namespace").to_owned(),
        provider: spec.get("provider").and_then(Node::as_text).unwrap_or_default().to_owned(),
        parameters,
    })
}

/// Describes a parameter value that is not text, because the API server rejects it. Returns nothing if the value is text or is
/// not set.
pub(crate) fn not_a_string(name: &str, value: &Node) -> Option<String> {
    let fix = match value.value {
        Value::Text(_) | Value::Null => return None,
        Value::List(_) | Value::Map(_) if name == "objects" => "write `objects: |`, and the list as text below it",
        Value::List(_) | Value::Map(_) => "write one value",
        Value::Bool(_) | Value::Number => "put it in quotes",
    };
    Some(format!("is {}, and the API server takes only text; {fix}", value.type_name()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn spc(name: &str, parameters: &str) -> String {
        format!(
            "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  provider: vault\n  parameters: {parameters}\n"
        )
    }

    fn error(text: &str, name: Option<&str>) -> String {
        read_class(file(text).path(), name).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn single_class_is_read_and_other_kinds_are_skipped() {
        let text =
            format!("# first\n---\nkind: Pod\napiVersion: v1\n---\n{}", spc("web", "{roleName: app, a: '1', b: }"));
        let class = read_class(file(&text).path(), None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((class.name.as_str(), class.namespace.as_str(), class.provider.as_str()), ("web", "shop", "vault"));
        assert_eq!(
            class.parameters,
            BTreeMap::from([("roleName", "app"), ("a", "1")].map(|(k, v)| (k.into(), v.into())))
        );
    }

    #[test]
    fn several_classes_require_class_flag() {
        let two = format!("{}---\n{}", spc("web", "{a: x}"), spc("api", "{a: z}"));
        assert!(error(&two, None).contains("holds 2 SecretProviderClasses: web, api; name one with --class [VM0085]"));
        assert!(error(&two, Some("db")).contains("holds no SecretProviderClass \"db\", but web, api"));
        assert_eq!(read_class(file(&two).path(), Some("api")).ok().unwrap().parameters["a"], "z");
    }

    #[test]
    fn class_is_read_from_json_and_kind_list() {
        let item = r#"{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"j"},"spec":{"provider":"openbao","parameters":{"objects":"- a\n"}}}"#;
        for text in [item.to_owned(), format!(r#"{{"apiVersion":"v1","kind":"List","items":[{item}]}}"#)] {
            let class = read_class(file(&text).path(), None).ok().unwrap();
            assert_eq!((class.name.as_str(), class.parameters["objects"].as_str()), ("j", "- a\n"));
        }
    }

    #[test]
    fn class_manifest_error_has_position_and_no_values() {
        for (text, expected) in [
            ("kind: Pod".to_owned(), "holds no SecretProviderClass"),
            (
                spc("a", "{vaultSkipTLSVerify: true}"),
                ":6:36: vaultSkipTLSVerify: is true or false, and the API server takes only text; put it in quotes",
            ),
            (spc("a", "{objects: [hunter2]}"), "write `objects: |`"),
            (format!("a: 1\n---\n{}  x: 'hunter2", spc("a", "{}")), ":9:6: is not valid YAML: "),
        ] {
            let message = error(&text, None);
            assert!(message.contains(expected) && !message.contains("hunter2"), "{message}");
        }
    }
}
