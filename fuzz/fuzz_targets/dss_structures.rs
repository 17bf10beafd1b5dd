//! Any bytes are read as the structures of a volume and as a redo batch, and applied, without a
//! panic; what is read stays within its bounds.

#![no_main]

use gs_probackup::format::dss::{
    AuxBlock, BlockId, Controls, CoreControl, DssFormatError, FS_BLOCK_ENTRIES, FileTableBlock,
    FormattedAu, FsBlock, Node, RedoBatch, RedoControl, RedoEntry, ReplayBlocks, RootBlock,
    Structure, VolumeControl, VolumeHeader, formatted_block, parse_vg_conf, replay,
};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

const AU: u64 = 2 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    if choice % 4 == 0 {
        apply(data);
        return;
    }
    let slot = |structure: Structure| {
        let mut slot = data.to_vec();
        slot.resize(structure.bytes(), 0);
        structure.seal(&mut slot);
        slot
    };
    let id = BlockId(u64::from_le_bytes(
        slot(Structure::FsBlock)[16..24]
            .try_into()
            .expect("8 bytes"),
    ));
    let _ = VolumeHeader::parse(&slot(Structure::VolumeHeader));
    if let Ok(core) = CoreControl::parse(&slot(Structure::CoreControl)) {
        assert!(core.au_bytes.is_power_of_two());
    }
    let _ = VolumeControl::parse(&slot(Structure::VolumeControl));
    let _ = RootBlock::parse(&slot(Structure::RootBlock));
    if let Ok(redo) = RedoControl::parse(&slot(Structure::RedoControl), AU) {
        let length: u64 = redo.pieces(65536).iter().map(|piece| piece.length).sum();
        assert_eq!(length, 65536);
    }
    if let Ok(block) = FileTableBlock::parse(&slot(Structure::FileTableBlock), id) {
        let _ = Node::parse(block.node).map(|node| assert!(!node.name.contains('/')));
    }
    if let Ok(block) = FsBlock::parse(&slot(Structure::FsBlock), id) {
        assert!(usize::from(block.used) <= FS_BLOCK_ENTRIES);
        let _ = block.entry(FS_BLOCK_ENTRIES - 1);
    }
    if let Ok(block) = AuxBlock::parse(&slot(Structure::AuxBlock), id, AU) {
        assert_eq!(block.bitmap.len() as u64, AU / 8192 / 8);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_vg_conf(text);
    }
    let mut sectors = data.to_vec();
    sectors.resize(data.len().next_multiple_of(512), 0);
    let _ = RedoBatch::parse(&sectors, 0);
});

/// Blocks in memory.
#[derive(Default)]
struct Memory(BTreeMap<(Structure, BlockId), Vec<u8>>);

impl ReplayBlocks for Memory {
    type Error = DssFormatError;

    fn block(&mut self, structure: Structure, id: BlockId) -> Result<&mut [u8], DssFormatError> {
        id.position(structure, AU)
            .ok_or(DssFormatError::NotInitialised)?;
        let entry = self.0.entry((structure, id));
        Ok(entry.or_insert_with(|| vec![0; structure.bytes()]))
    }

    fn format_au(&mut self, au: BlockId, formatted: FormattedAu) {
        self.0.retain(|(_, id), _| id.whole_au() != au);
        let _ = formatted_block(formatted, AU, au);
    }
}

/// The bytes as entries of a batch: a type, a length, a payload.
fn apply(mut data: &[u8]) {
    let mut entries = Vec::new();
    while let [kind, length, rest @ ..] = data {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*length) * 8));
        entries.push(RedoEntry {
            kind: u32::from(*kind % 24),
            payload: payload.to_vec(),
        });
        data = rest;
    }
    let mut controls = Controls {
        core: vec![0; Structure::CoreControl.bytes()],
        volumes: vec![0; Structure::VolumeControl.bytes()],
        root: vec![0; Structure::RootBlock.bytes()],
    };
    let batch = RedoBatch {
        lsn: 1,
        time_us: 0,
        entries,
    };
    let mut blocks = Memory::default();
    if replay(&batch, &mut controls, AU, &mut blocks).is_ok() {
        Structure::CoreControl
            .verify(&controls.core)
            .expect("it was sealed");
    }
}
