//! `dss` on block devices instead of image files: loop devices on images.

use crate::fixtures::{dss, unpack_volume};
use crate::support::{Output, assert_success, bare, run};
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `O_EXCL` of Linux: what a mount, a device mapper or a RAID does to a device that it uses.
const EXCLUSIVE: i32 = 0o200;

/// A block device on an image.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    /// `None`, aloud, where devices cannot be made.
    pub(crate) fn attach(image: &Path) -> Option<Loop> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image)
            .stderr(Stdio::null())
            .output();
        let device = output.ok().filter(|output| output.status.success());
        let Some(device) = device else {
            eprintln!("SKIPPED: a loop device cannot be made; run the tests as root");
            return None;
        };
        let path = String::from_utf8(device.stdout).unwrap();
        Some(Loop(PathBuf::from(path.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("-d").arg(&self.0).status();
        assert!(detached.unwrap().success() || std::thread::panicking());
    }
}

fn on(words: &[&str], devices: &[&Path]) -> Output {
    let devices: Vec<String> = devices
        .iter()
        .map(|device| device.display().to_string())
        .collect();
    let group = format!("--vg=data={}", devices.join(","));
    run(bare(&["dss"]).args(words).arg(group).env_remove("DSS_HOME"))
}

#[test]
fn a_group_on_devices_is_what_it_is_on_images() {
    let Some(dss) = dss() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let images = ["pop-data0", "pop-data1"].map(|name| unpack_volume(&dss, name, scratch.path()));
    let [Some(one), Some(other)] = images.each_ref().map(|image| Loop::attach(image)) else {
        return;
    };
    let devices = [&*one.0, &*other.0];
    let images = images.each_ref().map(|image| &**image);
    let list = ["ls", "--recursive", "--format=json"];
    let listed = on(&list, &devices);
    assert_success(&listed);
    assert_eq!(listed.stdout, on(&list, &images).stdout);
    let checked = on(&["check"], &devices);
    assert_success(&checked);
    assert!(checked.stdout.ends_with("no damage\n"), "{checked:#?}");
    for (name, volumes) in [("devices", devices), ("images", images)] {
        let target = scratch.path().join(name);
        let target = target.to_str().unwrap();
        let copied = on(&["cp", "--recursive", "+data", target], &volumes);
        assert_success(&copied);
    }
    let differing = Command::new("diff")
        .args(["-r", "--no-dereference", "devices", "images"])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    assert!(differing.status.success(), "{differing:?}");
}

#[test]
fn a_device_becomes_a_group_unless_somebody_has_it() {
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("image");
    let file = fs::File::create(&image).unwrap();
    file.set_len(96 << 20).unwrap();
    // Dirt wherever a structure goes but for the head, which was zeroed.
    file.write_all_at(&vec![0xa5; (8 << 20) - 2_048_000], 2_048_000)
        .unwrap();
    file.sync_all().unwrap();
    let Some(device) = Loop::attach(&image) else {
        return;
    };
    let before = fs::read(&image).unwrap();
    let holder = fs::File::options()
        .read(true)
        .custom_flags(EXCLUSIVE)
        .open(&device.0)
        .unwrap();
    let refused = on(&["cv", "--au-size=4MB"], &[&device.0]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(refused.stderr.contains("busy"), "{refused:#?}");
    assert!(fs::read(&image).unwrap() == before, "it was written to");
    drop(holder);
    assert_success(&on(&["cv", "--au-size=4MB"], &[&device.0]));
    let checked = on(&["check"], &[&device.0]);
    assert_success(&checked);
    let expected = "volume group data: 1 nodes, 18 allocation units, no damage\n";
    assert_eq!(checked.stdout, expected);
    let again = on(&["cv", "--au-size=4MB"], &[&device.0]);
    assert!(
        again.stderr.contains("is a volume of group data already"),
        "{again:#?}"
    );
    // What is on the device is durable: it is in the image when the device is gone.
    drop(device);
    let checked = on(&["check"], &[&image]);
    assert_success(&checked);
    assert!(checked.stdout.ends_with("no damage\n"), "{checked:#?}");
}
