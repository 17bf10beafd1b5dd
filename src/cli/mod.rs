//! Words: arguments, log lines, tables, exit codes.
//!
//! [`run`] is the whole program. Standard output carries what was asked for, the standard error
//! output log lines and progress; a run that fails ends with one line `ERROR: …`, perhaps a hint,
//! and exit code 1.

mod args;
mod exit_code;
mod help;
mod logging;
mod options;
mod progress;
mod render;

pub use exit_code::ExitCode;

use crate::command::{self, Error};
use crate::format::catalog::{LogLevel, printable};
use args::{Environment, Prepared, Request};
use logging::Console;
use options::{Options, UsageError};
use progress::Progress;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use std::ffi::OsString;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

/// Commands of the original that are recognised and refused.
const NOT_YET: [&str; 6] = [
    "del-instance",
    "delete",
    "set-config",
    "set-backup",
    "show-config",
    "agent",
];

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
            }
            Failure::Command(error) => {
                console.log(LogLevel::Error, &chain(error));
                if let Some(hint) = error.hint()
                    && console.shows(LogLevel::Error)
                {
                    console.line(&format!("HINT: {hint}"));
                }
            }
            Failure::Output(error) => {
                let text = format!("cannot write to the standard output: {}", chain(error));
                console.log(LogLevel::Error, &text);
            }
        }
    }
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
        _ => {}
    }
    if NOT_YET.contains(&&*command) {
        let message = format!("{command} is not supported yet");
        return Err(Failure::Usage(message.into()));
    }
    if !help::has_page(&command) {
        let message = format!("Unknown subcommand \"{}\"", printable(&command));
        return Err(Failure::Usage(message.into()));
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
    let request = Request {
        command: &command,
        options: &options,
        environment: &Environment::read(),
        cancel: &cancel_on_signals(),
    };
    run_command(&request, console)
}

fn run_command(request: &Request<'_>, console: &Console) -> Result<(), Failure> {
    match request.command {
        "init" => command::init::run(&request.init()?)?,
        "add-instance" => command::add_instance::run(&request.add_instance()?)?,
        "show" => {
            let (options, json) = request.show()?;
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

// A flag that the first SIGINT or SIGTERM sets, so that the run can end in order; the second ends
// the process.
fn cancel_on_signals() -> Arc<AtomicBool> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGQUIT] {
        let code = i32::from(ExitCode::Failure.number());
        let registered =
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&cancel))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&cancel)));
        if let Err(error) = registered {
            // The signal then ends the process at once, which the catalog survives too.
            tracing::debug!("cannot handle signal {signal}: {error}");
        }
    }
    cancel
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
