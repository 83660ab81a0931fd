//! Classes (`SecretProviderClass`), as a mount by hand takes them.

use std::{collections::BTreeMap, path::Path};

use super::{documents, is, metadata, resources, shown, text};
use crate::{
    error::{Cause, Error},
    text::one_line,
    yaml::node::{Node, Value},
};

/// The API group of the classes.
pub const CLASS_GROUP: &str = "secrets-store.csi.x-k8s.io";

/// A SecretProviderClass. Not to be printed: its parameters hold arguments.
pub struct Class {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its namespace; empty if it does not say.
    pub namespace: String,
    /// The provider it is for.
    pub provider: String,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
}

/// The classes of a file, or of standard input if the path is `-`; of other kinds nothing is read.
fn classes(path: &Path) -> Result<Vec<Class>, Error> {
    let text = text(path)?;
    let mut classes = Vec::new();
    for document in documents(&text) {
        let node = document.node.map_err(|fault| {
            let at = fault.at.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
            Error::new(Cause::Manifest, format!("{}{at}: is no valid YAML: {}", shown(path), fault.what))
        })?;
        for resource in resources(&node).into_iter().filter(|node| is(node, CLASS_GROUP, "SecretProviderClass")) {
            classes.push(of(resource, path)?);
        }
    }
    Ok(classes)
}

/// The SecretProviderClass of a file; that of the `name`, if there is more than one.
pub fn class(path: &Path, name: Option<&str>) -> Result<Class, Error> {
    let mut classes = classes(path)?;
    let wrong = |what: String| Error::new(Cause::Manifest, format!("{} {what}", shown(path)));
    let list = classes.iter().map(|class| one_line(&class.name, 80)).collect::<Vec<_>>().join(", ");
    let meant = match name {
        _ if classes.is_empty() => return Err(wrong("holds no SecretProviderClass".to_owned())),
        None if classes.len() > 1 => {
            return Err(
                wrong(format!("holds {} SecretProviderClasses: {list}", classes.len())).advice("name one with --class")
            );
        }
        None => Some(0),
        Some(name) => classes.iter().position(|class| class.name == name),
    };
    match meant {
        Some(index) => Ok(classes.swap_remove(index)),
        None => Err(wrong(format!("holds no SecretProviderClass {:?}, but {list}", name.unwrap_or_default()))),
    }
}

fn of(resource: &Node, path: &Path) -> Result<Class, Error> {
    let wrong = |node: &Node, what: String| {
        let at = format!("{}:{}:{}", shown(path), node.at.line, node.at.column);
        Error::new(Cause::Manifest, format!("{at}: {what}"))
    };
    let spec = resource.get("spec").ok_or_else(|| wrong(resource, "the class has no spec".to_owned()))?;
    let mut parameters = BTreeMap::new();
    for (key, value) in spec.get("parameters").map(Node::entries).unwrap_or_default() {
        let name = key.text().unwrap_or_default();
        if let Some(why) = no_text(name, value) {
            return Err(wrong(value, format!("{}: {why}", one_line(name, 80))));
        }
        parameters.extend(value.text().map(|text| (name.to_owned(), text.to_owned())));
    }
    Ok(Class {
        name: metadata(resource, "name").to_owned(),
        namespace: metadata(resource, "namespace").to_owned(),
        provider: spec.get("provider").and_then(Node::text).unwrap_or_default().to_owned(),
        parameters,
    })
}

/// What to say of a parameter that is no text, which the API server refuses; nothing if it is, or is not set.
pub(crate) fn no_text(name: &str, value: &Node) -> Option<String> {
    let next = match value.value {
        Value::Text(_) | Value::Null => return None,
        Value::List(_) | Value::Map(_) if name == "objects" => "write `objects: |`, and the list as text below it",
        Value::List(_) | Value::Map(_) => "write one value",
        Value::Bool(_) | Value::Number => "put it in quotes",
    };
    Some(format!("is {}, and the API server takes only text; {next}", value.kind()))
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
        class(file(text).path(), name).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn one_class_needs_no_name_and_others_are_skipped() {
        let text =
            format!("# first\n---\nkind: Pod\napiVersion: v1\n---\n{}", spc("web", "{roleName: app, a: '1', b: }"));
        let class = class(file(&text).path(), None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((class.name.as_str(), class.namespace.as_str(), class.provider.as_str()), ("web", "shop", "vault"));
        assert_eq!(
            class.parameters,
            BTreeMap::from([("roleName", "app"), ("a", "1")].map(|(k, v)| (k.into(), v.into())))
        );
    }

    #[test]
    fn of_several_one_must_be_named() {
        let two = format!("{}---\n{}", spc("web", "{a: x}"), spc("api", "{a: z}"));
        assert!(error(&two, None).contains("holds 2 SecretProviderClasses: web, api; name one with --class [VM0085]"));
        assert!(error(&two, Some("db")).contains("holds no SecretProviderClass \"db\", but web, api"));
        assert_eq!(class(file(&two).path(), Some("api")).ok().unwrap().parameters["a"], "z");
    }

    #[test]
    fn json_and_lists_are_read() {
        let item = r#"{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"j"},"spec":{"provider":"openbao","parameters":{"objects":"- a\n"}}}"#;
        for text in [item.to_owned(), format!(r#"{{"apiVersion":"v1","kind":"List","items":[{item}]}}"#)] {
            let class = class(file(&text).path(), None).ok().unwrap();
            assert_eq!((class.name.as_str(), class.parameters["objects"].as_str()), ("j", "- a\n"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_with_its_place_and_without_values() {
        for (text, says) in [
            ("kind: Pod".to_owned(), "holds no SecretProviderClass"),
            (
                spc("a", "{vaultSkipTLSVerify: true}"),
                ":6:36: vaultSkipTLSVerify: is true or false, and the API server takes only text; put it in quotes",
            ),
            (spc("a", "{objects: [hunter2]}"), "write `objects: |`"),
            (format!("a: 1\n---\n{}  x: 'hunter2", spc("a", "{}")), ":9:6: is no valid YAML: "),
        ] {
            let said = error(&text, None);
            assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
        }
    }
}
