//! The seam where tests make things go wrong: every step that changes a file is announced here
//! before it is made.
//!
//! Without the feature `testing`, and so in every release build, a step is an empty function. With
//! it, the environment variable `GS_FAULT` says what happens to the steps of the process, which are
//! counted from 1 over all threads:
//!
//! | value | effect |
//! |---|---|
//! | `record:<file>` | a line `<number> <operation> <path>` is appended to the file for each step |
//! | `stop:<n>` | SIGSTOP before step n |
//! | `kill:<n>` | SIGKILL before step n |
//! | `tear:<n>` | if step n is a write, half of it is made; then SIGKILL |
//! | `eio:<n>` | step n fails with EIO, those after it do not |
//! | `enospc:<n>` | step n and all later ones that need space fail with ENOSPC |
//!
//! All but the first take a pattern, `kill:<n>:<pattern>`: then only steps are counted whose
//! `<operation> <path>` is as the pattern, in which `*` stands for anything within a name and `**`
//! for anything. So a test meets the step it means though runs have some steps more or fewer. With
//! `GS_FAULT_RECORD` steps are recorded in that file, `!` before the number of those that the fault
//! met.
//!
//! What is not injected: writes that are lost after they were reported as made, and names that a
//! power cut undoes. A killed process leaves the page cache as it is; that a sync comes before what
//! depends on it shows in the recorded order of the steps.

#[cfg(feature = "testing")]
mod plan;

use std::io;
use std::path::Path;

/// A step that changes something other than the content of a file.
///
/// # Errors
/// Where a test wants it to fail.
pub fn step(operation: &'static str, path: &Path) -> io::Result<()> {
    #[cfg(feature = "testing")]
    return plan::announce(operation, path, || {});
    #[cfg(not(feature = "testing"))]
    {
        let _ = (operation, path);
        Ok(())
    }
}

/// A write; `write_half` makes the first half of it.
///
/// # Errors
/// Where a test wants it to fail.
pub fn write_step(path: &Path, write_half: impl FnOnce()) -> io::Result<()> {
    #[cfg(feature = "testing")]
    return plan::announce("write", path, write_half);
    #[cfg(not(feature = "testing"))]
    {
        let _ = (path, write_half);
        Ok(())
    }
}

/// Whether this process is told to record its steps or to fail at one.
pub(super) fn is_planned() -> bool {
    #[cfg(feature = "testing")]
    return plan::is_some();
    #[cfg(not(feature = "testing"))]
    false
}
