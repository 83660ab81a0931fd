//! Manifests against the rules of a mount, without a server: what is wrong, and where in which file.

mod class;
mod excerpt;
mod objects;
mod pod;
mod policy;
mod secret_objects;
mod source;
mod typos;

use std::collections::BTreeMap;

pub use self::excerpt::Excerpt;
use self::{class::ReviewedClass, source::SourceFile};
use crate::{
    error::Cause,
    manifest::{self, FileContent},
    yaml::Position,
};

/// A file to look at.
#[derive(Clone)]
pub struct Input {
    /// What to call it.
    pub name: String,
    /// What is in it.
    pub content: FileContent,
    /// What it is looked at for.
    pub kind: InputKind,
}

/// What a file is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// The resources in it.
    Manifests,
    /// It is the policy file of the provider that the classes are for. One at most.
    Policy,
}

impl Input {
    fn text(&self) -> &str {
        self.content.as_deref().unwrap_or_default()
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A mount would fail, or do something else than was meant.
    Error,
    /// It is worth a look.
    Warning,
}

/// Something that should be mended, or looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFinding {
    /// How bad it is.
    pub severity: Severity,
    /// Its row in the table of causes.
    pub cause: Cause,
    /// The file's name.
    pub file: String,
    /// Where it begins.
    pub position: Position,
    /// The column behind its end, on the same line.
    pub end_column: usize,
    /// Where by name, what, and how to mend it.
    pub message: String,
    /// The line, without what could be secret in it.
    pub excerpt: Excerpt,
}

/// What became of all files.
#[derive(Clone, Debug, Default)]
pub struct ValidationReport {
    /// By file, in the order of its lines.
    pub findings: Vec<ManifestFinding>,
    /// How many files there were.
    pub files: usize,
    /// How many classes for `vault` or `openbao` were looked at.
    pub classes: usize,
    /// How many policy files were looked at.
    pub policies: usize,
    /// How many pods and workloads that use the driver were looked at.
    pub pods: usize,
    /// How many resources of other kinds and providers were skipped.
    pub skipped: usize,
    /// How many of these could not be read, and do not name the driver.
    pub unreadable: usize,
}

impl ValidationReport {
    /// How many findings there are of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Looks at files together: pods find their classes in any of them.
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
                // Whatever it is, it is not ours: a template, JSON with comments, or what another tool will refuse.
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
                        // What is what in it is not known.
                        resource.get("spec").into_iter().for_each(|spec| source.redact_node(spec));
                        continue;
                    };
                    *if reviewed.is_our_provider { &mut report.classes } else { &mut report.skipped } += 1;
                    let key = (reviewed.namespace.clone(), reviewed.name.clone());
                    match classes.get(&key) {
                        Some(first) if first.is_our_provider && !first.name.is_empty() => {
                            if reviewed.is_our_provider {
                                source.report_duplicate(resource, first);
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
