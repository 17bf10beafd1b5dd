//! Files of volume groups through a server that runs, by its client library.
//!
//! For restoring while `dssserver` is up, as the documented procedure has it; without a server the
//! volumes themselves are opened ([`super::dss`]). One process talks to one server.
//!
//! What is not as in a directory tree:
//!
//! * Modes and owners do not exist: what is set is forgotten, what is asked for is made up.
//! * Everything is durable when the server has answered; syncing only compares the length.
//! * Names are of letters, digits, `_`, `.` and `-`; a link's target is a path of a group.
//! * A file can be renamed within its directory only.
//! * Free space cannot be asked for.
//!
//! Read in the source of DSS and of openGauss's `dss_adaptor` and `fio_dss` only, never seen on a
//! running server: everything that [`crate::io::DssLibrary`] says of the library, in particular
//! that a server that goes away ends this process; that the length is exact after a write whose
//! length is no multiple of a sector (it is compared, and set if it is not); that a file's new name
//! replaces another file at once.

mod file;
#[cfg(test)]
mod tests;

use super::{DirEntry, FileKind, Metadata, Storage, StorageError, check_path};
use crate::io::{DssItem, DssItemKind, DssLibrary, DssLibraryError, File, fault};
use crate::limits::DSS_DIRECTORY_NAMES_MAX;
use file::DssFile;
use rustix::fs::FlockOperation;
use std::collections::HashSet;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// The file name of the library.
const LIBRARY: &str = "libdssapi.so";

/// The server's place of deleted files, in the root of each group.
const RECYCLE: &str = ".recycle";

/// The server cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum DssApiError {
    /// Nobody answers at its socket.
    #[error("no dssserver answers at \"{socket}\"", socket = socket.display())]
    NoServer {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The library cannot be used.
    #[error(transparent)]
    Library(DssLibraryError),
    /// Another run writes through the same server.
    #[error("another restore goes through the dssserver of \"{home}\"", home = home.display())]
    InUse {
        /// Its home.
        home: PathBuf,
    },
    /// Others cannot be kept away.
    #[error("cannot lock \"{home}\"", home = home.display())]
    Lock {
        /// The server's home.
        home: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DssApiError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            DssApiError::NoServer { .. } => {
                "start it for maintenance: dssserver -M -D $DSS_HOME; or name the volumes with --vg"
            }
            DssApiError::Library(error) => error.hint(),
            DssApiError::InUse { .. } => "wait until it ends",
            DssApiError::Lock { .. } => {
                "DSS_HOME has to be a directory that can be read, on a file system with locks"
            }
        }
    }
}

/// Loads the library of the server of `home` and tells it the server. It is looked for where the
/// dynamic loader looks, then in `home`.
///
/// # Errors
/// Where no server answers, or the library cannot be used.
pub fn connect(home: &Path) -> Result<Arc<DssLibrary>, DssApiError> {
    connect_with(
        home,
        &[PathBuf::from(LIBRARY), home.join("lib").join(LIBRARY)],
    )
}

/// Keeps other runs from writing through the server of `home` until the lock is dropped.
///
/// The lock is one of the directory itself: nothing has to be made for it, the server knows nothing
/// of it, and it goes with the process, however that ends.
///
/// # Errors
/// Where another run has it.
pub fn lock(home: &Path) -> Result<Arc<std::fs::File>, DssApiError> {
    let failed = |source: io::Error| DssApiError::Lock {
        home: home.to_owned(),
        source,
    };
    let directory = std::fs::File::open(home).map_err(failed)?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Arc::new(directory)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DssApiError::InUse {
            home: home.to_owned(),
        }),
        Err(error) => Err(failed(error.into())),
    }
}

/// As [`connect`], with the places where the library may be.
fn connect_with(home: &Path, places: &[PathBuf]) -> Result<Arc<DssLibrary>, DssApiError> {
    let socket = home.join(".dss_unix_d_socket");
    // The library would try for ever.
    if let Err(source) = UnixStream::connect(&socket) {
        return Err(DssApiError::NoServer { socket, source });
    }
    let server = format!("UDS:{}", socket.display());
    let mut first = None;
    for place in places {
        match DssLibrary::load(place, &server) {
            Ok(library) => return Ok(Arc::new(library)),
            // Not where the loader looks: one that is there and is wrong is to be told.
            Err(error @ DssLibraryError::Load { .. })
                if !is_own_place(place) || !place.exists() =>
            {
                first.get_or_insert(error);
            }
            Err(error) => return Err(DssApiError::Library(error)),
        }
    }
    let error = first.expect("there is a place to look at");
    Err(DssApiError::Library(error))
}

/// Whether the loader looks at this place only; a bare name is not one of the current directory.
fn is_own_place(place: &Path) -> bool {
    place.as_os_str().as_encoded_bytes().contains(&b'/')
}

/// A directory of a volume group with all below it. All paths are relative to it.
#[derive(Debug)]
pub struct DssApi {
    library: Arc<DssLibrary>,
    /// As `+data`.
    root: String,
    /// Directories that were found to be no links. The server follows links wherever they are; who
    /// alone writes to a group need not ask again for every file.
    directories: Mutex<HashSet<String>>,
    /// Held as long as the tree is open.
    _lock: Option<Arc<std::fs::File>>,
}

impl DssApi {
    /// Opens the tree below a directory, as `+data` or `+log/pg_xlog`.
    ///
    /// # Errors
    /// Where it is not there or no directory.
    pub fn open(library: Arc<DssLibrary>, root: &str) -> Result<DssApi, StorageError> {
        let api = DssApi {
            library,
            root: root.trim_end_matches('/').to_owned(),
            directories: Mutex::default(),
            _lock: None,
        };
        let found = api.library.lstat(&api.root).map_err(io::Error::from);
        let found = found.and_then(|item| match item.kind {
            DssItemKind::Directory => Ok(()),
            DssItemKind::File | DssItemKind::Link => Err(invalid("it is not a directory")),
        });
        found.map_err(|e| api.error("open directory", Path::new(""), e))?;
        Ok(api)
    }

    /// The tree with a lock that is held as long as it is open.
    #[must_use]
    pub fn locked(self, lock: Arc<std::fs::File>) -> DssApi {
        DssApi {
            _lock: Some(lock),
            ..self
        }
    }

    fn error(
        &self,
        operation: &'static str,
        path: &Path,
        source: impl Into<io::Error>,
    ) -> StorageError {
        StorageError::new(operation, &self.display_path(path), source)
    }

    fn step(&self, operation: &'static str, path: &Path) -> io::Result<()> {
        fault::step(operation, &self.display_path(path))
    }

    fn directories(&self) -> MutexGuard<'_, HashSet<String>> {
        let directories = self.directories.lock();
        directories.expect("no thread panics while it holds this lock")
    }

    /// The server's path of `path`, after it was made sure that no directory in it is a link.
    fn resolve(&self, path: &Path) -> io::Result<String> {
        check_path(path)?;
        let mut whole = self.root.clone();
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            let name = name
                .to_str()
                .ok_or_else(|| invalid("the name is not of ASCII letters and digits"))?;
            if whole.len() > self.root.len() {
                self.check_directory(&whole)?;
            }
            whole.push('/');
            whole.push_str(name);
        }
        Ok(whole)
    }

    /// As [`DssApi::resolve`], of anything but the root.
    fn resolve_name(&self, path: &Path) -> io::Result<String> {
        let whole = self.resolve(path)?;
        if whole == self.root {
            return Err(invalid("it is the root of the tree"));
        }
        Ok(whole)
    }

    fn check_directory(&self, whole: &str) -> io::Result<()> {
        if self.directories().contains(whole) {
            return Ok(());
        }
        match self.library.lstat(whole)?.kind {
            DssItemKind::Directory => {}
            DssItemKind::Link => return Err(through_link()),
            DssItemKind::File => return Err(io::ErrorKind::NotADirectory.into()),
        }
        self.directories().insert(whole.to_owned());
        Ok(())
    }

    /// What `path` is; it must be of that kind.
    fn expect(&self, path: &Path, kind: DssItemKind) -> io::Result<String> {
        let whole = self.resolve(path)?;
        let found = self.library.lstat(&whole)?.kind;
        match (found, kind) {
            _ if found == kind => Ok(whole),
            (DssItemKind::Link, _) => Err(through_link()),
            (_, DssItemKind::Directory) => Err(io::ErrorKind::NotADirectory.into()),
            (_, DssItemKind::File) => Err(invalid("it is not a regular file")),
            (_, DssItemKind::Link) => Err(invalid("it is not a link")),
        }
    }

    fn open_file(&self, path: &Path, write: bool) -> io::Result<DssFile> {
        let whole = self.expect(path, DssItemKind::File)?;
        DssFile::open(&self.library, &whole, write)
    }

    fn create_file(&self, path: &Path) -> io::Result<DssFile> {
        let whole = self.resolve_name(path)?;
        match self.library.create(&whole) {
            Ok(()) => DssFile::open(&self.library, &whole, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = self.open_file(path, true)?;
                file.truncate(0)?;
                Ok(file)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn file(&self, path: &Path, file: DssFile) -> File {
        File::mapped(self.display_path(path), Box::new(file))
    }

    fn replace(&self, path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StorageError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!("-{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let written = self
            .create(&temporary, mode, false)
            .and_then(|file| {
                file.write_all_at(bytes, 0)?;
                file.sync()?;
                Ok(())
            })
            .and_then(|()| self.rename(&temporary, path));
        if written.is_err() {
            // The first failure is the one to report; a leftover temporary file does no harm.
            let _ = self.remove_file(&temporary);
        }
        written
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let whole = self.expect(path, DssItemKind::Directory)?;
        let mut names = self.library.list(&whole, DSS_DIRECTORY_NAMES_MAX)?;
        names.sort_unstable();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            if name == RECYCLE && !whole.contains('/') {
                continue;
            }
            let whole = format!("{whole}/{name}");
            match self.library.lstat(&whole) {
                Ok(item) => entries.push(DirEntry {
                    name: OsString::from(name),
                    metadata: self.describe(&whole, &item),
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }

    fn describe(&self, whole: &str, item: &DssItem) -> Metadata {
        let (kind, mode) = match item.kind {
            DssItemKind::Directory => (FileKind::Directory, 0o040_700),
            DssItemKind::File => (FileKind::File, 0o100_600),
            DssItemKind::Link => (FileKind::Symlink, 0o120_777),
        };
        Metadata {
            kind,
            mode,
            size: item.written_bytes,
            mtime: item.updated,
            allocated_bytes: item.allocated_bytes,
            links: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            // The server tells no numbers; names are as good, for no file has two.
            device: number_of(self.root.split('/').next().unwrap_or_default()),
            inode: number_of(whole),
        }
    }
}

impl Storage for DssApi {
    fn display_path(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            PathBuf::from(&self.root)
        } else {
            Path::new(&self.root).join(path)
        }
    }

    fn open_read(&self, path: &Path, _direct: bool) -> Result<File, StorageError> {
        let file = self.open_file(path, false);
        let file = file.map_err(|e| self.error("open", path, e))?;
        Ok(self.file(path, file))
    }

    fn create(&self, path: &Path, _mode: u32, _direct: bool) -> Result<File, StorageError> {
        let file = self
            .step("create", path)
            .and_then(|()| self.create_file(path))
            .map_err(|e| self.error("create", path, e))?;
        Ok(self.file(path, file))
    }

    fn open_write(&self, path: &Path, _direct: bool) -> Result<File, StorageError> {
        let file = self.open_file(path, true);
        let file = file.map_err(|e| self.error("open", path, e))?;
        Ok(self.file(path, file))
    }

    fn set_file_mode(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        let found = self.expect(path, DssItemKind::File).map(drop);
        found.map_err(|e| self.error("change the mode of", path, e))
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, StorageError> {
        let read = self.open_file(path, false).and_then(|file| {
            let size = file.length()?;
            if size > limit {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            file.read_range(0, usize::try_from(size).map_err(io::Error::other)?)
        });
        read.map_err(|e| self.error("read", path, e))
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        let read = self
            .open_file(path, false)
            .and_then(|file| file.read_range(offset, length));
        read.map_err(|e| self.error("read", path, e))
    }

    fn write_durably(&self, path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StorageError> {
        self.replace(path, mode, bytes)
    }

    fn create_dir(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        let made = self.step("create directory", path).and_then(|()| {
            let whole = self.resolve(path)?;
            if whole == self.root {
                return Ok(());
            }
            match self.library.make_dir(&whole) {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.expect(path, DssItemKind::Directory).map(drop)
                }
                Err(error) => Err(error.into()),
            }
        });
        made.map_err(|e| self.error("create directory", path, e))
    }

    fn set_dir_mode(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        let found = self.expect(path, DssItemKind::Directory).map(drop);
        found.map_err(|e| self.error("change the mode of directory", path, e))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        let found = self
            .resolve(path)
            .and_then(|whole| Ok(self.describe(&whole, &self.library.lstat(&whole)?)));
        found.map_err(|e| self.error("examine", path, e))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        self.entries(path)
            .map_err(|e| self.error("list directory", path, e))
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, StorageError> {
        let target = self
            .resolve_name(path)
            .and_then(|whole| Ok(self.library.read_link(&whole)?));
        target
            .map(PathBuf::from)
            .map_err(|e| self.error("read link", path, e))
    }

    fn symlink(&self, target: &Path, path: &Path) -> Result<(), StorageError> {
        let made = self.step("create link", path).and_then(|()| {
            let whole = self.resolve_name(path)?;
            let target = target
                .to_str()
                .ok_or_else(|| invalid("the target is no path of a volume group"))?;
            Ok(self.library.symlink(target, &whole)?)
        });
        made.map_err(|e| self.error("create link", path, e))
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        let removed = self.step("remove", path).and_then(|()| {
            let whole = self.resolve_name(path)?;
            match self.library.lstat(&whole)?.kind {
                DssItemKind::Link => self.library.unlink(&whole)?,
                DssItemKind::File => self.library.remove_file(&whole)?,
                DssItemKind::Directory => return Err(io::ErrorKind::IsADirectory.into()),
            }
            Ok(())
        });
        removed.map_err(|e| self.error("remove", path, e))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        let removed = self.step("remove directory", path).and_then(|()| {
            let whole = self.resolve_name(path)?;
            self.expect(path, DssItemKind::Directory)?;
            self.directories().remove(&whole);
            Ok(self.library.remove_dir(&whole)?)
        });
        removed.map_err(|e| self.error("remove directory", path, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let renamed = self.step("rename", from).and_then(|()| {
            let from = self.expect(from, DssItemKind::File)?;
            match self.expect(to, DssItemKind::File) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
            Ok(self.library.rename(&from, &self.resolve_name(to)?)?)
        });
        renamed.map_err(|e| self.error("rename", from, e))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        let synced = self
            .step("fsync directory", path)
            .and_then(|()| self.expect(path, DssItemKind::Directory).map(drop));
        synced.map_err(|e| self.error("fsync directory", path, e))
    }

    fn available_bytes(&self) -> Result<u64, StorageError> {
        let source = io::Error::new(
            io::ErrorKind::Unsupported,
            "the library of DSS does not tell how much is free",
        );
        Err(self.error("examine the volume group of", Path::new(""), source))
    }

    fn sync_filesystem(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn through_link() -> io::Error {
    invalid("the path goes through a symbolic link")
}

fn number_of(name: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    name.hash(&mut hash);
    hash.finish()
}
