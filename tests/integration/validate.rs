//! `vaultmount validate` in a hook or a CI job.

mod output;
mod positions;
mod redaction;
mod rules;
mod typos;

use std::{fs, process::Stdio};

use tokio::io::AsyncWriteExt;

use crate::support::daemon::vaultmount_command;

/// Input files in a temporary folder of the command.
struct Project(tempfile::TempDir);

/// Exit code and output of a run.
struct ValidateRun {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Project {
    fn with_files(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    async fn run(&self, args: &[&str]) -> ValidateRun {
        self.run_with_stdin(args, "").await
    }

    async fn run_with_stdin(&self, args: &[&str], stdin: &str) -> ValidateRun {
        let args: Vec<String> = ["validate"].iter().chain(args).map(|&arg| arg.to_owned()).collect();
        let mut command = vaultmount_command(&args);
        command.current_dir(self.0.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A process that does not read its input has closed the pipe.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes()).await;
        let output = child.wait_with_output().await.unwrap();
        ValidateRun {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl ValidateRun {
    /// Returns the finding lines, without excerpts and summary.
    fn findings(&self) -> Vec<&str> {
        self.stdout.lines().filter(|line| line.contains(": error: ") || line.contains(": warning: ")).collect()
    }
}

/// Returns the findings in one file, `a.yaml`.
async fn findings_of(text: &str) -> Vec<String> {
    let run = Project::with_files(&[("a.yaml", text)]).run(&["."]).await;
    let findings = run.findings();
    assert_eq!(
        run.code,
        i32::from(findings.iter().any(|line| line.contains(": error: "))),
        "{}{}",
        run.stdout,
        run.stderr
    );
    findings.iter().map(|line| line.strip_prefix("a.yaml:").unwrap().to_owned()).collect()
}

/// Checks the findings in one file.
async fn assert_findings(text: &str, expected: &[&str]) {
    assert_eq!(findings_of(text).await, expected, "{text}");
}

/// Returns a class with these lines in its `spec`, from line 6.
fn class_manifest(spec: &str) -> String {
    format!(
        "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: shop, namespace: shop}}\nspec:\n  provider: vault\n{spec}"
    )
}

/// Returns a class with these parameters beside a role and an object, from line 10.
fn class_with_parameters(lines: &str) -> String {
    class_manifest(&format!(
        "  parameters:\n    roleName: web\n    objects: |\n      - {{objectName: a, secretPath: p}}\n{lines}"
    ))
}

/// Returns a class with this text of `objects`, from line 9 and indented by six.
fn class_with_objects(lines: &str) -> String {
    let indented = lines.replace('\n', "\n      ");
    class_manifest(&format!("  parameters:\n    roleName: web\n    objects: |\n      {indented}\n"))
}

#[tokio::test]
async fn validate_strict_accepts_deploy_examples() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples");
    let run = Project::with_files(&[]).run(&["--strict", examples]).await;
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert_eq!(run.stdout, "all good in 7 classes, 1 policy (8 files)\n");
}

#[tokio::test]
async fn validate_walks_folder_in_order_and_skips_hidden() {
    let wrong = class_with_parameters("    vaultAdress: x\n");
    let project = Project::with_files(&[
        ("b/2.yml", &wrong.replace("shop", "b2")),
        ("b/1.yaml", &wrong.replace("shop", "b1")),
        ("a.json", r#"{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass"}"#),
        ("b/.git/x.yaml", &wrong),
        ("b/readme.md", "a: ["),
    ]);
    let run = project.run(&["."]).await;
    let files: Vec<_> = run.findings().iter().map(|line| line.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(files, ["a.json", "b/1.yaml", "b/2.yml"]);
    assert!(run.stdout.ends_with("3 errors in 2 classes (3 files)\n"), "{}", run.stdout);
    assert_eq!(project.run(&["b/1.yaml", "./b/1.yaml", "b"]).await.findings().len(), 2);
}

#[tokio::test]
async fn validate_reads_stdin_by_dash_and_by_default() {
    let project = Project::with_files(&[]);
    for args in [&[][..], &["-"]] {
        let run = project.run_with_stdin(args, &class_with_parameters("    vaultAdress: x\n")).await;
        assert_eq!(run.code, 1);
        assert!(run.findings()[0].starts_with("<stdin>:10:5: error: vaultAdress: "), "{}", run.stdout);
    }
    assert_eq!(project.run_with_stdin(&[], "").await.stdout, "nothing to validate (1 file)\n");
    let empty = project.run(&["."]).await;
    assert_eq!((empty.code, empty.stdout.as_str()), (0, "nothing to validate (0 files)\n"));
    let broken = project.run_with_stdin(&[], "# secrets-store.csi\na: [\n").await;
    assert!(broken.stdout.ends_with("\n1 error (1 file)\n"), "{}", broken.stdout);
    let other = project.run_with_stdin(&[], "kind: ConfigMap\n---\nkind: Pod\n").await;
    assert_eq!(other.stdout, "nothing to validate (1 file; skipped 2 other resources)\n");
}

/// A pre-commit hook passes every changed file.
#[tokio::test]
async fn validate_skips_unparsable_files_without_driver_name() {
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let project = Project::with_files(&[
        ("broken.yaml", "a: [\n"),
        ("jinja.yml", "{% if x %}\na: 1\n{% endif %}\n"),
        ("helm.yaml", "{{- if .Values.x }}\nkind: ConfigMap\n{{- end }}\n"),
        ("tsconfig.json", "{\n  // see: the manual\n  \"strict\": true,\n}\n"),
        ("twice.yaml", "a: 1\na: 2\n"),
        ("deep.yaml", &deep),
        ("minio.yaml", "accessKey: AKIA\nsecretKey: hunter2: x\n"),
    ]);
    for output in ["text", "github"] {
        let run = project.run(&["--strict", "-o", output, "broken.yaml", "jinja.yml", "tsconfig.json", "."]).await;
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        let summary = "nothing to validate (7 files; skipped 7 other resources, of which 7 cannot be read)\n";
        assert_eq!(run.stdout, if output == "text" { summary } else { "" });
    }
    let piped = project.run_with_stdin(&[], "a: [\n---\nkind: Pod\n").await;
    assert_eq!(piped.stdout, "nothing to validate (1 file; skipped 2 other resources, of which 1 cannot be read)\n");
    // The other documents of the file are still checked.
    let text = format!("a: [\n---\n{}", class_with_parameters("    vaultAdress: x\n"));
    assert!(findings_of(&text).await[0].starts_with("12:5: error: vaultAdress: "));
}

#[tokio::test]
async fn broken_pipe_keeps_the_exit_code() {
    let project = Project::with_files(&[("a.yaml", &class_with_parameters("    vaultAdress: x\n"))]);
    for (args, code) in [("validate -o text .", 1), ("validate -o json .", 1), ("version", 0)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = vaultmount_command(&args.split(' ').map(str::to_owned).collect::<Vec<_>>());
        command.current_dir(project.0.path()).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let done = command.spawn().unwrap().wait_with_output().await.unwrap();
        assert_eq!((done.status.code(), String::from_utf8(done.stderr).unwrap().as_str()), (Some(code), ""));
    }
}

#[tokio::test]
async fn validate_escapes_control_characters_of_manifests() {
    let named = "m\u{1b}[2J\u{9b}\n.yaml";
    let unseen = "\u{202e}\u{2066}\u{200b}";
    let text = class_with_parameters(&format!("    \"\\e[2J{unseen}\": x{unseen}\n"))
        .replace("name: shop,", "name: \"a\\e[2J\\u009b\",");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: \"p\\e[2J\"}\nspec:\n  volumes:\n  - name: \"v\\e\"\n    csi: {driver: secrets-store.csi.k8s.io, volumeAttributes: {secretProviderClass: \"c\\e\", audience: \"\\e\"}}\n";
    let text = format!("{text}---\n{text}---\n{pod}---\n# secrets-store.csi \u{1b}[2J\na: [\u{1b}[2J\n");
    let project = Project::with_files(&[(named, &text)]);
    for output in ["text", "github", "sarif", "json"] {
        let run = project.run(&["-o", output, "."]).await;
        assert_eq!(run.code, 1);
        let steers = |c: char| (c.is_control() && c != '\n') || ['\u{202e}', '\u{2066}', '\u{200b}'].contains(&c);
        assert!(!run.stdout.contains(steers), "{output}: {:?}", run.stdout);
        let lines = run.stdout.lines().filter(|line| line.contains("m\u{fffd}[2J\u{fffd}\u{fffd}.yaml:")).count();
        assert!(output != "text" || lines > 5, "{lines}: {}", run.stdout);
    }
    let run = project.run(&["absent\u{1b}[2J"]).await;
    assert!(run.code == 2 && !run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
}

#[tokio::test]
async fn validate_truncates_long_names() {
    let long = "n".repeat(5000);
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {long}, namespace: shop}}\nspec:\n  volumes:\n  - name: {long}\n    csi: {{driver: secrets-store.csi.k8s.io, volumeAttributes: {{secretProviderClass: {long}, audience: x}}}}\n"
    );
    let objects = format!("- {{objectName: {long}, secretPath: /}}");
    let secrets = format!("  secretObjects: [{{secretName: s, type: t, data: [{{objectName: {long}x, key: k}}]}}]\n");
    let class = format!("{}{secrets}", class_with_objects(&objects)).replace("name: shop,", &format!("name: {long},"));
    let found = findings_of(&format!("{class}---\n{class}---\n{pod}")).await;
    assert!(found.len() > 5 && found.iter().all(|line| line.len() < 500), "{found:?}");
}

#[tokio::test]
async fn validate_exit_code_is_1_for_findings_and_2_for_unreadable() {
    let project = Project::with_files(&[("warned.yaml", &class_with_parameters("    auth: 5m\n"))]);
    for (args, code, text_part) in [
        (&["warned.yaml"][..], 0, "1 warning in 1 class (1 file)"),
        (&["--strict", "warned.yaml"], 1, "1 warning in 1 class"),
        (&["absent.yaml"], 2, "absent.yaml cannot be read: "),
        (&["absent.yaml", "warned.yaml"], 2, "auth: is not supported"),
        (&["--output=xml"], 2, "possible values: text, json, sarif, github"),
    ] {
        let run = project.run(args).await;
        assert_eq!(run.code, code, "{args:?}");
        assert!(format!("{}{}", run.stdout, run.stderr).contains(text_part), "{args:?}: {}{}", run.stdout, run.stderr);
    }
}

#[tokio::test]
async fn validate_non_utf8_or_oversized_file_fails_alone() {
    let ours = class_with_parameters("");
    let project =
        Project::with_files(&[("good.yaml", &ours), ("long.yaml", &format!("{}{ours}", "#\n".repeat(9 << 20)))]);
    let put = |name: &str, bytes: &[u8]| fs::write(project.0.path().join(name), bytes).unwrap();
    put("picture.yaml", &[0xff, 0xd8, b'a']);
    put("latin.yaml", &[ours.as_bytes(), b"# K\xfcche\n"].concat());
    put("utf-16.yaml", &[0xff, 0xfe].into_iter().chain(ours.bytes().flat_map(|byte| [byte, 0])).collect::<Vec<u8>>());
    let run = project.run(&["."]).await;
    let expected = [
        "latin.yaml:10:4: error: the file is not UTF-8 text; save it as UTF-8 [VM0085]",
        "long.yaml:1:1: error: the file is longer than the 16777216 bytes that are read; split it [VM0085]",
        "utf-16.yaml:1:1: error: the file is not UTF-8 text; save it as UTF-8 [VM0085]",
    ];
    assert_eq!((run.code, run.findings()), (1, expected.to_vec()), "{}", run.stderr);
    let summary = "3 errors in 1 class (5 files; skipped 1 other resource, of which 1 cannot be read)\n";
    assert!(run.stdout.ends_with(summary), "{}", run.stdout);
    let run = project.run(&["-o", "sarif", "picture.yaml", "good.yaml"]).await;
    assert!(run.code == 0 && run.stdout.contains("\"results\": []"), "{}", run.stdout);
}

/// Input as from `<(helm template .)`.
#[tokio::test]
async fn validate_reads_named_pipe_but_skips_it_in_folder() {
    let project = Project::with_files(&[("a.yaml", &class_with_parameters(""))]);
    let pipe = project.0.path().join("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(project.run(&["."]).await.stdout, "all good in 1 class (1 file)\n");
    let write = tokio::task::spawn_blocking(move || fs::write(pipe, class_with_parameters("    vaultAdress: x\n")));
    assert!(project.run(&["pipe.yaml"]).await.findings()[0].starts_with("pipe.yaml:10:5: error: vaultAdress: "));
    write.await.unwrap().unwrap();
}
