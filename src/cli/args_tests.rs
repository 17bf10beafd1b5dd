//! Tests of what options mean.

use super::*;
use crate::catalog::Catalog;

struct Fixture {
    scratch: tempfile::TempDir,
}

impl Fixture {
    fn new(conf: &str) -> Fixture {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog::init(scratch.path().join("c")).unwrap();
        let conf = InstanceConf::parse(conf.as_bytes()).unwrap();
        catalog.add_instance("one", &conf).unwrap();
        Fixture { scratch }
    }

    fn with<T>(
        &self,
        command: &str,
        words: &str,
        act: impl Fn(&Request<'_>) -> Result<T, Error>,
    ) -> Result<T, String> {
        let words = words
            .split_ascii_whitespace()
            .map(OsString::from)
            .collect::<Vec<_>>();
        let environment = Environment {
            backup_path: Some(self.scratch.path().join("c").into_os_string()),
            pgdata: Some("/from/environment".into()),
        };
        let request = Request {
            command,
            options: &Options::parse(&words).unwrap(),
            environment: &environment,
        };
        act(&request).map_err(|error| error.to_string())
    }

    fn backup(&self, words: &str) -> Result<BackupArgs, String> {
        let words = format!("--instance=one {words}");
        self.with("backup", &words, |request| request.backup())
    }

    fn restore(&self, words: &str) -> Result<RestoreArgs, String> {
        let words = format!("--instance=one {words}");
        self.with("restore", &words, |request| request.restore())
    }
}

#[test]
fn the_command_line_overrides_the_file_and_the_file_the_environment() {
    let fixture = Fixture::new("compress-algorithm = zlib\ncompress-level = 3\npgport = 7\n");
    let args = fixture.backup("-b f --offline -j 2").unwrap();
    assert_eq!(args.pgdata, Path::new("/from/environment"));
    assert_eq!(args.mode, BackupMode::Full);
    assert_eq!(
        (args.compress_algorithm, args.compress_level),
        (CompressAlgorithm::Zlib, 3)
    );
    assert_eq!(args.connection.port.as_deref(), Some("7"));
    assert_eq!(args.run.threads, 2);
    let args = fixture
        .backup("-b PTRACK --compress-algorithm=pglz -D /mine/ -p 8 --note=none -E /a/::/b")
        .unwrap();
    assert_eq!(args.compress_algorithm, CompressAlgorithm::Pglz);
    assert_eq!(args.pgdata.as_os_str(), "/mine");
    assert_eq!(args.connection.port.as_deref(), Some("8"));
    assert_eq!(args.external_dirs.as_deref(), Some("/a:/b"));
    assert_eq!(args.note, None);
    let fixture = Fixture::new("pgdata = /from/file\n");
    assert_eq!(
        fixture.backup("-b f").unwrap().pgdata,
        Path::new("/from/file")
    );
}

#[test]
fn backups_are_refused_in_the_words_of_the_original() {
    let fixture = Fixture::new("pgdata = /data\n");
    for (words, message) in [
        (
            "",
            "required parameter not specified: BACKUP_MODE (-b, --backup-mode)",
        ),
        ("-b DELTA", "invalid backup-mode \"DELTA\""),
        (
            "-b f --compress-algorithm=zlib --compress-level=10",
            "--compress-level value must be in the range from 0 to 9",
        ),
        (
            "-b f --compress-level=5",
            "Cannot specify compress-level option alone without compress-algorithm option",
        ),
        ("-b f -D data", "-D, --pgdata must be an absolute path"),
        (
            "-b f -i TOU8BZ",
            "Cannot use -i (--backup-id) option together with the \"backup\" command",
        ),
        (
            "-b f --ttl=1d --expire-time=2030-01-01",
            "You cannot specify '--expire-time' and '--ttl' options together",
        ),
        (
            "-b f --expire-time=foo",
            "Invalid value for '--expire-time' option: 'foo'",
        ),
        (
            "-b f --ttl=-5",
            "Option --ttl should be a 64bit unsigned integer: '-5'",
        ),
        (
            "-b f -w -W x",
            "You cannot specify --password and --no-password options together",
        ),
        (
            "-b f -E /a:b",
            "External directory \"b\" is not an absolute path",
        ),
        ("-b f --remote-host=x", "--remote-host is not supported yet"),
        (
            "-b f --media-type=s3",
            "--media-type=s3 is not supported yet",
        ),
        ("-b f --media-type=tape", "invalid media_type \"tape\""),
        ("-b f --dry-run", "--dry-run is not supported yet"),
        (
            "-b f --log-level-file=info",
            "--log-level-file is not supported yet",
        ),
    ] {
        assert_eq!(fixture.backup(words).unwrap_err(), message, "{words}");
    }
}

#[test]
fn threads_passwords_and_instances_are_checked() {
    let fixture = Fixture::new("pgdata = /data\n");
    let many = fixture.backup("-b f -j 100000").unwrap_err();
    assert!(many.starts_with("Invalid value for '-j' option: 100000, the number of cores"));
    assert_eq!(fixture.backup("-b f -j 0").unwrap().run.threads, 1);
    let debug = format!("{:?}", fixture.backup("-b f -W geheim").unwrap());
    assert!(debug.contains("***") && !debug.contains("geheim"));
    let unknown = fixture.with("backup", "--instance=two", |request| request.backup());
    assert_eq!(
        unknown.unwrap_err(),
        "Instance 'two' does not exist in this backup catalog"
    );
    let missing = fixture.with("backup", "", |request| request.backup());
    assert_eq!(
        missing.unwrap_err(),
        "required parameter not specified: --instance"
    );
    let relative = fixture.with("backup", "-B c", |request| request.backup());
    assert_eq!(
        relative.unwrap_err(),
        "-B, --backup-path must be an absolute path"
    );
}

#[test]
fn restores_know_their_targets_and_mappings() {
    let fixture = Fixture::new("pgdata = /data\n");
    let args = fixture
        .restore(
            r"-i tou8bz -T /a=/b/ --external-mapping=/x\=1=/y --lsn=0/10 --inclusive=off --force",
        )
        .unwrap();
    assert_eq!(args.backup_id, "TOU8BZ".parse().ok());
    assert_eq!(args.target, Some(RecoveryTarget::Lsn(Lsn(16))));
    assert_eq!(args.inclusive, Some(false));
    assert!(args.force && args.no_validate);
    assert_eq!(args.tablespace_mapping[0].new.as_os_str(), "/b");
    assert_eq!(args.external_mapping[0].old.as_os_str(), "/x=1");
    for (words, message) in [
        ("-i !!bad", "Invalid backup-id \"!!bad\""),
        (
            "-T /gauss/ts/ts1",
            "invalid tablespace mapping format \"/gauss/ts/ts1\", must be \"OLDDIR=NEWDIR\"",
        ),
        (
            "-T /a=rel",
            "new directory is not an absolute path in tablespace mapping: rel",
        ),
        ("-T /a=/b=/c", "multiple \"=\" signs in tablespace mapping"),
        (
            "-I foo",
            "Invalid value for '--incremental-mode' option: 'foo'",
        ),
        ("-I lsn", "--incremental-mode is not supported yet"),
        (
            "--recovery-target-time=yesterday",
            "Invalid value for '--recovery-target-time' option 'yesterday'",
        ),
        (
            "--recovery-target-lsn=x",
            "Invalid value of '--recovery-target-lsn' option 'x'",
        ),
        (
            "--xid=100 --lsn=0/5000000",
            "At most one of '--recovery-target', '--recovery-target-name', \
             '--recovery-target-time', '--recovery-target-xid' or '--recovery-target-lsn' options \
             can be specified",
        ),
    ] {
        assert_eq!(fixture.restore(words).unwrap_err(), message, "{words}");
    }
}

#[test]
fn other_commands_take_what_they_need() {
    let fixture = Fixture::new("pgdata = /data\n");
    let all = fixture
        .with("validate", "-j 2", |request| request.validate())
        .unwrap();
    assert!(all.instance.is_none() && all.backup_id.is_none());
    assert!(
        fixture
            .with("validate", "-i TOU8BZ", |request| request.validate())
            .is_err()
    );
    assert_eq!(
        fixture
            .with("validate", "--force", |request| request.validate())
            .unwrap_err(),
        "You cannot specify \"--force\" flag with the \"validate\" command"
    );
    let show = fixture
        .with("show", "--format=J", |request| request.show())
        .unwrap();
    assert!(show.json && show.instance.is_none());
    assert_eq!(
        fixture
            .with("show", "--format=xml", |request| request.show())
            .unwrap_err(),
        "Invalid show format \"xml\""
    );
    let added = fixture
        .with(
            "add-instance",
            "--instance=two -D /d --remote-proto=none --compress",
            |request| request.add_instance(),
        )
        .unwrap();
    assert_eq!(
        added.conf.encode(),
        "# Backup instance information\npgdata = /d\n"
    );
    for (text, bytes) in [("64", 64 << 20), ("64MB", 64 << 20), ("2GB", 2 << 30)] {
        let demo = fixture.with("demo", &format!("--size={text}"), |request| request.demo());
        assert_eq!(demo.unwrap().size_bytes, Some(bytes));
    }
    assert!(
        fixture
            .with("demo", "--size=big", |request| request.demo())
            .is_err()
    );
}
