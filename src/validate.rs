//! Checks manifests against the rules of a mount, without a server. Each finding names its file and position.

mod class;
mod excerpt;
mod objects;
mod pod;
mod policy;
mod secret_objects;
mod source;
mod span;
mod typos;

use std::collections::BTreeMap;

pub use self::excerpt::Excerpt;
use self::{class::ReviewedClass, source::SourceFile};
use crate::{
    error::Cause,
    manifest::{self, FileContent},
    yaml::Position,
};

/// A file to validate.
#[derive(Clone)]
pub struct Input {
    /// The name of the file in findings.
    pub name: String,
    /// The content of the file.
    pub content: FileContent,
    /// The role of the file.
    pub kind: InputKind,
}

/// The role of a file in a validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// A file of Kubernetes resources.
    Manifests,
    /// The policy file of the provider that serves the classes. At most one input is a policy.
    Policy,
}

impl Input {
    fn text(&self) -> &str {
        self.content.as_deref().unwrap_or_default()
    }
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A mount would fail, or would do something unintended.
    Error,
    /// The mount may work, but the line deserves a review.
    Warning,
}

/// An error to fix, or a warning to review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFinding {
    /// The severity.
    pub severity: Severity,
    /// The cause, a row of the table of causes.
    pub cause: Cause,
    /// The name of the file.
    pub file: String,
    /// The position at which the finding begins.
    pub position: Position,
    /// The column after the end of the finding, on the same line.
    pub end_column: usize,
    /// The message: the subject by name, the problem and the fix.
    pub message: String,
    /// The line of the finding, with possible secrets redacted.
    pub excerpt: Excerpt,
}

/// The result of a validation of all files.
#[derive(Clone, Debug, Default)]
pub struct ValidationReport {
    /// The findings by file, in the order of its lines.
    pub findings: Vec<ManifestFinding>,
    /// The number of files.
    pub files: usize,
    /// The number of checked classes of the providers `vault` and `openbao`.
    pub classes: usize,
    /// The number of checked policy files.
    pub policies: usize,
    /// The number of checked pods and workloads that use the driver.
    pub pods: usize,
    /// The number of skipped resources: those of other kinds and other providers.
    pub skipped: usize,
    /// The number of skipped resources that cannot be read and do not name the driver.
    pub unreadable: usize,
}

impl ValidationReport {
    /// Counts the findings of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Validates files together. A pod may refer to a class in any of the files.
#[must_use]
pub fn validate(inputs: &[Input]) -> ValidationReport {
    let mut report = ValidationReport { files: inputs.len(), ..ValidationReport::default() };
    let documents: Vec<_> = inputs.iter().map(|input| manifest::documents(input.text())).collect();
    let mut sources: Vec<SourceFile<'_>> = inputs.iter().map(SourceFile::new).collect();
    let mut classes: BTreeMap<(String, String), ReviewedClass> = BTreeMap::new();
    let mut pods = Vec::new();
    let mut policy = None;
    for (file, documents) in documents.iter().enumerate().filter(|(file, _)| inputs[*file].kind == InputKind::Policy) {
        policy = policy::policy_of_file(documents, &mut sources[file]);
        report.policies += 1;
    }
    for (file, documents) in documents.iter().enumerate().filter(|(file, _)| inputs[*file].kind == InputKind::Manifests)
    {
        let source = &mut sources[file];
        match &inputs[file].content {
            Err(no_text) if no_text.mentions_driver => source.report_not_text(no_text),
            Err(_) => {
                report.skipped += 1;
                report.unreadable += 1;
            }
            Ok(_) => {}
        }
        for document in documents {
            let node = match &document.node {
                Ok(node) => node,
                // Such a document is not for this driver: a template, JSON with comments, or input that another tool rejects.
                Err(_) if !source::mentions_driver(document) => {
                    report.skipped += 1;
                    report.unreadable += 1;
                    continue;
                }
                Err(fault) => {
                    source.report_parse_error(fault, document);
                    continue;
                }
            };
            for resource in manifest::resources(node) {
                if typos::is_class(resource, source) {
                    let Some(reviewed) = class::review_class(resource, policy.as_ref(), source) else {
                        // Without a readable class any value of the spec may be a secret.
                        resource.get("spec").into_iter().for_each(|spec| source.redact_node(spec));
                        continue;
                    };
                    *if reviewed.is_our_provider { &mut report.classes } else { &mut report.skipped } += 1;
                    let key = (reviewed.namespace.clone(), reviewed.name.clone());
                    match classes.get(&key) {
                        Some(first) if first.is_our_provider && !first.name.is_empty() => {
                            if reviewed.is_our_provider {
                                first.report_duplicate(resource, source);
                            }
                        }
                        _ => drop(classes.insert(key, reviewed)),
                    }
                } else if policy::contains_policy(resource) {
                    policy::review_policy(resource, source);
                    report.policies += 1;
                } else if let Some(pod) = pod::find_workload(resource) {
                    pods.push((file, pod));
                } else {
                    source.redact_node(resource);
                    report.skipped += 1;
                }
            }
        }
    }
    for (file, pod) in pods {
        let uses_driver = pod::check_volumes(&pod, &classes, policy.as_ref(), &mut sources[file]);
        *if uses_driver { &mut report.pods } else { &mut report.skipped } += 1;
    }
    report.findings = sources.into_iter().flat_map(SourceFile::into_findings).collect();
    report
}

#[cfg(test)]
mod tests;
