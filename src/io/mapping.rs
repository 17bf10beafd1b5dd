//! Files whose bytes lie in runs of other files, as those of a volume group do on its devices.
//!
//! A [`Mapping`] says where; it moves no bytes itself, unless it can do nothing else. Nobody above
//! this layer need know what a [`File`] is made of: the synchronous helpers and the engines split
//! what they are asked into pieces, one for each run.

use super::{File, IoError};
use crate::limits::DIRECT_IO_ALIGNMENT;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Where the next bytes of a mapped file are.
#[derive(Clone, Debug)]
pub enum Place {
    /// In another file, which is not mapped itself.
    Device {
        /// The file.
        file: Arc<File>,
        /// The first byte there.
        offset: u64,
        /// How many follow each other.
        length: u64,
    },
    /// Nowhere: they are zeros. Only to read.
    Zeros {
        /// How many.
        length: u64,
    },
    /// Known only to whoever is asked by [`Mapping::read_at`] and [`Mapping::write_at`].
    Calls {
        /// How many can be moved in one call.
        length: u64,
    },
}

impl Place {
    fn length(&self) -> u64 {
        match self {
            Place::Device { length, .. } | Place::Zeros { length } | Place::Calls { length } => {
                *length
            }
        }
    }

    fn cut(self, limit: u64) -> Place {
        match self {
            Place::Device {
                file,
                offset,
                length,
            } => Place::Device {
                file,
                offset,
                length: length.min(limit),
            },
            Place::Zeros { length } => Place::Zeros {
                length: length.min(limit),
            },
            Place::Calls { length } => Place::Calls {
                length: length.min(limit),
            },
        }
    }
}

/// Where the bytes of one open file are. Methods may be called from several threads at once, and
/// may read and write what describes the file.
#[expect(
    clippy::missing_errors_doc,
    reason = "every method fails where what describes the file cannot be read or written"
)]
pub trait Mapping: Send + Sync + fmt::Debug {
    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;

    /// Where the byte at `offset` and those behind it are, `length` of them at most; `None` at and
    /// behind the end of the file. Runs begin and end at multiples of
    /// [`DIRECT_IO_ALIGNMENT`] if they are to go past the page cache.
    fn place_to_read(&self, offset: u64, length: u64) -> io::Result<Option<Place>>;

    /// Where the byte at `offset` and those behind it go, `length` of them at most; room is made
    /// for them. By default the file cannot be written.
    fn place_to_write(&self, offset: u64, length: u64) -> io::Result<Place> {
        let _ = (offset, length);
        Err(to_read())
    }

    /// The bytes of a place were written there; the file's length may tell so.
    fn written(&self, offset: u64, length: u64) -> io::Result<()> {
        let _ = (offset, length);
        Ok(())
    }

    /// Reads bytes of [`Place::Calls`] and returns how many.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let _ = (bytes, offset);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Writes bytes of [`Place::Calls`] and returns how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let _ = (bytes, offset);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Cuts or extends the file.
    fn set_len(&self, length: u64) -> io::Result<()> {
        let _ = length;
        Err(to_read())
    }

    /// Reserves room for the first `length` bytes; a hint.
    fn allocate(&self, length: u64) {
        let _ = length;
    }

    /// Makes bytes and length durable.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// What was read is perhaps not what the file holds: finds out anew where its bytes are.
    fn look_again(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether everything that was read came from where the file's bytes were at that time.
    fn is_as_read(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// The error of a file that cannot be written.
fn to_read() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "it was opened to read")
}

/// The place of some bytes to read, within bounds.
pub(super) fn place_to_read(
    file: &File,
    mapping: &dyn Mapping,
    offset: u64,
    length: u64,
) -> Result<Option<Place>, IoError> {
    let place = mapping.place_to_read(offset, length);
    let place = place.map_err(|e| file.error("read", offset, e))?;
    Ok(place
        .filter(|place| place.length() > 0)
        .map(|place| place.cut(length)))
}

/// The place of some bytes to write, within bounds.
pub(super) fn place_to_write(
    file: &File,
    mapping: &dyn Mapping,
    offset: u64,
    length: u64,
) -> Result<Place, IoError> {
    let place = mapping.place_to_write(offset, length);
    let place = place.map_err(|e| file.error("write", offset, e))?;
    if place.length() == 0 {
        return Err(file.error("write", offset, io::ErrorKind::WriteZero));
    }
    Ok(place.cut(length))
}

/// Names the mapped file in an error of a device, which is named by the cause.
pub(super) fn on_device(file: &File, offset: u64, error: IoError) -> IoError {
    let cause = format!(
        "byte {} of \"{}\": {}",
        error.offset,
        error.path.display(),
        error.source
    );
    let source = io::Error::new(error.source.kind(), cause);
    file.error(error.operation, offset, source)
}

/// Reads into `bytes` from `offset`, in the calling thread; returns how many there were before the
/// file ended.
pub(super) fn read_up_to(
    file: &File,
    mapping: &dyn Mapping,
    bytes: &mut [u8],
    offset: u64,
) -> Result<usize, IoError> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset.saturating_add(done as u64);
        let left = &mut bytes[done..];
        let Some(place) = place_to_read(file, mapping, at, left.len() as u64)? else {
            break;
        };
        done += read_place(file, mapping, &place, left, at)?;
    }
    Ok(done)
}

/// Reads the bytes of one place to the front of `bytes`; returns how many.
pub(super) fn read_place(
    file: &File,
    mapping: &dyn Mapping,
    place: &Place,
    bytes: &mut [u8],
    at: u64,
) -> Result<usize, IoError> {
    let length = usize::try_from(place.length()).expect("at most the bytes that were asked for");
    let part = &mut bytes[..length];
    match place {
        Place::Zeros { .. } => part.fill(0),
        Place::Device {
            file: device,
            offset,
            ..
        } => {
            forget(device, *offset, length as u64);
            let read = device.read_exact_at(part, *offset);
            read.map_err(|error| on_device(file, at, error))?;
        }
        Place::Calls { .. } => {
            let read = mapping
                .read_at(part, at)
                .map_err(|e| file.error("read", at, e))?;
            if read == 0 || read > length {
                return Err(file.error("read", at, io::ErrorKind::UnexpectedEof));
            }
            return Ok(read);
        }
    }
    Ok(length)
}

/// Makes the page cache forget what it knows of a device that others write past it.
fn forget(device: &File, offset: u64, length: u64) {
    if device.is_direct() {
        let alignment = DIRECT_IO_ALIGNMENT as u64;
        let start = offset - offset % alignment;
        let end = (offset + length).next_multiple_of(alignment);
        device.drop_cache_of(start, end - start);
    }
}

/// Writes all of `bytes` at `offset`, in the calling thread.
pub(super) fn write_all(
    file: &File,
    mapping: &dyn Mapping,
    bytes: &[u8],
    offset: u64,
) -> Result<(), IoError> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset.saturating_add(done as u64);
        let left = &bytes[done..];
        let place = place_to_write(file, mapping, at, left.len() as u64)?;
        done += write_place(file, mapping, &place, left, at)?;
    }
    Ok(())
}

/// Writes the front of `bytes` to one place; returns how many.
pub(super) fn write_place(
    file: &File,
    mapping: &dyn Mapping,
    place: &Place,
    bytes: &[u8],
    at: u64,
) -> Result<usize, IoError> {
    let length = usize::try_from(place.length()).expect("at most the bytes that were given");
    let written = match place {
        Place::Device {
            file: device,
            offset,
            ..
        } => {
            let written = device.write_all_at(&bytes[..length], *offset);
            written.map_err(|error| on_device(file, at, error))?;
            length
        }
        Place::Calls { .. } => {
            let written = mapping
                .write_at(&bytes[..length], at)
                .map_err(|e| file.error("write", at, e))?;
            if written == 0 || written > length {
                return Err(file.error("write", at, io::ErrorKind::WriteZero));
            }
            written
        }
        Place::Zeros { .. } => return Err(file.error("write", at, io::ErrorKind::Unsupported)),
    };
    let told = mapping.written(at, written as u64);
    told.map_err(|e| file.error("write", at, e))?;
    Ok(written)
}
