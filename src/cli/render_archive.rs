//! The tables and the JSON of `show --archive`, as the original prints them.

use super::render::{JsonBackup, json_backup, pretty_json, table};
use crate::command::show_archive::{ArchiveReport, TimelineReport};
use crate::command::words::pretty_size;
use crate::format::wal::segment_name;
use serde::Serialize;

const HEADERS: [&str; 10] = [
    "TLI",
    "Parent TLI",
    "Switchpoint",
    "Min Segno",
    "Max Segno",
    "N segments",
    "Size",
    "Zratio",
    "N backups",
    "Status",
];

/// The tables, each under the name of its instance.
pub(super) fn plain(archives: &[ArchiveReport]) -> String {
    archives
        .iter()
        .map(|archive| {
            let rows: Vec<_> = archive
                .timelines
                .iter()
                .map(|timeline| row(archive, timeline))
                .collect();
            format!(
                "\nARCHIVE INSTANCE '{}'\n{}",
                archive.name,
                table(&HEADERS, &rows, 0..0)
            )
        })
        .collect()
}

fn row(archive: &ArchiveReport, timeline: &TimelineReport) -> [String; 10] {
    let archived = &timeline.archived;
    [
        archived.tli.0.to_string(),
        archived.parent.0.to_string(),
        archived.switchpoint.to_string(),
        segment(archive, timeline, *archived.segments.start()),
        segment(archive, timeline, *archived.segments.end()),
        archived.segment_count.to_string(),
        pretty_size(archived.size_bytes),
        format!("{:.2}", ratio(archive, timeline)),
        timeline.backups.len().to_string(),
        status(timeline).to_owned(),
    ]
}

fn segment(archive: &ArchiveReport, timeline: &TimelineReport, segno: u64) -> String {
    segment_name(timeline.archived.tli, segno, archive.segment_bytes)
}

fn status(timeline: &TimelineReport) -> &'static str {
    if timeline.archived.lost.is_empty() {
        "OK"
    } else {
        "DEGRADED"
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "two digits of a ratio do not need 64 bits"
)]
fn ratio(archive: &ArchiveReport, timeline: &TimelineReport) -> f64 {
    let archived = &timeline.archived;
    if archived.size_bytes == 0 {
        return 0.0;
    }
    let whole = archive.segment_bytes as f64 * archived.segment_count as f64;
    whole / archived.size_bytes as f64
}

#[derive(Serialize)]
struct JsonReport<'a> {
    backup_info: Vec<JsonInstance<'a>>,
}

#[derive(Serialize)]
struct JsonInstance<'a> {
    instance: &'a str,
    timelines: Vec<JsonTimeline<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonTimeline<'a> {
    tli: u32,
    parent_tli: u32,
    switchpoint: String,
    min_segno: String,
    max_segno: String,
    n_segments: u64,
    size: u64,
    zratio: f64,
    closest_backup_id: String,
    status: &'static str,
    lost_segments: Vec<JsonLost>,
    backups: Vec<JsonBackup<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonLost {
    begin_segno: String,
    end_segno: String,
}

/// The whole report as JSON.
pub(super) fn json(archives: &[ArchiveReport]) -> String {
    let instances = archives.iter().map(|archive| JsonInstance {
        instance: &archive.name,
        timelines: archive
            .timelines
            .iter()
            .map(|timeline| json_timeline(archive, timeline))
            .collect(),
    });
    pretty_json(&JsonReport {
        backup_info: instances.collect(),
    })
}

fn json_timeline<'a>(archive: &ArchiveReport, timeline: &'a TimelineReport) -> JsonTimeline<'a> {
    let archived = &timeline.archived;
    let name = |segno| segment(archive, timeline, segno);
    JsonTimeline {
        tli: archived.tli.0,
        parent_tli: archived.parent.0,
        switchpoint: archived.switchpoint.to_string(),
        min_segno: name(*archived.segments.start()),
        max_segno: name(*archived.segments.end()),
        n_segments: archived.segment_count,
        size: archived.size_bytes,
        zratio: (ratio(archive, timeline) * 100.0).round() / 100.0,
        closest_backup_id: timeline
            .closest_backup
            .map_or_else(String::new, |id| id.to_string()),
        status: status(timeline),
        lost_segments: archived
            .lost
            .iter()
            .map(|lost| JsonLost {
                begin_segno: name(*lost.start()),
                end_segno: name(*lost.end()),
            })
            .collect(),
        backups: timeline.backups.iter().map(json_backup).collect(),
    }
}
