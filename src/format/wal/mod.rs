//! Write-ahead log: file names, pages, records, and a reader that proves a stretch of WAL to be
//! whole.
//!
//! One reader serves both servers; [`WalDialect`] holds what differs:
//!
//! ```text
//!                     openGauss   PostgreSQL 15..18
//! page magic          D074        D110 D113 D116 D118
//! record header       32 bytes    24 bytes
//! transaction id      64 bits     32 bits
//! ```
//!
//! Sources: openGauss `src/include/access/xlog_basic.h`, `xlogreader.cpp`; PostgreSQL
//! `src/include/access/xlog_internal.h`, `xlogrecord.h`, `xlogreader.c`.

#[cfg(test)]
mod builder;
mod error;
mod file_name;
mod page;
mod range;
mod reader;
#[cfg(test)]
mod real_postgresql;
#[cfg(test)]
mod real_wal;
mod record;

pub use error::{EndOfWal, PageFault, RecordFault, WalError};
pub use file_name::{
    is_record_offset, is_wal_name, parse_segment_name, record_position, segment_name,
    segment_number,
};
pub use page::{LONG_HEADER_BYTES, stated_segment_size};
pub use range::{RangeRequest, WalRange, check_range};
pub use reader::{SegmentBytes, WalReader};
pub use record::{
    Record, changes_no_block, ended_transaction, is_backup_end, is_checkpoint,
    is_checkpoint_shutdown, is_switch, record_time, restore_point_name,
};

use crate::types::ServerFlavor;

/// Which server's WAL is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WalDialect {
    /// openGauss.
    OpenGauss,
    /// PostgreSQL of this major version.
    PostgreSql {
        /// 15 to 18: the page magic changes with every version.
        major: u32,
    },
}

impl From<ServerFlavor> for WalDialect {
    fn from(flavor: ServerFlavor) -> WalDialect {
        match flavor {
            ServerFlavor::OpenGauss => WalDialect::OpenGauss,
            ServerFlavor::PostgreSql { major } => WalDialect::PostgreSql { major },
        }
    }
}

impl WalDialect {
    /// The magic number of pages, or `None` for a version whose WAL we do not know.
    fn magic(self) -> Option<u16> {
        Some(match self {
            WalDialect::OpenGauss => 0xD074,
            WalDialect::PostgreSql { major: 15 } => 0xD110,
            WalDialect::PostgreSql { major: 16 } => 0xD113,
            WalDialect::PostgreSql { major: 17 } => 0xD116,
            WalDialect::PostgreSql { major: 18 } => 0xD118,
            WalDialect::PostgreSql { .. } => return None,
        })
    }

    /// Bytes of a record header.
    fn record_header_bytes(self) -> usize {
        match self {
            WalDialect::OpenGauss => 32,
            WalDialect::PostgreSql { .. } => 24,
        }
    }
}
