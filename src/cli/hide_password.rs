//! A password given on the command line leaves the list of processes.
//!
//! Arguments of a process are readable by every user of the machine. The original overwrites them
//! in memory, which safe code cannot. Instead the program starts itself again, as the same process,
//! with a mask in place of the password, and hands the password over in a pipe:
//!
//! 1. the password goes into a pipe whose reading end survives the start; the writing end does not
//! 2. `/proc/self/exe` is executed with the masked arguments; an environment variable says which
//!    process is meant and which descriptor to read
//! 3. the new program reads the pipe empty and goes on with the password in its own memory
//!
//! Neither the arguments nor the environment nor an open file of the running program hold the
//! password. It is visible for the instant before step 2, and in the shell's history:
//! a password file is better.

use super::argv::{self, MASK};
use crate::limits::PASSWORD_BYTES_MAX;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// `<process id>:<descriptor>`. The id keeps programs that this one starts from believing that they
/// are meant.
const HANDED_OVER: &str = "GS_PROBACKUP_PASSWORD_FROM";
/// Bytes of a process's name that the kernel keeps.
const PROCESS_NAME_BYTES_MAX: usize = 15;

/// What became of the words.
#[derive(Debug)]
pub(super) enum Hidden {
    /// The words to run, password and all; they are not visible.
    Words(Vec<OsString>),
    /// The words to run, and why the password in them stays visible.
    Visible(Vec<OsString>, Error),
}

/// The arguments of the program without its name. Does not return where the program starts anew.
///
/// # Errors
/// Where a password was handed over and cannot be read: without it the arguments are not what was
/// asked for.
pub(super) fn hide(mut arguments: Vec<OsString>) -> Result<Hidden, Error> {
    let program = if arguments.is_empty() {
        OsString::new()
    } else {
        arguments.remove(0)
    };
    let mut words = arguments;
    if let Some(descriptor) = std::env::var_os(HANDED_OVER)
        .as_deref()
        .and_then(|text| handed_over(text, std::process::id()))
    {
        let password = receive(descriptor)?;
        put(&mut words, &password);
        name_process(&program);
        return Ok(Hidden::Words(words));
    }
    let Some(place) = argv::values(&words, "password").pop() else {
        return Ok(Hidden::Words(words));
    };
    let password = place.value(&words).to_owned();
    let mut masked = words.clone();
    put(&mut masked, OsStr::new(MASK));
    let error = match hand_over(&password) {
        Ok(pipe) => {
            let descriptor = pipe.as_raw_fd();
            Command::new("/proc/self/exe")
                .arg0(&program)
                .args(masked)
                .env(HANDED_OVER, format!("{}:{descriptor}", std::process::id()))
                .exec()
        }
        Err(error) => error,
    };
    Ok(Hidden::Visible(words, error))
}

// Puts a value in place of every password.
fn put(words: &mut [OsString], value: &OsStr) {
    for place in argv::values(words, "password") {
        place.replace(words, value);
    }
}

// The reading end of a pipe that holds the password and that the next program inherits.
fn hand_over(password: &OsStr) -> Result<File, Error> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, "it is too long"));
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    File::from(writer).write_all(password.as_bytes())?;
    fcntl_setfd(&reader, FdFlags::empty())?;
    Ok(File::from(reader))
}

fn handed_over(text: &OsStr, process: u32) -> Option<u32> {
    let (id, descriptor) = text.to_str()?.split_once(':')?;
    let descriptor = descriptor.parse().ok()?;
    (id.parse() == Ok(process)).then_some(descriptor)
}

// Reads the pipe empty. The inherited descriptor itself stays open: closing it by its number would
// be unsafe code.
fn receive(descriptor: u32) -> Result<OsString, Error> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits());
    let pipe = OpenOptions::new()
        .read(true)
        .custom_flags(flags.expect("flags of open are small"))
        .open(format!("/proc/self/fd/{descriptor}"))?;
    if !pipe.metadata()?.file_type().is_fifo() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not in a pipe"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(PASSWORD_BYTES_MAX).expect("the limit is small");
    pipe.take(limit).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::UnexpectedEof, "the pipe is empty"));
    }
    Ok(OsString::from_vec(bytes))
}

// The kernel calls a process after the file that it executes, which is `exe` now.
fn name_process(program: &OsStr) {
    let name = Path::new(program).file_name().unwrap_or(program).as_bytes();
    let name = &name[..name.len().min(PROCESS_NAME_BYTES_MAX)];
    // Only the list of processes looks odd without it.
    let _ = std::fs::write("/proc/self/comm", name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_through_the_pipe_once() {
        let pipe = hand_over(OsStr::new("p w\u{e4}")).unwrap();
        let descriptor = u32::try_from(pipe.as_raw_fd()).unwrap();
        assert_eq!(receive(descriptor).unwrap(), "p w\u{e4}");
        assert!(receive(descriptor).is_err(), "nothing is left in it");
    }

    #[test]
    fn what_is_no_pipe_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        assert!(receive(u32::try_from(file.as_raw_fd()).unwrap()).is_err());
        assert!(receive(u32::MAX).is_err());
        assert!(hand_over(OsStr::new(&"x".repeat(5000))).is_err());
    }

    #[test]
    fn only_the_process_that_is_meant_looks_for_a_password() {
        assert_eq!(handed_over(OsStr::new("7:3"), 7), Some(3));
        for text in ["8:3", "7", "7:-1", "7:x", ""] {
            assert_eq!(handed_over(OsStr::new(text), 7), None, "{text}");
        }
    }

    #[test]
    fn words_without_a_password_stay_as_they_are() {
        let arguments = ["gs_probackup", "show", "-B", "/b"].map(OsString::from);
        match hide(arguments.to_vec()).unwrap() {
            Hidden::Words(words) => assert_eq!(words, arguments[1..]),
            Hidden::Visible(..) => panic!("there is no password"),
        }
        assert!(matches!(hide(Vec::new()).unwrap(), Hidden::Words(words) if words.is_empty()));
    }
}
