//! Man pages in roff, made from the tables of commands and options.

use super::commands::{COMMANDS, CommandSpec};
use super::help::{groups, options_of, synopsis_parts};
use super::option_table::OptionSpec;
use super::options::PROGRAM;
use std::fmt::Write;

/// The page of a command, or of the program.
pub(super) fn page(command: Option<&CommandSpec>) -> String {
    command.map_or_else(program, command_page)
}

fn head(name: &str, summary: &str) -> String {
    format!(
        ".TH {} 1 \"\" \"{PROGRAM} {}\" \"openGauss backups\"\n.SH NAME\n{} \\- {}\n",
        roff(name).to_uppercase(),
        env!("CARGO_PKG_VERSION"),
        roff(name),
        roff(summary)
    )
}

fn command_page(command: &CommandSpec) -> String {
    let mut text = head(&format!("{PROGRAM}-{}", command.name), command.summary);
    text.push_str(".SH SYNOPSIS\n");
    let mut line = format!("\\fB{} {}\\fR", roff(PROGRAM), roff(command.name));
    for part in synopsis_parts(command) {
        write!(line, " {}", roff(&part)).expect("a string takes everything");
    }
    write!(
        text,
        "{line}\n.SH DESCRIPTION\n{}\n",
        roff(&squeezed(command.about))
    )
    .expect("a string takes everything");
    for group in groups(command) {
        let title = group.title().unwrap_or("Options").to_uppercase();
        writeln!(text, ".SH {}", roff(&title)).expect("a string takes everything");
        for option in options_of(command).filter(|option| option.group == group) {
            text.push_str(&option_paragraph(option));
        }
    }
    text.push_str(".SH EXAMPLES\n");
    for (purpose, line) in command.examples {
        let line = roff(&squeezed(&format!("{PROGRAM} {line}")));
        write!(text, ".TP\n{}\n.B {line}\n", roff(purpose)).expect("a string takes everything");
    }
    text.push_str(EXIT_STATUS);
    writeln!(text, ".SH SEE ALSO\n.BR {} (1)", roff(PROGRAM)).expect("a string takes everything");
    text
}

const EXIT_STATUS: &str = ".SH EXIT STATUS\n0 if all was done, 1 if not; the last line of the \
                           standard error output says why.\n";

fn program() -> String {
    let mut text = head(PROGRAM, "backup and recovery of openGauss databases");
    write!(
        text,
        ".SH SYNOPSIS\n\\fB{name}\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.br\n\
         \\fB{name} help\\fR [\\fICOMMAND\\fR]\n.br\n\\fB{name} version\\fR\n\
         .SH DESCRIPTION\nMakes and keeps backups of openGauss clusters in a catalog, a directory \
         that the original gs_probackup reads and writes too.\n.SH COMMANDS\n",
        name = roff(PROGRAM)
    )
    .expect("a string takes everything");
    for command in COMMANDS {
        let page = roff(&format!("{PROGRAM}-{}", command.name));
        write!(text, ".TP\n.BR {page} (1)\n{}\n", roff(command.summary))
            .expect("a string takes everything");
    }
    text.push_str(
        ".SH OPTIONS\nEvery command accepts every option of the original; its page lists those \
         that have an effect. Long options may be shortened as long as one is meant. One that \
         this build does not honour yet ends the run with an error that says so.\n\
         .SH ENVIRONMENT\n.TP\n.B BACKUP_PATH\nthe catalog, where \\-B is not given\n\
         .TP\n.B PGDATA\nthe data directory, where neither \\-D nor the instance names one\n\
         .TP\n.B PGDATABASE, PGHOST, PGPORT, PGUSER, PGPASSWORD, PGPASSFILE\n\
         how a server is reached\n\
         .SH FILES\n.TP\n.I backups/INSTANCE/pg_probackup.conf\nsettings of an instance in the \
         catalog; see set\\-config\n",
    );
    text.push_str(EXIT_STATUS);
    text
}

fn option_paragraph(option: &OptionSpec) -> String {
    let value = roff(option.value);
    let long = roff(&format!("--{}", option.long));
    let mut names = match option.short {
        Some(short) if value.is_empty() => format!("\\fB\\-{short}\\fR, \\fB{long}\\fR"),
        Some(short) => format!("\\fB\\-{short}\\fR \\fI{value}\\fR, \\fB{long}\\fR"),
        None => format!("\\fB{long}\\fR"),
    };
    if !value.is_empty() {
        write!(names, "=\\fI{value}\\fR").expect("a string takes everything");
    }
    format!(".TP\n{names}\n{}\n", roff(&squeezed(option.help)))
}

// Text from the tables has single blanks.
fn squeezed(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text so that roff prints it as it is.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    // At the start of a line these are requests.
    match text.chars().next() {
        Some('.' | '\'') => format!("\\&{text}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands;

    #[test]
    fn a_page_has_every_option_of_its_command_and_no_line_is_taken_for_a_request() {
        for command in COMMANDS {
            let text = page(Some(command));
            for option in options_of(command) {
                let long = roff(&format!("--{}", option.long));
                assert!(text.contains(&format!("\\fB{long}\\fR")), "{long}");
            }
            for line in text.lines().filter(|line| line.starts_with('.')) {
                let request = line.split(' ').next().unwrap();
                assert!(
                    [".TH", ".SH", ".TP", ".B", ".BR"].contains(&request),
                    "{line}"
                );
            }
        }
        let text = page(commands::named("backup"));
        assert!(text.contains(".TP\n\\fB\\-j\\fR \\fIthreads_num\\fR, \\fB\\-\\-threads\\fR="));
    }
}
