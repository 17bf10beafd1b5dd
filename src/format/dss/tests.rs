//! The structures of volumes that a real server wrote, and what hostile bytes make of them.

use super::*;
use crate::format::little_endian::{put_u16, put_u32, put_u64, u64_at};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;

/// The first bytes of an image of the fixtures.
fn image(name: &str, length: usize) -> Option<Vec<u8>> {
    let path = crate::format::fixtures::root().join("dss").join(name);
    let Ok(file) = std::fs::File::open(&path) else {
        crate::format::fixtures::skip(name);
        return None;
    };
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut bytes = Vec::new();
    decoder.take(length as u64).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), length);
    Some(bytes)
}

const HEAD: usize = 4 << 20;

/// The populated group's first volume up to its first file table unit.
fn populated() -> Option<&'static [u8]> {
    static IMAGE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| image("pop-data0.img.zst", HEAD + 66 * 1024 * 1024));
    image.as_deref()
}

fn slot(image: &[u8], structure: Structure) -> &[u8] {
    let at = usize::try_from(structure.offset()).unwrap();
    &image[at..at + structure.bytes()]
}

#[test]
fn ids_are_bit_fields() {
    let id = BlockId(1_600_888_930_203_648);
    assert_eq!(
        (id.volume(), id.au(), id.block(), id.item()),
        (0, 158, 91, 0)
    );
    assert_eq!(BlockId::new(0, 158, 91), id);
    assert_eq!(id.to_string(), "0:158.91");
    assert_eq!(id.whole_au(), BlockId::new(0, 158, 0));
    let flagged = BlockId(id.0 | 1 << 61);
    assert!(flagged.has_flag() && !id.has_flag());
    assert_eq!(flagged.without_item(), id);
    let au = 2 << 20;
    assert_eq!(
        id.position(Structure::FsBlock, au),
        Some(158 * au + 91 * 16384)
    );
    assert_eq!(id.with_block(128).position(Structure::FsBlock, au), None);
    assert_eq!(id.with_block(1365).position(Structure::AuxBlock, au), None);
    for nothing in [BlockId::NONE, BlockId::FREE] {
        assert_eq!(nothing.position(Structure::FileTableBlock, au), None);
        assert!(!nothing.is_root());
    }
    assert!(BlockId::new(3, 0, 7).is_root());
}

#[test]
fn the_controls_of_a_real_group_say_what_its_tools_say() {
    let Some(image) = populated() else { return };
    let header = VolumeHeader::parse(slot(image, Structure::VolumeHeader)).unwrap();
    assert!(header.is_entry && header.volume == 0);
    assert_eq!(
        (&*header.group, &*header.device),
        ("data", "/dev/gauss/data0")
    );
    for structure in Structure::CONTROLS {
        structure.verify(slot(image, structure)).unwrap();
    }
    // The numbers of `dsscmd showdisk`.
    let core = CoreControl::parse(slot(image, Structure::CoreControl)).unwrap();
    assert_eq!((core.version, core.au_bytes), (4060, 2 << 20));
    assert_eq!((core.volume_count, core.taken_aus), (2, 217));
    assert_eq!(core.recycle, BlockId(34816));
    assert_eq!(
        core.free_fs_blocks,
        FreeList {
            count: 602,
            first: BlockId(1_600_888_930_203_648),
            last: BlockId(208_896)
        }
    );
    assert_eq!(core.free_aux_blocks.count, 1279);
    assert_eq!(core.free_aux_blocks.first, BlockId(22_482_813_764_803_584));
    let sizes = |volume: usize| {
        let volume = core.volumes[volume];
        (
            volume.id,
            volume.size_bytes,
            volume.used_bytes,
            volume.free_bytes,
        )
    };
    assert_eq!(sizes(0), (0, 6_442_450_944, 526_385_152, 5_916_065_792));
    assert_eq!(sizes(1), (1, 1_073_741_824, 4_194_304, 1_069_547_520));
    let volumes = VolumeControl::parse(slot(image, Structure::VolumeControl));
    let occupied = |slot: &&VolumeSlot| slot.state == VolumeState::Occupied;
    let devices: Vec<&str> = volumes
        .slots
        .iter()
        .filter(occupied)
        .map(|slot| &*slot.device)
        .collect();
    assert_eq!(devices, ["/dev/gauss/data0", "/dev/gauss/data1"]);
    let root = RootBlock::parse(slot(image, Structure::RootBlock)).unwrap();
    assert_eq!(&*root.node.name, "data");
    assert_eq!((root.first, root.free_nodes.count), (BlockId(34816), 3965));
    let redo = RedoControl::parse(slot(image, Structure::RedoControl), core.au_bytes).unwrap();
    assert_eq!(redo.segments, [(BlockId::new(0, 2, 0), 64 << 20)]);
}

#[test]
fn a_damaged_old_or_wiped_header_is_told_apart() {
    let Some(image) = populated() else { return };
    let good = slot(image, Structure::VolumeHeader).to_vec();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut header = good.clone();
        change(&mut header);
        VolumeHeader::parse(&header).unwrap_err()
    };
    assert_eq!(refused(&|h| h.fill(0)), DssFormatError::NotInitialised);
    let damaged = refused(&|h| h[20] ^= 1);
    assert!(matches!(
        damaged,
        DssFormatError::Checksum {
            what: "volume header",
            ..
        }
    ));
    for version in [0, 1, 3] {
        let old = refused(&|h| {
            put_u32(h, 144, version);
            Structure::VolumeHeader.seal(h);
        });
        assert_eq!(old, DssFormatError::SoftwareVersion { version });
    }
}

#[test]
fn impossible_geometries_are_refused() {
    let Some(image) = populated() else { return };
    let mut core = slot(image, Structure::CoreControl).to_vec();
    for au_bytes in [0, 512, 1 << 20, 3000 << 10, 128 << 20, u32::MAX] {
        put_u32(&mut core, 16, au_bytes);
        let error = CoreControl::parse(&core).unwrap_err().to_string();
        assert!(error.contains("2 to 64 MiB"), "{error}");
    }
    put_u32(&mut core, 16, 64 << 20);
    for count in [0, 257, u32::MAX] {
        put_u32(&mut core, 20, count);
        assert!(CoreControl::parse(&core).is_err(), "{count}");
    }
    let good = slot(image, Structure::RedoControl);
    for (at, value) in [
        (128, 0_u32),
        (128, 9),
        (4, 1),
        (16, 100),
        (16, 64 << 20),
        (96, 0),
        (96, 5),
        (32, 0),
        (36, u32::MAX),
    ] {
        let mut redo = good.to_vec();
        put_u32(&mut redo, at, value);
        assert!(RedoControl::parse(&redo, 2 << 20).is_err(), "{at} {value}");
    }
}

#[test]
fn nodes_of_a_real_group_are_read_and_impossible_names_refused() {
    let Some(image) = image("crash-create.img.zst", HEAD + 66 * 1024 * 1024) else {
        return;
    };
    let au = 34 * (2 << 20);
    let names: Vec<String> = (0..4096)
        .filter_map(|block| {
            let slot = &image[au + block * 512..au + block * 512 + 512];
            Structure::FileTableBlock.verify(slot).unwrap();
            let id = BlockId::new(0, 34, block as u64);
            let parsed = FileTableBlock::parse(slot, id).unwrap();
            (parsed.head.state == BlockState::Used).then(|| {
                let node = Node::parse(parsed.node).unwrap();
                assert_eq!(node.id, id);
                node.name.into_string()
            })
        })
        .collect();
    assert_eq!(&names[..3], [".recycle", "d", "a"]);
    let good = image[au + 256..au + 512].to_vec();
    for name in ["", "..", ".", "a/b", "a\nb", "\u{e9}", "a b"] {
        let mut node = good.clone();
        node[88..152].fill(0);
        node[88..88 + name.len()].copy_from_slice(name.as_bytes());
        let error = Node::parse(&node).unwrap_err();
        assert!(matches!(error, DssFormatError::Name { .. }), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
    let other = FileTableBlock::parse(&image[au..au + 512], BlockId::new(0, 34, 1));
    assert!(matches!(
        other,
        Err(DssFormatError::Field { field: "id", .. })
    ));
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Blocks in memory, zeros where nothing was written.
#[derive(Debug, Default, Clone, PartialEq)]
struct Memory {
    blocks: BTreeMap<(Structure, BlockId), Vec<u8>>,
}

impl ReplayBlocks for Memory {
    type Error = DssFormatError;

    fn block(&mut self, structure: Structure, id: BlockId) -> Result<&mut [u8], DssFormatError> {
        id.position(structure, 2 << 20)
            .ok_or(DssFormatError::NotInitialised)?;
        let entry = self.blocks.entry((structure, id));
        Ok(entry.or_insert_with(|| vec![0; structure.bytes()]))
    }

    fn format_au(&mut self, au: BlockId, formatted: FormattedAu) {
        self.blocks.retain(|(_, id), _| id.whole_au() != au);
        let structure = match formatted {
            FormattedAu::FileTable { .. } => Structure::FileTableBlock,
            FormattedAu::FileSpace { .. } => Structure::FsBlock,
            FormattedAu::Aux { .. } => Structure::AuxBlock,
        };
        for number in [0, 1, structure.per_au(2 << 20) - 1] {
            let id = au.with_block(number);
            let block = formatted_block(formatted, 2 << 20, id);
            self.blocks.insert((structure, id), block);
        }
    }
}

fn controls() -> Controls {
    Controls {
        core: vec![0; Structure::CoreControl.bytes()],
        volumes: vec![0; Structure::VolumeControl.bytes()],
        root: vec![0; Structure::RootBlock.bytes()],
    }
}

fn pending(name: &str) -> Option<(RedoBatch, RedoControl)> {
    let image = image(name, HEAD + 66 * 1024 * 1024)?;
    let redo = RedoControl::parse(slot(&image, Structure::RedoControl), 2 << 20).unwrap();
    let at = HEAD + usize::try_from(redo.offset).unwrap();
    let length = batch_bytes(&image[at..at + 512]).unwrap();
    let bytes = &image[at..at + length];
    for byte in [3, 4, 8, 16, 40, length - 30] {
        let mut torn = bytes.to_vec();
        torn[byte] ^= 0x10;
        assert_eq!(RedoBatch::parse(&torn, redo.lsn), Ok(None), "{name} {byte}");
    }
    assert_eq!(RedoBatch::parse(bytes, redo.lsn + 1), Ok(None));
    Some((RedoBatch::parse(bytes, redo.lsn).unwrap().unwrap(), redo))
}

#[test]
fn pending_batches_are_found_and_applying_them_twice_is_applying_them_once() {
    for (name, kinds) in [
        ("crash-create.img.zst", vec![10, 10, 12, 4]),
        ("crash-extend-batch.img.zst", vec![0, 19, 7]),
        ("crash-format-fs.img.zst", vec![0, 9, 10, 10, 12, 4]),
    ] {
        let Some((batch, redo)) = pending(name) else {
            return;
        };
        assert_eq!(batch.lsn, redo.lsn + 1);
        let found: Vec<u32> = batch.entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(found, kinds, "{name}");
        let again = batch.encode();
        assert_eq!(RedoBatch::parse(&again, redo.lsn), Ok(Some(batch.clone())));
        let (mut blocks, mut controls) = (Memory::default(), controls());
        replay(&batch, &mut controls, 2 << 20, &mut blocks).unwrap();
        let once = (blocks.clone(), controls.clone());
        replay(&batch, &mut controls, 2 << 20, &mut blocks).unwrap();
        assert_eq!(blocks, once.0, "{name}");
        assert_eq!(u64_at(&controls.core, 16), u64_at(&once.1.core, 16));
    }
}

#[test]
fn any_entry_is_applied_or_refused_and_never_more() {
    let mut random = Random::new(7);
    let mut applied = 0;
    for _ in 0..20_000 {
        let kind = u32::try_from(random.below(24)).unwrap();
        let mut payload = vec![0; usize::try_from(random.below(1200)).unwrap()];
        for at in (0..payload.len()).step_by(8) {
            // Ids that there can be are met now and then.
            let value = match random.below(4) {
                0 => BlockId::new(0, 40, random.below(128)).0,
                1 => random.below(64),
                2 => u64::MAX,
                _ => random.below(u64::MAX),
            };
            let end = payload.len().min(at + 8);
            payload[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        let entries = vec![RedoEntry { kind, payload }];
        let batch = RedoBatch {
            lsn: 1,
            time_us: 0,
            entries,
        };
        let result = replay(&batch, &mut controls(), 2 << 20, &mut Memory::default());
        applied += u32::from(result.is_ok());
    }
    assert!(applied > 500, "{applied}");
}

#[test]
fn a_batch_goes_around_the_ring() {
    let Some(image) = populated() else { return };
    let mut slot = slot(image, Structure::RedoControl).to_vec();
    put_u64(&mut slot, 16, (64 << 20) - 512);
    let redo = RedoControl::parse(&slot, 2 << 20).unwrap();
    let start = BlockId::new(0, 2, 0);
    let piece = |offset, length| RingPiece {
        start,
        offset,
        length,
    };
    assert_eq!(redo.pieces(512), [piece((64 << 20) - 512, 512)]);
    assert_eq!(
        redo.pieces(2048),
        [piece((64 << 20) - 512, 512), piece(0, 1536)]
    );
}

#[test]
fn formatted_blocks_are_those_of_the_server() {
    let Some(image) = image("empty-data0.img.zst", HEAD + 66 * 1024 * 1024) else {
        return;
    };
    let au = BlockId::new(0, 34, 0);
    let formatted = FormattedAu::FileTable {
        previous_last: BlockId::NONE,
    };
    // Block 0 is in use for .recycle; all others are as formatting left them.
    for number in 1..4096 {
        let mine = formatted_block(formatted, 2 << 20, au.with_block(number));
        let at = 34 * (2 << 20) + usize::try_from(number).unwrap() * 512;
        let real = &image[at..at + 512];
        assert_eq!(mine[8..], real[8..], "{number}");
    }
}

#[test]
fn a_new_group_is_that_of_the_server_byte_for_byte() {
    for (name, group, device, au_bytes, size_bytes) in [
        ("empty-data0", "data", "/dev/gauss/data0", 2 << 20, 6 << 30),
        ("empty-p0", "p0", "/dev/gauss/p0", 8 << 20, 512 << 20),
        ("empty-p1", "p1", "/dev/gauss/p1", 4 << 20, 512 << 20),
    ] {
        let length = HEAD + 84 * 1024 * 1024;
        let Some(image) = image(&format!("{name}.img.zst"), length) else {
            return;
        };
        let header = slot(&image, Structure::VolumeHeader);
        let new = NewGroup {
            name: group.to_owned(),
            device: device.to_owned(),
            au_bytes,
            size_bytes,
            time: (u64_at(header, 152), u64_at(header, 160)),
        };
        let mut made = vec![0; length];
        for (at, bytes) in new.writes().unwrap() {
            let at = usize::try_from(at).unwrap();
            made[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        let differs = made
            .iter()
            .zip(&image)
            .position(|(made, real)| made != real);
        assert_eq!(differs, None, "{name}");
    }
}

#[test]
fn impossible_new_groups_are_refused() {
    let good = NewGroup {
        name: "data".to_owned(),
        device: "/dev/x".to_owned(),
        au_bytes: 2 << 20,
        size_bytes: 70 << 20,
        time: (0, 0),
    };
    assert!(good.writes().is_ok());
    let refused = |change: &dyn Fn(&mut NewGroup)| {
        let mut group = good.clone();
        change(&mut group);
        group.writes().is_err()
    };
    assert!(refused(&|group| group.au_bytes = 3000 << 10));
    assert!(refused(&|group| group.au_bytes = 1 << 20));
    assert!(refused(&|group| group.size_bytes = (70 << 20) - 1));
    assert!(refused(&|group| group.name = "a/b".to_owned()));
    assert!(refused(&|group| group.device = "x".repeat(64)));
}

#[test]
fn no_bytes_make_a_parser_panic() {
    let mut random = Random::new(11);
    for round in 0..3000_u64 {
        let mut bytes = vec![0; 16384];
        for chunk in bytes.chunks_mut(8) {
            let value = match random.below(3) {
                0 => 0,
                1 => random.below(300),
                _ => random.below(u64::MAX),
            };
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        if round % 2 == 0 {
            put_u32(&mut bytes, 16, 2 << 20);
            put_u32(&mut bytes, 140, 0x5f37_59df);
            put_u16(&mut bytes, 50, 2041);
            put_u32(&mut bytes, 128, 1);
        }
        let _ = VolumeHeader::parse(&bytes[..512]);
        let _ = CoreControl::parse(&bytes);
        let _ = RootBlock::parse(&bytes[..512]);
        let id = BlockId(u64_at(&bytes, 16));
        let _ = FileTableBlock::parse(&bytes[..512], id).map(|block| Node::parse(block.node));
        let _ = AuxBlock::parse(&bytes[..1536], id, 2 << 20);
        if let Ok(block) = FsBlock::parse(&bytes, id) {
            assert!(usize::from(block.used) <= FS_BLOCK_ENTRIES);
        }
        if let Ok(redo) = RedoControl::parse(&bytes[..512], 2 << 20) {
            let length: u64 = redo.pieces(65536).iter().map(|piece| piece.length).sum();
            assert_eq!(length, 65536);
        }
        let _ = RedoBatch::parse(&bytes[..512], random.below(300));
    }
}

#[test]
fn the_configuration_names_groups_and_devices() {
    let text = "# groups\n\n data:/dev/gauss/data0\r\nlog : /dev/disk/by-id/x:1\n";
    let pair = |name: &str, device: &str| (name.to_owned(), device.to_owned());
    assert_eq!(
        parse_vg_conf(text),
        Ok(vec![
            pair("data", "/dev/gauss/data0"),
            pair("log", "/dev/disk/by-id/x:1")
        ])
    );
    for (text, line) in [
        ("data", 1),
        ("a:/x\na:/y", 2),
        ("a:/x\n../b:/y", 2),
        ("a:", 1),
    ] {
        assert_eq!(parse_vg_conf(text), Err(ConfLineError { line }), "{text}");
    }
}
