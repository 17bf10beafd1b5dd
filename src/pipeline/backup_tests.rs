//! Tests of the backup's use of the transfer loop.

use super::*;
use crate::io::BufferPool;
use crate::pipeline::records::check_page;
use crate::storage::Posix;
use std::path::Path;

#[test]
fn a_compressed_extent_of_segment_storage_is_kept_as_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let storage = Posix::open(scratch.path()).unwrap();
    let map = storage.create(Path::new("map"), 0o600, false).unwrap();
    let kind = BackupKind::new(CompressAlgorithm::None, 1, 1, HeaderMapFile::new(map));
    let pool = BufferPool::new(2);
    let mut input = pool.try_take().unwrap();
    input.set_range(0..EXTENT_BYTES_MAX);
    input.data_mut().fill(0xA5);
    input.data_mut()[EXTENT_BYTES_MAX - 8..].copy_from_slice(b"seg_comp");
    let mut output = pool.try_take().unwrap();
    let mut process = |name: &str, attempt| {
        let extent = BackupExtent {
            name: name.into(),
            content: Content::Pages(SegmentNumber(0)),
            first: FileBlock(0),
            wanted: EXTENT_BYTES_MAX,
            lead: 0,
        };
        kind.process(&extent, attempt, &mut input, Some(&mut output))
    };
    assert!(matches!(
        process("base/16384/16397", PAGE_REREADS_MAX),
        Err(PipelineError::CorruptPage { .. })
    ));
    let name = "base/16384/4.1";
    let Ok(Processed::Done(done)) = process(name, 0) else {
        panic!("it is not judged");
    };
    assert_eq!(done.blocks, 128);
    let page = &output.data()[PAGE_RECORD_HEADER_BYTES..][..PAGE_SIZE];
    let block = SegmentNumber(1).relation_block(FileBlock(0));
    let record = &done.records[0];
    assert!(check_page(page, false, block, record, name).is_ok());
    let checked = PageHeaderRecord {
        checksum: 1,
        ..*record
    };
    assert!(check_page(page, false, block, &checked, name).is_err());
    assert!(check_page(page, false, block, record, "base/16384/16397").is_err());
}

#[test]
fn a_plain_file_may_be_larger_than_a_segment_file() {
    let scratch = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Posix::open(scratch.path()).unwrap());
    let create = |name: &str| storage.create(Path::new(name), 0o600, false).unwrap();
    create("core");
    let map = HeaderMapFile::new(create("map"));
    let kind = BackupKind::new(CompressAlgorithm::None, 1, 1, map);
    let item = BackupItem {
        index: 0,
        name: "core".to_owned(),
        source: storage.clone(),
        source_path: "core".into(),
        target: storage.clone(),
        target_path: "copy".into(),
        target_mode: 0o600,
        size: 1 << 40,
        content: Content::Plain,
    };
    let mut file = kind.open(item).unwrap().unwrap();
    file.writer = file.writer.map(|writer| writer.at(1 << 35));
    let done = BackupDone {
        crc: 0,
        range: 0..4096,
        records: Vec::new(),
        blocks: 0,
        short: false,
        compressed: None,
    };
    let buffer = BufferPool::new(1).try_take().unwrap();
    let write = kind.collect(&mut file, done, buffer, None).unwrap();
    assert_eq!(write.unwrap().runs[0].0, 1 << 35);
    kind.complete(&mut file).unwrap();
}
