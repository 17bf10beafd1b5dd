//! What can go wrong with volumes: where, and why.

use crate::format::dss::{ConfLineError, DssFormatError};
use crate::io::IoError;
use std::io;
use std::path::PathBuf;

/// Why a volume group or a file on it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DssError {
    /// A device or image file cannot be opened.
    #[error("cannot open volume \"{device}\"", device = device.display())]
    Open {
        /// The device.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A device cannot be read.
    #[error(transparent)]
    Io(IoError),
    /// A structure on a volume is not one.
    #[error("cannot use volume \"{device}\" at byte {offset}", device = device.display())]
    Structure {
        /// The device.
        device: PathBuf,
        /// Where on it.
        offset: u64,
        /// What is wrong.
        source: DssFormatError,
    },
    /// A device is another volume than it should be.
    #[error("volume \"{device}\" {problem}", device = device.display())]
    OtherVolume {
        /// The device.
        device: PathBuf,
        /// What it is.
        problem: String,
    },
    /// A device that is to become a volume is one.
    #[error("volume \"{device}\" {problem}", device = device.display())]
    IsVolume {
        /// The device.
        device: PathBuf,
        /// Of which group.
        problem: String,
    },
    /// A server runs that uses volumes.
    #[error("the dssserver of \"{home}\" runs", home = home.display())]
    ServerRuns {
        /// Its home.
        home: PathBuf,
    },
    /// A group that is not to be written to.
    #[error("volume group {group} cannot be written to: {problem}")]
    NotWritable {
        /// The group.
        group: String,
        /// Why.
        problem: String,
    },
    /// Something failed earlier in the middle of a change.
    #[error("volume group {group} is no longer written to, since a change to it failed: {cause}")]
    Abandoned {
        /// The group.
        group: String,
        /// What failed first.
        cause: String,
    },
    /// The group has too few free units.
    #[error("no room in volume group {group}: {missing} bytes are missing")]
    NoRoom {
        /// The group.
        group: String,
        /// Bytes that are missing.
        missing: u64,
    },
    /// A name that no file of DSS can have.
    #[error(
        "\"{name}\" cannot be a name on shared storage: \
         1 to 63 letters, digits, \"_\", \"-\" and \".\"",
        name = name.escape_debug()
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// A target that no link of DSS can have.
    #[error(
        "\"{target}\" cannot be the target of a link on shared storage: \
         it is no path as +data/base",
        target = target.escape_debug()
    )]
    BadTarget {
        /// The target.
        target: String,
    },
    /// There is something of this name.
    #[error("there is a \"{path}\" already")]
    Exists {
        /// The path.
        path: String,
    },
    /// A directory that is to be empty is not.
    #[error("directory \"{path}\" is not empty")]
    NotEmpty {
        /// The path.
        path: String,
    },
    /// An operation that this file does not have.
    #[error("\"{path}\" {problem}")]
    Unsuitable {
        /// The path.
        path: String,
        /// Why not.
        problem: &'static str,
    },
    /// A volume of the group is on no device that was named, nor where the group says.
    #[error("volume {volume} of volume group {group} is not at hand")]
    MissingVolume {
        /// The group.
        group: String,
        /// The volume.
        volume: u16,
        /// Why it cannot be opened where the group says that it is.
        source: Box<DssError>,
    },
    /// The configuration cannot be read.
    #[error("cannot read \"{path}\"", path = path.display())]
    Conf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is not one.
    #[error("cannot use \"{path}\"", path = path.display())]
    ConfLine {
        /// The file.
        path: PathBuf,
        /// Which line.
        source: ConfLineError,
    },
    /// Words that name no volume group.
    #[error("\"{text}\" is not a volume group and its devices", text = text.escape_debug())]
    Spec {
        /// The words.
        text: String,
    },
    /// The metadata do not fit together.
    #[error("volume group {group} is damaged: {what}")]
    Damaged {
        /// The group.
        group: String,
        /// What does not fit.
        what: String,
    },
    /// A server changes the metadata faster than they can be read.
    #[error(
        "the metadata of volume group {group} changed each of the {tries} times that they were read"
    )]
    Changing {
        /// The group.
        group: String,
        /// How often it was tried.
        tries: u32,
    },
    /// No such group was opened.
    #[error(
        "\"{path}\" is in volume group {group}, which was not named",
        path = path.escape_debug()
    )]
    UnknownGroup {
        /// The path.
        path: String,
        /// The group.
        group: String,
    },
    /// A path that is not one.
    #[error(
        "\"{path}\" is not a path of a volume group, as +data/base",
        path = path.escape_debug()
    )]
    NotAPath {
        /// The path.
        path: String,
    },
    /// No such file or directory.
    #[error("there is no \"{path}\"", path = path.escape_debug())]
    NotFound {
        /// The path.
        path: String,
    },
    /// A directory is needed.
    #[error("\"{path}\" is not a directory", path = path.escape_debug())]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// A file is needed.
    #[error("\"{path}\" is a directory", path = path.escape_debug())]
    IsADirectory {
        /// The path.
        path: String,
    },
    /// Links lead in a circle.
    #[error("\"{path}\" leads through too many links", path = path.escape_debug())]
    TooManyLinks {
        /// The path.
        path: String,
    },
    /// A link is in the way, and links are not followed.
    #[error("the path goes through a symbolic link")]
    ThroughLink,
    /// A file is needed.
    #[error("it is not a regular file")]
    NotAFile,
    /// A link is needed.
    #[error("it is not a link")]
    NotALink,
    /// Whoever takes the bytes of a file cannot.
    #[error("cannot pass on what was read")]
    Sink {
        /// Why.
        source: io::Error,
    },
}

impl DssError {
    /// What to do about it, where that is not plain.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            DssError::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as the owner of the devices"
            }
            DssError::IsVolume { .. } => {
                "if nothing on it is needed any more, wipe it: \
                 gs_probackup dss wipe --vg GROUP=DEVICE"
            }
            DssError::ServerRuns { .. } => "stop it first",
            DssError::Abandoned { .. } => {
                "open it again: what was not finished is finished or undone then"
            }
            DssError::NoRoom { .. } => "add a volume, or remove what is not needed",
            DssError::MissingVolume { .. } => {
                "name all devices of the group, the entry volume first: \
                 --vg data=/dev/gauss/data0,/dev/gauss/data1"
            }
            DssError::Spec { .. } => {
                "write the group, an equals sign and its devices, the entry volume first: \
                 --vg data=/dev/gauss/data0,/dev/gauss/data1"
            }
            DssError::Structure {
                source: DssFormatError::NotInitialised,
                ..
            } => "the device was wiped or never was a volume; dsscmd cv makes it one",
            DssError::Damaged { .. } | DssError::Structure { .. } => {
                "gs_probackup dss check lists all that is wrong"
            }
            DssError::Changing { .. } => "try again while less files are created and removed",
            DssError::UnknownGroup { .. } => "name it too: --vg log=/dev/gauss/log0",
            _ => return None,
        })
    }

    /// Whether it may be only that a server was changing what was read.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            DssError::Structure { .. } | DssError::Damaged { .. } | DssError::Changing { .. }
        )
    }
}
