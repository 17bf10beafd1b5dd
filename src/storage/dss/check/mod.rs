//! Whether all metadata of a group fit together.
//!
//! 1. Both copies of each control; headers, sizes and states of the volumes ([`controls`]).
//! 2. The file table: every block is in use or in the list of free ones, every node in use is in
//!    exactly one directory, and siblings, parents and counts agree ([`nodes`]).
//! 3. FS and FS-aux blocks: every one belongs to one file or to the list of free ones, and the map
//!    of each file is as long as the file ([`space`]).
//! 4. Every allocation unit that was handed out has exactly one owner ([`owners`]).
//!
//! What no other field says is not checked: times, names, lengths within their bounds, and bytes of
//! files. Their structures have checksums; file contents have none on a volume.
//!
//! Beside a server that is at work the check is repeated until nothing changed meanwhile.

mod controls;
mod nodes;
mod owners;
mod space;

use super::{DssError, VolumeGroup};
use crate::limits::{DSS_CHECKS_MAX, DSS_FINDINGS_MAX};
use owners::Owners;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Good to know.
    Note,
    /// Nothing is lost, but it is not as it should be.
    Warning,
    /// Metadata contradict each other or cannot be read.
    Damage,
}

/// Something that does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where: a path, a block, a control.
    pub place: String,
    /// What does not fit.
    pub problem: String,
}

/// All that was found, up to [`DSS_FINDINGS_MAX`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// In the order of the steps.
    pub findings: Vec<Finding>,
    /// Findings beyond.
    pub more: u64,
    /// Files, links and directories that were looked at, deleted ones included.
    pub nodes: u64,
    /// Allocation units that were handed out.
    pub units: u64,
}

impl CheckReport {
    /// Whether something is damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let damage = |finding: &Finding| finding.severity == Severity::Damage;
        self.more > 0 || self.findings.iter().any(damage)
    }

    fn push(&mut self, severity: Severity, place: &str, problem: impl Into<String>) {
        if self.findings.len() >= DSS_FINDINGS_MAX {
            self.more += 1;
            return;
        }
        self.findings.push(Finding {
            severity,
            place: place.to_owned(),
            problem: problem.into(),
        });
    }

    fn damage(&mut self, place: &str, problem: impl Into<String>) {
        self.push(Severity::Damage, place, problem);
    }

    fn warning(&mut self, place: &str, problem: impl Into<String>) {
        self.push(Severity::Warning, place, problem);
    }

    /// A block that cannot be used, in one line.
    fn unusable(&mut self, place: &str, error: &DssError) {
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            text = format!("{text}: {source}");
        }
        self.damage(place, text);
    }
}

/// Checks a group.
///
/// # Errors
/// Where a device cannot be read, or a server changes the metadata all the time.
pub fn check(group: &mut VolumeGroup) -> Result<CheckReport, DssError> {
    for _ in 0..DSS_CHECKS_MAX {
        let report = check_once(group)?;
        if !group.has_changed()? {
            return Ok(report);
        }
        group.refresh()?;
    }
    Err(DssError::Changing {
        group: group.name().to_owned(),
        tries: DSS_CHECKS_MAX,
    })
}

fn check_once(group: &mut VolumeGroup) -> Result<CheckReport, DssError> {
    let mut report = CheckReport::default();
    let mut owners = Owners::default();
    controls::check(group, &mut owners, &mut report)?;
    let files = nodes::check(group, &mut owners, &mut report)?;
    space::check(group, &files, &mut owners, &mut report)?;
    owners.check_all(group, &mut report);
    Ok(report)
}
