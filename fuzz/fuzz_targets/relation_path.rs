//! Any path is classified without a panic, and a path called a relation is the one that its parts
//! spell.
#![no_main]

use gs_probackup::format::relation_path::{
    FileKind, KeptDirectories, classify, is_content_excluded_dir, is_excluded_file,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(path) = std::str::from_utf8(data) else {
        return;
    };
    let found = classify(path);
    let _ = is_content_excluded_dir(path, KeptDirectories::default());
    let FileKind::Relation(file) = found.kind else {
        return;
    };
    assert!(!is_excluded_file(path) && !found.temp);
    let number = match file.segno.0 {
        0 => String::new(),
        segno => format!(".{segno}"),
    };
    let suffix = if file.compressed { "_compress" } else { "" };
    let name = format!("{}{number}{suffix}", file.rel);
    match found.tablespace_oid {
        1664 if path.starts_with("global/") => assert_eq!(path, format!("global/{name}")),
        1663 if path.starts_with("base/") => {
            assert_eq!(path, format!("base/{}/{name}", file.db_oid));
        }
        tablespace => {
            assert!(path.starts_with(&format!("pg_tblspc/{tablespace}/PG_")));
            assert!(path.ends_with(&format!("/{}/{name}", file.db_oid)));
        }
    }
});
