//! Recovery targets on the command line, checked as the original checks them.

use super::args::{Request, refused, without_trailing_slashes};
use crate::command::{Error, RecoveryTarget, TargetTime};
use crate::format::catalog::{Unit, parse_bool, parse_u64};
use std::path::{Path, PathBuf};

impl Request<'_> {
    /// Where the user says that WAL is.
    pub(super) fn archive_dir(&self) -> Result<Option<PathBuf>, Error> {
        let Some(text) = self.options.text("archive-dir") else {
            return Ok(None);
        };
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(refused("--archive-dir must be an absolute path"));
        }
        Ok(Some(without_trailing_slashes(path)))
    }

    /// How far a server is to recover.
    pub(super) fn target(&self) -> Result<RecoveryTarget, Error> {
        let options = self.options;
        let invalid =
            |option: &str, text: &str| refused(format!("Invalid value {option} option '{text}'"));
        let mut target = RecoveryTarget {
            name: options.text("recovery-target-name").map(str::to_owned),
            immediate: options.flag("immediate"),
            ..RecoveryTarget::default()
        };
        if let Some(text) = options.text("recovery-target-time") {
            let time = TargetTime::parse(text)
                .ok_or_else(|| invalid("for '--recovery-target-time'", text))?;
            target.time = Some(time);
        }
        if let Some(text) = options.text("recovery-target-xid") {
            let xid = parse_u64(text, Unit::None)
                .ok_or_else(|| invalid("for '--recovery-target-xid'", text))?;
            target.xid = Some((text.to_owned(), xid));
        }
        if let Some(text) = options.text("recovery-target-lsn") {
            let lsn = text
                .parse()
                .map_err(|_| invalid("of '--recovery-target-lsn'", text))?;
            target.lsn = Some((text.to_owned(), lsn));
        }
        if let Some(text) = options.text("recovery-target-inclusive") {
            let inclusive = parse_bool(text)
                .ok_or_else(|| invalid("for '--recovery-target-inclusive'", text))?;
            target.inclusive = Some(inclusive);
        }
        check_target(&target)?;
        Ok(target)
    }
}

fn check_target(target: &RecoveryTarget) -> Result<(), Error> {
    let points = [
        target.time.is_some(),
        target.xid.is_some(),
        target.lsn.is_some(),
    ];
    let set = points
        .into_iter()
        .chain([target.name.is_some(), target.immediate])
        .filter(|set| *set)
        .count();
    if set > 1 {
        return Err(refused(
            "At most one of '--recovery-target', '--recovery-target-name', \
             '--recovery-target-time', '--recovery-target-xid' or '--recovery-target-lsn' options \
             can be specified",
        ));
    }
    if target.inclusive.is_some() && !points.contains(&true) {
        return Err(refused(
            "The '--recovery-target-inclusive' option can be applied only when either of \
             '--recovery-target-time', '--recovery-target-xid' or '--recovery-target-lsn' options \
             is specified",
        ));
    }
    Ok(())
}
