//! Words: arguments, log lines, tables, exit codes.
//!
//! [`run`] is the whole program. Standard output carries what was asked for, the standard error
//! output log lines and progress; a run that fails ends with one line `ERROR: …`, perhaps a hint,
//! and exit code 1.

mod args;
mod argv;
mod commands;
mod completions;
mod config_args;
mod dss;
mod dss_restore;
mod dss_wipe;
mod exit_code;
mod help;
mod hide_password;
mod log_file;
mod log_options;
mod logging;
mod man;
mod manage;
mod not_yet;
mod option_table;
mod options;
mod password;
mod progress;
mod render;
mod render_archive;
mod shared_args;
mod signals;
mod suggest;
mod target_args;

pub use exit_code::ExitCode;
pub use password::ask_password;

use crate::command::{self, Error};
use crate::format::catalog::{LogLevel, printable};
use args::{Environment, Prepared, Request};
use hide_password::Hidden;
use log_file::LogFileError;
use log_options::LogOptions;
use logging::Console;
use options::{Options, PROGRAM, UsageError};
use progress::Progress;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::OsString;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Commands of the original that are recognised and refused.
const NOT_YET: &[&str] = &["agent"];

/// What to do about a log file that cannot be used.
const LOG_HINT: &str = "mend that, name another place with --log-directory, or run without a log \
                        file: --log-level-file=off";

/// The program as a process: [`run`] with the arguments that it was started with. A password among
/// them leaves the list of processes first.
pub fn main() -> ExitCode {
    let console = Console::new(LogLevel::Info);
    let words = match hide_password::hide(std::env::args_os().collect()) {
        Ok(Hidden::Words(words)) => words,
        Ok(Hidden::Visible(words, error)) => {
            let text = format!(
                "the password stays visible in the list of processes: {}",
                chain(&error)
            );
            console.log(LogLevel::Warning, &text);
            words
        }
        Err(error) => {
            let text = format!("cannot take over the password: {}", chain(&error));
            console.log(LogLevel::Error, &text);
            return ExitCode::Failure;
        }
    };
    run(words)
}

/// Runs the program: `words` are its arguments without its name.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = words.into_iter().collect::<Vec<_>>();
    let console = Console::new(LogLevel::Info);
    console.install();
    raise_open_files();
    match dispatch(&words, &console) {
        Ok(()) => ExitCode::Success,
        Err(failure) => {
            failure.report(&console);
            ExitCode::Failure
        }
    }
}

// A restore opens a file in each backup of a chain, for some dozens of files at a time: more than
// the usual limit of 1024, which is meant for programs that use select.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("cannot raise the limit of open files: {error}");
    }
}

/// Why the program ends with code 1.
#[derive(Debug)]
enum Failure {
    Usage(UsageError),
    Command(Error),
    Log(LogFileError),
    Output(std::io::Error),
}

impl Failure {
    fn report(&self, console: &Console) {
        match self {
            Failure::Usage(error) => {
                if let Some(preface) = &error.preface {
                    console.line(preface);
                }
                console.log(LogLevel::Error, &error.message);
                if let Some(hint) = &error.hint {
                    console.hint(hint);
                }
            }
            Failure::Command(error) => {
                console.log(LogLevel::Error, &chain(error));
                if let Some(hint) = error.hint().or_else(|| space_hint(error)) {
                    console.hint(&hint);
                }
            }
            Failure::Log(error) => {
                console.log(LogLevel::Error, &chain(error));
                console.hint(LOG_HINT);
            }
            Failure::Output(error) => {
                let text = format!("cannot write to the standard output: {}", chain(error));
                console.log(LogLevel::Error, &text);
            }
        }
    }
}

// A full disk shows in many places, and what to do is the same in all.
fn space_hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    let is_full = causes.any(|cause| {
        let system = cause.downcast_ref::<std::io::Error>();
        system.is_some_and(|system| system.kind() == std::io::ErrorKind::StorageFull)
    });
    is_full.then(|| "free space there and run the command again".to_owned())
}

// An error and its causes in one line, system messages without the number that Rust appends.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let mut part = error.to_string();
        if let Some(end) = part.find(" (os error ") {
            part.truncate(end);
        }
        // A transparent error has the text of its cause.
        if !text.ends_with(&part) {
            if !text.is_empty() {
                // Some texts of the original are sentences.
                let sentence = text.trim_end_matches('.').len();
                text.truncate(sentence);
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Failure {
        Failure::Usage(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Command(error)
    }
}

fn dispatch(words: &[OsString], console: &Console) -> Result<(), Failure> {
    let Some((first, rest)) = words.split_first() else {
        return Err(Failure::Usage("No subcommand specified".to_owned().into()));
    };
    let command = first.to_string_lossy();
    match &*command {
        "help" | "--help" | "-?" => {
            let topic = rest.first().map(|word| word.to_string_lossy());
            return output(&help::page(topic.as_deref()));
        }
        "version" | "--version" | "-V" => return output(&help::version()),
        "completions" if rest.first().is_some_and(|word| word != "--help") => {
            return output(&completion_script(&rest[0].to_string_lossy())?);
        }
        "man" => {
            let topic = rest.first().map(|word| word.to_string_lossy());
            return output(&man_page(topic.as_deref())?);
        }
        _ => {}
    }
    if NOT_YET.contains(&&*command) {
        let message = format!("{command} is not supported yet");
        return Err(Failure::Usage(message.into()));
    }
    if commands::named(&command).is_none() {
        return Err(Failure::Usage(unknown_command(&command)));
    }
    let options = Options::parse(rest)?;
    if options.flag("help") {
        return output(&help::page(Some(&command)));
    }
    if let Some(level) = options
        .text("log-level-console")
        .and_then(LogLevel::from_prefix)
    {
        console.set_level(level);
    }
    if options.is_given("password") || std::env::var_os("PGPASSWORD").is_some() {
        password::no_core_files();
    }
    let request = Request {
        command: &command,
        options: &options,
        environment: &Environment::read(),
        cancel: &signals::cancel_on_signals(),
    };
    if let Some(files) = LogOptions::of(&request)? {
        let line = format!("{PROGRAM} {}", argv::printable_line(words));
        console.log_to_files(files, &line).map_err(Failure::Log)?;
    }
    run_command(&request, console)
}

fn unknown_command(command: &str) -> UsageError {
    let names = commands::COMMANDS.iter().map(|command| command.name);
    UsageError {
        preface: None,
        message: format!("Unknown subcommand \"{}\"", printable(command)),
        hint: suggest::hint("", command, names.chain(["help", "version"])),
    }
}

fn completion_script(shell: &str) -> Result<String, UsageError> {
    completions::script(shell).ok_or_else(|| {
        let shells = completions::SHELLS.join(", ");
        let shell = printable(shell);
        format!("no completions for \"{shell}\": there are those for {shells}").into()
    })
}

fn man_page(topic: Option<&str>) -> Result<String, UsageError> {
    let Some(topic) = topic else {
        return Ok(man::page(None));
    };
    let command = commands::named(topic).ok_or_else(|| unknown_command(topic))?;
    Ok(man::page(Some(command)))
}

fn run_command(request: &Request<'_>, console: &Console) -> Result<(), Failure> {
    match request.command {
        "init" => command::init::run(&request.init()?)?,
        "add-instance" => command::add_instance::run(&request.add_instance()?)?,
        "set-config" => command::set_config::run(&request.set_config()?)?,
        "del-instance" => {
            let prepared = request.del_instance()?;
            let progress = start(request, console, &prepared);
            command::del_instance::run(&prepared.options, &progress)?;
        }
        "show-config" => {
            let (options, json) = request.show_config()?;
            let settings = command::show_config::run(&options);
            return output(&render::settings(&settings, json));
        }
        "show" => {
            let (options, json) = request.show()?;
            if request.options.flag("archive") {
                return show_archive(&options, json);
            }
            return show(&options, json);
        }
        "backup" => {
            let prepared = request.backup()?;
            let progress = start(request, console, &prepared);
            command::backup::run(&prepared.options, &progress)?;
        }
        "restore" => {
            let prepared = request.restore()?;
            let progress = start(request, console, &prepared);
            command::restore::run(&prepared.options, &progress)?;
        }
        "set-backup" => command::set_backup::run(&request.set_backup()?)?,
        "delete" => {
            let prepared = request.delete()?;
            let progress = start(request, console, &prepared);
            command::delete::run(&prepared.options, &progress)?;
        }
        "merge" => {
            let prepared = request.merge()?;
            let progress = start(request, console, &prepared);
            command::merge::run(&prepared.options, &progress)?;
        }
        "validate" => {
            let prepared = request.validate()?;
            let progress = start(request, console, &prepared);
            command::validate::run(&prepared.options, &progress)?;
        }
        "dss" => return dss::run(request),
        "dss-restore" => {
            let prepared = request.dss_restore()?;
            let progress = start(request, console, &prepared);
            return dss_restore::run(request, &prepared.options, &progress);
        }
        "completions" => {
            let shells = completions::SHELLS.join(", ");
            let message = format!("name the shell: {shells}");
            return Err(Failure::Usage(message.into()));
        }
        _ => {
            let prepared = request.demo()?;
            let progress = start(request, console, &prepared);
            let report = command::demo::run(&prepared.options, &progress)?;
            return output(&render::demo(&report));
        }
    }
    Ok(())
}

// The monitor of a run. The level of the instance's file counts where the command line has none.
fn start<T>(request: &Request<'_>, console: &Console, prepared: &Prepared<T>) -> Progress {
    if let Some(level) = prepared.log_level
        && !request.options.is_given("log-level-console")
    {
        console.set_level(level);
    }
    Progress::new(console, prepared.progress)
}

fn show(options: &command::show::Options, json: bool) -> Result<(), Failure> {
    let report = command::show::run(options)?;
    if options.backup_id.is_some() && report.instances.iter().all(|i| i.backups.is_empty()) {
        return Ok(());
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0);
    let text = if json {
        render::json(&report)
    } else if options.backup_id.is_some() {
        render::one_backup(&report)
    } else if options.instance.is_some() {
        report
            .instances
            .iter()
            .map(|instance| render::one_instance(instance, now))
            .collect()
    } else {
        render::all_instances(&report, now)
    };
    output(&text)
}

fn show_archive(options: &command::show::Options, json: bool) -> Result<(), Failure> {
    let report = command::show_archive::run(&command::show_archive::Options {
        catalog: options.catalog.clone(),
        instance: options.instance.clone(),
    })?;
    output(&if json {
        render_archive::json(&report)
    } else {
        render_archive::plain(&report)
    })
}

fn output(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        // Whoever reads has seen enough, as in `gs_probackup show | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Failure::Output),
    }
}
