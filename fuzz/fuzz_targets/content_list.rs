//! Content lists: reading never panics, no path leads elsewhere, what can be stored is read back.
#![no_main]

use gs_probackup::format::catalog::{ContentEntry, ContentList, ContentListWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((list, crc)) = ContentList::parse(bytes) else {
        return;
    };
    let mut writer = ContentListWriter::new(Vec::new());
    for entry in list.iter() {
        assert!(!entry.path.starts_with('/'));
        assert!(
            entry
                .path
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."))
        );
        assert_eq!(list.find(&entry.path, entry.root()).as_ref(), Some(&entry));
        let mut line = Vec::new();
        if entry.encode_line(&mut line).is_ok() {
            assert_eq!(line.pop(), Some(b'\n'));
            let again = ContentEntry::parse_line(&line, 1).expect("what was written can be read");
            assert_eq!(again, entry);
            writer.write(&entry).expect("it was written just now");
        } else {
            assert!(line.is_empty());
        }
    }
    assert_eq!(list.iter_sorted().count(), list.len());
    let (written, written_crc) = writer.finish();
    if written == bytes {
        assert_eq!(written_crc, crc);
    }
});
