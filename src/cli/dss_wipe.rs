//! `dss wipe`: shows what is on the devices, asks, and wipes them.

use super::args::{Request, refused};
use super::{Failure, output};
use crate::command::dss::{Volumes, wipe};
use crate::command::words::pretty_size;
use crate::format::catalog::printable;
use crate::storage::dss::{DeviceContent, DeviceSurvey, GroupSurvey};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

/// Nothing is wiped because an environment variable is set.
pub(super) fn check_is_named(request: &Request<'_>) -> Result<(), Failure> {
    let options = request.options;
    if options.texts("vg").is_empty() && !options.is_given("dss-conf") {
        return Err(refused("name what is to be wiped, as dss wipe --vg data=/dev/x").into());
    }
    Ok(())
}

/// Runs `dss wipe`.
pub(super) fn run(request: &Request<'_>, volumes: Volumes) -> Result<(), Failure> {
    let options = request.options;
    let wiped = wipe::Options {
        volumes,
        dss_home: request.environment.dss_home.as_ref().map(PathBuf::from),
    };
    let plan = wipe::plan(&wiped)?;
    let names = wiped.volumes.groups.iter().map(|spec| &*spec.name);
    let lines = names
        .zip(&plan)
        .map(|(name, survey)| group_text(name, survey));
    output(&lines.collect::<String>())?;
    if options.flag("dry-run") {
        return Ok(());
    }
    if !options.flag("yes") {
        confirm("everything on these volumes")?;
    }
    wipe::run(&wiped)?;
    Ok(())
}

/// What is on a device.
pub(super) fn content_text(content: &DeviceContent) -> String {
    match content {
        DeviceContent::NoVolume => "no volume".to_owned(),
        DeviceContent::Volume { group } => format!("a volume of group {}", printable(group)),
        DeviceContent::DamagedVolume => "a damaged volume".to_owned(),
    }
}

fn group_text(name: &str, survey: &GroupSurvey) -> String {
    let line = |found: &DeviceSurvey| {
        let content = content_text(&found.content);
        let device = printable(&found.device.display().to_string());
        let size = pretty_size(found.bytes);
        format!(
            "wipe {device} for volume group {}: {size}, {content}\n",
            printable(name)
        )
    };
    survey.devices.iter().map(line).collect()
}

/// Asks on the terminal whether something may be lost; without one, `--yes` has to be given.
pub(super) fn confirm(what: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(refused(format!("{what} will be lost: confirm with --yes")).into());
    }
    let mut terminal = std::io::stderr();
    let (first, rest) = what.split_at(1);
    let question = format!("{}{rest} will be lost. Type yes: ", first.to_uppercase());
    let asked = terminal.write_all(question.as_bytes());
    asked
        .and_then(|()| terminal.flush())
        .map_err(Failure::Output)?;
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    if read.is_err() || answer.trim() != "yes" {
        return Err(refused("not confirmed; nothing was changed").into());
    }
    Ok(())
}
