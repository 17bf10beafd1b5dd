//! Help and version texts, made from the tables of commands and options.

use super::commands::{self, COMMANDS, CommandSpec};
use super::dss::ACTIONS;
use super::option_table::{self, Group, OptionSpec};
use super::options::PROGRAM;
use crate::format::catalog::printable;
use std::fmt::Write;

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Where the description of an option begins.
const DESCRIPTION: usize = 35;
/// Where further lines of a synopsis begin, as the original's.
const SYNOPSIS: usize = 17;

const CLOSING: &str = "
Every option of the original gs_probackup is accepted by every command. One
that this build does not honour yet (remote hosts, shared storage, object
stores, encryption) ends the run with an error that says so.

gs_probackup help COMMAND shows the options of a command and examples.
";

/// The help of a subcommand, or of the program.
pub(super) fn page(topic: Option<&str>) -> String {
    let Some(topic) = topic else {
        return program();
    };
    if let Some(command) = commands::named(topic) {
        return command_page(command);
    }
    if matches!(topic, "help" | "version") {
        return format!("No help page for \"{topic}\" command. Try {PROGRAM} help\n");
    }
    let topic = printable(topic);
    format!("Unknown command \"{topic}\". Try {PROGRAM} help\n")
}

fn program() -> String {
    let mut text = format!(
        "\n{PROGRAM} - utility to manage backup/recovery of openGauss database.\n\n  \
         {PROGRAM} help [COMMAND]\n\n  {PROGRAM} version\n"
    );
    for command in COMMANDS {
        text.push('\n');
        for line in synopsis(command, 2).lines() {
            writeln!(text, "  {line}").expect("a string takes everything");
        }
        writeln!(text, "{:SYNOPSIS$}[--help]", "").expect("a string takes everything");
    }
    text.push_str("\nCommands:\n");
    for command in COMMANDS {
        writeln!(text, "  {:<14}{}", command.name, command.summary)
            .expect("a string takes everything");
    }
    text + CLOSING
}

fn command_page(command: &CommandSpec) -> String {
    let mut text = format!("\n{}\n\n", synopsis(command, 0));
    text.push_str(&wrapped(command.about, 0));
    text.push_str("\n\n");
    for group in groups(command) {
        if let Some(title) = group.title() {
            writeln!(text, "\n  {title}:").expect("a string takes everything");
        }
        for option in options_of(command).filter(|option| option.group == group) {
            text.push_str(&option_lines(option));
        }
    }
    text.push_str("\nExamples:\n");
    for (purpose, line) in command.examples {
        let line = broken(&format!("{PROGRAM} {line}"));
        writeln!(text, "  # {purpose}\n{line}").expect("a string takes everything");
    }
    text
}

/// The options that a command offers: those that it needs, then the others.
pub(super) fn options_of(command: &CommandSpec) -> impl Iterator<Item = &'static OptionSpec> {
    command
        .required
        .iter()
        .chain(command.options)
        .map(|option| option_table::named(option).expect("commands offer options that there are"))
}

/// The groups in which a command has options, in the order of its page.
pub(super) fn groups(command: &CommandSpec) -> Vec<Group> {
    let mut groups: Vec<Group> = options_of(command).map(|option| option.group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// How an option is written in a synopsis.
fn usage(option: &OptionSpec) -> String {
    match (option.short, option.value) {
        (Some(short), "") => format!("-{short}"),
        (Some(short), value) => format!("-{short} {value}"),
        (None, "") => format!("--{}", option.long),
        (None, value) => format!("--{}={value}", option.long),
    }
}

/// The parts of a synopsis after the command's name. Options of a titled group are one part.
pub(super) fn synopsis_parts(command: &CommandSpec) -> Vec<String> {
    let required = command
        .required
        .iter()
        .filter_map(|option| option_table::named(option));
    let mut parts: Vec<String> = required.map(usage).collect();
    match command.name {
        "completions" => parts.push("bash|zsh|fish".to_owned()),
        "dss" => parts.push(format!("{} [PATH...]", ACTIONS.join("|"))),
        _ => {}
    }
    let mut titles = Vec::new();
    for option in command
        .options
        .iter()
        .filter_map(|option| option_table::named(option))
    {
        match option.group.title() {
            None => parts.push(format!("[{}]", usage(option))),
            Some(title) if !titles.contains(&title) => titles.push(title),
            Some(_) => {}
        }
    }
    parts.extend(
        titles
            .iter()
            .map(|title| format!("[{}]", title.to_lowercase())),
    );
    parts
}

fn synopsis(command: &CommandSpec, indent: usize) -> String {
    let mut text = format!("{PROGRAM} {}", command.name);
    let mut column = indent + text.len();
    for part in synopsis_parts(command) {
        if column + 1 + part.len() >= WIDTH {
            let start = SYNOPSIS - indent;
            write!(text, "\n{:start$}{part}", "").expect("a string takes everything");
            column = SYNOPSIS + part.len();
        } else {
            write!(text, " {part}").expect("a string takes everything");
            column += 1 + part.len();
        }
    }
    text
}

fn option_lines(option: &OptionSpec) -> String {
    let mut left = match option.short {
        Some(short) => format!("  -{short}, --{}", option.long),
        None => format!("      --{}", option.long),
    };
    if !option.value.is_empty() {
        write!(left, "={}", option.value).expect("a string takes everything");
    }
    let help = wrapped(option.help, DESCRIPTION);
    if left.len() + 1 < DESCRIPTION {
        format!("{left:<DESCRIPTION$}{}\n", help.trim_start())
    } else {
        format!("{left}\n{:DESCRIPTION$}{}\n", "", help.trim_start())
    }
}

/// The text in lines that end before the last column, each begun at `column`.
fn wrapped(text: &str, column: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_ascii_whitespace() {
        let last = lines.last_mut().expect("there is a first line");
        if !last.is_empty() && column + last.len() + 1 + word.len() >= WIDTH {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines.join(&format!("\n{:column$}", ""))
}

/// A command line as a shell takes it, broken where it would be too wide.
fn broken(line: &str) -> String {
    let mut text = "  ".to_owned();
    let mut column = 2;
    for word in line.split(' ') {
        if column > 2 && column + 1 + word.len() >= WIDTH - 2 {
            text.push_str(" \\\n      ");
            column = 6;
        } else if column > 2 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text
}

/// The program and its version.
pub(super) fn version() -> String {
    format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_fits_a_terminal_of_80_columns() {
        let pages = COMMANDS.iter().map(|command| page(Some(command.name)));
        for text in pages.chain([page(None)]) {
            for line in text.lines() {
                assert!(line.chars().count() < WIDTH, "{line}");
                assert_eq!(line, line.trim_end(), "{line:?}");
            }
        }
    }

    #[test]
    fn the_page_of_a_command_has_its_options_in_groups_and_examples() {
        let text = page(Some("validate"));
        let expected = "
gs_probackup validate -B backup-path [--instance=instance_name] [-i backup-id]
                 [--skip-block-validation] [-j threads_num] [--progress]
                 [--io-engine=engine] [recovery options] [logging options]

Reads backups and checks every page, file and record of them. A backup that is
damaged becomes CORRUPT, those that grow on it ORPHAN; the exit code is 1 then.

  -B, --backup-path=backup-path    directory of the backup catalog (default:
                                   environment variable BACKUP_PATH)
      --instance=instance_name     name of the instance
";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\n\n  Logging options:\n      --log-level-console="));
        assert!(text.contains("\nExamples:\n  # all that is there\n  gs_probackup validate -B"));
    }

    #[test]
    fn the_list_names_every_command() {
        let text = page(None);
        for command in COMMANDS {
            assert!(text.contains(&format!("\n  {PROGRAM} {}", command.name)));
            assert!(text.contains(&format!("\n  {:<14}{}\n", command.name, command.summary)));
        }
    }
}
