//! `vaultmount man`: prints the manual, one page with all commands.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap_mangen::Man;

/// Sections that are not derived from flags: environment, files, exit codes, examples.
const TRAILING_SECTIONS: &str = include_str!("man.roff");

/// Prints the page as roff, for `man -l -`.
#[must_use]
pub fn run() -> ExitCode {
    super::exit_code(super::ignore_broken_pipe(render_page().and_then(|page| io::stdout().write_all(&page))))
}

fn render_page() -> io::Result<Vec<u8>> {
    let command = super::clap_command();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).source(concat!("vaultmount ", env!("CARGO_PKG_VERSION")));
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    for command in command.get_subcommands().filter(|c| c.get_name() != "help") {
        writeln!(page, ".SH \"VAULTMOUNT {}\"", command.get_name().to_uppercase())?;
        writeln!(page, "{}.", command.get_about().map(ToString::to_string).unwrap_or_default())?;
        let mut options = Vec::new();
        Man::new(command.clone()).render_options_section(&mut options)?;
        // Headings of flags are subsections of their command.
        page.extend(String::from_utf8_lossy(&options).replace(".SH ", ".SS ").bytes());
    }
    page.extend(TRAILING_SECTIONS.bytes());
    Ok(escape_non_ascii(&String::from_utf8_lossy(&page)).into_bytes())
}

/// Escapes non-ASCII characters, because troff reads bytes.
fn escape_non_ascii(text: &str) -> String {
    let escape = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn man_page_lists_every_command_in_ascii() {
        let page = String::from_utf8(render_page().unwrap()).unwrap();
        for command in super::super::clap_command().get_subcommands().map(|c| c.get_name().to_uppercase()) {
            assert!(command == "HELP" || page.contains(&format!(".SH \"VAULTMOUNT {command}\"")), "{command}");
        }
        for part in [".SH ENVIRONMENT", "VAULT_ADDR", ".SH \"EXIT STATUS\"", ".SH EXAMPLES", "vault\\-addr"] {
            assert!(page.contains(part), "{part}");
        }
        assert!(page.is_ascii() && !page.contains("openbao\\-addr"));
    }
}
