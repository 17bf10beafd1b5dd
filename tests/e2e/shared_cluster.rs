//! A small generated cluster on shared storage, with a catalog: what instances share is in volume
//! groups in image files, which an independent tool writes.

use crate::cluster::{INSTANCE, remove_system_catalogs, start_and_stop_with_short_wal};
use crate::support::{Output, assert_success, bare, gs_probackup, run};
use gs_probackup::sample::{self, Sample, SampleOptions};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const PAGE: usize = 8192;
/// Pages of the control file: one an instance, one of the reformer.
const CONTROL_PAGES: usize = 65;
const IMAGE_BYTES: u64 = 1 << 30;

/// A cleanly stopped cluster, registered as instance [`INSTANCE`] of a catalog.
pub(crate) struct SharedCluster {
    /// Removes everything in the end.
    _scratch: TempDir,
    pub(crate) sample: Sample,
    pub(crate) catalog: PathBuf,
    volumes: Volumes,
}

/// The groups of a cluster, `data` and `log`.
pub(crate) struct Volumes {
    /// Where images are, and what goes into them.
    directory: PathBuf,
    /// Number of the instance, where each has WAL of its own.
    own_wal: Option<usize>,
    /// The independent tool.
    tool: String,
}

impl std::ops::Deref for SharedCluster {
    type Target = Volumes;

    fn deref(&self) -> &Volumes {
        &self.volumes
    }
}

/// What the independent reader says of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// `D`, `F` or `L`.
    pub(crate) kind: String,
    /// Bytes of a file.
    pub(crate) size: u64,
    /// Digest of a file, target of a link.
    pub(crate) content: String,
}

impl SharedCluster {
    /// About `bytes` of relations; the instances have one directory for their WAL. `None`, said
    /// aloud, without the independent tool.
    pub(crate) fn create(bytes: u64) -> Option<SharedCluster> {
        SharedCluster::create_as(bytes, None)
    }

    /// As [`SharedCluster::create`], with the layout of older clusters where a number is given: of
    /// the instance that is backed up.
    pub(crate) fn create_as(bytes: u64, own_wal: Option<usize>) -> Option<SharedCluster> {
        let scratch = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(scratch.path(), own_wal)?;
        let source = scratch.path().join("source");
        fs::create_dir(&source).unwrap();
        let mut sample = sample::create(&source, &SampleOptions { seed: 42, bytes }).unwrap();
        remove_system_catalogs(&sample.data_directory);
        start_and_stop_with_short_wal(&mut sample);
        let catalog = scratch.path().join("catalog");
        let cluster = SharedCluster {
            _scratch: scratch,
            sample,
            catalog,
            volumes,
        };
        cluster.split(cluster.data(), &cluster.sample.tablespace);
        cluster.publish();
        assert_success(&gs_probackup(&["init"], &cluster.catalog));
        let data = cluster.data().display().to_string();
        let words = ["add-instance", "-D", &data, "--vgname=+data,+log"];
        assert_success(&cluster.run(&words, &[]));
        Some(cluster)
    }

    /// The data directory of the instance.
    pub(crate) fn data(&self) -> &Path {
        &self.sample.data_directory
    }
}

impl Volumes {
    /// Groups in `directory`; `None`, said aloud, without the independent tool.
    pub(crate) fn new(directory: &Path, own_wal: Option<usize>) -> Option<Volumes> {
        let Ok(tool) = std::env::var("GS_PARSE_DSS") else {
            assert!(std::env::var_os("CI").is_none(), "set GS_PARSE_DSS");
            eprintln!("SKIPPED: no independent writer of volumes; set GS_PARSE_DSS to its command");
            return None;
        };
        Some(Volumes {
            directory: directory.to_owned(),
            own_wal,
            tool,
        })
    }

    /// What goes into a group when it is published.
    pub(crate) fn group(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The image of a group.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.img"))
    }

    /// Name of the directory for WAL.
    pub(crate) fn wal_directory(&self) -> String {
        self.of_instance("pg_xlog")
    }

    fn of_instance(&self, name: &str) -> String {
        let number = self.own_wal.map(|number| number.to_string());
        format!("{name}{}", number.unwrap_or_default())
    }

    /// Takes what is shared out of the data directory. Both keep some of the same paths.
    pub(crate) fn split(&self, data: &Path, tablespace: &Path) {
        let (shared, log) = (self.group("data"), self.group("log"));
        fs::create_dir_all(shared.join("pg_location")).unwrap();
        fs::create_dir_all(log.join("pg_replication")).unwrap();
        fs::write(log.join("pg_replication/pg_ss_ctl_info"), b"info").unwrap();
        for name in fs::read_dir(data).unwrap() {
            let name = name.unwrap().file_name().into_string().unwrap();
            let is_shared = ["base", "global", "pg_clog", "pg_csnlog", "pg_multixact"];
            let also = ["pg_twophase", "pg_tblspc", "pg_serial", "pg_replslot"];
            if is_shared.contains(&&*name) || also.contains(&&*name) {
                fs::rename(data.join(&name), shared.join(&name)).unwrap();
                fs::create_dir(data.join(&name)).unwrap();
            }
        }
        let wal = self.wal_directory();
        fs::rename(data.join("pg_xlog"), log.join(&wal)).unwrap();
        fs::create_dir(data.join("pg_xlog")).unwrap();
        for (link, target) in [(&*wal, &*wal), ("pg_replication", "pg_replication")] {
            let target = format!("+log/{target}");
            std::os::unix::fs::symlink(target, shared.join(link)).unwrap();
        }
        let double_write = self.of_instance("pg_doublewrite");
        fs::create_dir(shared.join(&double_write)).unwrap();
        fs::write(shared.join(double_write).join("pg_dw_meta"), b"meta").unwrap();
        if self.own_wal.is_some() {
            // Another instance has its own.
            fs::create_dir(shared.join("pg_doublewrite63")).unwrap();
            std::os::unix::fs::symlink("+log/pg_xlog63", shared.join("pg_xlog63")).unwrap();
            fs::create_dir(log.join("pg_xlog63")).unwrap();
        }
        fs::create_dir(data.join("base/1")).unwrap();
        fs::write(data.join("base/1/PG_VERSION"), b"of the instance\n").unwrap();
        // The tablespace, with the plain name of its version directory.
        let link = shared.join("pg_tblspc/16385");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("+data/pg_location/ts1", &link).unwrap();
        let version = fs::read_dir(tablespace).unwrap().next();
        let version = version.unwrap().unwrap().path();
        let place = shared.join("pg_location/ts1");
        fs::create_dir(&place).unwrap();
        fs::rename(version, place.join("PG_9.2_201611171")).unwrap();
        self.share_control();
    }

    /// Makes the control file one of shared storage.
    fn share_control(&self) {
        let shared = self.group("data");
        for name in ["pg_control", "pg_control.backup"] {
            let own = shared.join("global").join(name);
            let Ok(page) = fs::read(&own) else { continue };
            fs::remove_file(&own).unwrap();
            let mut bytes = vec![0; CONTROL_PAGES * PAGE];
            let at = self.own_wal.unwrap_or(0) * PAGE;
            bytes[at..at + page.len().min(PAGE)].copy_from_slice(&page[..page.len().min(PAGE)]);
            let reformer = &mut bytes[(CONTROL_PAGES - 1) * PAGE..];
            reformer[0] = 1;
            reformer[8] = 0b101;
            // The instance that is backed up is the primary.
            reformer[16] = u8::try_from(self.own_wal.unwrap_or(0)).unwrap();
            let crc = crc32c::crc32c(&reformer[..32]);
            reformer[32..36].copy_from_slice(&crc.to_le_bytes());
            fs::write(shared.join(name), bytes).unwrap();
        }
    }

    /// Makes the groups anew, with what [`SharedCluster::group`] holds.
    pub(crate) fn publish(&self) {
        for name in ["data", "log"] {
            let image = self.image(name);
            let file = fs::File::create(&image).unwrap();
            file.set_len(IMAGE_BYTES).unwrap();
            let group = format!("--vg={name}={}", image.display());
            let mut cv = bare(&["dss", "cv", "--au-size=2MB", &group]);
            assert_success(&run(cv.env_remove("DSS_HOME")));
            let tree = self.group(name).display().to_string();
            self.tool("wtree", name, &[&format!("+{name}"), &tree]);
        }
    }

    /// What the independent tool says.
    pub(crate) fn tool(&self, action: &str, group: &str, words: &[&str]) -> Vec<u8> {
        let mut command = self.tool.split(' ');
        let output = Command::new(command.next().unwrap())
            .args(command)
            .arg(action)
            .arg(self.image(group))
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    /// What the independent reader sees in a group, by path below it.
    pub(crate) fn seen(&self, group: &str) -> BTreeMap<String, Seen> {
        let manifest = String::from_utf8(self.tool("manifest", group, &[])).unwrap();
        let lines = manifest.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let path = fields[1].strip_prefix(&format!("+{group}/"))?;
            let seen = Seen {
                kind: fields[0].to_owned(),
                size: fields[3].parse().unwrap(),
                content: fields[4].to_owned(),
            };
            (!path.starts_with(".recycle")).then(|| (path.to_owned(), seen))
        });
        lines.collect()
    }

    /// The options that name the images.
    pub(crate) fn options(&self) -> [String; 2] {
        ["data", "log"].map(|name| format!("--vg={name}={}", self.image(name).display()))
    }
}

impl SharedCluster {
    /// Runs a command on the instance and its groups.
    pub(crate) fn run(&self, words: &[&str], more: &[&str]) -> Output {
        let groups = self.options();
        let mut all = words.to_vec();
        all.extend(["--instance", INSTANCE, &groups[0], &groups[1]]);
        all.extend(more);
        gs_probackup(&all, &self.catalog)
    }

    /// Takes a backup of the stopped cluster and returns what was said.
    pub(crate) fn try_back_up(&self, mode: &str, more: &[&str]) -> Output {
        let words = ["backup", "--offline", "-b", mode, "--no-sync"];
        let number = self.own_wal.map(|number| format!("--instance-id={number}"));
        let more: Vec<&str> = more.iter().copied().chain(number.as_deref()).collect();
        self.run(&words, &more)
    }

    /// Takes a backup and returns its id.
    pub(crate) fn back_up(&self, mode: &str, more: &[&str]) -> String {
        let output = self.try_back_up(mode, more);
        assert_success(&output);
        let end = output.stderr.lines().find_map(|line| {
            line.strip_prefix("INFO: Backup ")?
                .strip_suffix(" completed")
                .map(str::to_owned)
        });
        end.unwrap_or_else(|| panic!("{}", output.stderr))
    }

    pub(crate) fn backup_path(&self, id: &str) -> PathBuf {
        self.catalog.join("backups").join(INSTANCE).join(id)
    }

    /// As if the cluster had been started and stopped again.
    pub(crate) fn start_and_stop(&mut self) {
        let (data, shared) = (self.data().to_owned(), self.group("data"));
        let wal = self.group("log").join(self.wal_directory());
        fs::create_dir_all(data.join("global")).unwrap();
        start_and_stop_with_short_wal(&mut self.sample);
        for entry in fs::read_dir(data.join("pg_xlog")).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), wal.join(entry.file_name())).unwrap();
        }
        for name in ["pg_control", "pg_control.backup"] {
            fs::rename(
                data.join("global").join(name),
                shared.join("global").join(name),
            )
            .unwrap();
        }
        self.share_control();
        self.publish();
    }
}
