//! The text and binary files of a backup catalog: bytes to types and back, no I/O.
//!
//! | file | module |
//! |---|---|
//! | `backup.control` | [`BackupControl`] |
//! | `backup_content.control` | [`ContentList`], [`ContentListReader`], [`ContentListWriter`] |
//! | `page_header_map`, one array of it | [`encode_header_records`], [`parse_header_records`] |
//! | `pg_probackup.conf` | [`InstanceConf`] |
//!
//! All of them must stay readable for gs_probackup 2.4.2 of openGauss: what we write is byte for
//! byte what it would write.

mod backup_control;
mod backup_words;
mod content_entry;
mod content_line;
mod content_list;
mod control_reader;
mod header_map;
mod instance_conf;
mod key_value;
mod path_index;
mod root;
mod timestamp;
mod value;

pub use backup_control::{
    BackupControl, ControlError, ControlWarning, replace_pin_and_note, replace_status,
};
pub use backup_words::{BackupMode, BackupStatus, S3Status, StorageType};
pub use content_entry::{
    CompressedAttributes, ContentEntry, ContentListError, EntrySize, FileType, HeaderMapRef,
};
pub use content_list::{ContentList, ContentListReader, ContentListWriter};
pub use header_map::{
    HeaderMapError, HeaderRecords, PageHeaderRecord, encode_header_records, parse_header_records,
};
pub use instance_conf::{ConfError, InstanceConf, InstanceOption};
pub use key_value::same_key;
pub use root::Root;
pub use timestamp::{NoZone, format_timestamp, parse_timestamp, timestamp_has_offset};
pub use value::{
    Expected, LogLevel, Unit, ValueError, format_with_unit, parse_bool, parse_i32, parse_i64,
    parse_u32, parse_u64, printable,
};
