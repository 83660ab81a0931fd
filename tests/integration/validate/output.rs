//! Machine-readable output formats.

use serde_json::Value;

use super::{Project, class_with_parameters};

/// Validates a file with three errors and a warning, under a name that needs escaping, in this output format.
async fn run_with_output(output: &str) -> String {
    let project = Project::with_files(&[
        ("de ploy/a,b:%.yaml", &class_with_parameters("    vaultAdress: x\n    vaultCACert: x\n    auth: 5m\n")),
        ("z.yaml", "# secrets-store.csi\na: [\n"),
    ]);
    let run = project.run(&["--output", output, "."]).await;
    assert_eq!(run.code, 1);
    run.stdout
}

#[tokio::test]
async fn validate_output_text_points_at_the_line() {
    let printed = run_with_output("text").await;
    let begin = "de ploy/a,b:%.yaml:10:5: error: vaultAdress: is unknown and would be ignored; did you mean vaultAddress? [VM0082]\n   |\n10 |     vaultAdress: ***\n   |     ^^^^^^^^^^^\n\n";
    assert!(printed.starts_with(begin), "{printed}");
    assert!(printed.ends_with("\n\n3 errors, 1 warning in 1 class (2 files)\n"), "{printed}");
}

#[tokio::test]
async fn validate_output_json_has_findings_and_counts() {
    let json: Value = serde_json::from_str(&run_with_output("json").await).unwrap();
    let first = &json["findings"][0];
    assert_eq!(first["file"], "de ploy/a,b:%.yaml");
    assert_eq!((&first["line"], &first["column"], &first["end_column"]), (&10.into(), &5.into(), &16.into()));
    assert_eq!((&first["severity"], &first["id"]), (&"error".into(), &"VM0082".into()));
    assert_eq!(first["message"], "vaultAdress: is unknown and would be ignored; did you mean vaultAddress?");
    assert_eq!(first["excerpt"], "    vaultAdress: ***");
    assert_eq!(first["title"], "Unknown parameter or field");
    assert_eq!(json["findings"].as_array().unwrap().len(), 4);
    let summary = serde_json::json!({"errors": 3, "warnings": 1, "files": 2, "classes": 1, "policies": 0, "pods": 0, "skipped": 0, "unreadable": 0});
    assert_eq!(json["summary"], summary);
}

#[tokio::test]
async fn validate_output_github_annotates_each_line() {
    let printed = run_with_output("github").await;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 4, "{printed}");
    assert_eq!(
        lines[0],
        "::error file=de ploy/a%2Cb%3A%25.yaml,line=10,col=5,endColumn=16,title=VM0082 Unknown parameter or field::vaultAdress: is unknown and would be ignored; did you mean vaultAddress?"
    );
    assert!(lines[2].starts_with("::warning file="), "{printed}");
}

/// Requirements of sarif-2.1.0, and of code scanning beyond those.
#[tokio::test]
async fn validate_output_sarif_fits_code_scanning() {
    let sarif: Value = serde_json::from_str(&run_with_output("sarif").await).unwrap();
    assert_eq!((&sarif["version"], sarif["$schema"].is_string()), (&"2.1.0".into(), true));
    let run = &sarif["runs"][0];
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "vaultmount");
    assert_eq!(run["columnKind"], "unicodeCodePoints");
    let rules = driver["rules"].as_array().unwrap();
    for rule in rules {
        for text in [&rule["id"], &rule["name"], &rule["shortDescription"]["text"], &rule["help"]["text"]] {
            assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{rule}");
        }
    }
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert!(["error", "warning"].contains(&result["level"].as_str().unwrap()));
        assert!(result["message"]["text"].is_string());
        let place = &result["locations"][0]["physicalLocation"];
        let region = &place["region"];
        let number = |name: &str| region[name].as_u64().unwrap();
        assert!(number("startLine") >= 1 && number("endLine") == number("startLine"));
        assert!(number("startColumn") >= 1 && number("endColumn") > number("startColumn"));
    }
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "de%20ploy/a%2Cb%3A%25.yaml");
}

#[tokio::test]
async fn validate_output_of_stdin_points_at_no_file() {
    let text = class_with_parameters("    vaultAdress: x\n");
    let project = Project::with_files(&[]);
    let github = project.run_with_stdin(&["-o", "github"], &text).await.stdout;
    let expected = "::error title=VM0082 Unknown parameter or field::<stdin>:10:5: vaultAdress: is unknown and would be ignored; did you mean vaultAddress?\n";
    assert_eq!(github, expected);
    for args in [&["-o", "sarif"][..], &["-o", "sarif", "/dev/stdin"]] {
        let sarif: Value = serde_json::from_str(&project.run_with_stdin(args, &text).await.stdout).unwrap();
        let place = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!((&place["artifactLocation"]["uri"], &place["region"]["startLine"]), (&"stdin".into(), &10.into()));
    }
}

#[tokio::test]
async fn validate_output_without_findings_is_valid() {
    let project = Project::with_files(&[("a.yaml", &class_with_parameters(""))]);
    for (output, shown) in [("text", "all good in 1 class (1 file)\n"), ("github", "")] {
        assert_eq!(project.run(&["-o", output, "a.yaml"]).await.stdout, shown);
    }
    let json: Value = serde_json::from_str(&project.run(&["-o", "json", "a.yaml"]).await.stdout).unwrap();
    assert_eq!(json["findings"], Value::Array(vec![]));
    let sarif: Value = serde_json::from_str(&project.run(&["-o", "sarif", "a.yaml"]).await.stdout).unwrap();
    assert_eq!(sarif["runs"][0]["results"], Value::Array(vec![]));
}
