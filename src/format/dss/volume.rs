//! The header of a volume, its first 512 bytes.
//!
//! ```text
//! 0    u32      checksum
//! 4    u32      12345679 the entry volume of a group, 12345678 another one
//! 8    u32      volume id
//! 12   char 64  device path when it was made
//! 76   char 64  volume group
//! 140  u32      5f3759df if it is initialised
//! 144  u32      software version
//! 152  u64 2    time of creation: seconds, microseconds
//! 184  u32      protocol version
//! ```
//!
//! Source: `dss_volume_def.h`, `dss_volume_header_t`.

use super::{DssFormatError, Structure};
use crate::format::little_endian::{put_u32, put_u64, u32_at, u64_at};

pub(super) const TYPE_ENTRY: u32 = 0x1234_5679;
const TYPE_OTHER: u32 = 0x1234_5678;
pub(super) const INITIALISED: u32 = 0x5f37_59df;
pub(super) const SOFTWARE_VERSION: u32 = 2;

/// Bytes of a text, with a zero byte behind it.
const TEXT_BYTES: usize = 64;

/// What a volume says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeHeader {
    /// Whether it is the entry volume of its group.
    pub is_entry: bool,
    /// Its number in the group.
    pub volume: u16,
    /// Device path at the time it was made.
    pub device: String,
    /// The group.
    pub group: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Of the server's clients.
    pub protocol_version: u32,
}

impl VolumeHeader {
    /// Whether a server takes the device for a volume, whatever else is in the header.
    ///
    /// # Panics
    /// When `slot` has not the length of a header.
    #[must_use]
    pub fn is_initialised(slot: &[u8]) -> bool {
        u32_at(slot, 140) == INITIALISED
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Where the device holds no volume, one of another layout, or a damaged one. That it is not
    /// initialised is said before its checksum is looked at: a wiped device has none.
    ///
    /// # Panics
    /// When `slot` has not the length of a header.
    pub fn parse(slot: &[u8]) -> Result<VolumeHeader, DssFormatError> {
        let what = Structure::VolumeHeader.name();
        if !VolumeHeader::is_initialised(slot) {
            return Err(DssFormatError::NotInitialised);
        }
        Structure::VolumeHeader.verify(slot)?;
        let version = u32_at(slot, 144);
        if version != SOFTWARE_VERSION {
            return Err(DssFormatError::SoftwareVersion { version });
        }
        let number = u32_at(slot, 8);
        let volume = u16::try_from(number)
            .ok()
            .filter(|volume| usize::from(*volume) < crate::limits::DSS_VOLUMES_MAX)
            .ok_or_else(|| DssFormatError::field(what, "volume id", number.into()))?;
        let kind = u32_at(slot, 4);
        if ![TYPE_ENTRY, TYPE_OTHER].contains(&kind) {
            return Err(DssFormatError::field(what, "type", kind.into()));
        }
        let group = text(&slot[76..140]);
        if !is_name(&group) {
            let field = "a group name that is none, of bytes";
            return Err(DssFormatError::field(what, field, group.len() as u64));
        }
        Ok(VolumeHeader {
            is_entry: kind == TYPE_ENTRY,
            volume,
            device: text(&slot[12..76]),
            group,
            created: u64_at(slot, 152),
            protocol_version: u32_at(slot, 184),
        })
    }
}

/// The header of a volume other than the first one of a group, made at a time in seconds since 1970
/// and microseconds. The server leaves its protocol version zero.
///
/// # Errors
/// Where a text does not fit.
pub fn other_volume_header(
    volume: u16,
    device: &str,
    group: &str,
    time: (u64, u64),
) -> Result<Vec<u8>, DssFormatError> {
    let mut slot = vec![0; Structure::VolumeHeader.bytes()];
    put_u32(&mut slot, 4, TYPE_OTHER);
    put_u32(&mut slot, 8, volume.into());
    put_text(&mut slot, 12, device)?;
    put_text(&mut slot, 76, group)?;
    put_u32(&mut slot, 140, INITIALISED);
    put_u32(&mut slot, 144, SOFTWARE_VERSION);
    put_u64(&mut slot, 152, time.0);
    put_u64(&mut slot, 160, time.1);
    Structure::VolumeHeader.seal(&mut slot);
    Ok(slot)
}

/// Puts a device path or the name of a group.
pub(super) fn put_text(slot: &mut [u8], at: usize, text: &str) -> Result<(), DssFormatError> {
    if text.is_empty() || text.len() >= TEXT_BYTES {
        let field = "a name or device path that does not fit, of bytes";
        return Err(DssFormatError::field("volume", field, text.len() as u64));
    }
    slot[at..at + text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

/// The text up to the first zero byte; what is not UTF-8 in it is replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// Whether DSS lets a file or a group have this name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..64).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}
