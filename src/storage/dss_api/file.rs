//! An open file of the server: reads and writes of any bytes, made of such as the library takes.
//!
//! Invariants:
//!
//! * The library is given whole sectors only, in memory and in the file. The one exception is the
//!   end of the file: its last bytes are written as they are, and the length is compared after it.
//! * Bytes that a file grows by are zeros: the server leaves there what was on the volumes, so they
//!   are written.
//! * Nothing behind the end of the file is handed on, whatever the library says it has read.

use crate::io::{DssHandle, DssItemKind, DssLibrary, Mapping, Place, fault};
use crate::limits::{DSS_CALL_BYTES_MAX, DSS_SECTOR_BYTES};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// The same, for positions in files.
const SECTOR: u64 = DSS_SECTOR_BYTES as u64;

/// An open file.
#[derive(Debug)]
pub(super) struct DssFile {
    library: Arc<DssLibrary>,
    handle: DssHandle,
    path: PathBuf,
    write: bool,
    /// Bytes of the file. Held while it is written, so that no two calls fill the same gap or put
    /// parts of one sector.
    length: Mutex<u64>,
}

impl DssFile {
    /// Opens a file that is there.
    pub(super) fn open(library: &Arc<DssLibrary>, path: &str, write: bool) -> io::Result<DssFile> {
        let handle = library.open(path, write)?;
        let file = DssFile {
            library: Arc::clone(library),
            handle,
            path: PathBuf::from(path),
            write,
            length: Mutex::new(0),
        };
        let length = file.ask_length()?;
        *file.known_length() = length;
        Ok(file)
    }

    fn known_length(&self) -> MutexGuard<'_, u64> {
        let length = self.length.lock();
        length.expect("no thread panics while it holds this lock")
    }

    /// What the server says.
    fn ask_length(&self) -> io::Result<u64> {
        let item = self.library.fstat(self.handle)?;
        match item.kind {
            DssItemKind::File => Ok(item.written_bytes),
            DssItemKind::Directory | DssItemKind::Link => {
                let what = "it is not a regular file";
                Err(io::Error::new(io::ErrorKind::InvalidInput, what))
            }
        }
    }

    /// Bytes of the file; of one that others may write, as they are now.
    pub(super) fn length(&self) -> io::Result<u64> {
        let mut length = self.known_length();
        if !self.write {
            *length = self.ask_length()?;
        }
        Ok(*length)
    }

    /// Some bytes, or fewer where the file ends.
    pub(super) fn read_range(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let there = self.length()?.saturating_sub(offset);
        let mut bytes = vec![0; length.min(usize::try_from(there).unwrap_or(usize::MAX))];
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Fills `bytes`, which all lie in the file.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (at, left) = (offset + done as u64, &mut bytes[done..]);
            let head = within_sector(at);
            let whole = left.len() - left.len() % DSS_SECTOR_BYTES;
            if head == 0 && whole > 0 && is_aligned(left) {
                let part = whole.min(DSS_CALL_BYTES_MAX);
                self.read_sectors(&mut left[..part], at, part)?;
                done += part;
                continue;
            }
            let part = left.len().min(DSS_CALL_BYTES_MAX - head);
            let mut sectors = Sectors::new(head + part);
            self.read_sectors(sectors.all(), at - head as u64, head + part)?;
            left[..part].copy_from_slice(&sectors.all()[head..head + part]);
            done += part;
        }
        Ok(())
    }

    /// Reads whole sectors, of which the first `need` bytes lie in the file.
    fn read_sectors(&self, memory: &mut [u8], at: u64, need: usize) -> io::Result<()> {
        let mut done = 0;
        while done < need {
            let offset = at + done as u64;
            let read = self
                .library
                .read(self.handle, &mut memory[done..], offset)?;
            // What is not a whole sector is the end of the file.
            let whole = read - read % DSS_SECTOR_BYTES;
            if done + read >= need {
                return Ok(());
            }
            if whole == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += whole;
        }
        Ok(())
    }

    fn put(&self, bytes: &[u8], offset: u64, length: &mut u64) -> io::Result<()> {
        self.fill(offset, length)?;
        self.put_within(bytes, offset, length)
    }

    /// Writes zeros from the end of the file to `offset`, if it is behind the end.
    fn fill(&self, offset: u64, length: &mut u64) -> io::Result<()> {
        if offset > *length {
            // Somebody else may have written behind the end that is known here.
            *length = self.ask_length()?;
        }
        if offset <= *length {
            return Ok(());
        }
        let mut zeros = Sectors::new(DSS_CALL_BYTES_MAX);
        while *length < offset {
            let room = DSS_CALL_BYTES_MAX - within_sector(*length);
            let part = usize::try_from(offset - *length).map_or(room, |left| left.min(room));
            self.put_within(&zeros.all()[..part], *length, length)?;
        }
        Ok(())
    }

    /// Writes bytes that begin in the file or at its end.
    fn put_within(&self, bytes: &[u8], offset: u64, length: &mut u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (at, left) = (offset + done as u64, &bytes[done..]);
            let head = within_sector(at);
            let mut part = left.len().min(DSS_CALL_BYTES_MAX - head);
            if at + (part as u64) < *length && part > DSS_SECTOR_BYTES {
                // A last part of a sector within the file is dealt with by itself.
                part -= within_sector(at + part as u64);
            }
            let end = at + part as u64;
            let is_whole = end.is_multiple_of(SECTOR) || end >= *length;
            let whole_end = if head == 0 && is_whole && is_aligned(left) {
                self.library.write(self.handle, &left[..part], at)?;
                end
            } else {
                self.patch(&left[..part], at, *length)?
            };
            done += part;
            *length = end.max(*length);
            if !whole_end.is_multiple_of(SECTOR) {
                self.check_length(*length)?;
            }
        }
        Ok(())
    }

    /// Writes bytes together with what surrounds them in their first and last sector; returns where
    /// what was written ends.
    fn patch(&self, bytes: &[u8], at: u64, length: u64) -> io::Result<u64> {
        let head = within_sector(at);
        let (start, end) = (at - head as u64, at + bytes.len() as u64);
        let whole_end = end.next_multiple_of(SECTOR).min(length.max(end));
        let total = usize::try_from(whole_end - start).expect("at most a call and two sectors");
        let mut sectors = Sectors::new(total);
        let memory = sectors.all();
        let last = (total - 1) / DSS_SECTOR_BYTES * DSS_SECTOR_BYTES;
        if whole_end > end {
            let sector = &mut memory[last..last + DSS_SECTOR_BYTES];
            self.read_sectors(sector, start + last as u64, total - last)?;
        }
        if head > 0 && (last > 0 || whole_end == end) {
            self.read_sectors(&mut memory[..DSS_SECTOR_BYTES], start, head)?;
        }
        memory[head..head + bytes.len()].copy_from_slice(bytes);
        self.library.write(self.handle, &memory[..total], start)?;
        Ok(whole_end)
    }

    /// Makes sure that the server has this length for the file, after a write of our own of a part
    /// of a sector, which it may have taken for a whole one. More than that is not ours to cut.
    fn check_length(&self, length: u64) -> io::Result<()> {
        let found = self.ask_length()?;
        if found > length && found - length < SECTOR {
            self.library.truncate(self.handle, length)?;
        }
        self.compare_length(length)
    }

    /// Whether the server has this length for the file.
    fn compare_length(&self, length: u64) -> io::Result<()> {
        let found = self.ask_length()?;
        if found != length {
            let problem = format!("the server has {found} bytes of the file, not {length}");
            return Err(io::Error::other(problem));
        }
        Ok(())
    }

    /// Cuts the file, or extends it by zeros.
    pub(super) fn truncate(&self, to: u64) -> io::Result<()> {
        let mut length = self.known_length();
        self.fill(to, &mut length)?;
        if to < *length {
            self.library.truncate(self.handle, to)?;
            *length = to;
            self.compare_length(to)?;
        }
        Ok(())
    }
}

impl Mapping for DssFile {
    fn size(&self) -> io::Result<u64> {
        self.length()
    }

    fn place_to_read(&self, offset: u64, length: u64) -> io::Result<Option<Place>> {
        let known = *self.known_length();
        let end = if offset.saturating_add(length) > known {
            self.length()?
        } else {
            known
        };
        let length = end.saturating_sub(offset).min(length);
        Ok((length > 0).then_some(Place::Calls { length }))
    }

    fn place_to_write(&self, _offset: u64, length: u64) -> io::Result<Place> {
        if !self.write {
            let why = "it was opened to read";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(Place::Calls { length })
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(bytes, offset)?;
        Ok(bytes.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut length = self.known_length();
        if offset.checked_add(bytes.len() as u64).is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut half_length = *length;
        fault::write_step(&self.path, || {
            // The process dies next; nobody would hear of an error.
            let _ = self.put(&bytes[..bytes.len() / 2], offset, &mut half_length);
        })?;
        self.put(bytes, offset, &mut length)?;
        Ok(bytes.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.truncate(length)
    }

    fn sync(&self) -> io::Result<()> {
        let length = self.known_length();
        if self.write {
            // Bytes are on the volumes when the server has answered.
            self.compare_length(*length)?;
        }
        Ok(())
    }
}

impl Drop for DssFile {
    fn drop(&mut self) {
        if let Err(error) = self.library.close(self.handle) {
            let path = Path::new(&self.path).display();
            tracing::warn!("cannot close \"{path}\": {error}");
        }
    }
}

/// Memory of whole sectors, zeros at first.
struct Sectors {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Sectors {
    /// Memory for at least so many bytes.
    fn new(bytes: usize) -> Sectors {
        let bytes = bytes.next_multiple_of(DSS_SECTOR_BYTES);
        let memory = vec![0; bytes + DSS_SECTOR_BYTES];
        let start = memory.as_ptr().align_offset(DSS_SECTOR_BYTES);
        assert!(start <= DSS_SECTOR_BYTES, "bytes can be aligned to sectors");
        Sectors {
            memory,
            start,
            bytes,
        }
    }

    fn all(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(DSS_SECTOR_BYTES)
}

/// Bytes behind the start of the sector that a position is in.
fn within_sector(at: u64) -> usize {
    usize::try_from(at % SECTOR).expect("a remainder is below its divisor")
}
