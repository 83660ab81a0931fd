//! Transcripts in the documentation: commands with their output.

use super::{markdown::Block, sandbox::Sandbox};

/// Runs a block's first line, and compares its output with the other lines.
pub async fn check_transcript(world: &Sandbox, place: &str, block: &Block) {
    let (command, shown) = block.text.split_once('\n').unwrap();
    let ran = world.run(&command[2..]).await;
    let printed = world.with_docs_addresses(&ran.stdout);
    let (shown, printed) = (normalized_lines(shown), normalized_lines(&printed));
    let mut rest = printed.iter();
    let mut skips = false;
    for line in &shown {
        if line == "…" {
            skips = true;
            continue;
        }
        let found = if skips {
            rest.any(|other| line_matches(line, other))
        } else {
            rest.next().is_some_and(|o| line_matches(line, o))
        };
        assert!(
            found,
            "{place}: this line is not printed:\n{line}\nby `{command}`, which prints\n{}\n{}",
            printed.join("\n"),
            ran.stderr
        );
        skips = false;
    }
    assert!(skips || rest.next().is_none(), "{place}: more is printed:\n{}", printed.join("\n"));
}

/// Returns true if a printed line matches a shown one; `…` at the end of the shown line matches any rest.
fn line_matches(shown: &str, printed: &str) -> bool {
    match shown.strip_suffix('…') {
        Some(start) => printed.starts_with(start.trim_end()),
        None => shown == printed,
    }
}

/// Returns the lines with `~` in place of times, versions and IDs, which vary from run to run.
fn normalized_lines(text: &str) -> Vec<String> {
    text.trim_end()
        .lines()
        // A duration may have two words.
        .map(|line| line.split_whitespace().map(mask_variable_part).collect::<Vec<_>>().join(" ").replace("~ ~", "~"))
        .collect()
}

fn mask_variable_part(word: &str) -> String {
    let bare = word.trim_matches([',', ';', ':', '.', '(', ')', '"']);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let duration = bare.len() > 1 && bare.ends_with(['s', 'm', 'h', 'd']) && digits(&bare[..bare.len() - 1]);
    let version = bare.split('.').count() == 3 && bare.split('.').all(digits);
    let moment = bare.len() >= 20 && bare.ends_with('Z') && bare.contains('T');
    let hash = bare.len() == 44 && bare.ends_with('=');
    let id = bare.len() == 36 && bare.matches('-').count() == 4;
    if duration || version || moment || hash || id { word.replace(bare, "~") } else { word.to_owned() }
}
