//! What a restore makes of damage that it is told to accept, and of directories that nobody may
//! write to.

use crate::cluster::{Cluster, INSTANCE};
use crate::support::{assert_success, command, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

const PAGE_BYTES: usize = 8192;

/// Where the payload of page `index` of a stored file is.
fn payload(stored: &[u8], index: usize) -> std::ops::Range<usize> {
    let mut start = 0;
    for _ in 0..index {
        start = payload_at(stored, start).end;
    }
    payload_at(stored, start)
}

fn payload_at(stored: &[u8], start: usize) -> std::ops::Range<usize> {
    let length = u32::from_le_bytes(stored[start + 4..start + 8].try_into().unwrap());
    start + 8..start + 8 + usize::try_from(length).unwrap()
}

#[test]
fn a_forced_restore_writes_zeros_for_pages_that_cannot_be_read_and_says_so() {
    let cluster = Cluster::create(4 << 20);
    let id = cluster.back_up(&["--compress-algorithm=zlib"]);
    let name = "base/16384/16386";
    let stored = cluster.backup_path(&id).join("database").join(name);
    let mut bytes = fs::read(&stored).unwrap();
    for index in [3, 7] {
        let place = payload(&bytes, index);
        assert!(place.len() < PAGE_BYTES, "a compressed page");
        bytes[place].fill(0xFF);
    }
    fs::write(&stored, &bytes).unwrap();
    let (target, tablespace) = cluster.targets("refused");
    let refused = cluster.try_restore(&id, &target, &tablespace, &["--no-validate"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(!target.join("global/pg_control").exists());

    let (target, tablespace) = cluster.targets("forced");
    let forced = cluster.try_restore(&id, &target, &tablespace, &["--force"]);
    assert_success(&forced);
    for block in [3, 7] {
        let line = forced
            .stderr
            .lines()
            .find(|line| line.contains(&format!("{name} block {block}")));
        let line = line.unwrap_or_else(|| panic!("block {block}:\n{}", forced.stderr));
        assert!(line.starts_with("WARNING: "), "{line}");
        assert!(
            line.ends_with("restored as far as it can be read"),
            "{line}"
        );
    }
    let mut expected = fs::read(cluster.sample.data_directory.join(name)).unwrap();
    for block in [3, 7] {
        expected[block * PAGE_BYTES..][..PAGE_BYTES].fill(0);
    }
    assert!(fs::read(target.join(name)).unwrap() == expected);
}

#[test]
fn files_get_into_directories_that_are_closed_in_the_end() {
    let cluster = Cluster::create(1 << 20);
    let closed = cluster.sample.data_directory.join("closed");
    let inner = closed.join("inner");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("file"), "content").unwrap();
    for directory in [&inner, &closed] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o500)).unwrap();
    }
    let id = cluster.back_up(&[]);
    let (target, tablespace) = cluster.targets("restored");
    let target_text = target.display().to_string();
    let source = cluster.sample.tablespace.display();
    let mapping = format!("{source}={}", tablespace.display());
    let arguments = ["restore", "--instance", INSTANCE, "-i", &id];
    let mut restore = command(&arguments, &cluster.catalog);
    restore.args(["-D", &target_text, "-T", &mapping]);
    if rustix::process::geteuid().is_root() {
        // Nothing is closed to root.
        const NOBODY: u32 = 65_534;
        let owner = NOBODY.to_string();
        let scratch = cluster.scratch.path();
        let mut give = Command::new("chown");
        give.arg("-R").arg(&owner).arg(scratch);
        assert!(give.status().unwrap().success());
        restore.uid(NOBODY).gid(NOBODY);
    }
    assert_success(&run(&mut restore));
    for name in ["closed", "closed/inner"] {
        let mode = fs::metadata(target.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o500, "{name}");
    }
    let restored = target.join("closed/inner/file");
    assert_eq!(fs::read_to_string(restored).unwrap(), "content");
    // Else the scratch directory could not be removed.
    for directory in [
        &closed,
        &inner,
        &target.join("closed"),
        &target.join("closed/inner"),
    ] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
