//! Groups as directory trees: whole, through links, and beside a server that works.

use super::*;
use crate::io::{self, BufferPool, Request};
use crate::limits::EXTENT_BYTES_MAX;
use crate::storage::{FileKind, Storage};
use crate::testing::dss_image::Image;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const OWN: u8 = 0x50;
const OTHERS: u8 = 0x51;

/// All that is to be seen below a path, as a manifest has it, without times.
fn lines(tree: &DssTree, path: &Path, lines: &mut Vec<String>) {
    for entry in tree.list(path).unwrap() {
        let path = path.join(&entry.name);
        let shown = tree.display_path(&path);
        let (shown, bytes) = (shown.display(), entry.metadata.size);
        let allocated = entry.metadata.allocated_bytes;
        match entry.metadata.kind {
            FileKind::Directory => {
                lines.push(format!("D\t{shown}\t0\t0\t-"));
                self::lines(tree, &path, lines);
            }
            FileKind::Symlink => {
                let target = tree.read_link(&path).unwrap();
                let target = target.display();
                lines.push(format!("L\t{shown}\t{allocated}\t{bytes}\t{target}"));
            }
            _ => {
                let content = tree.read(&path, bytes).unwrap();
                let hash: String = Sha256::digest(&content)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                lines.push(format!("F\t{shown}\t{allocated}\t{bytes}\t{hash}"));
            }
        }
    }
}

fn spec(name: &str, images: &[&str], scratch: &Path) -> Option<GroupSpec> {
    let devices = images.iter().map(|image| unpack_volume(image, scratch));
    Some(GroupSpec {
        name: name.to_owned(),
        devices: devices.collect::<Option<_>>()?,
    })
}

#[test]
fn a_tree_has_all_that_the_manifest_has_and_is_not_recycled() {
    for (name, images, manifest) in [
        (
            "data",
            &["pop-data0", "pop-data1"][..],
            "pop-data.manifest.tsv",
        ),
        ("p1", &["pop-p1"], "pop-p1.manifest.tsv"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let Some(spec) = spec(name, images, scratch.path()) else {
            return;
        };
        let Some(manifest) = dss_text(manifest) else {
            return;
        };
        let tree = DssTree::open(&[spec], &format!("+{name}")).unwrap();
        let mut found = Vec::new();
        lines(&tree, Path::new(""), &mut found);
        found.sort();
        let recycle = format!("\t+{name}/.recycle");
        let mut expected: Vec<&str> = manifest
            .lines()
            .filter(|line| !line.contains(&recycle))
            .map(|line| line.rsplit_once('\t').unwrap().0)
            .collect();
        expected.sort_unstable();
        assert!(!expected.is_empty());
        assert_eq!(found, expected);
        let hidden = tree.metadata(Path::new(".recycle"));
        assert!(hidden.unwrap_err().is_not_found());
    }
}

#[test]
fn a_link_leads_to_a_tree_of_its_own_also_in_another_group() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(data) = spec("data", &["pop-data0", "pop-data1"], scratch.path()) else {
        return;
    };
    let data = DssTree::open(&[data], "+data").unwrap();
    let links = links(&data, Path::new(""));
    assert!(!links.is_empty());
    for link in &links {
        // Groups that were not named lead nowhere.
        let target = data.read_link(link).unwrap();
        let behind = data.behind(link);
        if target.starts_with("+data") {
            let found = behind.map(|tree| tree.root().to_owned());
            assert!(found.is_err() || Path::new(&found.unwrap()) == target);
        } else {
            let error = behind.unwrap_err().to_string();
            assert!(error.contains("follow link"), "{error}");
        }
    }
    assert!(data.behind(Path::new("gone")).unwrap_err().is_not_found());
    assert!(data.tree("+data/gone").unwrap_err().is_not_found());
    assert_eq!(data.tree("+data").unwrap().root(), "+data");
}

fn links(tree: &DssTree, path: &Path) -> Vec<std::path::PathBuf> {
    let mut links = Vec::new();
    for entry in tree.list(path).unwrap() {
        let path = path.join(&entry.name);
        match entry.metadata.kind {
            FileKind::Directory => links.extend(self::links(tree, &path)),
            FileKind::Symlink => links.push(path),
            _ => {}
        }
    }
    links
}

/// A group with one file that a server works on.
fn busy() -> (tempfile::TempDir, Image, DssTree) {
    let scratch = tempfile::tempdir().unwrap();
    let image = Image::create(&scratch.path().join("image")).unwrap();
    image.extend_plain(OWN).unwrap();
    let spec = GroupSpec {
        name: "data".to_owned(),
        devices: vec![image.path().to_owned()],
    };
    let tree = DssTree::open(&[spec], "+data").unwrap();
    (scratch, image, tree)
}

#[test]
fn a_file_that_lost_a_unit_after_it_was_opened_is_not_as_read() {
    let (_scratch, image, tree) = busy();
    let plain = Path::new("plain");
    let file = tree.open_read(plain, true).unwrap();
    let mut bytes = vec![0; 10_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(file.is_as_read().unwrap());
    image.truncate_plain(OTHERS).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(
        bytes.iter().all(|byte| *byte == OTHERS),
        "the hazard is real"
    );
    assert!(!file.is_as_read().unwrap());
    // Not even when the file has its unit back.
    image.extend_plain(OWN).unwrap();
    assert!(!file.is_as_read().unwrap());
    let file = tree.open_read(plain, true).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(file.is_as_read().unwrap());
    assert!(bytes.iter().all(|byte| *byte == OWN));
    // Who looks again learns it without asking at the end.
    image.truncate_plain(OTHERS).unwrap();
    file.look_again().unwrap();
    image.extend_plain(OWN).unwrap();
    assert!(!file.is_as_read().unwrap());
}

#[test]
fn sizes_are_those_of_now() {
    let (_scratch, image, tree) = busy();
    let plain = Path::new("plain");
    let size = || tree.metadata(plain).unwrap().size;
    let listed = || {
        let entries = tree.list(Path::new("")).unwrap();
        let entry = entries.iter().find(|entry| entry.name == "plain").unwrap();
        entry.metadata.size
    };
    let full = size();
    assert_eq!((full, listed()), (1_900_000, 1_900_000));
    image.truncate_plain(OTHERS).unwrap();
    assert_eq!((size(), listed()), (0, 0));
    assert_eq!(tree.open_read(plain, false).unwrap().size().unwrap(), 0);
    assert!(tree.read(plain, 10).unwrap().is_empty());
    image.extend_plain(OWN).unwrap();
    // A client writes: nothing but the node's length changes.
    image.set_plain_length(1000).unwrap();
    assert_eq!((listed(), size()), (1000, 1000));
    assert_eq!(tree.read(plain, 1000).unwrap(), [OWN; 1000]);
    image.set_plain_length(1_900_000).unwrap();
    let file = tree.open_read(plain, false).unwrap();
    assert_eq!(file.size().unwrap(), full);
}

#[test]
fn beside_a_busy_server_a_file_is_as_read_or_holds_nothing_of_others() {
    let (_scratch, image, tree) = busy();
    let rounds = std::env::var("GS_DSS_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(25, |text| text.parse().unwrap());
    let (done, patience) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut by_engine_whole, mut read_whole) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rest = 0;
            while !done.load(Ordering::Relaxed) {
                image.truncate_plain(OTHERS).unwrap();
                image.extend_plain(OWN).unwrap();
                rest = (rest + 5) % 8;
                let patience = patience.load(Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(rest + patience));
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0.. {
                if round >= rounds {
                    if by_engine_whole > 0 && read_whole > 0 {
                        break;
                    }
                    patience.fetch_add(5, Ordering::Relaxed);
                }
                let Ok(file) = tree.open_read(Path::new("plain"), true) else {
                    continue;
                };
                let bytes = by_engine(&Arc::new(file));
                if let Some(bytes) = bytes {
                    by_engine_whole += u64::from(!bytes.is_empty());
                    assert_eq!(bytes.iter().find(|byte| **byte != OWN), None);
                }
                if let Ok(bytes) = tree.read(Path::new("plain"), u64::MAX) {
                    read_whole += u64::from(!bytes.is_empty());
                    assert_eq!(bytes.iter().find(|byte| **byte != OWN), None);
                }
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(by_engine_whole > 0 && read_whole > 0);
    assert!(tree.read(Path::new("plain"), u64::MAX).is_ok());
}

/// A file's bytes, if they are to be used.
fn by_engine(file: &Arc<io::File>) -> Option<Vec<u8>> {
    let pool = BufferPool::new(2);
    let mut engine = io::open(EngineChoice::Auto, &pool, 2).unwrap();
    let mut bytes = Vec::new();
    for offset in [0, EXTENT_BYTES_MAX] {
        let request = Request::Read {
            file: Arc::clone(file),
            offset: offset as u64,
            length: EXTENT_BYTES_MAX,
            buffer: pool.try_take().unwrap(),
            memory_offset: 0,
        };
        engine.submit(1, request);
        let mut done = Vec::new();
        engine.wait(&mut done, None).unwrap();
        let done = done.remove(0);
        done.result.unwrap();
        bytes.extend(done.buffer.unwrap().data());
    }
    file.is_as_read().unwrap().then_some(bytes)
}
