//! `dss_vg_conf.ini`: a volume group a line, its name and the device of its entry volume.
//!
//! ```text
//! data:/dev/gauss/data0
//! log:/dev/gauss/log0
//! ```
//!
//! Empty lines and lines that begin with `#` mean nothing.

use super::volume::is_name;

/// A line that is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} is not a volume group and its device, as data:/dev/gauss/data0")]
pub struct ConfLineError {
    /// Counted from 1.
    pub line: usize,
}

/// Name and device of each group, in order.
///
/// # Errors
/// Where a line is something else, or names a group again.
pub fn parse_vg_conf(text: &str) -> Result<Vec<(String, String)>, ConfLineError> {
    let mut groups: Vec<(String, String)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let error = ConfLineError { line: number };
        let (name, device) = line.split_once(':').ok_or_else(|| error.clone())?;
        let (name, device) = (name.trim(), device.trim());
        if !is_name(name) || device.is_empty() || groups.iter().any(|(known, _)| known == name) {
            return Err(error);
        }
        groups.push((name.to_owned(), device.to_owned()));
    }
    Ok(groups)
}
