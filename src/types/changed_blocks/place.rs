//! Which relation fork a path belongs to, and which blocks of it a file holds.
//!
//! ```text
//! path of the server                                     key
//! global/<name>                                          the same
//! base/<db>/<name>                                       the same
//! pg_tblspc/<oid>/<version>/<db>/<name>                  pg_tblspc/<oid>/<db>/<name>
//! undo/<permanent, unlogged, temp>/<zone>[.meta]         undo/<zone>[.meta]
//! global, base/<db>, pg_tblspc/<oid>/<version>[/<db>]    directories, without <version>
//! ```
//!
//! The key leaves out what the CBM files do not say: the name of the version directory, which
//! contains the node's name, and the kind of an undo zone, which its number implies.

use crate::types::RELSEG_SIZE;

/// Blocks in a segment file of a compressed relation: 1024 extents of 127.
pub const COMPRESSED_SEGMENT_BLOCKS: u32 = 1024 * 127;

/// Blocks in a file of undo records: 1 MiB.
const UNDO_RECORD_FILE_BLOCKS: u32 = 128;

/// Blocks in a file of undo transaction slots: 32 KiB.
const UNDO_SLOT_FILE_BLOCKS: u32 = 4;

/// What a path in an answer of the server names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    /// A fork of a relation, over all its files; by its key.
    Fork(String),
    /// A directory of relations; by its key.
    Directory(String),
}

/// The part of a fork that one file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FilePlace {
    /// Key of the fork.
    pub(super) key: String,
    /// Keys of the directories that the file is in.
    pub(super) directories: Vec<String>,
    /// First block of the fork that is in the file.
    pub(super) first: u32,
    /// Blocks of the file at most.
    pub(super) blocks: u32,
    /// The unit of block numbers is not known: nothing less than the whole file is certain.
    pub(super) whole: bool,
}

/// Reads a path as the server prints it in an answer about changed blocks.
pub(super) fn subject(path: &str) -> Option<Subject> {
    let parts: Vec<&str> = path.split('/').collect();
    let is_name = |name: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        name.starts_with(|first: char| first.is_ascii_digit() || first == 't')
            && name.bytes().all(known)
    };
    let directory = match parts[..] {
        ["global"] => Some("global".to_owned()),
        ["base", db] if is_number(db) => Some(format!("base/{db}")),
        ["pg_tblspc", oid, version] if is_number(oid) && is_version(version) => {
            Some(format!("pg_tblspc/{oid}"))
        }
        ["pg_tblspc", oid, version, db]
            if is_number(oid) && is_version(version) && is_number(db) =>
        {
            Some(format!("pg_tblspc/{oid}/{db}"))
        }
        _ => None,
    };
    if let Some(key) = directory {
        return Some(Subject::Directory(key));
    }
    let (parent, name) = path.rsplit_once('/')?;
    match parts[..] {
        ["undo", level, _] if is_undo_level(level) && is_undo_name(name) => {
            Some(Subject::Fork(format!("undo/{name}")))
        }
        _ if !is_name(name) => None,
        _ => match subject(parent)? {
            // A tablespace has no relations at its top.
            Subject::Directory(key) if parts.len() != 4 => {
                Some(Subject::Fork(format!("{key}/{name}")))
            }
            _ => None,
        },
    }
}

/// Finds the fork of a file; `None` for files whose changes are not tracked.
pub(super) fn file_place(path: &str) -> Option<FilePlace> {
    let Subject::Fork(key) = subject(path)? else {
        return None;
    };
    let (directory, name) = key.rsplit_once('/')?;
    if directory == "undo" {
        return undo_place(name);
    }
    let mut directories = vec![directory.to_owned()];
    if let Some((tablespace, _)) = directory.rsplit_once('/')
        && tablespace != "base"
    {
        directories.push(tablespace.to_owned());
    }
    let (name, compressed) = match name.strip_suffix("_compress") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (fork, number) = match name.split_once('.') {
        Some((fork, number)) if is_number(number) => (fork, number.parse().ok()?),
        Some(_) => return None,
        None => (name, 0),
    };
    let whole = is_tracked_fork(fork)?;
    let blocks = if compressed {
        COMPRESSED_SEGMENT_BLOCKS
    } else {
        RELSEG_SIZE
    };
    Some(FilePlace {
        key: format!("{directory}/{fork}"),
        directories,
        first: if whole {
            0
        } else {
            blocks.checked_mul(number)?
        },
        blocks,
        whole,
    })
}

/// Whether changes of a fork by this name are tracked, and, if so, whether its block numbers are of
/// another unit than pages.
///
/// Free space maps change without WAL; block change maps and relations of sessions have none.
fn is_tracked_fork(name: &str) -> Option<bool> {
    let mut parts = name.split('_');
    if !is_number(parts.next()?) {
        return None;
    }
    let mut part = parts.next();
    if part.is_some_and(|text| text.strip_prefix('b').is_some_and(is_number)) {
        part = parts.next();
    }
    let whole = match part {
        None | Some("vm" | "init") => false,
        Some(column) if column.strip_prefix('C').is_some_and(is_number) => true,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(whole)
}

/// `<zone>.<n>` or `<zone>.meta.<n>`, numbers in hexadecimal.
fn undo_place(name: &str) -> Option<FilePlace> {
    let (fork, number) = name.rsplit_once('.')?;
    let blocks = match fork.split_once('.') {
        None => UNDO_RECORD_FILE_BLOCKS,
        Some((_, "meta")) => UNDO_SLOT_FILE_BLOCKS,
        Some(_) => return None,
    };
    let hexadecimal = number.len() >= 7 && number.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u32::from_str_radix(number, 16)
        .ok()
        .filter(|_| hexadecimal)?;
    Some(FilePlace {
        key: format!("undo/{fork}"),
        directories: Vec::new(),
        first: blocks.checked_mul(number)?,
        blocks,
        whole: false,
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
}

fn is_version(text: &str) -> bool {
    text.starts_with("PG_") && !text.contains(char::is_control)
}

/// A zone in hexadecimal, perhaps with suffixes.
fn is_undo_name(text: &str) -> bool {
    let (zone, suffix) = text.split_once('.').unwrap_or((text, ""));
    let hexadecimal = !zone.is_empty() && zone.bytes().all(|digit| digit.is_ascii_hexdigit());
    hexadecimal
        && suffix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

fn is_undo_level(text: &str) -> bool {
    matches!(text, "permanent" | "unlogged" | "temp")
}
