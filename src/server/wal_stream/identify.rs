//! Before streaming: is it the right server, the slot, the command.

use super::{ServerError, error::CommandError};
use super::{Slot, Sql, WalStreamError, WalStreamRequest};
use crate::limits::SLOT_NAME_BYTES_MAX;
use crate::types::{ServerFlavor, TimelineId};

/// What came of a wish for a temporary slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotCreation {
    /// It exists, as long as the connection does.
    Created,
    /// The request names no temporary slot.
    NotWanted,
    /// The server has no temporary slots. WAL is streamed without one: to be warned of.
    Unsupported,
}

/// Asks the server who it is and compares with the request.
///
/// # Errors
/// [`WalStreamError`]: the command failed, the answer makes no sense, or system identifier or
/// timeline are others.
pub fn identify(sql: &mut dyn Sql, request: &WalStreamRequest) -> Result<(), WalStreamError> {
    let command = "IDENTIFY_SYSTEM";
    let rows = sql
        .query(command)
        .map_err(|source| WalStreamError::command(command, source))?;
    let answer = match rows.rows.as_slice() {
        [row] => row.as_slice(),
        _ => &[],
    };
    let [Some(identifier), Some(timeline), ..] = answer else {
        return Err(WalStreamError::Shape {
            rows: rows.rows.len(),
            columns: rows.columns.len(),
        });
    };
    let found: u64 = number(identifier).ok_or_else(|| WalStreamError::NoSystemIdentifier {
        found: identifier.clone(),
    })?;
    let found_timeline: u32 = number(timeline).ok_or_else(|| WalStreamError::NoTimeline {
        found: timeline.clone(),
    })?;
    if found != request.system_identifier {
        return Err(WalStreamError::SystemIdentifier {
            flavor: request.flavor,
            found,
            expected: request.system_identifier,
        });
    }
    if TimelineId(found_timeline) != request.timeline {
        return Err(WalStreamError::Timeline {
            flavor: request.flavor,
            found: TimelineId(found_timeline),
            expected: request.timeline,
        });
    }
    Ok(())
}

/// Creates the request's temporary slot, on the connection that will stream: the slot ends with it.
/// It keeps all WAL from now on, so create it before the backup starts, or at once after.
///
/// # Errors
/// [`WalStreamError`]: the name is impossible, or the server refused, for instance because a slot
/// has that name or none is free.
pub fn create_temporary_slot(
    sql: &mut dyn Sql,
    request: &WalStreamRequest,
) -> Result<SlotCreation, WalStreamError> {
    let Some(Slot::Temporary(name)) = &request.slot else {
        return Ok(SlotCreation::NotWanted);
    };
    let name = quote(name)?;
    if request.flavor == ServerFlavor::OpenGauss {
        return Ok(SlotCreation::Unsupported);
    }
    let command = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY PHYSICAL RESERVE_WAL");
    sql.query(&command)
        .map_err(|source| WalStreamError::command(&command, source))?;
    Ok(SlotCreation::Created)
}

/// The command that starts the stream.
///
/// # Errors
/// [`WalStreamError::SlotName`]: the slot's name is impossible.
pub fn start_command(request: &WalStreamRequest) -> Result<String, WalStreamError> {
    let from = request.first_byte();
    let gauss = request.flavor == ServerFlavor::OpenGauss;
    let slot = match &request.slot {
        Some(Slot::Temporary(_)) if gauss => String::new(),
        Some(Slot::Existing(name) | Slot::Temporary(name)) => format!("SLOT {} ", quote(name)?),
        None => String::new(),
    };
    Ok(if gauss {
        format!("START_REPLICATION {slot}{from}")
    } else {
        let timeline = request.timeline;
        format!("START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}")
    })
}

/// A number of decimal digits alone.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A slot's name as the commands take it. Which characters it may have the server knows better:
/// openGauss allows more than PostgreSQL.
fn quote(name: &str) -> Result<String, WalStreamError> {
    let detail = if name.is_empty() {
        "the name is empty"
    } else if name.len() > SLOT_NAME_BYTES_MAX {
        "the name has more than 63 bytes"
    } else if name.chars().any(char::is_control) {
        "the name contains a control character"
    } else {
        return Ok(format!("\"{}\"", name.replace('"', "\"\"")));
    };
    Err(WalStreamError::SlotName {
        name: name.to_owned(),
        detail,
    })
}

impl WalStreamError {
    /// The error of a replication command: also for the one that starts the stream.
    #[must_use]
    pub fn command(command: &str, source: ServerError) -> WalStreamError {
        if matches!(source, ServerError::Interrupted) {
            return WalStreamError::Interrupted;
        }
        WalStreamError::Command {
            source: CommandError {
                command: command.to_owned(),
                source: Box::new(source),
            },
        }
    }
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
