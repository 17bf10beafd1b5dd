//! How the pages of a backup file are compressed, by its name on disk and in flags.

use std::fmt;

/// A page compression, as spelled in `backup.control`, content lists and flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum CompressAlgorithm {
    /// Pages are stored as they are.
    #[default]
    None,
    /// PostgreSQL's own LZ compression.
    Pglz,
    /// A zlib stream a page.
    Zlib,
    /// An LZ4 block a page.
    Lz4,
    /// A zstd frame a page.
    Zstd,
}

impl CompressAlgorithm {
    /// Every algorithm, in the order the original numbers them.
    pub const ALL: [CompressAlgorithm; 5] = [
        CompressAlgorithm::None,
        CompressAlgorithm::Pglz,
        CompressAlgorithm::Zlib,
        CompressAlgorithm::Lz4,
        CompressAlgorithm::Zstd,
    ];

    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CompressAlgorithm::None => "none",
            CompressAlgorithm::Pglz => "pglz",
            CompressAlgorithm::Zlib => "zlib",
            CompressAlgorithm::Lz4 => "lz4",
            CompressAlgorithm::Zstd => "zstd",
        }
    }

    /// The algorithm of exactly this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<CompressAlgorithm> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// The first algorithm whose name begins with `text`, in any case, as the original reads flags
    /// and files.
    #[must_use]
    pub fn from_prefix(text: &str) -> Option<CompressAlgorithm> {
        const ORDER: [CompressAlgorithm; 5] = [
            CompressAlgorithm::Zlib,
            CompressAlgorithm::Pglz,
            CompressAlgorithm::Lz4,
            CompressAlgorithm::Zstd,
            CompressAlgorithm::None,
        ];
        let text = text.trim_start().to_ascii_lowercase();
        if text.is_empty() {
            return None;
        }
        ORDER
            .into_iter()
            .find(|algorithm| algorithm.name().starts_with(&text))
    }
}

impl fmt::Display for CompressAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for algorithm in CompressAlgorithm::ALL {
            assert_eq!(
                CompressAlgorithm::from_name(algorithm.name()),
                Some(algorithm)
            );
            assert_eq!(
                CompressAlgorithm::from_prefix(algorithm.name()),
                Some(algorithm)
            );
        }
    }

    #[test]
    fn a_prefix_in_any_case_is_enough_and_zlib_comes_first() {
        assert_eq!(
            CompressAlgorithm::from_prefix("Z"),
            Some(CompressAlgorithm::Zlib)
        );
        assert_eq!(
            CompressAlgorithm::from_prefix("ZS"),
            Some(CompressAlgorithm::Zstd)
        );
        assert_eq!(CompressAlgorithm::from_prefix("zlibx"), None);
        assert_eq!(CompressAlgorithm::from_prefix(""), None);
    }
}
