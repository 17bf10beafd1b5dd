//! `libdssapi.so`, the client library of DSS, loaded at run time: each function that we use as a
//! safe method.
//!
//! What the library promises was read in its source and never seen on a running server here:
//!
//! * Signatures and structures are those of `src/interface/dss_api.h` of DSS at library version 5
//!   (major 0, minor 0). `dss_stat_t` is 104 bytes, `dss_dirent_t` 68.
//! * Every thread has a connection of its own to the server and an error of its own, which the next
//!   call resets; any function may be called from any thread. Handles belong to the process.
//! * The address of the server belongs to the process, too: one process talks to one server.
//! * When the server goes away, the library ends the whole process with exit code 1 and says so
//!   only in its own log. Nothing here can prevent that.
//! * A read tells how much it brought in whole sectors: bytes behind the end of the file are
//!   counted. It needs address, offset and length in whole sectors. A write does not: what is not
//!   whole goes through a second descriptor, which is not direct.
//! * The end of a directory and a failure in it look alike but for the error.
//!
//! Results are taken for what a damaged or foreign library might return: counts, kinds, names and
//! texts are checked before they are used. The library is never unloaded, because threads that
//! used it run its code when they end.
#![allow(
    unsafe_code,
    reason = "calls functions of a foreign library by their addresses"
)]

use super::{DssCallError, DssLibraryError};
use crate::limits::{DSS_ERROR_BYTES_MAX, DSS_NAME_BYTES, DSS_PATH_BYTES_MAX};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_longlong, c_void};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr;

/// The version that a library must have: major 0, minor 0, version 5, as the server asks for.
const DSS_LIBRARY_VERSION: i32 = 5;

/// Handles of files start here; smaller numbers are none.
const HANDLE_BASE: c_int = 0x2000_0000;

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DssItemKind {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A link.
    Link,
}

impl DssItemKind {
    fn of(number: c_int) -> Option<DssItemKind> {
        match number {
            0 => Some(DssItemKind::Directory),
            1 => Some(DssItemKind::File),
            2..=4 => Some(DssItemKind::Link),
            _ => None,
        }
    }
}

/// What the server knows of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DssItem {
    /// What it stands for.
    pub kind: DssItemKind,
    /// Bytes that are allocated.
    pub allocated_bytes: u64,
    /// Bytes that were written: the length of the file.
    pub written_bytes: u64,
    /// Seconds since 1970 of the last change of the name.
    pub updated: i64,
}

/// `dss_stat_t`, with room behind it should a library have more fields.
#[repr(C)]
struct RawStat {
    size: u64,
    written_size: u64,
    create_time: i64,
    update_time: i64,
    name: [u8; DSS_NAME_BYTES],
    kind: c_int,
    reserve: [u8; 156],
}

/// `dss_dirent_t`, with room behind it.
#[repr(C)]
struct RawEntry {
    kind: c_int,
    name: [u8; DSS_NAME_BYTES],
    reserve: [u8; 60],
}

const _: () = assert!(std::mem::offset_of!(RawStat, reserve) == 100);
const _: () = assert!(std::mem::offset_of!(RawEntry, reserve) == 68);

type PathCall = unsafe extern "C" fn(*const c_char) -> c_int;
type PairCall = unsafe extern "C" fn(*const c_char, *const c_char) -> c_int;
type StatCall = unsafe extern "C" fn(*const c_char, *mut RawStat) -> c_int;

/// The addresses of the functions.
struct Functions {
    get_error: unsafe extern "C" fn(*mut c_int, *mut *const c_char),
    set_svr_path: PathCall,
    get_lib_version: unsafe extern "C" fn() -> c_int,
    stat: StatCall,
    lstat: StatCall,
    fstat: unsafe extern "C" fn(c_int, *mut RawStat) -> c_int,
    dmake: PathCall,
    dremove: PathCall,
    dopen: PathToDirectory,
    dread: unsafe extern "C" fn(*mut c_void, *mut RawEntry, *mut *mut RawEntry) -> c_int,
    dclose: unsafe extern "C" fn(*mut c_void) -> c_int,
    fcreate: unsafe extern "C" fn(*const c_char, c_int) -> c_int,
    fremove: PathCall,
    frename: PairCall,
    fopen: unsafe extern "C" fn(*const c_char, c_int, *mut c_int) -> c_int,
    fclose: unsafe extern "C" fn(c_int) -> c_int,
    ftruncate: unsafe extern "C" fn(c_int, c_longlong) -> c_int,
    pread: unsafe extern "C" fn(c_int, *mut c_void, c_int, c_longlong, *mut c_int) -> c_int,
    pwrite: unsafe extern "C" fn(c_int, *const c_void, c_int, c_longlong) -> c_int,
    symlink: PairCall,
    readlink: unsafe extern "C" fn(*const c_char, *mut c_char, c_int) -> c_int,
    unlink: PathCall,
}

type PathToDirectory = unsafe extern "C" fn(*const c_char) -> *mut c_void;

/// The library, with the server that it talks to.
pub struct DssLibrary {
    path: PathBuf,
    server: String,
    functions: Functions,
}

impl fmt::Debug for DssLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DssLibrary")
            .field("path", &self.path)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// An open file. Closing it is [`DssLibrary::close`]; a handle that is dropped stays open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DssHandle(c_int);

impl DssLibrary {
    /// Loads the library and tells it its server, as `UDS:/opt/dss/.dss_unix_d_socket`. A name
    /// without a slash is looked for where the dynamic loader looks.
    ///
    /// # Errors
    /// Where it cannot be loaded, lacks a function, or is of another version.
    pub fn load(path: &Path, server: &str) -> Result<DssLibrary, DssLibraryError> {
        if cfg!(target_feature = "crt-static") {
            let library = path.to_owned();
            return Err(DssLibraryError::Static { library });
        }
        // SAFETY: the library's initialisers run, as they do in every client of this server; what
        // the operator installed as DSS is trusted with the volumes already.
        let loaded = unsafe { Library::new(path) };
        let library = loaded.map_err(|error| DssLibraryError::Load {
            library: path.to_owned(),
            reason: foreign_machine(path).unwrap_or_else(|| loader_reason(&error)),
        })?;
        let functions = Functions::find(&library, path)?;
        // Threads that made a call have destructors in it.
        std::mem::forget(library);
        let library = DssLibrary {
            path: path.to_owned(),
            server: server.to_owned(),
            functions,
        };
        library.check_version()?;
        library.set_server()?;
        Ok(library)
    }

    /// Where it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check_version(&self) -> Result<(), DssLibraryError> {
        // SAFETY: the function takes nothing and returns a number.
        let found = unsafe { (self.functions.get_lib_version)() };
        if found == DSS_LIBRARY_VERSION {
            return Ok(());
        }
        Err(DssLibraryError::Version {
            library: self.path.clone(),
            found: version_text(found),
            expected: version_text(DSS_LIBRARY_VERSION),
        })
    }

    fn set_server(&self) -> Result<(), DssLibraryError> {
        let set = self.path_call(
            "dss_set_svr_path",
            self.functions.set_svr_path,
            &self.server,
        );
        set.map_err(|source| DssLibraryError::Server {
            library: self.path.clone(),
            server: self.server.clone(),
            source,
        })
    }

    /// What a path stands for; links are followed.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn stat(&self, path: &str) -> Result<DssItem, DssCallError> {
        self.stat_call("dss_stat", self.functions.stat, path)
    }

    /// What a path stands for; a link in the last place is not followed.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn lstat(&self, path: &str) -> Result<DssItem, DssCallError> {
        self.stat_call("dss_lstat", self.functions.lstat, path)
    }

    /// What an open file is.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn fstat(&self, handle: DssHandle) -> Result<DssItem, DssCallError> {
        const NAME: &str = "dss_fstat";
        let mut stat = RawStat::empty();
        // SAFETY: the structure is at least as large as the library's and lives until the call
        // returns.
        let status = unsafe { (self.functions.fstat)(handle.0, &raw mut stat) };
        self.check(NAME, status)?;
        stat.item(NAME)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn make_dir(&self, path: &str) -> Result<(), DssCallError> {
        self.path_call("dss_dmake", self.functions.dmake, path)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn remove_dir(&self, path: &str) -> Result<(), DssCallError> {
        self.path_call("dss_dremove", self.functions.dremove, path)
    }

    /// The names in a directory, at most `limit`.
    ///
    /// # Errors
    /// Where the server says so, or there are more.
    pub fn list(&self, path: &str, limit: usize) -> Result<Vec<String>, DssCallError> {
        const NAME: &str = "dss_dopen";
        let c_path = c_text(NAME, path)?;
        // SAFETY: the text ends with a zero byte and lives until the call returns.
        let directory = unsafe { (self.functions.dopen)(c_path.as_ptr()) };
        if directory.is_null() {
            return Err(self.error(NAME));
        }
        let names = self.read_names(directory, limit);
        // SAFETY: the directory was opened above and is closed here only.
        let status = unsafe { (self.functions.dclose)(directory) };
        let names = names?;
        self.check("dss_dclose", status)?;
        Ok(names)
    }

    fn read_names(
        &self,
        directory: *mut c_void,
        limit: usize,
    ) -> Result<Vec<String>, DssCallError> {
        const NAME: &str = "dss_dread";
        let mut names = Vec::new();
        loop {
            let mut entry = RawEntry::empty();
            let mut found = ptr::null_mut();
            // SAFETY: the directory is open, and the structures are at least as large as the
            // library's and live until the call returns.
            let status =
                unsafe { (self.functions.dread)(directory, &raw mut entry, &raw mut found) };
            self.check(NAME, status)?;
            if found.is_null() {
                // A failure looks like the end but for the error.
                return match self.error(NAME) {
                    DssCallError { code: 0, .. } => Ok(names),
                    error => Err(error),
                };
            }
            if names.len() == limit {
                let message = format!("the directory has more than {limit} names");
                return Err(DssCallError::new(NAME, message));
            }
            names.push(entry_name(&entry.name)?);
        }
    }

    /// Creates an empty file.
    ///
    /// # Errors
    /// Where the server says so, as where there is one.
    pub fn create(&self, path: &str) -> Result<(), DssCallError> {
        const NAME: &str = "dss_fcreate";
        let c_path = c_text(NAME, path)?;
        // SAFETY: the text ends with a zero byte and lives until the call returns.
        let status = unsafe { (self.functions.fcreate)(c_path.as_ptr(), 0) };
        self.check(NAME, status)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn remove_file(&self, path: &str) -> Result<(), DssCallError> {
        self.path_call("dss_fremove", self.functions.fremove, path)
    }

    /// Gives a file another name in its directory; a file of that name is replaced.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), DssCallError> {
        self.pair_call("dss_frename", self.functions.frename, from, to)
    }

    /// Opens a file to read, or to read and write. Links are followed.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn open(&self, path: &str, write: bool) -> Result<DssHandle, DssCallError> {
        const NAME: &str = "dss_fopen";
        // O_RDONLY and O_RDWR, whose numbers are those of every Linux.
        let flags = if write { 2 } else { 0 };
        let c_path = c_text(NAME, path)?;
        let mut handle = -1;
        // SAFETY: the text ends with a zero byte, and both live until the call returns.
        let status = unsafe { (self.functions.fopen)(c_path.as_ptr(), flags, &raw mut handle) };
        self.check(NAME, status)?;
        if handle < HANDLE_BASE {
            let message = format!("the library returned {handle}, which is no handle");
            return Err(DssCallError::new(NAME, message));
        }
        Ok(DssHandle(handle))
    }

    /// Closes a file.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn close(&self, handle: DssHandle) -> Result<(), DssCallError> {
        // SAFETY: a number; the library refuses those that are not open.
        let status = unsafe { (self.functions.fclose)(handle.0) };
        self.check("dss_fclose", status)
    }

    /// Sets the length of a file. Bytes that are added are whatever is on the volumes.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn truncate(&self, handle: DssHandle, length: u64) -> Result<(), DssCallError> {
        const NAME: &str = "dss_ftruncate";
        let length = offset(NAME, length)?;
        // SAFETY: numbers only.
        let status = unsafe { (self.functions.ftruncate)(handle.0, length) };
        self.check(NAME, status)
    }

    /// Reads into `bytes`, whose address and length are whole sectors, as `at` is. Tells how many
    /// bytes there were; those behind the end of the file may be counted.
    ///
    /// # Errors
    /// Where the server or the volume says so.
    pub fn read(
        &self,
        handle: DssHandle,
        bytes: &mut [u8],
        at: u64,
    ) -> Result<usize, DssCallError> {
        const NAME: &str = "dss_pread";
        let (at, length) = (offset(NAME, at)?, length(NAME, bytes.len())?);
        let (memory, mut read) = (bytes.as_mut_ptr().cast(), 0);
        // SAFETY: `memory` are `length` bytes of ours for as long as the call takes, and so is
        // `read`.
        let status = unsafe { (self.functions.pread)(handle.0, memory, length, at, &raw mut read) };
        self.check(NAME, status)?;
        usize::try_from(read)
            .ok()
            .filter(|read| *read <= bytes.len())
            .ok_or_else(|| {
                let message = format!("the library read {read} of {length} bytes");
                DssCallError::new(NAME, message)
            })
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Where the server or the volume says so.
    pub fn write(&self, handle: DssHandle, bytes: &[u8], at: u64) -> Result<(), DssCallError> {
        const NAME: &str = "dss_pwrite";
        let (at, length) = (offset(NAME, at)?, length(NAME, bytes.len())?);
        // SAFETY: the memory are `length` bytes that nobody changes while the call takes.
        let status =
            unsafe { (self.functions.pwrite)(handle.0, bytes.as_ptr().cast(), length, at) };
        self.check(NAME, status)
    }

    /// Makes a link at `path`.
    ///
    /// # Errors
    /// Where the server says so, as where the target is no path of a volume group.
    pub fn symlink(&self, target: &str, path: &str) -> Result<(), DssCallError> {
        self.pair_call("dss_symlink", self.functions.symlink, target, path)
    }

    /// Where a link points.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn read_link(&self, path: &str) -> Result<String, DssCallError> {
        const NAME: &str = "dss_readlink";
        let c_path = c_text(NAME, path)?;
        let mut target = [0_u8; DSS_PATH_BYTES_MAX + 1];
        let room = length(NAME, target.len())?;
        let memory = target.as_mut_ptr().cast();
        // SAFETY: the text ends with a zero byte, and `memory` are `room` bytes of ours.
        let status = unsafe { (self.functions.readlink)(c_path.as_ptr(), memory, room) };
        if status < 0 {
            return Err(self.error(NAME));
        }
        text_until_zero(&target)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| DssCallError::new(NAME, "the library returned no path"))
    }

    /// Removes a link.
    ///
    /// # Errors
    /// Where the server says so.
    pub fn unlink(&self, path: &str) -> Result<(), DssCallError> {
        self.path_call("dss_unlink", self.functions.unlink, path)
    }

    fn path_call(
        &self,
        name: &'static str,
        call: PathCall,
        path: &str,
    ) -> Result<(), DssCallError> {
        let path = c_text(name, path)?;
        // SAFETY: the text ends with a zero byte and lives until the call returns.
        let status = unsafe { call(path.as_ptr()) };
        self.check(name, status)
    }

    fn pair_call(
        &self,
        name: &'static str,
        call: PairCall,
        one: &str,
        other: &str,
    ) -> Result<(), DssCallError> {
        let (one, other) = (c_text(name, one)?, c_text(name, other)?);
        // SAFETY: the texts end with a zero byte and live until the call returns.
        let status = unsafe { call(one.as_ptr(), other.as_ptr()) };
        self.check(name, status)
    }

    fn stat_call(
        &self,
        name: &'static str,
        call: StatCall,
        path: &str,
    ) -> Result<DssItem, DssCallError> {
        let path = c_text(name, path)?;
        let mut stat = RawStat::empty();
        // SAFETY: the text ends with a zero byte; the structure is at least as large as the
        // library's; both live until the call returns.
        let status = unsafe { call(path.as_ptr(), &raw mut stat) };
        self.check(name, status)?;
        stat.item(name)
    }

    fn check(&self, name: &'static str, status: c_int) -> Result<(), DssCallError> {
        if status == 0 {
            return Ok(());
        }
        Err(self.error(name))
    }

    /// The error of the call that this thread made last.
    fn error(&self, function: &'static str) -> DssCallError {
        let mut code = 0;
        let mut text = ptr::null();
        // SAFETY: the library stores a number and an address, and both places are ours.
        unsafe { (self.functions.get_error)(&raw mut code, &raw mut text) };
        let message = if code == 0 || text.is_null() {
            "the library gives no reason".to_owned()
        } else {
            // SAFETY: the address is that of a text with a zero byte at its end in memory of this
            // thread, which stays until the next call.
            printable(unsafe { CStr::from_ptr(text) }.to_bytes())
        };
        DssCallError {
            function,
            code,
            message,
        }
    }
}

impl Functions {
    fn find(library: &Library, path: &Path) -> Result<Functions, DssLibraryError> {
        /// The address of a function of the type that is asked for.
        macro_rules! find {
            ($name:literal) => {{
                // SAFETY: the type is that of the library's header for this name.
                let symbol = unsafe { library.get(concat!($name, "\0").as_bytes()) };
                let symbol = symbol.map_err(|_| DssLibraryError::Function {
                    library: path.to_owned(),
                    function: $name,
                })?;
                *symbol
            }};
        }
        Ok(Functions {
            get_error: find!("dss_get_error"),
            set_svr_path: find!("dss_set_svr_path"),
            get_lib_version: find!("dss_get_lib_version"),
            stat: find!("dss_stat"),
            lstat: find!("dss_lstat"),
            fstat: find!("dss_fstat"),
            dmake: find!("dss_dmake"),
            dremove: find!("dss_dremove"),
            dopen: find!("dss_dopen"),
            dread: find!("dss_dread"),
            dclose: find!("dss_dclose"),
            fcreate: find!("dss_fcreate"),
            fremove: find!("dss_fremove"),
            frename: find!("dss_frename"),
            fopen: find!("dss_fopen"),
            fclose: find!("dss_fclose"),
            ftruncate: find!("dss_ftruncate"),
            pread: find!("dss_pread"),
            pwrite: find!("dss_pwrite"),
            symlink: find!("dss_symlink"),
            readlink: find!("dss_readlink"),
            unlink: find!("dss_unlink"),
        })
    }
}

impl RawStat {
    fn empty() -> RawStat {
        RawStat {
            size: 0,
            written_size: 0,
            create_time: 0,
            update_time: 0,
            name: [0; DSS_NAME_BYTES],
            kind: -1,
            reserve: [0; 156],
        }
    }

    fn item(&self, function: &'static str) -> Result<DssItem, DssCallError> {
        let kind = DssItemKind::of(self.kind).ok_or_else(|| {
            let message = format!("the library returned kind {}", self.kind);
            DssCallError::new(function, message)
        })?;
        if i64::try_from(self.size.max(self.written_size)).is_err() {
            let message = format!("the library returned {} bytes", self.written_size);
            return Err(DssCallError::new(function, message));
        }
        Ok(DssItem {
            kind,
            allocated_bytes: self.size,
            written_bytes: self.written_size,
            updated: self.update_time,
        })
    }
}

impl RawEntry {
    fn empty() -> RawEntry {
        RawEntry {
            kind: -1,
            name: [0; DSS_NAME_BYTES],
            reserve: [0; 60],
        }
    }
}

/// A name out of a directory; it must not lead anywhere else.
fn entry_name(bytes: &[u8]) -> Result<String, DssCallError> {
    text_until_zero(bytes)
        .filter(|name| !matches!(&**name, "" | "." | "..") && !name.contains('/'))
        .ok_or_else(|| DssCallError::new("dss_dread", "the library returned no name"))
}

/// The text up to a zero byte, if there is one.
fn text_until_zero(bytes: &[u8]) -> Option<String> {
    let text = CStr::from_bytes_until_nul(bytes).ok()?;
    Some(text.to_str().ok()?.to_owned())
}

/// What the library says, without what could confuse a terminal.
fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(DSS_ERROR_BYTES_MAX)];
    let text = String::from_utf8_lossy(bytes);
    text.trim_end()
        .escape_debug()
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}

fn c_text(function: &'static str, text: &str) -> Result<CString, DssCallError> {
    CString::new(text).map_err(|_| DssCallError::new(function, "the path contains a zero byte"))
}

fn offset(function: &'static str, offset: u64) -> Result<c_longlong, DssCallError> {
    c_longlong::try_from(offset)
        .map_err(|_| DssCallError::new(function, "there is no such place in a file"))
}

fn length(function: &'static str, length: usize) -> Result<c_int, DssCallError> {
    c_int::try_from(length)
        .map_err(|_| DssCallError::new(function, "that is too much for one call"))
}

/// Three numbers, as the library makes one of them.
fn version_text(version: i32) -> String {
    let (major, minor) = (version / 1_000_000, version / 1000 % 1000);
    format!("{major}.{minor}.{}", version % 1000)
}

/// Whether a file is a library of another machine. The loader says that there is no such file then.
fn foreign_machine(path: &Path) -> Option<String> {
    const CLASS_64: u8 = 2;
    if !path.as_os_str().as_encoded_bytes().contains(&b'/') {
        // Which file the loader found is not known.
        return None;
    }
    let machine = match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        _ => return None,
    };
    let mut header = [0_u8; 20];
    let mut file = std::fs::File::open(path).ok()?;
    io::Read::read_exact(&mut file, &mut header).ok()?;
    let found = u16::from_le_bytes([header[18], header[19]]);
    let is_foreign = header.starts_with(b"\x7fELF") && (header[4] != CLASS_64 || found != machine);
    is_foreign.then(|| {
        let bits = u32::from(header[4]) * 32;
        format!("it is an ELF file of {bits} bits for machine {found}, not of 64 for {machine}")
    })
}

/// The loader's own words, which the error of the crate only encloses.
fn loader_reason(error: &libloading::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

#[cfg(test)]
#[path = "dss_library_tests.rs"]
mod tests;
