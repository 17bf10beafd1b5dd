//! Files at their places, judged by what a chain has of them.

use super::*;
use crate::format::catalog::PageHeaderRecord;
use crate::format::page::page_checksum;
use crate::io::EngineChoice;
use crate::monitor::CollectingMonitor;
use crate::pipeline::header_map::{EncodedHeaders, HeaderMapFile, HeaderMapReader};
use crate::pipeline::{ChainMember, MemberFile, Settings, transfer};
use crate::storage::Posix;
use crate::types::{BlockNumber, CompressAlgorithm};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const NAME: &str = "base/16384/16385";

/// Positions in WAL, each behind the one before.
const OLD: u64 = 0x100_0000;
const LATER: u64 = 0x180_0000;
const SHIFT: u64 = 0x200_0000;
const NEW: u64 = 0x300_0000;

/// A page: block, position of its last change, what is on it.
type Page = (u32, u64, u8);

struct Ground {
    scratch: tempfile::TempDir,
    storage: Arc<Posix>,
}

fn bytes_of((block, lsn, fill): Page) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    let [high, low] = [lsn >> 32, lsn & 0xFFFF_FFFF].map(|half| u32::try_from(half).unwrap());
    page[..4].copy_from_slice(&high.to_le_bytes());
    page[4..8].copy_from_slice(&low.to_le_bytes());
    page[12..14].copy_from_slice(&48_u16.to_le_bytes());
    page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
    page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
    page[18..20].copy_from_slice(&(8192_u16 | 6).to_le_bytes());
    page[4000..5000].fill(fill);
    let checksum = page_checksum(&page, BlockNumber(block));
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn file_of(pages: &[Page]) -> Vec<u8> {
    pages.iter().flat_map(|page| bytes_of(*page)).collect()
}

impl Ground {
    fn create() -> Ground {
        let scratch = tempfile::tempdir().unwrap();
        let storage = Arc::new(Posix::open(scratch.path()).unwrap());
        Ground { scratch, storage }
    }

    fn target(&self) -> PathBuf {
        self.scratch.path().join("target")
    }

    fn put(&self, bytes: &[u8]) {
        std::fs::write(self.target(), bytes).unwrap();
        self.set_mode(0o600);
    }

    fn set_mode(&self, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.target(), mode).unwrap();
    }

    /// A copy of a backup that ended at `stop`: what its page headers say. There is no copy.
    fn member(&self, name: &str, pages: &[Page], stop: u64) -> ChainMember {
        let record_bytes = PAGE_SIZE + 8;
        let records = pages.iter().enumerate().map(|(index, page)| {
            let bytes = bytes_of(*page);
            PageHeaderRecord {
                lsn: Lsn(page.1),
                block: page.0,
                position: u32::try_from(index * record_bytes).unwrap(),
                checksum: u16::from_le_bytes([bytes[8], bytes[9]]),
            }
        });
        let size = u32::try_from(pages.len() * record_bytes).unwrap();
        let encoded = EncodedHeaders::new(&records.collect::<Vec<_>>(), size);
        let path = Path::new(name);
        std::fs::remove_file(self.scratch.path().join(path)).ok();
        let map = HeaderMapFile::new(self.storage.create(path, 0o600, false).unwrap());
        let reference = map.append(&encoded).unwrap();
        let reader = HeaderMapReader::open(&*self.storage, path).unwrap();
        ChainMember {
            file: MemberFile {
                storage: self.storage.clone(),
                path: "none".into(),
                size: u64::from(size),
                crc: None,
                algorithm: CompressAlgorithm::Zlib,
                page_checksums: true,
                knows_pages: true,
                headers: Some((Arc::new(reader), reference)),
            },
            block_limit: u32::MAX,
            stop_lsn: Lsn(stop),
        }
    }

    fn judge(&self, file: ChainFile, shift: Option<u64>, unlogged: bool) -> Existing {
        let item = CompareItem {
            index: 0,
            name: NAME.to_owned(),
            file,
            target: self.storage.clone(),
            target_path: "target".into(),
            mode: 0o600,
            packed: None,
            unlogged,
        };
        let settings = Settings {
            engine: EngineChoice::Sync,
            threads: 1,
            sync: false,
            cancel: Arc::default(),
        };
        let kind = CompareKind::new(1, 1, shift.map(Lsn));
        let monitor = CollectingMonitor::default();
        transfer(&kind, [item].into_iter(), &settings, &monitor).unwrap();
        kind.into_results().remove(0)
    }

    /// What is found of a file that one backup has, which ended before the shift LSN.
    fn of_one(&self, wanted: &[Page], shift: Option<u64>, unlogged: bool) -> Existing {
        let last = wanted.last().unwrap().0;
        let file = ChainFile::Pages {
            segno: SegmentNumber(0),
            compressed: false,
            n_blocks: last + 1,
            members: vec![self.member("map", wanted, SHIFT)],
        };
        self.judge(file, shift, unlogged)
    }

    fn plain(&self, content: &[u8], found: &[u8]) -> Existing {
        self.put(found);
        std::fs::write(self.scratch.path().join("copy"), content).unwrap();
        let member = (!content.is_empty()).then(|| MemberFile {
            storage: self.storage.clone(),
            path: "copy".into(),
            size: bytes(content.len()),
            crc: Some(crc32c::crc32c(content)),
            algorithm: CompressAlgorithm::None,
            page_checksums: false,
            knows_pages: true,
            headers: None,
        });
        self.judge(ChainFile::Plain(member), None, false)
    }
}

/// Blocks that have to be written, and the length of the file.
#[track_caller]
fn needed(existing: &Existing) -> (Vec<u32>, u64) {
    let Existing::Pages { needed, bytes } = existing else {
        panic!("{existing:?}");
    };
    let blocks = (0..1000).filter(|block| needed.contains(*block));
    (blocks.collect(), *bytes)
}

fn is_same(existing: &Existing) -> bool {
    matches!(existing, Existing::Same { other_mode: false })
}

const WANTED: [Page; 4] = [(0, OLD, 1), (1, OLD, 2), (2, LATER, 3), (3, OLD, 4)];
const LENGTH: u64 = 4 * 8192;

#[test]
fn pages_stay_where_they_are_equal() {
    let ground = Ground::create();
    let right = file_of(&WANTED);
    ground.put(&right);
    assert!(is_same(&ground.of_one(&WANTED, None, false)));
    // Of another position, of another content, damaged, in another's place, of zeros.
    let other = |block: usize, page: &[u8]| {
        let mut bytes = right.clone();
        bytes[block * PAGE_SIZE..(block + 1) * PAGE_SIZE].copy_from_slice(page);
        ground.put(&bytes);
        needed(&ground.of_one(&WANTED, None, false))
    };
    let mut damaged = bytes_of(WANTED[2]);
    damaged[4500] ^= 1;
    for page in [
        bytes_of((2, LATER + 8, 3)),
        bytes_of((2, LATER, 9)),
        damaged,
        bytes_of(WANTED[1]),
        vec![0; PAGE_SIZE],
    ] {
        assert_eq!(other(2, &page), (vec![2], LENGTH));
    }
}

#[test]
fn a_file_of_another_length_gets_the_right_one() {
    let ground = Ground::create();
    let right = file_of(&WANTED);
    ground.put(&right[..2 * PAGE_SIZE]);
    let judged = ground.of_one(&WANTED, None, false);
    assert_eq!(needed(&judged), (vec![2, 3], LENGTH));
    ground.put(&[&right[..], &[7; 2 * PAGE_SIZE]].concat());
    let judged = ground.of_one(&WANTED, None, false);
    assert_eq!(needed(&judged), (vec![], LENGTH));
    // With a part of a page it is made anew.
    for length in [2 * PAGE_SIZE + 100, 4 * PAGE_SIZE + 100] {
        let bytes = [&right[..], &[7; PAGE_SIZE]].concat();
        ground.put(&bytes[..length]);
        let judged = ground.of_one(&WANTED, None, false);
        assert!(matches!(judged, Existing::Other), "{judged:?}");
    }
    // Nothing of it is right: a new file is made.
    ground.put(&[]);
    let judged = ground.of_one(&WANTED, None, false);
    assert!(matches!(judged, Existing::Other), "{judged:?}");
}

#[test]
fn page_that_no_backup_has_is_a_hole_or_the_file_is_made_anew() {
    let ground = Ground::create();
    let wanted = [WANTED[0], WANTED[3]];
    let with = |page: Vec<u8>| {
        let hole = vec![0; PAGE_SIZE];
        let parts = [bytes_of(WANTED[0]), page, hole, bytes_of(WANTED[3])];
        ground.put(&parts.concat());
        ground.of_one(&wanted, None, false)
    };
    assert!(is_same(&with(vec![0; PAGE_SIZE])));
    let judged = with(bytes_of(WANTED[1]));
    assert!(matches!(judged, Existing::Other), "{judged:?}");
}

/// What has to be written where block 1 is such a page, with a shift LSN.
fn by_lsn(found: Page, unlogged: bool) -> Vec<u32> {
    let ground = Ground::create();
    let wanted = [WANTED[0], (1, OLD + 8, 2), WANTED[2]];
    ground.put(&file_of(&[WANTED[0], found, WANTED[2]]));
    match ground.of_one(&wanted, Some(SHIFT), unlogged) {
        Existing::Same { .. } => Vec::new(),
        other => needed(&other).0,
    }
}

#[test]
fn pages_changed_between_their_backup_and_the_shift_lsn_stay() {
    for lsn in [OLD + 8, LATER, SHIFT] {
        assert_eq!(by_lsn((1, lsn, 77), false), Vec::<u32>::new(), "{lsn:X}");
    }
    // Behind it, or from before the backup copied it, or of no position at all.
    for lsn in [SHIFT + 8, NEW, OLD, 0, 1] {
        assert_eq!(by_lsn((1, lsn, 77), false), [1], "{lsn:X}");
    }
    // Where positions say nothing only equal pages stay.
    assert_eq!(by_lsn((1, LATER, 77), true), [1]);
    assert_eq!(by_lsn((1, OLD + 8, 2), true), Vec::<u32>::new());
}

#[test]
fn pages_of_a_backup_behind_the_shift_lsn_stay_where_they_are_equal_only() {
    let ground = Ground::create();
    let newest = [(1, SHIFT + 8, 5)];
    let members = || {
        vec![
            ground.member("newest", &newest, NEW),
            ground.member("oldest", &WANTED, SHIFT),
        ]
    };
    let file = || ChainFile::Pages {
        segno: SegmentNumber(0),
        compressed: false,
        n_blocks: 4,
        members: members(),
    };
    // Block 0 went on before the shift LSN, which is in no later backup: it stays. Block 1 is what
    // it was at the shift LSN.
    ground.put(&file_of(&[
        (0, LATER, 50),
        (1, LATER, 51),
        WANTED[2],
        WANTED[3],
    ]));
    let judged = ground.judge(file(), Some(SHIFT), false);
    assert_eq!(needed(&judged), (vec![1], LENGTH));
    ground.put(&file_of(&[(0, LATER, 50), newest[0], WANTED[2], WANTED[3]]));
    assert!(is_same(&ground.judge(file(), Some(SHIFT), false)));
    // Without a shift LSN block 0 does not stay either.
    let judged = ground.judge(file(), None, false);
    assert_eq!(needed(&judged), (vec![0], LENGTH));
}

#[test]
fn other_files_stay_where_they_are_equal_byte_for_byte() {
    let ground = Ground::create();
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    assert!(is_same(&ground.plain(&content, &content)));
    assert!(is_same(&ground.plain(b"", b"")));
    let mut late = content.clone();
    late[2_999_999] ^= 1;
    // As pg_filenode.map: what ends in its own CRC has one CRC, whatever it is.
    let with_crc = |text: &[u8]| [text, &crc32c::crc32c(text).to_le_bytes()].concat();
    let [one, another] = [with_crc(b"one"), with_crc(b"two")];
    assert_eq!(crc32c::crc32c(&one), crc32c::crc32c(&another));
    for (wanted, found) in [
        (&content[..], &late[..]),
        (&content, &content[..2_999_999]),
        (&one, &another),
        (b"", b"something"),
        (b"something", b""),
    ] {
        let judged = ground.plain(wanted, found);
        assert!(matches!(judged, Existing::Other), "{judged:?}");
    }
}

#[test]
fn what_cannot_be_written_in_place_is_made_anew() {
    let ground = Ground::create();
    ground.put(&file_of(&WANTED));
    ground.set_mode(0o400);
    let judged = ground.of_one(&WANTED, None, false);
    assert!(matches!(judged, Existing::Same { other_mode: true }));
    let mut bytes = file_of(&WANTED);
    bytes[0] ^= 1;
    ground.put(&bytes);
    assert_eq!(needed(&ground.of_one(&WANTED, None, false)).0, [0]);
    ground.set_mode(0o400);
    let judged = ground.of_one(&WANTED, None, false);
    assert!(matches!(judged, Existing::Other), "{judged:?}");
    // A second name: who knows that one would see the file change.
    ground.put(&file_of(&WANTED));
    let second = ground.scratch.path().join("second");
    std::fs::hard_link(ground.target(), second).unwrap();
    let judged = ground.of_one(&WANTED, None, false);
    assert!(matches!(judged, Existing::Other), "{judged:?}");
    std::fs::remove_file(ground.target()).unwrap();
    let judged = ground.of_one(&WANTED, None, false);
    assert!(matches!(judged, Existing::Nothing), "{judged:?}");
    std::fs::create_dir(ground.target()).unwrap();
    let judged = ground.of_one(&WANTED, None, false);
    assert!(matches!(judged, Existing::Nothing), "{judged:?}");
}
