//! One line of `backup_content.control`: a file, directory or link of the backed-up cluster.
//!
//! The line is an object whose values are all strings without any escapes. The original's reader is
//! a small state machine that looks for each key from the start of the line and stumbles over
//! commas inside values (`dir.cpp:1608-1735`). So a name with a comma, a quote or a control
//! character cannot be stored, and [`ContentEntry::encode_line`] refuses it; reading accepts any
//! order of keys and ignores unknown ones.

use super::content_line::Fields;
use super::root::Root;
use super::value::printable;
use crate::limits::{BACKUP_PATH_BYTES_MAX, CONTENT_LINE_BYTES_MAX};
use crate::types::{CompressAlgorithm, RELSEG_SIZE};
use std::borrow::Cow;
use std::io::Write;

/// The bits of a mode that tell the kind of file, and the kinds that occur.
const KIND_MASK: u32 = 0o170_000;
const KIND_DIRECTORY: u32 = 0o040_000;
const KIND_REGULAR: u32 = 0o100_000;
const KIND_SYMLINK: u32 = 0o120_000;

/// Largest number that the original keeps in an `int`.
pub(super) const INT_MAX: u32 = 0x7FFF_FFFF;

/// What of a file is in this backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntrySize {
    /// A file of so many bytes; none at all where that is 0.
    Bytes(u64),
    /// Nothing: it did not change since the parent backup.
    Unchanged,
}

impl EntrySize {
    /// The bytes in this backup.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            EntrySize::Bytes(bytes) => bytes,
            EntrySize::Unchanged => 0,
        }
    }
}

/// What a file was on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FileType {
    /// A file system.
    #[default]
    File,
    /// A DSS volume group.
    Dss,
}

/// How the server compressed a relation's file (`compresstype`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompressedAttributes {
    /// Bytes of a chunk: 512, 1024, 2048 or 4096.
    pub chunk_size: u32,
    /// The server's number: 1 pglz, 2 zstd.
    pub algorithm: u32,
}

/// Where a file's page headers are in `page_header_map`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderMapRef {
    /// Pages in the backup file; at least 1.
    pub count: u32,
    /// CRC-32C of the uncompressed array.
    pub crc: u32,
    /// First byte of the compressed array.
    pub offset: u64,
    /// Bytes of the compressed array.
    pub size: u32,
}

/// A file, directory or link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContentEntry<'a> {
    /// Path below its [root](ContentEntry::root). Relative, without `.`, `..` or empty parts.
    pub path: Cow<'a, str>,
    /// What is in this backup.
    pub size: EntrySize,
    /// The file's `st_mode`, kind included.
    pub mode: u32,
    /// Whether it is stored as a stream of pages.
    pub is_datafile: bool,
    /// Always false; a leftover of another product.
    pub is_cfs: bool,
    /// CRC-32C of the bytes in the backup; for `pg_control` the CRC inside it.
    pub crc: u32,
    /// How its pages are compressed.
    pub compress_algorithm: CompressAlgorithm,
    /// 0 for the data directory, else the number of the external directory, from 1.
    pub external_dir: u32,
    /// OID of its database, or 0.
    pub db_oid: u32,
    /// What it was on.
    pub file_type: FileType,
    /// Number of the segment file; only stored for data files.
    pub segno: u32,
    /// How the server compressed it; only stored for data files.
    pub compressed: Option<CompressedAttributes>,
    /// Target, for a link.
    pub linked: Option<Cow<'a, str>>,
    /// Blocks of the segment file when it was listed; at least 1.
    pub n_blocks: Option<u32>,
    /// Its page headers, where pages are stored.
    pub headers: Option<HeaderMapRef>,
}

/// A content list or an entry of one is not valid.
#[derive(Debug, thiserror::Error)]
pub enum ContentListError {
    /// Not of the form of an entry.
    #[error("line {line} is no entry: {reason}")]
    Malformed {
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A field that every entry has is missing.
    #[error("field \"{field}\" is not found in line {line}")]
    Missing {
        /// Number of the line, from 1.
        line: u64,
        /// The field.
        field: &'static str,
    },
    /// A field has a value it cannot have.
    #[error("field \"{field}\" is out of range in line {line}")]
    OutOfRange {
        /// Number of the line, from 1.
        line: u64,
        /// The field.
        field: &'static str,
    },
    /// A path that leads elsewhere or that no tool writes.
    #[error("line {line} has the path \"{path}\", which {reason}", path = printable(path))]
    UnsafePath {
        /// Number of the line, from 1.
        line: u64,
        /// The path.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Two entries of one path.
    #[error(
        "\"{path}\" ({root}) is listed twice",
        path = printable(path)
    )]
    Duplicate {
        /// The path.
        path: String,
        /// The tree that it is in.
        root: Root,
    },
    /// The CRC is not the expected one.
    #[error("Invalid CRC of backup control file: {found}. Expected: {expected}")]
    Crc {
        /// CRC-32C of the bytes.
        found: u32,
        /// As in `backup.control`.
        expected: u32,
    },
    /// More names than a list can hold.
    #[error("it has more than 4 GiB of names")]
    TooLarge,
    /// An entry that the original could not read back.
    #[error("\"{path}\" cannot be stored in a backup: {reason}", path = printable(path))]
    Unstorable {
        /// The path.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// Reading or writing failed.
    #[error("it cannot be read or written")]
    Io {
        /// Why.
        source: std::io::Error,
    },
}

impl<'a> ContentEntry<'a> {
    /// A directory of the data directory.
    #[must_use]
    pub fn directory(path: impl Into<Cow<'a, str>>, mode: u32) -> ContentEntry<'a> {
        let mode = KIND_DIRECTORY | mode & !KIND_MASK;
        Self::with_mode(path.into(), mode, EntrySize::Bytes(0), 0)
    }

    /// A plain file of the data directory.
    #[must_use]
    pub fn file(
        path: impl Into<Cow<'a, str>>,
        mode: u32,
        size: EntrySize,
        crc: u32,
    ) -> ContentEntry<'a> {
        let mode = KIND_REGULAR | mode & !KIND_MASK;
        Self::with_mode(path.into(), mode, size, crc)
    }

    fn with_mode(path: Cow<'a, str>, mode: u32, size: EntrySize, crc: u32) -> ContentEntry<'a> {
        ContentEntry {
            path,
            size,
            mode,
            is_datafile: false,
            is_cfs: false,
            crc,
            compress_algorithm: CompressAlgorithm::None,
            external_dir: 0,
            db_oid: 0,
            file_type: FileType::File,
            segno: 0,
            compressed: None,
            linked: None,
            n_blocks: None,
            headers: None,
        }
    }

    /// The same entry with names of its own.
    #[must_use]
    pub fn into_owned(self) -> ContentEntry<'static> {
        ContentEntry {
            path: Cow::Owned(self.path.into_owned()),
            linked: self.linked.map(|linked| Cow::Owned(linked.into_owned())),
            ..self
        }
    }

    /// The tree that its path is relative to.
    #[must_use]
    pub fn root(&self) -> Root {
        match (self.external_dir, self.file_type) {
            (0, FileType::File) => Root::Data,
            (0, FileType::Dss) => Root::Shared,
            (number, _) => Root::External(number),
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & KIND_MASK == KIND_DIRECTORY
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.mode & KIND_MASK == KIND_REGULAR
    }

    /// Whether it is a symbolic link. Links of tablespaces are directories with
    /// [`ContentEntry::linked`] set.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.mode & KIND_MASK == KIND_SYMLINK
    }

    /// Permission bits of the mode.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Appends the entry's line, line end included; nothing where it fails.
    ///
    /// # Errors
    /// [`ContentListError::Unstorable`] where the original, or this reader, could not read the line
    /// back.
    pub fn encode_line(&self, out: &mut Vec<u8>) -> Result<(), ContentListError> {
        let refuse = |reason| {
            Err(ContentListError::Unstorable {
                path: self.path.clone().into_owned(),
                reason,
            })
        };
        if let Some(reason) = self.unstorable() {
            return refuse(reason);
        }
        let start = out.len();
        self.write_line(out)
            .map_err(|source| ContentListError::Io { source })?;
        if out.len() - start > CONTENT_LINE_BYTES_MAX {
            out.truncate(start);
            return refuse("its entry is too long");
        }
        Ok(())
    }

    fn unstorable(&self) -> Option<&'static str> {
        let reason = path_problem(&self.path);
        if reason.is_some() {
            return reason;
        }
        let names = [Some(&self.path), self.linked.as_ref()];
        for name in names.into_iter().flatten() {
            if name.contains([',', '"']) {
                return Some("the catalog format cannot hold a comma or a quote in a name");
            }
            if name.is_empty() || name.chars().any(char::is_control) {
                return Some("its link target is empty or has a control character");
            }
        }
        let count = self.headers.map_or(1, |headers| headers.count);
        if count == 0 || count > RELSEG_SIZE || self.n_blocks == Some(0) {
            return Some("its number of pages is out of range");
        }
        let numbers = [
            self.external_dir,
            self.segno,
            self.n_blocks.unwrap_or(0),
            self.headers.map_or(0, |headers| headers.size),
            self.compressed
                .map_or(0, |compressed| compressed.chunk_size),
            self.compressed.map_or(0, |compressed| compressed.algorithm),
        ];
        let long = [
            self.size.bytes(),
            self.headers.map_or(0, |headers| headers.offset),
        ];
        if numbers.into_iter().any(|number| number > INT_MAX)
            || long
                .into_iter()
                .any(|number| i64::try_from(number).is_err())
        {
            return Some("one of its numbers is too large");
        }
        if self.external_dir > 0 && self.file_type == FileType::Dss {
            return Some("an external directory cannot be on shared storage");
        }
        if !self.is_datafile && (self.segno != 0 || self.compressed.is_some()) {
            return Some("only a data file has a segment number or chunks");
        }
        None
    }

    fn write_line(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        write!(out, "{{\"path\":\"{}\", ", self.path)?;
        match self.size {
            EntrySize::Bytes(bytes) => write!(out, "\"size\":\"{bytes}\", ")?,
            EntrySize::Unchanged => write!(out, "\"size\":\"-1\", ")?,
        }
        write!(
            out,
            "\"mode\":\"{}\", \"is_datafile\":\"{}\", \"is_cfs\":\"{}\", \"crc\":\"{}\", \
             \"compress_alg\":\"{}\", \"external_dir_num\":\"{}\", \"dbOid\":\"{}\", \
             \"file_type\":\"{}\"",
            self.mode,
            u8::from(self.is_datafile),
            u8::from(self.is_cfs),
            self.crc,
            self.compress_algorithm,
            self.external_dir,
            self.db_oid,
            u8::from(self.file_type == FileType::Dss),
        )?;
        if self.is_datafile {
            write!(out, ",\"segno\":\"{}\"", self.segno)?;
        }
        if let Some(compressed) = self.compressed {
            write!(
                out,
                ",\"compressedFile\":\"1\",\"compressedChunkSize\":\"{}\",\
                 \"compressedAlgorithm\":\"{}\"",
                compressed.chunk_size, compressed.algorithm
            )?;
        }
        if let Some(linked) = &self.linked {
            write!(out, ",\"linked\":\"{linked}\"")?;
        }
        if let Some(n_blocks) = self.n_blocks {
            write!(out, ",\"n_blocks\":\"{n_blocks}\"")?;
        }
        if let Some(headers) = self.headers {
            write!(
                out,
                ",\"n_headers\":\"{}\",\"hdr_crc\":\"{}\",\"hdr_off\":\"{}\",\"hdr_size\":\"{}\"",
                headers.count, headers.crc, headers.offset, headers.size
            )?;
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    /// The entry of `line`, without its line end; `number` is for messages.
    ///
    /// # Errors
    /// Where the line is no entry or its path leads out of the directory it is relative to.
    pub fn parse_line(line: &'a [u8], number: u64) -> Result<ContentEntry<'a>, ContentListError> {
        let fields = Fields::parse(line, number)?;
        let path = fields.required("path")?;
        if let Some(reason) = path_problem(path) {
            return Err(ContentListError::UnsafePath {
                line: number,
                path: path.to_owned(),
                reason,
            });
        }
        let is_datafile = fields.flag("is_datafile", true)?;
        let external_dir = fields.small("external_dir_num", INT_MAX)?;
        Ok(ContentEntry {
            path: Cow::Borrowed(path),
            size: match fields.required("size")? {
                "-1" => EntrySize::Unchanged,
                _ => EntrySize::Bytes(fields.number("size", i64::MAX.unsigned_abs())?),
            },
            mode: fields.small("mode", u32::MAX)?,
            is_datafile,
            is_cfs: fields.flag("is_cfs", false)?,
            crc: fields.small("crc", u32::MAX)?,
            compress_algorithm: CompressAlgorithm::from_name(fields.required("compress_alg")?)
                .ok_or_else(|| fields.out_of_range("compress_alg"))?,
            external_dir,
            db_oid: fields.small("dbOid", u32::MAX)?,
            file_type: match fields.required("file_type")? {
                "0" => FileType::File,
                // An external directory is never on a volume group.
                "1" if external_dir == 0 => FileType::Dss,
                _ => return Err(fields.out_of_range("file_type")),
            },
            segno: if is_datafile {
                fields.small("segno", INT_MAX)?
            } else {
                0
            },
            compressed: if is_datafile && fields.flag("compressedFile", false)? {
                Some(CompressedAttributes {
                    chunk_size: fields.small("compressedChunkSize", INT_MAX)?,
                    algorithm: fields.small("compressedAlgorithm", INT_MAX)?,
                })
            } else {
                None
            },
            linked: fields.linked()?,
            n_blocks: Some(fields.small("n_blocks", INT_MAX)?).filter(|n_blocks| *n_blocks > 0),
            headers: fields.headers()?,
        })
    }
}

/// Why a path cannot be one of a backup, if it cannot.
fn path_problem(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("is empty")
    } else if path.starts_with('/') {
        Some("is absolute")
    } else if path.len() > BACKUP_PATH_BYTES_MAX {
        Some("is too long")
    } else if path.chars().any(char::is_control) {
        Some("has a control character")
    } else if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("has a part that is empty, \".\" or \"..\"")
    } else {
        None
    }
}

#[cfg(test)]
#[path = "content_entry_tests.rs"]
mod tests;
