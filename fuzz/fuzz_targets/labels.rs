//! Backup labels and maps of any content are parsed without a panic, and what was parsed is read
//! back from what it is written as.
#![no_main]

use gs_probackup::format::backup_label::BackupLabel;
use gs_probackup::format::{database_map, tablespace_map};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(label) = BackupLabel::parse(data) {
        assert_eq!(BackupLabel::parse(label.encode().as_bytes()), Ok(label));
    }
    if let Ok(entries) = tablespace_map::parse(data) {
        assert!(entries.iter().all(|(_, path)| path.starts_with('/')));
        let text = tablespace_map::encode(&entries).expect("parsed paths are plain");
        assert_eq!(tablespace_map::parse(text.as_bytes()), Ok(entries));
    }
    if let Ok(databases) = database_map::parse(data) {
        let text = database_map::encode(&databases).expect("lines have no line breaks");
        assert_eq!(database_map::parse(text.as_bytes()), Ok(databases));
    }
});
