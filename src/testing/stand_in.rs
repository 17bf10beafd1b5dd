//! A stand-in for the client library of DSS and its server: `tests/stand_in/dssapi.c`, compiled
//! when it is needed, on a directory of ordinary files.

use crate::io::{DssLibrary, DssLibraryError};
use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// A library with a home of its own. Dropping it removes the home; the library stays loaded.
#[derive(Debug)]
pub struct StandIn {
    home: PathBuf,
    library: PathBuf,
    /// Answers at the socket of the server.
    _listener: UnixListener,
}

impl StandIn {
    /// Compiles the library with these flags and makes a home with groups `data` and `log`.
    ///
    /// # Panics
    /// Where that cannot be done.
    #[must_use]
    pub fn build(flags: &[&str]) -> StandIn {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("gs-dss-{}-{number}", std::process::id());
        let home = std::env::temp_dir().join(name);
        for directory in ["volumes/data", "volumes/log", "lib"] {
            std::fs::create_dir_all(home.join(directory)).expect("a directory in /tmp");
        }
        // A copy of each has variables of its own.
        let library = home.join("lib/libdssapi.so");
        std::fs::write(&library, compiled(flags)).expect("room in /tmp");
        let listener = UnixListener::bind(home.join(".dss_unix_d_socket"));
        StandIn {
            library,
            _listener: listener.expect("a socket in /tmp"),
            home,
        }
    }

    /// What `DSS_HOME` would be.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The library.
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The directory that stands for a group.
    #[must_use]
    pub fn group(&self, name: &str) -> PathBuf {
        self.home.join("volumes").join(name)
    }

    /// Loads the library.
    ///
    /// # Errors
    /// As [`DssLibrary::load`].
    pub fn load(&self) -> Result<DssLibrary, DssLibraryError> {
        let server = format!("UDS:{}/.dss_unix_d_socket", self.home.display());
        DssLibrary::load(&self.library, &server)
    }

    /// Makes a call fail: `<function> <n> <code> <text>`.
    ///
    /// # Panics
    /// Where the file cannot be written.
    pub fn fail(&self, line: &str) {
        std::fs::write(self.home.join("fail"), format!("{line}\n")).expect("room in /tmp");
    }

    /// Makes the library behave otherwise.
    ///
    /// # Panics
    /// Where the file cannot be written.
    pub fn mode(&self, words: &str) {
        std::fs::write(self.home.join("mode"), words).expect("room in /tmp");
    }

    /// The calls since this was asked last; the first time, there are none.
    ///
    /// # Panics
    /// Where the file cannot be read or written.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        let path = self.home.join("calls");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, "").expect("room in /tmp");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // What is left behind in /tmp harms nobody.
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// The library; each choice of flags is compiled once.
fn compiled(flags: &[&str]) -> Vec<u8> {
    static BUILT: Mutex<Option<HashMap<String, Vec<u8>>>> = Mutex::new(None);
    let mut built = BUILT.lock().expect("no thread panics while it compiles");
    let built = built.get_or_insert_default();
    let library = built.entry(flags.join(" ")).or_insert_with(|| {
        let number = flags.len();
        let name = format!("gs-dss-{}-{number}.so", std::process::id());
        let target = std::env::temp_dir().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/dssapi.c");
        let status = Command::new("cc")
            .args(["-Wall", "-Wextra", "-O1", "-shared", "-fPIC", "-o"])
            .args([&target, &source])
            .args(flags)
            .arg("-lpthread")
            .status()
            .expect("cc, which links every Rust program");
        assert!(status.success(), "the stand-in does not compile");
        let library = std::fs::read(&target).expect("just written");
        let _ = std::fs::remove_file(&target);
        library
    });
    library.clone()
}
