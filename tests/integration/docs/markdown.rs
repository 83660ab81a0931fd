//! A page of the documentation: its prose and its runnable blocks.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A Markdown file, by its path relative to the project.
pub struct Page {
    pub path: String,
    pub text: String,
}

/// A fenced block.
pub struct Block {
    pub language: String,
    /// Number of its first line, counted from 1.
    pub line: usize,
    pub text: String,
}

/// Returns the project's directory.
pub fn project_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every page: the README and the files below `docs`, except the book's table of contents.
pub fn all_pages() -> Vec<Page> {
    let mut paths: Vec<String> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned).into();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(project_root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") && !path.ends_with("SUMMARY.md") {
                paths.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

impl Page {
    pub fn read(path: &str) -> Self {
        Self { path: path.to_owned(), text: fs::read_to_string(project_root().join(path)).unwrap() }
    }

    /// Returns the fenced blocks in order; fences may be indented.
    pub fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut open): (Vec<Block>, Option<(usize, Block)>) = (Vec::new(), None);
        for (n, line) in self.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (None, Some(language)) => {
                    let block = Block { language: language.trim().to_owned(), line: n + 2, text: String::new() };
                    open = Some((indent, block));
                }
                (Some(_), Some("")) => blocks.push(open.take().unwrap().1),
                (Some((indent, block)), _) => {
                    block.text.push_str(line.get(*indent..).unwrap_or_default());
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fence is open at the end", self.path);
        blocks
    }

    /// Returns the lines outside of fenced blocks.
    fn prose(&self) -> String {
        let mut fenced = false;
        let outside = self.text.lines().filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        });
        outside.collect::<Vec<_>>().join("\n")
    }

    /// Returns the text between backticks, with line breaks as spaces.
    pub fn code_spans(&self) -> Vec<String> {
        let prose = self.prose();
        let in_paragraph = |text: &str| -> Vec<String> {
            text.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ").replace("\\|", "|")).collect()
        };
        prose.split("\n\n").flat_map(in_paragraph).collect()
    }

    /// Returns the link targets.
    pub fn links(&self) -> Vec<String> {
        let without_code: String =
            self.prose().split("\n\n").map(|p| p.split('`').step_by(2).collect::<String>() + "\n\n").collect();
        without_code.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
    }

    /// Returns the anchors of the page: those that forges and mdBook derive from headings, and explicit ones.
    pub fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        let own = prose.split("<a id=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        headings.map(|line| heading_anchor(line.trim_start_matches('#'))).chain(own).collect()
    }
}

/// Returns the anchor of a heading.
fn heading_anchor(heading: &str) -> String {
    let heading = heading.split("</a>").last().unwrap().trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
