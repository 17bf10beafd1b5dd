//! Completions for bash, zsh and fish, made from the tables of commands and options.
//!
//! Commands, options and the values of options that have only a few are completed, files and
//! directories where an option names one, and nothing of what is in a catalog: reading it takes
//! time and rights that whoever presses a key may not have.

use super::commands::{COMMANDS, CommandSpec};
use super::dss;
use super::help::options_of;
use super::option_table::{OptionSpec, Takes};
use super::options::PROGRAM;
use std::fmt::Write;

/// Shells that there are completions for.
pub(super) const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// What a shell has to run; `None` for a shell that is not among [`SHELLS`].
pub(super) fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// What an option's value can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Values {
    /// One of these.
    Words(&'static str),
    /// A file or directory.
    Path,
    /// Anything.
    Free,
}

fn values(option: &OptionSpec) -> Values {
    const LEVELS: &str = "off error warning info log verbose";
    match option.long {
        "backup-mode" => Values::Words("FULL PTRACK DELTA"),
        "compress-algorithm" => Values::Words("zlib lz4 zstd pglz none"),
        "log-level-console" | "log-level-file" => Values::Words(LEVELS),
        "format" => Values::Words("plain json"),
        "incremental-mode" => Values::Words("none checksum lsn"),
        "io-engine" => Values::Words("auto ring sync"),
        "recovery-target-inclusive" => Values::Words("true false"),
        "status" => Values::Words("OK DONE RUNNING MERGING DELETING CORRUPT ERROR ORPHAN"),
        "backup-path" | "pgdata" | "external-dirs" | "log-directory" | "pghost" | "dir"
        | "dss-conf" => Values::Path,
        _ => Values::Free,
    }
}

fn names() -> String {
    let names = COMMANDS.iter().map(|command| command.name);
    names
        .chain(["help", "version"])
        .collect::<Vec<_>>()
        .join(" ")
}

/// Words that a command takes besides options.
fn operands(command: &CommandSpec) -> &'static [&'static str] {
    match command.name {
        "completions" => &SHELLS,
        "dss" => &dss::ACTIONS,
        _ => &[],
    }
}

/// The options of a command, and `--help`.
fn offered(command: &CommandSpec) -> Vec<&'static OptionSpec> {
    let help = super::option_table::named("help").expect("the table has it");
    options_of(command).chain([help]).collect()
}

/// Options of all commands, each once.
fn all_offered() -> Vec<&'static OptionSpec> {
    let mut all: Vec<&OptionSpec> = COMMANDS.iter().flat_map(offered).collect();
    all.sort_unstable_by_key(|option| option.long);
    all.dedup_by_key(|option| option.long);
    all
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a string takes everything");
    text.push('\n');
}

fn bash() -> String {
    let mut text = format!(
        "# Completions of {PROGRAM} for bash.\n\
         _{PROGRAM}() {{\n    \
         local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} options\n    \
         COMPREPLY=()\n    \
         if ((COMP_CWORD == 1)); then\n        \
         COMPREPLY=($(compgen -W '{names}' -- \"$word\"))\n        return\n    fi\n    \
         # A value after an equals sign comes as a word of its own.\n    \
         [[ $word == = ]] && word=\n    \
         [[ $before == = ]] && before=${{COMP_WORDS[COMP_CWORD-2]}}\n    \
         case $before in\n",
        names = names()
    );
    for option in all_offered() {
        let pattern = match option.short {
            Some('?') | None => format!("--{}", option.long),
            Some(short) => format!("-{short}|--{}", option.long),
        };
        let reply = match values(option) {
            _ if option.takes == Takes::Flag => continue,
            Values::Words(words) => format!("compgen -W '{words}' -- \"$word\""),
            Values::Path => "compgen -f -- \"$word\"".to_owned(),
            Values::Free => {
                push(&mut text, format_args!("    {pattern}) return ;;"));
                continue;
            }
        };
        push(
            &mut text,
            format_args!("    {pattern}) COMPREPLY=($({reply})); return ;;"),
        );
    }
    text.push_str("    esac\n    case ${COMP_WORDS[1]} in\n");
    for command in COMMANDS {
        let mut options: Vec<String> = offered(command)
            .iter()
            .map(|option| format!("--{}", option.long))
            .collect();
        options.extend(operands(command).iter().map(|word| (*word).to_owned()));
        push(
            &mut text,
            format_args!("    {}) options='{}' ;;", command.name, options.join(" ")),
        );
    }
    push(
        &mut text,
        format_args!("    help) options='{}' ;;", names()),
    );
    text + &format!(
        "    esac\n    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n}}\n\
         complete -o filenames -F _{PROGRAM} {PROGRAM}\n"
    )
}

/// Text in single quotes for zsh and fish. Neither needs more than this for what the tables have.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn zsh() -> String {
    let mut text = format!("#compdef {PROGRAM}\n# Completions of {PROGRAM} for zsh.\n");
    push(
        &mut text,
        format_args!("_{PROGRAM}() {{\n    local -a commands\n    commands=("),
    );
    for command in COMMANDS {
        let line = quoted(&format!("{}:{}", command.name, command.summary));
        push(&mut text, format_args!("        {line}"));
    }
    push(
        &mut text,
        format_args!(
            "        'help:show help'\n        'version:show the version'\n    )\n    \
             if ((CURRENT == 2)); then\n        _describe command commands\n        return\n    \
             fi\n    case $words[2] in"
        ),
    );
    for command in COMMANDS {
        push(
            &mut text,
            format_args!("    {})\n        _arguments \\", command.name),
        );
        for option in offered(command) {
            for name in zsh_names(option) {
                push(
                    &mut text,
                    format_args!("            {} \\", zsh_spec(option, &name)),
                );
            }
        }
        let rest = match command.name {
            "completions" => format!("'2:shell:({})'", SHELLS.join(" ")),
            "dss" => format!("'2:action:({})' '*:file:_files'", dss::ACTIONS.join(" ")),
            _ => "'*:'".to_owned(),
        };
        push(&mut text, format_args!("            {rest}\n        ;;"));
    }
    text + &format!(
        "    help) _describe command commands ;;\n    esac\n}}\n\
         compdef _{PROGRAM} {PROGRAM}\n"
    )
}

fn zsh_names(option: &OptionSpec) -> Vec<String> {
    let value = if option.takes == Takes::Flag { "" } else { "=" };
    let long = format!("--{}{value}", option.long);
    match option.short {
        Some('?') | None => vec![long],
        // A letter's value may follow at once or as the next word.
        Some(short) if option.takes == Takes::Flag => vec![format!("-{short}"), long],
        Some(short) => vec![format!("-{short}+"), long],
    }
}

fn zsh_spec(option: &OptionSpec, name: &str) -> String {
    let help = option
        .help
        .replace('[', "\\[")
        .replace(']', "\\]")
        .replace(':', "\\:");
    let many = if option.takes == Takes::Texts {
        "*"
    } else {
        ""
    };
    let value = match values(option) {
        _ if option.takes == Takes::Flag => String::new(),
        Values::Words(words) => format!(":{}:({words})", option.long),
        Values::Path => format!(":{}:_files", option.long),
        Values::Free => format!(":{}: ", option.long),
    };
    quoted(&format!("{many}{name}[{help}]{value}"))
}

fn fish() -> String {
    let mut text = format!("# Completions of {PROGRAM} for fish.\ncomplete -c {PROGRAM} -f\n");
    let head = format!("complete -c {PROGRAM} -n");
    for command in COMMANDS {
        let summary = quoted(command.summary);
        push(
            &mut text,
            format_args!(
                "{head} __fish_use_subcommand -a {} -d {summary}",
                command.name
            ),
        );
    }
    for command in COMMANDS {
        let when = format!("{head} '__fish_seen_subcommand_from {}'", command.name);
        for option in offered(command) {
            let mut line = format!("{when} -l {}", option.long);
            if let Some(short) = option.short.filter(|short| *short != '?') {
                write!(line, " -s {short}").expect("a string takes everything");
            }
            match values(option) {
                _ if option.takes == Takes::Flag => {}
                Values::Words(words) => {
                    write!(line, " -x -a '{words}'").expect("a string takes everything");
                }
                Values::Path => line.push_str(" -r -F"),
                Values::Free => line.push_str(" -x"),
            }
            push(&mut text, format_args!("{line} -d {}", quoted(option.help)));
        }
        let words = operands(command);
        if !words.is_empty() {
            push(&mut text, format_args!("{when} -a '{}'", words.join(" ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_every_command_and_option() {
        for shell in SHELLS {
            let text = script(shell).unwrap();
            for command in COMMANDS {
                assert!(text.contains(command.name), "{shell} {}", command.name);
            }
            for option in all_offered() {
                let name = match shell {
                    "fish" => format!(" -l {}", option.long),
                    _ => format!("--{}", option.long),
                };
                assert!(text.contains(&name), "{shell} {name}");
            }
        }
        assert_eq!(script("tcsh"), None);
    }
}
