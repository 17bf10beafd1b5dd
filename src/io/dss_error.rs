//! Why the client library of DSS cannot be used, and why one of its calls failed.

use std::io;
use std::path::PathBuf;

/// The library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DssLibraryError {
    /// The program has no dynamic loader.
    #[error("this program is linked statically and cannot load \"{library}\"",
        library = library.display())]
    Static {
        /// The library.
        library: PathBuf,
    },
    /// It is not there, or is none of this machine.
    #[error("cannot load \"{library}\": {reason}", library = library.display())]
    Load {
        /// The library.
        library: PathBuf,
        /// What the dynamic loader says.
        reason: String,
    },
    /// A function is missing.
    #[error("\"{library}\" has no function {function}", library = library.display())]
    Function {
        /// The library.
        library: PathBuf,
        /// The function.
        function: &'static str,
    },
    /// It is of another version.
    #[error(
        "\"{library}\" is version {found} of the interface, version {expected} is needed",
        library = library.display()
    )]
    Version {
        /// The library.
        library: PathBuf,
        /// Its version.
        found: String,
        /// The version that is supported.
        expected: String,
    },
    /// It does not take the address of the server.
    #[error("\"{library}\" refuses the server \"{server}\"", library = library.display())]
    Server {
        /// The library.
        library: PathBuf,
        /// The address.
        server: String,
        /// Why.
        source: DssCallError,
    },
}

impl DssLibraryError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            DssLibraryError::Static { .. } => {
                "use the program that is linked dynamically, or stop the server and name the \
                 volumes with --vg"
            }
            DssLibraryError::Load { reason, .. } if is_foreign(reason) => {
                "the file is no library, or one of another machine than this program; or stop the \
                 server and name the volumes with --vg"
            }
            DssLibraryError::Load { .. } => {
                "set DSS_HOME, or add the directory of the library to LD_LIBRARY_PATH, as \
                 $DSS_HOME/lib; or stop the server and name the volumes with --vg"
            }
            DssLibraryError::Function { .. } | DssLibraryError::Version { .. } => {
                "use the library of DSS 5.0.1 to 7 that belongs to the server; or stop the server \
                 and name the volumes with --vg"
            }
            DssLibraryError::Server { .. } => "it has to be UDS:$DSS_HOME/.dss_unix_d_socket",
        }
    }
}

/// Whether the loader says that the file is there and is no library of this machine.
fn is_foreign(reason: &str) -> bool {
    let known = ["ELF", "file too short"];
    known.iter().any(|part| reason.contains(part))
}

/// A call failed: what the library says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message} (DSS error {code} of {function})")]
pub struct DssCallError {
    /// The function.
    pub function: &'static str,
    /// The number of the error; 0 where the library gives none.
    pub code: i32,
    /// Its text.
    pub message: String,
}

impl DssCallError {
    pub(super) fn new(function: &'static str, message: impl Into<String>) -> DssCallError {
        DssCallError {
            function,
            code: 0,
            message: message.into(),
        }
    }

    /// The number of the error, also where the server that failed is another one.
    fn cause(&self) -> i32 {
        const PROCESS_REMOTE: i32 = 2417;
        if self.code != PROCESS_REMOTE {
            return self.code;
        }
        let number = self.message.split("errcode:").nth(1).map(str::trim_start);
        let digits = number.and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next());
        digits
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(self.code)
    }

    /// The same in the words of the operating system.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self.cause() {
            2141 | 2191 => io::ErrorKind::ResourceBusy,
            2152 | 2241 => io::ErrorKind::AlreadyExists,
            2151 => io::ErrorKind::CrossesDevices,
            2181 => io::ErrorKind::PermissionDenied,
            2190 => io::ErrorKind::NotFound,
            2192 | 2193 | 2281 | 2400 => io::ErrorKind::InvalidInput,
            2231 => io::ErrorKind::DirectoryNotEmpty,
            2401 => io::ErrorKind::StorageFull,
            2406 | 2418 => io::ErrorKind::ConnectionRefused,
            2405 | 2410 => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        }
    }
}

impl From<DssCallError> for io::Error {
    fn from(error: DssCallError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}
