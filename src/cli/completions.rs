//! `vaultmount completions`: prints a completion script for a shell.

use std::{io, process::ExitCode};

use clap::{Args, builder::Resettable};
use clap_complete::Shell;

/// Flags of `vaultmount completions`.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionsArgs {
    /// Shell to complete in
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script.
#[must_use]
pub fn run(args: CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible_command(), "vaultmount", &mut script);
    super::exit_code(super::ignore_broken_pipe(io::Write::write_all(&mut io::stdout(), &script)))
}

/// Returns the command line without hidden arguments, which the generators would include.
fn visible_command() -> clap::Command {
    let command = super::clap_command();
    let without_hidden = |sub: &clap::Command| {
        // Conflicts are dropped, because they may name an omitted argument.
        let args = sub
            .get_arguments()
            .filter(|arg| !arg.is_hide_set())
            .map(|arg| arg.clone().conflicts_with(Resettable::Reset));
        let about = sub.get_about().cloned().unwrap_or_default();
        clap::Command::new(sub.get_name().to_owned()).about(about).disable_help_flag(true).args(args)
    };
    let subs: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").map(without_hidden).collect();
    clap::Command::new("vaultmount").subcommands(subs)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn script(shell: Shell) -> String {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut visible_command(), "vaultmount", &mut script);
        String::from_utf8(script).unwrap()
    }

    #[test]
    fn completions_contain_only_visible_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = script(shell);
            assert!(script.contains("vault-addr") && script.contains("validate"), "{shell}");
            assert!(!script.contains("openbao-addr"), "{shell}");
        }
    }

    #[test]
    fn bash_completion_completes_commands_and_flags() {
        for (words, expected) in [("vaultmount mou", "mount"), ("vaultmount mount --na", "--namespace")] {
            let run = format!(
                "{}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
                 _vaultmount vaultmount \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\"",
                script(Shell::Bash)
            );
            let output = Command::new("bash").args(["--norc", "-c", &run]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{output:?}");
        }
    }
}
