//! Who asks: what kubelet says of the pod when the `CSIDriver` has `podInfoOnMount`.

use super::{
    Pod,
    attributes::Attributes,
    mistakes::{Mistakes, Place},
};

/// The prefix of everything that kubelet and the driver add to the attributes.
pub(super) const DRIVER_PREFIX: &str = "csi.storage.k8s.io/";

/// The pod, with an empty text for each part that is missing and noted as a mistake.
pub(super) fn parse(attributes: &Attributes, mistakes: &mut Mistakes) -> Pod {
    let mut missing = Vec::new();
    let mut part = |name: &str| {
        let value = attributes.get(&format!("{DRIVER_PREFIX}{name}"));
        if value.is_none() {
            missing.push(name.to_owned());
        }
        value.unwrap_or_default().to_owned()
    };
    let pod = Pod {
        name: part("pod.name"),
        namespace: part("pod.namespace"),
        uid: part("pod.uid"),
        service_account: part("serviceAccount.name"),
    };
    if !missing.is_empty() {
        mistakes.add(
            Place::Request("the driver does not say which pod this is".to_owned()),
            format!(
                "{} missing in the attributes; set podInfoOnMount: true on the CSIDriver secrets-store.csi.k8s.io",
                missing.join(", ")
            ),
        );
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> (Pod, Option<String>) {
        let mut mistakes = Mistakes::default();
        let pod = parse(&Attributes::parse(json).unwrap(), &mut mistakes);
        (pod, mistakes.into_error("", None).map(|e| e.to_string()))
    }

    #[test]
    fn a_pod_is_named_by_kubelet() {
        let (pod, mistakes) = parsed(
            r#"{"csi.storage.k8s.io/pod.name":"web-0","csi.storage.k8s.io/pod.namespace":"shop","csi.storage.k8s.io/pod.uid":"u-1","csi.storage.k8s.io/serviceAccount.name":"web"}"#,
        );
        let (name, namespace, uid, service_account) =
            ("web-0".to_owned(), "shop".to_owned(), "u-1".to_owned(), "web".to_owned());
        assert_eq!((pod, mistakes), (Pod { name, namespace, uid, service_account }, None));
    }

    #[test]
    fn what_is_missing_is_said_once_with_the_next_step() {
        let said = parsed(r#"{"csi.storage.k8s.io/pod.name":"web-0","csi.storage.k8s.io/pod.uid":""}"#).1.unwrap();
        assert!(said.contains("pod.namespace, pod.uid, serviceAccount.name missing"), "{said}");
        assert!(said.contains("podInfoOnMount: true"), "{said}");
    }
}
