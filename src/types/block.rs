//! Pages and their positions. "Block" means three things in openGauss; these newtypes keep them
//! apart.

use std::fmt;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 8192;

/// Blocks in one segment file of a relation (1 GiB).
pub const RELSEG_SIZE: u32 = 131_072;

/// Position of a page in a relation fork, counted over all its segment files; what the page
/// checksum hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct BlockNumber(pub u32);

/// Position of a page inside one segment file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct FileBlock(pub u32);

/// The `n` of the segment file `16397.n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct SegmentNumber(pub u32);

impl SegmentNumber {
    /// The relation block that `block` of this segment file is.
    ///
    /// Wraps at 2^32 as the server's arithmetic does: a segment number comes from a file name and
    /// proves nothing.
    #[must_use]
    pub fn relation_block(self, block: FileBlock) -> BlockNumber {
        BlockNumber(self.0.wrapping_mul(RELSEG_SIZE).wrapping_add(block.0))
    }
}

impl fmt::Display for BlockNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FileBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_block_counts_over_segment_files() {
        assert_eq!(
            SegmentNumber(0).relation_block(FileBlock(7)),
            BlockNumber(7)
        );
        assert_eq!(
            SegmentNumber(1).relation_block(FileBlock(1042)),
            BlockNumber(132_114)
        );
        assert_eq!(
            SegmentNumber(u32::MAX).relation_block(FileBlock(0)),
            BlockNumber(4_294_836_224)
        );
    }
}
