//! One log file: lines are appended, and it begins anew when it is too large or too old.
//!
//! Names, line format and the control file `<log file>.rotation`, which holds the second in which
//! the file began, are the original's (`logger.cpp`). As there, beginning anew means truncating the
//! same file, and is decided when the file is opened.
//!
//! What is better here:
//!
//! * Age counts. The original compares the age but drops the result, and resets the time in the
//!   control file at every start.
//! * Two runs that start at the same moment decide one after the other, under an `flock` on the
//!   control file, so the second does not truncate what the first has just begun.
//! * A file that another run still writes to is left alone until a later start: writers hold a
//!   shared `flock` on it.
//! * A line is one `write` to a file in append mode: lines of parallel runs do not mix. Control
//!   characters in it are escaped, so that no name from disk can forge a line.

use crate::catalog::{DIRECTORY_MODE, FILE_MODE};
use crate::format::catalog::printable;
use jiff::Zoned;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another process may decide about rotation before this one goes on without.
const ROTATION_LOCK_WAIT: Duration = Duration::from_secs(2);
/// Pause between two tries to get that lock.
const ROTATION_LOCK_POLL: Duration = Duration::from_millis(10);
/// Bytes of a rotation file that are looked at; a time has some ten.
const ROTATION_FILE_BYTES_MAX: u64 = 256;
/// Bytes in a kilobyte of `--log-rotation-size`.
const KILOBYTE: u64 = 1024;

/// Where a log goes and when it begins anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    /// Made with the first line, if its parent is there.
    pub(super) directory: PathBuf,
    /// A pattern of strftime.
    pub(super) name: String,
    /// Size in KiB at which the file begins anew; 0: never.
    pub(super) rotation_size_kb: u64,
    /// Age in milliseconds at which the file begins anew; 0: never.
    pub(super) rotation_age_ms: u64,
}

/// A log file cannot be used. Texts are the original's.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogFileError {
    /// The pattern of the name is none.
    #[error("strftime({pattern}) failed", pattern = printable(.0))]
    Pattern(String),
    /// The directory cannot be made.
    #[error("could not create log directory \"{path}\"", path = shown(.0))]
    Directory(PathBuf, #[source] std::io::Error),
    /// The file cannot be opened.
    #[error("could not open log file \"{path}\"", path = shown(.0))]
    Open(PathBuf, #[source] std::io::Error),
    /// A line cannot be written.
    #[error("could not write log file \"{path}\"", path = shown(.0))]
    Write(PathBuf, #[source] std::io::Error),
    /// The control file cannot be used.
    #[error("cannot open rotation file \"{path}\"", path = shown(.0))]
    OpenRotation(PathBuf, #[source] std::io::Error),
    /// The control file does not hold a time.
    #[error(
        "rotation file \"{path}\" has wrong creation timestamp \"{text}\"",
        path = shown(.0), text = printable(.1)
    )]
    Timestamp(PathBuf, String),
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// A log file, opened with its first line.
#[derive(Debug)]
pub(super) struct LogFile {
    target: Target,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    // The last line has no end: the disk was full.
    torn: bool,
}

impl LogFile {
    /// Nothing is opened or made yet.
    pub(super) fn new(target: Target) -> LogFile {
        LogFile { target, open: None }
    }

    /// Appends a line, and opens the file before that if need be. A text is something a person
    /// should know about the rotation.
    ///
    /// # Errors
    /// Where the file cannot be opened or written. The next call tries again.
    pub(super) fn write(
        &mut self,
        level: &str,
        text: &str,
    ) -> Result<Option<String>, LogFileError> {
        let now = Zoned::now();
        let mut warning = None;
        if self.open.is_none() {
            let (open, found) = open(&self.target, &now)?;
            self.open = Some(open);
            warning = found;
        }
        let open = self.open.as_mut().expect("it was opened above");
        let line = line(&now, level, text);
        open.append(&line)
            .map_err(|e| LogFileError::Write(open.path.clone(), e))?;
        Ok(warning)
    }
}

fn line(now: &Zoned, level: &str, text: &str) -> String {
    let time = now.strftime("%Y-%m-%d %H:%M:%S %Z");
    let pid = std::process::id();
    format!("{time} [{pid}]: {level}: {}\n", printable(text))
}

impl Open {
    fn append(&mut self, line: &str) -> std::io::Result<()> {
        let line = if self.torn {
            format!("\n{line}")
        } else {
            line.to_owned()
        };
        let written = loop {
            match self.file.write(line.as_bytes()) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.torn = written < line.len();
        if self.torn {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

// The file of this moment, and what there is to say about it.
fn open(target: &Target, now: &Zoned) -> Result<(Open, Option<String>), LogFileError> {
    let name = jiff::fmt::strtime::format(&target.name, now)
        .ok()
        .filter(|name| !name.is_empty() && !name.contains('\0'))
        .ok_or_else(|| LogFileError::Pattern(target.name.clone()))?;
    match DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .create(&target.directory)
    {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(LogFileError::Directory(target.directory.clone(), e));
        }
        _ => {}
    }
    let path = target.directory.join(&name);
    let rotates = target.rotation_size_kb > 0 || target.rotation_age_ms > 0;
    let (file, warning) = if rotates || !path.exists() {
        open_with_rotation(target, &path, now)?
    } else {
        (append_to(&path)?, None)
    };
    // As long as this is held nobody truncates the file. Nothing is lost where it is not granted.
    let _ = flock(&file, FlockOperation::NonBlockingLockShared);
    let torn = false;
    Ok((Open { path, file, torn }, warning))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A pipe without a reader is to be refused instead of waited for.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags of open are small");
    options.append(true).mode(FILE_MODE).custom_flags(flags);
    options
}

fn append_to(path: &Path) -> Result<File, LogFileError> {
    options()
        .create(true)
        .open(path)
        .map_err(|e| LogFileError::Open(path.to_owned(), e))
}

fn open_with_rotation(
    target: &Target,
    path: &Path,
    now: &Zoned,
) -> Result<(File, Option<String>), LogFileError> {
    let mut control = Control::open(path)?;
    if !control.lock() {
        return Ok((append_to(path)?, None));
    }
    let now_s = now.timestamp().as_second();
    match options().create_new(true).open(path) {
        Ok(file) => {
            control.write(now_s)?;
            return Ok((file, None));
        }
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(LogFileError::Open(path.to_owned(), e));
        }
        Err(_) => {}
    }
    let file = append_to(path)?;
    let mut warning = None;
    let began = match control.read()? {
        Some(began) if began <= now_s => began,
        found => {
            if found.is_none() && target.rotation_age_ms > 0 {
                warning = Some(format!(
                    "missing rotation file: \"{}\"",
                    shown(&control.path)
                ));
            }
            // A time to come is of a clock that was wrong; the file's age counts from now on.
            control.write(now_s)?;
            now_s
        }
    };
    let metadata = file
        .metadata()
        .map_err(|e| LogFileError::Open(path.to_owned(), e))?;
    let is_due = metadata.is_file() && is_due(target, now_s.saturating_sub(began), metadata.len());
    if is_due && is_ours_alone(&file) {
        file.set_len(0)
            .map_err(|e| LogFileError::Open(path.to_owned(), e))?;
        control.write(now_s)?;
    }
    Ok((file, warning))
}

fn is_due(target: &Target, age_s: i64, bytes: u64) -> bool {
    let age_ms = u64::try_from(age_s).unwrap_or(0).saturating_mul(1000);
    let too_old = target.rotation_age_ms > 0 && age_ms >= target.rotation_age_ms;
    let bytes_max = target.rotation_size_kb.saturating_mul(KILOBYTE);
    too_old || (target.rotation_size_kb > 0 && bytes >= bytes_max)
}

// Where the file system has no flock, nobody can be seen, and the file is truncated as by the
// original.
fn is_ours_alone(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK)
}

// The control file, locked until it is dropped.
struct Control {
    path: PathBuf,
    file: File,
}

impl Control {
    fn open(log: &Path) -> Result<Control, LogFileError> {
        let mut path = log.as_os_str().to_owned();
        path.push(".rotation");
        let path = PathBuf::from(path);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path);
        match opened {
            Ok(file) => Ok(Control { path, file }),
            Err(e) => Err(LogFileError::OpenRotation(path, e)),
        }
    }

    // False where somebody has it for longer than a decision takes.
    fn lock(&self) -> bool {
        let began = Instant::now();
        while flock(&self.file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
        {
            if began.elapsed() >= ROTATION_LOCK_WAIT {
                return false;
            }
            std::thread::sleep(ROTATION_LOCK_POLL);
        }
        true
    }

    fn failed(&self, error: std::io::Error) -> LogFileError {
        LogFileError::OpenRotation(self.path.clone(), error)
    }

    // `None` where it is empty: nobody wrote it, or was killed before.
    fn read(&self) -> Result<Option<i64>, LogFileError> {
        let mut bytes = Vec::new();
        (&self.file)
            .take(ROTATION_FILE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|e| self.failed(e))?;
        let text = String::from_utf8_lossy(&bytes);
        if text.trim().is_empty() {
            return Ok(None);
        }
        match text.trim().parse::<i64>() {
            Ok(seconds) if seconds >= 0 => Ok(Some(seconds)),
            _ => Err(LogFileError::Timestamp(
                self.path.clone(),
                text.into_owned(),
            )),
        }
    }

    fn write(&mut self, seconds: i64) -> Result<(), LogFileError> {
        self.file
            .rewind()
            .and_then(|()| self.file.set_len(0))
            .and_then(|()| self.file.write_all(seconds.to_string().as_bytes()))
            .map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
#[path = "log_file_tests.rs"]
mod tests;
