//! The pod of a request, from the attributes that kubelet adds when the `CSIDriver` has `podInfoOnMount`.

use super::{
    Pod,
    attributes::Attributes,
    findings::{FindingLocation, Findings},
};

/// The prefix of all attributes that kubelet and the driver add.
pub(super) const DRIVER_ATTRIBUTE_PREFIX: &str = "csi.storage.k8s.io/";

/// Parses the pod. A missing part becomes an empty string and a finding.
pub(super) fn parse(attributes: &Attributes, findings: &mut Findings) -> Pod {
    let mut missing = Vec::new();
    let mut part = |name: &str| {
        let value = attributes.get(&format!("{DRIVER_ATTRIBUTE_PREFIX}{name}"));
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
        findings.add(
            FindingLocation::DriverRequest("the driver does not say which pod this is".to_owned()),
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

    fn parse_json(json: &str) -> (Pod, Option<String>) {
        let mut findings = Findings::default();
        let pod = parse(&Attributes::parse(json).unwrap(), &mut findings);
        (pod, findings.into_error("", None).map(|e| e.to_string()))
    }

    #[test]
    fn pod_is_read_from_kubelet_attributes() {
        let (pod, error) = parse_json(
            r#"{"csi.storage.k8s.io/pod.name":"web-0","csi.storage.k8s.io/pod.namespace":"shop","csi.storage.k8s.io/pod.uid":"u-1","csi.storage.k8s.io/serviceAccount.name":"web"}"#,
        );
        let (name, namespace, uid, service_account) =
            ("web-0".to_owned(), "shop".to_owned(), "u-1".to_owned(), "web".to_owned());
        assert_eq!((pod, error), (Pod { name, namespace, uid, service_account }, None));
    }

    #[test]
    fn pod_info_missing_is_one_mistake_with_fix() {
        let message =
            parse_json(r#"{"csi.storage.k8s.io/pod.name":"web-0","csi.storage.k8s.io/pod.uid":""}"#).1.unwrap();
        assert!(message.contains("pod.namespace, pod.uid, serviceAccount.name missing"), "{message}");
        assert!(message.contains("podInfoOnMount: true"), "{message}");
    }
}
