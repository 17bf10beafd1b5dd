//! Asking for a password on the terminal, and keeping passwords out of core files.

use crate::limits::PASSWORD_BYTES_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getpgrp, getrlimit, setrlimit};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroizing;

/// Between two looks at whether a signal came, should one slip in before the wait.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Writes `prompt` to the terminal of this process and reads a line without showing it. The line is
/// returned without its end, and may be empty.
///
/// # Errors
/// Of kind [`ErrorKind::NotConnected`] where there is no terminal, or where this process is in the
/// background and would be stopped for reading; [`ErrorKind::Interrupted`] once `cancel` is set.
pub fn ask_password(prompt: &str, cancel: &AtomicBool) -> Result<Zeroizing<String>, Error> {
    let unusable = |why: &str| Error::new(ErrorKind::NotConnected, why.to_owned());
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|_| unusable("there is no terminal to ask on"))?;
    if tcgetpgrp(&terminal).ok() != Some(getpgrp()) {
        return Err(unusable("the process is in the background of its terminal"));
    }
    let password = ask_on(&terminal, prompt, cancel)?;
    no_core_files();
    Ok(password)
}

fn ask_on(terminal: &File, prompt: &str, cancel: &AtomicBool) -> Result<Zeroizing<String>, Error> {
    let _silence = Silence::begin(terminal)?;
    let mut output = terminal;
    output.write_all(prompt.as_bytes())?;
    let line = read_line(terminal, cancel);
    // The end of the line that was typed is not shown either.
    output.write_all(b"\n")?;
    let mut line = line?;
    while line
        .last()
        .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
    {
        line.pop();
    }
    match std::str::from_utf8(&line) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Error::new(ErrorKind::InvalidData, "it is not UTF-8")),
    }
}

// A terminal gives whole lines.
fn read_line(mut terminal: &File, cancel: &AtomicBool) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut line = Zeroizing::new(vec![0; PASSWORD_BYTES_MAX + 1]);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(ErrorKind::Interrupted.into());
        }
        let mut waiting = [PollFd::new(&terminal, PollFlags::IN)];
        match poll(&mut waiting, Some(&LOOK_EVERY)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let length = match terminal.read(&mut line) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        };
        if length > PASSWORD_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidData, "it is too long"));
        }
        line.truncate(length);
        return Ok(line);
    }
}

// As long as it lives the terminal does not show what is typed; a panic ends it too.
struct Silence<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Silence<'_> {
    fn begin(terminal: &File) -> Result<Silence<'_>, Error> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Silence { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// A crash writes no core file from now on: the memory holds a password.
pub(super) fn no_core_files() {
    let limit = getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::debug!("cannot keep core files from being written: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use std::time::Duration;

    // Both ends of a terminal: the person's and the program's.
    fn terminal() -> (File, File) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let person = openpt(flags).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let program = ioctl_tiocgptpeer(&person, flags).unwrap();
        (File::from(person), File::from(program))
    }

    fn shows(terminal: &File) -> bool {
        let modes = tcgetattr(terminal).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    }

    // What the person sees up to the given number of bytes.
    fn seen(mut person: &File, bytes: usize) -> String {
        let mut text = vec![0; bytes];
        person.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_password_is_read_without_being_shown() {
        let (mut person, program) = terminal();
        let prompt = "Password for user omm: ";
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| ask_on(&program, prompt, &AtomicBool::new(false)));
            assert_eq!(seen(&person, prompt.len()), prompt);
            assert!(!shows(&program));
            person.write_all(b"s3 cret\n").unwrap();
            assert_eq!(answer.join().unwrap().unwrap().as_str(), "s3 cret");
        });
        assert_eq!(seen(&person, 2), "\r\n");
        assert!(shows(&program), "the terminal is as it was");
    }

    #[test]
    fn a_signal_ends_the_wait_and_the_terminal_is_as_it_was() {
        let (person, program) = terminal();
        let cancel = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| ask_on(&program, "Password: ", &cancel));
            assert_eq!(seen(&person, 10), "Password: ");
            std::thread::sleep(Duration::from_millis(20));
            cancel.store(true, Ordering::Relaxed);
            let error = answer.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Interrupted);
        });
        assert!(shows(&program));
    }

    #[test]
    fn a_line_that_ends_at_once_is_an_empty_password() {
        let (mut person, program) = terminal();
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| ask_on(&program, "? ", &AtomicBool::new(false)));
            assert_eq!(seen(&person, 2), "? ");
            // Ctrl-D.
            person.write_all(b"\x04").unwrap();
            assert_eq!(answer.join().unwrap().unwrap().as_str(), "");
        });
    }

    #[test]
    fn what_is_no_terminal_is_not_asked() {
        let file = tempfile::tempfile().unwrap();
        assert!(ask_on(&file, "? ", &AtomicBool::new(false)).is_err());
    }
}
