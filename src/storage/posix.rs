//! A directory tree of the operating system.
//!
//! The root is opened once; everything else is reached from its descriptor, so that renaming
//! directories above it changes nothing. How a path is resolved:
//!
//! 1. Absolute paths and components `..` are refused here, before the kernel sees them.
//! 2. `openat2` resolves the rest and refuses to leave the root and to follow links, also such as
//!    appear while it works.
//! 3. Where `openat2` is missing (before Linux 5.6, or hidden by a seccomp filter), each component
//!    is opened by itself, from the descriptor of the one before, as a directory that is not a
//!    link. That is as tight, and slower.
//!
//! Calls without a variant for descriptors (unlink, rename, lstat, …) work on the last component
//! within the descriptor of its directory; a single name cannot leave it.

use super::{DirEntry, FileKind, Metadata, Storage, StorageError, check_path, invalid};
use crate::io::{File, IoError, fault};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory tree. All paths are relative to its root.
#[derive(Debug)]
pub struct Posix {
    path: PathBuf,
    root: OwnedFd,
    /// Cleared at the first sign that the kernel has no openat2.
    has_openat2: AtomicBool,
}

/// The directory of a path: the root itself, or opened for the purpose.
enum Parent<'a> {
    Root(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Parent::Root(root) => *root,
            Parent::Opened(directory) => directory.as_fd(),
        }
    }
}

impl Posix {
    /// Opens the tree below the directory `root`, which may itself be reached through links.
    ///
    /// # Errors
    /// Where `root` is not a directory or cannot be opened.
    pub fn open(root: &Path) -> Result<Posix, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty());
        Ok(Posix {
            path: root.to_owned(),
            root: opened.map_err(|e| StorageError::new("open directory", root, e))?,
            has_openat2: AtomicBool::new(true),
        })
    }

    /// The same tree as on a kernel without openat2.
    #[cfg(test)]
    pub(super) fn without_openat2(self) -> Posix {
        self.has_openat2.store(false, Ordering::Relaxed);
        self
    }

    /// Gives the file `from` of the tree `source` a further name in this tree; links in its path
    /// are not followed.
    ///
    /// # Errors
    /// Where the name is taken, or the file system has no such names or not between these places.
    pub fn hard_link(&self, source: &Posix, from: &Path, path: &Path) -> Result<(), StorageError> {
        let link = || -> io::Result<()> {
            let (old_parent, old_name) = source.parent(from)?;
            let (parent, name) = self.parent(path)?;
            let flags = AtFlags::empty();
            self.step("link", path)?;
            Ok(rustix::fs::linkat(
                &old_parent,
                old_name,
                &parent,
                name,
                flags,
            )?)
        };
        link().map_err(|e| self.error("link", path, e))
    }

    /// Announces a change to the seam of the tests.
    fn step(&self, operation: &'static str, path: &Path) -> io::Result<()> {
        fault::step(operation, &self.display_path(path))
    }

    /// Opens a regular file that is there, to write over parts of it through the page cache.
    ///
    /// # Errors
    /// Where it is not there, is no regular file, or cannot be opened.
    pub fn open_update(&self, path: &Path) -> Result<File, StorageError> {
        self.open_file(path, OFlags::RDWR, Mode::empty(), false)
            .map_err(|e| self.error("open", path, e))
    }

    fn error(
        &self,
        operation: &'static str,
        path: &Path,
        source: impl Into<io::Error>,
    ) -> StorageError {
        StorageError::new(operation, &self.display_path(path), explain(source.into()))
    }

    /// Opens what `path` names; links anywhere in it are refused.
    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        check_path(path)?;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = or_dot(path.as_os_str());
        if self.has_openat2.load(Ordering::Relaxed) {
            match openat2(self.root.as_fd(), path, flags, mode) {
                Err(Errno::NOSYS) => self.has_openat2.store(false, Ordering::Relaxed),
                opened => return Ok(opened?),
            }
        }
        Ok(walk(self.root.as_fd(), Path::new(path), flags, mode)?)
    }

    /// The directory that holds `path`, and its name in there.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(Parent<'_>, &'p OsStr)> {
        check_path(path)?;
        let name = path
            .file_name()
            .ok_or_else(|| invalid("it is the root of the tree"))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                Parent::Opened(self.resolve(parent, flags, Mode::empty())?)
            }
            _ => Parent::Root(self.root.as_fd()),
        };
        Ok((parent, name))
    }

    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens a regular file, twice if it is wanted for direct I/O.
    fn open_file(&self, path: &Path, flags: OFlags, mode: Mode, direct: bool) -> io::Result<File> {
        let (buffered, stat) = self.open_regular(path, flags, mode)?;
        let direct = if direct {
            let flags = (flags - OFlags::CREATE - OFlags::TRUNC) | OFlags::DIRECT;
            // File systems that cannot do it say so; a file that was replaced meanwhile is read as
            // it was found.
            match self.open_regular(path, flags, Mode::empty()) {
                Ok((direct, again)) if is_same(&stat, &again) => Some(direct),
                _ => None,
            }
        } else {
            None
        };
        Ok(File::from_fds(self.display_path(path), buffered, direct))
    }

    fn open_regular(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<(OwnedFd, Stat)> {
        // Opening a pipe would wait for its other end.
        let file = self.resolve(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, mode)?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(invalid("it is not a regular file"));
        }
        // On some file systems the flag makes requests of a ring fail instead of waiting.
        rustix::fs::fcntl_setfl(&file, flags & OFlags::DIRECT)?;
        Ok((file, stat))
    }

    fn read_all(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let (file, stat) = self.open_regular(path, OFlags::RDONLY, Mode::empty())?;
        let file = std::fs::File::from(file);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // One byte more shows that the file ends there.
        let mut bytes = Vec::with_capacity(usize::try_from(size + 1).unwrap_or(0));
        io::Read::read_to_end(
            &mut io::Read::take(file, limit.saturating_add(1)),
            &mut bytes,
        )?;
        if bytes.len() as u64 > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn read_part(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let (file, stat) = self.open_regular(path, OFlags::RDONLY, Mode::empty())?;
        let file = std::fs::File::from(file);
        let there = u64::try_from(stat.st_size)
            .unwrap_or(0)
            .saturating_sub(offset);
        let mut bytes = vec![0; length.min(usize::try_from(there).unwrap_or(usize::MAX))];
        let mut done = 0;
        while done < bytes.len() {
            match file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn replace(&self, path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StorageError> {
        let temporary = temporary_name(path).map_err(|e| self.error("replace", path, e))?;
        let temporary = temporary.as_path();
        let written = self
            .create(temporary, mode, false)
            .and_then(|file| {
                file.write_all_at(bytes, 0).map_err(StorageError::from)?;
                file.sync().map_err(StorageError::from)
            })
            .and_then(|()| self.rename(temporary, path));
        if written.is_err() {
            // The first failure is the one to report; a leftover temporary file does no harm.
            let _ = self.remove_file(temporary);
            return written;
        }
        self.sync_dir(path.parent().unwrap_or(Path::new("")))
    }

    fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        if !path.as_os_str().is_empty() {
            let (parent, name) = self.parent(path)?;
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.change_dir_mode(path, mode)
    }

    fn change_dir_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let directory = self.directory(path)?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        Ok(rustix::fs::fchmod(directory, mode)?)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        if or_dot(path.as_os_str()) == "." {
            return Ok(rustix::fs::fstat(&self.root)?);
        }
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::statat(
            &parent,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let directory = self.directory(path)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => entries.push(DirEntry {
                    name: OsString::from_vec(name.to_bytes().to_vec()),
                    metadata: metadata(&stat),
                }),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn unlink(&self, path: &Path, flags: AtFlags) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(&parent, name, flags)?)
    }
}

impl Storage for Posix {
    fn display_path(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.path.clone()
        } else {
            self.path.join(path)
        }
    }

    fn open_read(&self, path: &Path, direct: bool) -> Result<File, StorageError> {
        self.open_file(path, OFlags::RDONLY, Mode::empty(), direct)
            .map_err(|e| self.error("open", path, e))
    }

    fn create(&self, path: &Path, mode: u32, direct: bool) -> Result<File, StorageError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let file = self
            .step("create", path)
            .and_then(|()| self.open_file(path, flags, Mode::RUSR | Mode::WUSR, direct))
            .map_err(|e| self.error("create", path, e))?;
        file.set_mode(mode)?;
        Ok(file)
    }

    fn open_write(&self, path: &Path, direct: bool) -> Result<File, StorageError> {
        self.open_file(path, OFlags::RDWR, Mode::empty(), direct)
            .map_err(|e| self.error("open", path, e))
    }

    fn set_file_mode(&self, path: &Path, mode: u32) -> Result<(), StorageError> {
        self.step("change the mode of", path)
            .map_err(|e| self.error("change the mode of", path, e))?;
        Ok(self.open_read(path, false)?.set_mode(mode)?)
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, StorageError> {
        self.read_all(path, limit)
            .map_err(|e| self.error("read", path, e))
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        self.read_part(path, offset, length)
            .map_err(|e| self.error("read", path, e))
    }

    fn write_durably(&self, path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StorageError> {
        self.replace(path, mode, bytes)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> Result<(), StorageError> {
        self.step("create directory", path)
            .and_then(|()| self.make_dir(path, mode))
            .map_err(|e| self.error("create directory", path, e))
    }

    fn set_dir_mode(&self, path: &Path, mode: u32) -> Result<(), StorageError> {
        self.step("change the mode of", path)
            .and_then(|()| self.change_dir_mode(path, mode))
            .map_err(|e| self.error("change the mode of directory", path, e))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        let stat = self
            .stat(path)
            .map_err(|e| self.error("examine", path, e))?;
        Ok(metadata(&stat))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        self.entries(path)
            .map_err(|e| self.error("list directory", path, e))
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, StorageError> {
        let target = self
            .parent(path)
            .and_then(|(parent, name)| Ok(rustix::fs::readlinkat(&parent, name, Vec::new())?));
        let target = target.map_err(|e| self.error("read link", path, e))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn symlink(&self, target: &Path, path: &Path) -> Result<(), StorageError> {
        self.step("create link", path)
            .and_then(|()| self.parent(path))
            .and_then(|(parent, name)| Ok(rustix::fs::symlinkat(target, &parent, name)?))
            .map_err(|e| self.error("create link", path, e))
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.step("remove", path)
            .and_then(|()| self.unlink(path, AtFlags::empty()))
            .map_err(|e| self.error("remove", path, e))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.step("remove directory", path)
            .and_then(|()| self.unlink(path, AtFlags::REMOVEDIR))
            .map_err(|e| self.error("remove directory", path, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let rename = || -> io::Result<()> {
            let (old_parent, old_name) = self.parent(from)?;
            let (new_parent, new_name) = self.parent(to)?;
            self.step("rename", from)?;
            Ok(rustix::fs::renameat(
                &old_parent,
                old_name,
                &new_parent,
                new_name,
            )?)
        };
        rename().map_err(|e| self.error("rename", from, e))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.step("fsync directory", path)
            .and_then(|()| self.directory(path))
            .and_then(|directory| Ok(rustix::fs::fsync(directory)?))
            .map_err(|e| self.error("fsync directory", path, e))
    }

    fn available_bytes(&self) -> Result<u64, StorageError> {
        let statistics = rustix::fs::fstatvfs(&self.root)
            .map_err(|e| self.error("examine the file system of", Path::new(""), e))?;
        Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }

    fn sync_filesystem(&self) -> Result<(), StorageError> {
        rustix::fs::syncfs(&self.root)
            .map_err(|e| self.error("sync the file system of", Path::new(""), e))
    }
}

impl From<IoError> for StorageError {
    fn from(error: IoError) -> StorageError {
        StorageError {
            operation: error.operation,
            path: error.path,
            source: error.source,
        }
    }
}

fn openat2(
    root: BorrowedFd<'_>,
    path: &OsStr,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, mode, resolve) {
            // EAGAIN: something was renamed meanwhile and the kernel cannot tell whether the path
            // left the root.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// What openat2 does, component by component.
fn walk(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory: Option<OwnedFd> = None;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let from = directory.as_ref().map_or(root, AsFd::as_fd);
        let name = component.as_os_str();
        let (flags, mode) = match components.peek() {
            Some(_) => (step, Mode::empty()),
            None => (flags, mode),
        };
        let opened = rustix::fs::openat(from, name, flags, mode);
        if matches!(opened, Err(Errno::NOTDIR)) && is_link(from, name) {
            return Err(Errno::LOOP);
        }
        directory = Some(opened?);
    }
    directory.ok_or(Errno::INVAL)
}

fn is_link(directory: BorrowedFd<'_>, name: &OsStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// Where a file's new content is written before it takes the file's place.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    check_path(path)?;
    let name = path.file_name();
    let mut name = name
        .ok_or_else(|| invalid("it is the root of the tree"))?
        .to_owned();
    name.push(format!("-{}.tmp", std::process::id()));
    Ok(path.with_file_name(name))
}

fn or_dot(path: &OsStr) -> &OsStr {
    if path.is_empty() {
        OsStr::new(".")
    } else {
        path
    }
}

/// Says what ELOOP means in here: no path has a loop, but some have a link.
fn explain(error: io::Error) -> io::Error {
    if Errno::from_io_error(&error) == Some(Errno::LOOP) {
        return invalid("the path goes through a symbolic link");
    }
    error
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn metadata(stat: &Stat) -> Metadata {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    Metadata {
        kind,
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: stat.st_mtime,
        allocated_bytes: u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512),
        links: stat.st_nlink,
        uid: stat.st_uid,
        gid: stat.st_gid,
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}
