//! The backup catalog: its layout, locks, records and chains.
//!
//! ```text
//! <catalog>/backups/<instance>/pg_probackup.conf
//!                              <backup id>/backup.control
//!                                          backup_content.control
//!                                          page_header_map
//!                                          backup.pid, backup_ro.pid      (locks)
//!                                          database/
//!                                          external_directories/externaldir<n>/
//!          /wal/<instance>/
//! ```
//!
//! Everything that is written here is durable when the call returns, and replaced at once: a crash
//! leaves the old file or the new one. Nothing here judges a backup; the commands do.

mod backup;
mod chain;
mod error;
mod instance;
mod layout;
pub mod lock;
mod lock_files;
mod lock_owner;
mod process;
mod retention;
mod running;
mod settings;
mod wal_archive;
mod wal_purge;

pub use backup::{BackupDir, BackupEntry, ContentTotals, UnfinishedMerge};
pub use chain::{Chain, ChainError, ChainMember};
pub use error::CatalogError;
pub use instance::{Catalog, Instance};
pub use layout::{
    BACKUP_CONTROL, CONTENT_LIST, DATABASE, DIRECTORY_MODE, DSSDATA, EXCLUSIVE_LOCK,
    EXTERNAL_DIRECTORIES, FILE_MODE, HEADER_MAP, MERGE_STAGING,
};
pub use retention::{
    Calendar, PlannedMerge, RetentionPlan, RetentionPolicy, Verdict, plan_retention,
};
pub use running::{RunningBackup, running_backup};
pub use wal_archive::{
    ArchivedTimeline, TimelineFiles, TimelineHistory, WalArchive, WalFile, WalFileKind, WalFiles,
};
pub use wal_purge::{
    KeptFor, KeptSegments, KeptWal, TimelinePurge, WalBackup, WalNeeds, plan_wal_purge,
};
