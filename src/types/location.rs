//! Where in a cluster something was found: the one rendering that errors and logs use.

use super::block::{FileBlock, SegmentNumber};
use std::fmt;

/// A file of a cluster or a backup and, where it matters, a block of it.
///
/// Prints `base/16384/16397.1 block 1042 (relation block 132114)`; control characters of the name
/// are escaped.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Location {
    /// Path below the data directory, or the full path of a file elsewhere.
    pub path: String,
    /// Which segment file of its relation the path is; `None` for a file that is no relation.
    pub segno: Option<SegmentNumber>,
    /// Position inside the file.
    pub block: Option<FileBlock>,
}

impl Location {
    /// A whole file.
    #[must_use]
    pub fn file(path: impl Into<String>) -> Location {
        Location {
            path: path.into(),
            segno: None,
            block: None,
        }
    }

    /// A block of a relation's segment file.
    #[must_use]
    pub fn block(path: impl Into<String>, segno: SegmentNumber, block: FileBlock) -> Location {
        Location {
            path: path.into(),
            segno: Some(segno),
            block: Some(block),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.path.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        let Some(block) = self.block else {
            return Ok(());
        };
        write!(f, " block {block}")?;
        match self.segno {
            Some(segno) if segno.0 > 0 => {
                write!(f, " (relation block {})", segno.relation_block(block))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn location_names_the_relation_block_where_it_differs() {
        let block = |segno| {
            Location::block("base/16384/16397.1", SegmentNumber(segno), FileBlock(1042)).to_string()
        };
        assert_eq!(
            block(1),
            "base/16384/16397.1 block 1042 (relation block 132114)"
        );
        assert_eq!(block(0), "base/16384/16397.1 block 1042");
    }

    #[test]
    fn names_from_disk_cannot_steer_the_terminal() {
        assert_eq!(
            Location::file("a\u{1b}[2J\nb").to_string(),
            "a\\u{1b}[2J\\nb"
        );
    }
}
