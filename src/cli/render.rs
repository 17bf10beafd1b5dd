//! Tables, sizes, times and JSON, as the original prints them (`show.cpp`).

use crate::command::demo;
use crate::command::show::{BackupReport, InstanceReport, Report};
use crate::command::words::{pretty_seconds, pretty_size};
use crate::format::catalog::{
    BackupControl, BackupMode, BackupStatus, InstanceOption, format_timestamp, printable,
};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use std::fmt::Write;
use std::time::Duration;
use unicode_width::UnicodeWidthStr;

const HEADERS: [&str; 16] = [
    "Instance",
    "Version",
    "ID",
    "Recovery Time",
    "Mode",
    "WAL Mode",
    "TLI",
    "Time",
    "Data",
    "WAL",
    "Zratio",
    "Start LSN",
    "Stop LSN",
    "Type",
    "S3 Status",
    "Status",
];

/// The columns from `Time` to `Zratio` hold quantities and are aligned to the right.
const RIGHT: std::ops::Range<usize> = 7..11;

/// What stands for something that is not known.
const UNKNOWN: &str = "----";

/// The tables of all instances, each under its name.
pub(super) fn all_instances(report: &Report, now: i64) -> String {
    report
        .instances
        .iter()
        .map(|instance| {
            let table = one_instance(instance, now);
            format!("\nBACKUP INSTANCE '{}'\n{table}", instance.name)
        })
        .collect()
}

/// The table of an instance.
pub(super) fn one_instance(instance: &InstanceReport, now: i64) -> String {
    let rows = instance
        .backups
        .iter()
        .map(|backup| row(instance, backup, now))
        .collect::<Vec<_>>();
    table(&HEADERS, &rows, RIGHT)
}

/// A table with a header between two rulers. The columns of `right` are aligned to the right.
pub(super) fn table<const N: usize>(
    headers: &[&str; N],
    rows: &[[String; N]],
    right: std::ops::Range<usize>,
) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].width())
            .chain([headers[column].len()])
            .max()
            .unwrap_or(0)
    });
    let ruler = "=".repeat(widths.iter().map(|width| width + 2).sum());
    let mut text = format!("{ruler}\n");
    for (column, header) in headers.iter().enumerate() {
        push(&mut text, header, widths[column], right.contains(&column));
    }
    let _ = write!(text, "\n{ruler}\n");
    for row in rows {
        for (column, value) in row.iter().enumerate() {
            push(&mut text, value, widths[column], right.contains(&column));
        }
        text.push('\n');
    }
    text
}

/// The record of the backup that was asked for, as in its control file.
pub(super) fn one_backup(report: &Report) -> String {
    report
        .instances
        .iter()
        .flat_map(|instance| &instance.backups)
        .filter_map(|backup| {
            let control = backup.entry.control.as_ref().ok()?;
            let shown = BackupControl {
                status: backup.status,
                ..control.clone()
            };
            Some(shown.encode())
        })
        .collect()
}

fn push(text: &mut String, value: &str, width: usize, right: bool) {
    // In columns of a terminal, of which some characters take two.
    let padding = " ".repeat(width.saturating_sub(value.width()));
    let written = if right {
        write!(text, " {padding}{value} ")
    } else {
        write!(text, " {value}{padding} ")
    };
    written.expect("a string takes everything");
}

fn row(instance: &InstanceReport, backup: &BackupReport, now: i64) -> [String; 16] {
    let name = instance.name.clone();
    let id = backup.entry.id.to_string();
    let kind = if instance.is_dss { "DSS" } else { "FILE" }.to_owned();
    let status = backup.status.to_string();
    let Ok(control) = &backup.entry.control else {
        let zero = || "0".to_owned();
        let unknown = || UNKNOWN.to_owned();
        return [
            name,
            unknown(),
            id,
            unknown(),
            String::new(),
            "ARCHIVE".to_owned(),
            "0/0".to_owned(),
            unknown(),
            zero(),
            zero(),
            "1.00".to_owned(),
            "0/0".to_owned(),
            "0/0".to_owned(),
            kind,
            "UNKNOWN".to_owned(),
            status,
        ];
    };
    [
        name,
        or_unknown(Some(&control.server_version).filter(|version| !version.is_empty())),
        id,
        or_unknown(control.recovery_time.map(format_timestamp)),
        control.mode.to_string(),
        wal_mode(control).to_owned(),
        format!("{}/{}", control.timeline, shown_parent_timeline(backup)),
        or_unknown(duration(control, backup.status, now).map(pretty_seconds)),
        pretty_bytes(control.data_bytes),
        pretty_bytes(control.wal_bytes),
        zratio(control),
        control.start_lsn.to_string(),
        control.stop_lsn.to_string(),
        kind,
        control.s3_status.name().to_owned(),
        status,
    ]
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

fn wal_mode(control: &BackupControl) -> &'static str {
    if control.stream { "STREAM" } else { "ARCHIVE" }
}

fn shown_parent_timeline(backup: &BackupReport) -> u32 {
    match &backup.entry.control {
        Ok(control) if control.mode == BackupMode::Ptrack => backup.parent_timeline.0,
        _ => 0,
    }
}

// Seconds that the backup, or the merge into it, took or has taken so far.
fn duration(control: &BackupControl, status: BackupStatus, now: i64) -> Option<u64> {
    let (start, end) = if status == BackupStatus::Running {
        (control.start_time, now)
    } else {
        let start = control.merge_time.unwrap_or(control.start_time);
        (start, control.end_time?)
    };
    // A clock that was set back shows as no time at all.
    Some(u64::try_from(end - start).unwrap_or(0))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "two digits of a ratio do not need 64 bits"
)]
fn zratio(control: &BackupControl) -> String {
    let data = control.data_bytes.filter(|bytes| *bytes > 0);
    let uncompressed = control.uncompressed_bytes.filter(|bytes| *bytes > 0);
    match (data, uncompressed) {
        (Some(data), Some(uncompressed)) => format!("{:.2}", uncompressed as f64 / data as f64),
        _ => "1.00".to_owned(),
    }
}

fn pretty_bytes(bytes: Option<i64>) -> String {
    pretty_size(
        bytes
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0),
    )
}

#[derive(Serialize)]
struct JsonReport<'a> {
    backup_info: Vec<JsonInstance<'a>>,
}

#[derive(Serialize)]
struct JsonInstance<'a> {
    instance: &'a str,
    backups: Vec<JsonBackup<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct JsonBackup<'a> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_backup_id: Option<String>,
    backup_mode: &'static str,
    wal: &'static str,
    compress_alg: &'static str,
    compress_level: u32,
    from_replica: &'static str,
    block_size: u32,
    xlog_block_size: u32,
    checksum_version: u32,
    program_version: &'a str,
    server_version: &'a str,
    current_tli: u32,
    parent_tli: u32,
    start_lsn: String,
    stop_lsn: String,
    start_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    recovery_xid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_time: Option<String>,
    recovery_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wal_bytes: Option<i64>,
    uncompressed_bytes: i64,
    pgdata_bytes: i64,
    dssdata_bytes: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_dirs: Option<&'a str>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_crc: Option<u32>,
}

/// The whole report as JSON.
pub(super) fn json(report: &Report) -> String {
    let report = JsonReport {
        backup_info: report
            .instances
            .iter()
            .map(|instance| JsonInstance {
                instance: &instance.name,
                backups: instance.backups.iter().map(json_backup).collect(),
            })
            .collect(),
    };
    pretty_json(&report)
}

/// A value as JSON in the original's layout.
pub(super) fn pretty_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    value
        .serialize(&mut serializer)
        .expect("text and numbers can be written to memory");
    bytes.push(b'\n');
    String::from_utf8(bytes).expect("JSON of text is text")
}

pub(super) fn json_backup(backup: &BackupReport) -> JsonBackup<'_> {
    let Ok(control) = &backup.entry.control else {
        return json_unreadable(backup);
    };
    let flag = |value| if value { "true" } else { "false" };
    JsonBackup {
        id: backup.entry.id.to_string(),
        parent_backup_id: control.parent_backup_id.map(|id| id.to_string()),
        backup_mode: control.mode.name(),
        wal: wal_mode(control),
        compress_alg: control.compress_algorithm.name(),
        compress_level: control.compress_level,
        from_replica: flag(control.from_replica),
        block_size: control.block_size,
        xlog_block_size: control.wal_block_size,
        checksum_version: control.checksum_version,
        program_version: &control.program_version,
        server_version: &control.server_version,
        current_tli: control.timeline.0,
        parent_tli: shown_parent_timeline(backup),
        start_lsn: control.start_lsn.to_string(),
        stop_lsn: control.stop_lsn.to_string(),
        start_time: format_timestamp(control.start_time),
        end_time: control.end_time.map(format_timestamp),
        recovery_xid: control.recovery_xid,
        recovery_time: control.recovery_time.map(format_timestamp),
        recovery_name: &control.recovery_name,
        expire_time: control.expire_time.map(format_timestamp),
        data_bytes: control.data_bytes,
        wal_bytes: control.wal_bytes,
        uncompressed_bytes: control.uncompressed_bytes.unwrap_or(-1),
        pgdata_bytes: control.pgdata_bytes.unwrap_or(-1),
        dssdata_bytes: 0,
        external_dirs: control.external_dirs.as_deref(),
        status: backup.status.name(),
        note: control.note.as_deref(),
        content_crc: control.content_crc,
    }
}

// A backup whose record cannot be read, with the values that the original has for it.
fn json_unreadable(backup: &BackupReport) -> JsonBackup<'_> {
    JsonBackup {
        id: backup.entry.id.to_string(),
        parent_backup_id: None,
        backup_mode: "",
        wal: "ARCHIVE",
        compress_alg: "none",
        compress_level: 1,
        from_replica: "false",
        block_size: 8192,
        xlog_block_size: 8192,
        checksum_version: 0,
        program_version: "",
        server_version: "",
        current_tli: 0,
        parent_tli: 0,
        start_lsn: "0/0".to_owned(),
        stop_lsn: "0/0".to_owned(),
        start_time: format_timestamp(backup.entry.id.start_time()),
        end_time: None,
        recovery_xid: 0,
        recovery_time: None,
        recovery_name: "",
        expire_time: None,
        data_bytes: None,
        wal_bytes: None,
        uncompressed_bytes: -1,
        pgdata_bytes: -1,
        dssdata_bytes: 0,
        external_dirs: None,
        status: backup.status.name(),
        note: None,
        content_crc: None,
    }
}

/// The settings of an instance, in the form of its file or as JSON.
pub(super) fn settings(settings: &[(InstanceOption, String)], json: bool) -> String {
    if json {
        let text = |value: &str| serde_json::to_string(value).expect("text is JSON");
        let lines: Vec<String> = settings
            .iter()
            .map(|(option, value)| format!("    {}: {}", text(option.key), text(value)))
            .collect();
        return format!("{{\n{}\n}}\n", lines.join(",\n"));
    }
    let mut shown = String::new();
    let mut group = "";
    for (option, value) in settings {
        if option.group != group {
            group = option.group;
            writeln!(shown, "# {group}").expect("a string takes everything");
        }
        writeln!(shown, "{} = {}", option.key, printable(value))
            .expect("a string takes everything");
    }
    shown
}

/// What the demo found: a table of the compressions, and what validation said of the damage.
pub(super) fn demo(report: &demo::Report) -> String {
    let cluster = report.cluster_bytes;
    let mut text = format!(
        "\nGenerated cluster: {} in {} files\n\n",
        pretty_size(cluster),
        report.cluster_files
    );
    text.push_str(
        " Compression  Backup ID     Size  Ratio  Backup MB/s  Validate MB/s  Restore MB/s\n",
    );
    for row in &report.rows {
        writeln!(
            text,
            " {:<11}  {:<9}  {:>7}  {:>5.2}  {:>11}  {:>13}  {:>12}",
            row.algorithm,
            row.id,
            pretty_size(row.backup_bytes),
            ratio(cluster, row.backup_bytes),
            megabytes_per_second(cluster, row.backup_time),
            megabytes_per_second(cluster, row.validate_time),
            megabytes_per_second(cluster, row.restore_time),
        )
        .expect("a string takes everything");
    }
    text.push_str("\nEvery restored tree equals the cluster, byte for byte.\n");
    writeln!(text, "Damage is noticed: {}", report.damage).expect("a string takes everything");
    if let Some(kept) = &report.kept {
        writeln!(text, "Kept in {}", kept.display()).expect("a string takes everything");
    }
    text
}

#[expect(
    clippy::cast_precision_loss,
    reason = "two digits of a ratio do not need 64 bits"
)]
fn ratio(whole: u64, part: u64) -> f64 {
    whole as f64 / part.max(1) as f64
}

fn megabytes_per_second(bytes: u64, time: Duration) -> u128 {
    u128::from(bytes) / time.as_micros().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_also_under_wide_characters() {
        let rows = [["生产库", "1"], ["one", "22"]].map(|row| row.map(str::to_owned));
        let expected = "===============\n Name    Count \n===============\n 生产库      1 \n \
                        one        22 \n";
        assert_eq!(table(&["Name", "Count"], &rows, 1..2), expected);
    }

    #[test]
    fn rates_are_in_millions_of_bytes() {
        let second = Duration::from_secs(1);
        assert_eq!(megabytes_per_second(5_000_000, second), 5);
        assert_eq!(megabytes_per_second(5_000_000, Duration::ZERO), 5_000_000);
    }

    #[test]
    fn ratios_are_of_the_uncompressed_size() {
        let mut control = BackupControl::new(BackupMode::Full, 1);
        assert_eq!(zratio(&control), "1.00");
        control.data_bytes = Some(489);
        control.uncompressed_bytes = Some(784);
        assert_eq!(zratio(&control), "1.60");
    }

    #[test]
    fn a_running_backup_takes_time_until_now_and_a_merged_one_since_its_merge() {
        let mut control = BackupControl::new(BackupMode::Full, 100);
        assert_eq!(duration(&control, BackupStatus::Running, 107), Some(7));
        assert_eq!(duration(&control, BackupStatus::Error, 107), None);
        control.end_time = Some(150);
        assert_eq!(duration(&control, BackupStatus::Ok, 999), Some(50));
        control.merge_time = Some(148);
        assert_eq!(duration(&control, BackupStatus::Ok, 999), Some(2));
    }
}
