//! What the words and options of `dss` mean, and how its results are printed.

use super::args::{Request, refused};
use super::{Failure, dss_wipe, output};
use crate::command::Error;
use crate::command::dss::list::{Entry, EntryKind};
use crate::command::dss::{Volumes, check, create, list, read};
use crate::format::catalog::{Unit, format_timestamp, parse_u64, printable};
use crate::format::dss::Node;
use crate::storage::dss::{CheckReport, DssError, GroupSpec, GroupSummary, Severity};
use serde::Serialize;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

/// What `dss` can do.
pub(super) const ACTIONS: [&str; 8] = ["ls", "stat", "cat", "cp", "check", "cv", "adv", "wipe"];

/// Bytes of an allocation unit unless they are given, as of the server's own tool.
pub(super) const AU_BYTES: u64 = 8 << 20;

/// Runs `dss`.
pub(super) fn run(request: &Request<'_>) -> Result<(), Failure> {
    let words = request.options.words();
    let Some((action, paths)) = words.split_first() else {
        return Err(refused(format!("say what to do: dss {}", ACTIONS.join("|"))).into());
    };
    let paths = paths.to_vec();
    match &**action {
        "ls" => ls(request, paths),
        "stat" => stat(request, paths),
        "cat" => cat(request, paths),
        "check" => run_check(request),
        "cp" => cp(request, paths),
        "cv" => cv(request),
        "adv" => adv(request),
        "wipe" => {
            dss_wipe::check_is_named(request)?;
            dss_wipe::run(request, volumes(request)?)
        }
        other => {
            let (other, actions) = (printable(other), ACTIONS.join(", "));
            Err(refused(format!("dss cannot \"{other}\"; it can {actions}")).into())
        }
    }
}

/// The groups that are named, or those of a configuration.
fn volumes(request: &Request<'_>) -> Result<Volumes, Error> {
    Ok(Volumes {
        engine: request.check_options()?.engine,
        groups: request.volume_groups()?,
    })
}

fn list_options(request: &Request<'_>, paths: Vec<String>) -> Result<list::Options, Error> {
    Ok(list::Options {
        volumes: volumes(request)?,
        paths,
        recursive: request.options.flag("recursive"),
        all: request.options.flag("all"),
    })
}

/// An entry as JSON.
#[derive(Serialize)]
struct JsonEntry<'a> {
    path: &'a str,
    r#type: &'static str,
    size: u64,
    allocated: u64,
    created: u64,
    updated: u64,
    fid: u64,
    node: String,
    inner_inited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
}

impl<'a> JsonEntry<'a> {
    fn new(entry: &'a Entry) -> JsonEntry<'a> {
        let Node {
            size_bytes,
            written_bytes,
            created,
            updated,
            fid,
            id,
            ..
        } = entry.node;
        let (kind, target) = match &entry.kind {
            EntryKind::Directory => ("directory", None),
            EntryKind::File => ("file", None),
            EntryKind::Link { target } => ("link", Some(&**target)),
        };
        JsonEntry {
            path: &entry.path,
            r#type: kind,
            size: written_bytes,
            allocated: size_bytes,
            created,
            updated,
            fid,
            node: id.to_string(),
            inner_inited: entry.is_inner_inited(),
            target,
        }
    }
}

fn json_line(entry: &Entry) -> String {
    serde_json::to_string(&JsonEntry::new(entry)).expect("numbers and texts are JSON")
}

/// An entry in one line.
fn plain_line(entry: &Entry, long: bool) -> String {
    let path = printable(&entry.path);
    if !long {
        return path;
    }
    let (letter, target) = match &entry.kind {
        EntryKind::Directory => ('d', String::new()),
        EntryKind::File => ('-', String::new()),
        EntryKind::Link { target } => ('l', format!(" -> {}", printable(target))),
    };
    let node = &entry.node;
    let created = format_timestamp(i64::try_from(node.created).unwrap_or(0));
    format!(
        "{letter} {:>15} {:>15} {created} {path}{target}",
        node.written_bytes, node.size_bytes
    )
}

fn ls(request: &Request<'_>, paths: Vec<String>) -> Result<(), Failure> {
    let options = list_options(request, paths)?;
    let (json, long) = (request.is_json(), request.options.flag("long"));
    let mut stdout = BufWriter::new(std::io::stdout().lock());
    let mut failed = None;
    let mut count = 0_u64;
    list::run(&options, &mut |entry| {
        let line = match (json, count) {
            (false, _) => format!("{}\n", plain_line(entry, long)),
            (true, 0) => format!("[\n{}", json_line(entry)),
            (true, _) => format!(",\n{}", json_line(entry)),
        };
        count += 1;
        failed = stdout.write_all(line.as_bytes()).err();
        failed.is_none()
    })?;
    let end: &[u8] = match (json, count) {
        (false, _) => b"",
        (true, 0) => b"[]\n",
        (true, _) => b"\n]\n",
    };
    let written = failed.map_or(Ok(()), Err);
    let written = written.and_then(|()| stdout.write_all(end));
    match written.and_then(|()| stdout.flush()) {
        // Whoever reads has seen enough, as in `dss ls | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Failure::Output),
    }
}

/// A group as JSON.
#[derive(Serialize)]
struct JsonGroup<'a> {
    name: &'a str,
    au_bytes: u64,
    nodes: usize,
    redo_lsn: u64,
    pending_lsn: Option<u64>,
    volumes: Vec<JsonVolume>,
}

/// A volume as JSON.
#[derive(Serialize)]
struct JsonVolume {
    volume: u16,
    device: String,
    size: u64,
    used: u64,
}

/// What `stat` says, as JSON.
#[derive(Serialize)]
struct JsonStat<'a> {
    groups: Vec<JsonGroup<'a>>,
    entries: Vec<JsonEntry<'a>>,
}

fn stat(request: &Request<'_>, paths: Vec<String>) -> Result<(), Failure> {
    let (groups, entries) = list::stat(&list_options(request, paths)?)?;
    if request.is_json() {
        let stat = JsonStat {
            groups: groups.iter().map(json_group).collect(),
            entries: entries.iter().map(JsonEntry::new).collect(),
        };
        let text = serde_json::to_string_pretty(&stat).expect("numbers and texts are JSON");
        return output(&format!("{text}\n"));
    }
    let text = match entries.is_empty() {
        true => groups.iter().map(plain_group).collect::<String>(),
        false => entries.iter().map(plain_stat).collect(),
    };
    output(&text)
}

fn json_group(group: &GroupSummary) -> JsonGroup<'_> {
    let volumes = group
        .volumes
        .iter()
        .map(|(volume, device, size, used)| JsonVolume {
            volume: *volume,
            device: device.display().to_string(),
            size: *size,
            used: *used,
        });
    JsonGroup {
        name: &group.name,
        au_bytes: group.au_bytes,
        nodes: group.nodes,
        redo_lsn: group.redo_lsn,
        pending_lsn: group.pending_lsn,
        volumes: volumes.collect(),
    }
}

fn plain_group(group: &GroupSummary) -> String {
    let mut text = format!(
        "volume group {}: units of {} bytes, {} nodes, redo lsn {}\n",
        group.name, group.au_bytes, group.nodes, group.redo_lsn
    );
    if let Some(lsn) = group.pending_lsn {
        text.push_str(&format!(
            "  redo batch {lsn} is begun and taken as applied\n"
        ));
    }
    for (volume, device, size, used) in &group.volumes {
        let device = printable(&device.display().to_string());
        text.push_str(&format!(
            "  volume {volume}: {device}, {used} of {size} bytes used\n"
        ));
    }
    text
}

fn plain_stat(entry: &Entry) -> String {
    let node = &entry.node;
    let time = |seconds| format_timestamp(i64::try_from(seconds).unwrap_or(0));
    let kind = match &entry.kind {
        EntryKind::Directory => "directory".to_owned(),
        EntryKind::File if entry.is_inner_inited() => {
            "file that knows its written pages".to_owned()
        }
        EntryKind::File => "file".to_owned(),
        EntryKind::Link { target } => format!("link to {}", printable(target)),
    };
    format!(
        "{}\n  {kind}\n  {} bytes, {} allocated\n  created {}, updated {}\n  node {}, fid {}\n",
        printable(&entry.path),
        node.written_bytes,
        node.size_bytes,
        time(node.created),
        time(node.updated),
        node.id,
        node.fid
    )
}

fn cat(request: &Request<'_>, paths: Vec<String>) -> Result<(), Failure> {
    if paths.is_empty() {
        return Err(refused("name a file, as dss cat +data/pg_control").into());
    }
    let options = read::CatOptions {
        volumes: volumes(request)?,
        paths,
    };
    match read::cat(&options, &mut std::io::stdout().lock()) {
        // Whoever reads has seen enough.
        Err(Error::Dss(error)) if is_broken_pipe(&error) => Ok(()),
        result => Ok(result?),
    }
}

fn is_broken_pipe(error: &DssError) -> bool {
    matches!(error, DssError::Sink { source } if source.kind() == ErrorKind::BrokenPipe)
}

fn cp(request: &Request<'_>, mut paths: Vec<String>) -> Result<(), Failure> {
    let (Some(target), Some(source), true) = (paths.pop(), paths.pop(), paths.is_empty()) else {
        return Err(refused("name a file and where to, as dss cp +data/pg_control /tmp").into());
    };
    let options = read::CopyOptions {
        volumes: volumes(request)?,
        source,
        target: PathBuf::from(target),
        recursive: request.options.flag("recursive"),
        all: request.options.flag("all"),
        sync: !request.options.flag("no-sync"),
    };
    let copied = read::copy(&options)?;
    tracing::info!("copied {} files, {} bytes", copied.files, copied.bytes);
    Ok(())
}

fn adv(request: &Request<'_>) -> Result<(), Failure> {
    let options = request.options;
    let engine = request.check_options()?.engine;
    let [named] = options.texts("vg")[..] else {
        let example = "dss adv --vg data=/dev/x,/dev/y";
        return Err(refused(format!("name the group and all its devices, as {example}")).into());
    };
    if options.text("au-size").is_some() {
        return Err(refused("dss adv leaves the units of a group as they are").into());
    }
    let add = create::AddOptions {
        group: GroupSpec::parse(named).map_err(|error| Error::Dss(Box::new(error)))?,
        dss_home: request.environment.dss_home.as_ref().map(PathBuf::from),
        engine,
    };
    output(&plain_group(&create::add(&add)?))
}

fn cv(request: &Request<'_>) -> Result<(), Failure> {
    let options = request.options;
    let engine = request.check_options()?.engine;
    let [named] = options.texts("vg")[..] else {
        return Err(refused("name the group and its device, as dss cv --vg data=/dev/x").into());
    };
    let group = GroupSpec::parse(named).map_err(|error| Error::Dss(Box::new(error)))?;
    if group.devices.len() != 1 {
        return Err(refused("dss cv makes a group on one device").into());
    }
    let create = create::Options {
        group,
        au_bytes: au_bytes(request)?.unwrap_or(AU_BYTES),
        dss_home: request.environment.dss_home.as_ref().map(PathBuf::from),
        engine,
    };
    output(&plain_group(&create::run(&create)?))
}

/// Bytes of an allocation unit of a new group, if they are given.
pub(super) fn au_bytes(request: &Request<'_>) -> Result<Option<u64>, Error> {
    let Some(text) = request.options.text("au-size") else {
        return Ok(None);
    };
    let kibibytes = parse_u64(text, Unit::Kilobytes);
    let bytes = kibibytes.and_then(|kibibytes| kibibytes.checked_mul(1024));
    bytes.map(Some).ok_or_else(|| {
        let phrase = "Invalid value for '--au-size' option";
        refused(format!("{phrase}: '{text}'; examples: 4MB, 64MB"))
    })
}

/// A finding as JSON.
#[derive(Serialize)]
struct JsonFinding<'a> {
    severity: &'static str,
    place: &'a str,
    problem: &'a str,
}

/// A checked group as JSON.
#[derive(Serialize)]
struct JsonReport<'a> {
    group: &'a str,
    damaged: bool,
    nodes: u64,
    units: u64,
    findings: Vec<JsonFinding<'a>>,
    more: u64,
}

fn run_check(request: &Request<'_>) -> Result<(), Failure> {
    let options = check::Options {
        volumes: volumes(request)?,
    };
    let reports = check::run(&options)?;
    if request.is_json() {
        let reports: Vec<JsonReport<'_>> = reports.iter().map(json_report).collect();
        let text = serde_json::to_string_pretty(&reports).expect("numbers and texts are JSON");
        output(&format!("{text}\n"))?;
    } else {
        output(&reports.iter().map(plain_report).collect::<String>())?;
    }
    Ok(check::verdict(&reports)?)
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Damage => "damage",
    }
}

fn json_report((name, report): &(String, CheckReport)) -> JsonReport<'_> {
    let findings = report.findings.iter().map(|finding| JsonFinding {
        severity: severity(finding.severity),
        place: &finding.place,
        problem: &finding.problem,
    });
    JsonReport {
        group: name,
        damaged: report.is_damaged(),
        nodes: report.nodes,
        units: report.units,
        findings: findings.collect(),
        more: report.more,
    }
}

fn plain_report((name, report): &(String, CheckReport)) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let (place, problem) = (printable(&finding.place), printable(&finding.problem));
        text.push_str(&format!(
            "{}: {place}: {problem}\n",
            severity(finding.severity)
        ));
    }
    if report.more > 0 {
        text.push_str(&format!("and {} findings more\n", report.more));
    }
    let (nodes, units) = (report.nodes, report.units);
    let verdict = match report.is_damaged() {
        true => "damaged",
        false => "no damage",
    };
    text + &format!("volume group {name}: {nodes} nodes, {units} allocation units, {verdict}\n")
}
