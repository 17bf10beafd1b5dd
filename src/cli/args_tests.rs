//! Tests of what options mean.

use super::*;
use crate::types::Lsn;

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
            dss_home: None,
            backup_path: Some(self.scratch.path().join("c").into_os_string()),
            pgdata: Some("/from/environment".into()),
            database: None,
        };
        let request = Request {
            command,
            options: &Options::parse(&words).map_err(|error| error.message)?,
            environment: &environment,
            cancel: &Arc::default(),
        };
        act(&request).map_err(|error| error.to_string())
    }

    fn backup(&self, words: &str) -> Result<Prepared<backup::Options>, String> {
        let words = format!("--instance=one {words}");
        self.with("backup", &words, |request| request.backup())
    }

    fn restore(&self, words: &str) -> Result<Prepared<restore::Options>, String> {
        let words = format!("--instance=one {words}");
        self.with("restore", &words, |request| request.restore())
    }
}

#[test]
fn the_command_line_overrides_the_file_and_the_file_the_environment() {
    let conf = "compress-algorithm = zlib\ncompress-level = 3\nlog-level-console = LOG\n";
    let fixture = Fixture::new(conf);
    let prepared = fixture.backup("-b f --offline -j 2").unwrap();
    assert_eq!(prepared.log_level, Some(LogLevel::Log));
    let options = prepared.options;
    assert_eq!(
        options.data_directory.as_deref(),
        Some(Path::new("/from/environment"))
    );
    assert_eq!(options.mode, backup::Mode::Full);
    assert_eq!(options.compress_algorithm, Some(CompressAlgorithm::Zlib));
    assert_eq!(options.compress_level, Some(3));
    assert_eq!(options.threads, 2);
    assert!(options.server.is_none() && options.validate && options.sync && !options.pg_log);
    let options = fixture
        .backup("-b PTRACK --compress-algorithm=pglz -D /mine/ --note=none -E /a/::/b --no-sync")
        .unwrap()
        .options;
    assert_eq!(options.compress_algorithm, Some(CompressAlgorithm::Pglz));
    assert_eq!(options.data_directory.unwrap().as_os_str(), "/mine");
    assert_eq!(options.external_dirs.as_deref(), Some("/a:/b"));
    assert_eq!(options.note, None);
    assert!(!options.sync);
    let fixture = Fixture::new("pgdata = /from/file\n");
    assert_eq!(
        fixture.backup("-b f").unwrap().options.data_directory,
        Some(PathBuf::from("/from/file"))
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
        ("-b page", "invalid backup-mode \"page\""),
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
            "-b f -w -W x",
            "You cannot specify --password and --no-password options together",
        ),
        (
            "-b f -E /a:b",
            "External directory \"b\" is not an absolute path",
        ),
        ("-b f --remote-host=x", "--remote-host is not supported yet"),
        (
            "-b f --ttl=-5",
            "Option --ttl should be a 64bit unsigned integer: '-5'",
        ),
        (
            "-b f --ttl=5 --expire-time=2030-01-01",
            "You cannot specify '--expire-time' and '--ttl' options together",
        ),
        (
            "-b f --expire-time=soon",
            "Invalid value for '--expire-time' option: 'soon'",
        ),
        (
            "-b f --media-type=s3",
            "--media-type=s3 is not supported yet",
        ),
        ("-b f --media-type=tape", "invalid media_type \"tape\""),
    ] {
        assert_eq!(fixture.backup(words).unwrap_err(), message, "{words}");
    }
}

#[test]
fn threads_and_instances_are_checked() {
    let fixture = Fixture::new("pgdata = /data\n");
    let many = fixture.backup("-b f -j 100000").unwrap_err();
    assert!(many.starts_with("Invalid value for '-j' option: 100000, the number of cores"));
    assert_eq!(fixture.backup("-b f -j 0").unwrap().options.threads, 1);
    for (words, message) in [
        (
            "--instance=two",
            "Instance 'two' does not exist in this backup catalog",
        ),
        ("", "required parameter not specified: --instance"),
        ("-B c", "-B, --backup-path must be an absolute path"),
    ] {
        let refused = fixture.with("backup", words, |request| request.backup());
        assert_eq!(refused.unwrap_err(), message, "{words}");
    }
}

#[test]
fn restores_know_their_targets_and_mappings() {
    let fixture = Fixture::new("pgdata = /data\n");
    let options = fixture
        .restore(
            r"-i tou8bz -T /a=/b/ --external-mapping=/x\=1=/y --lsn=0/10 --inclusive=off --force",
        )
        .unwrap()
        .options;
    assert_eq!(options.backup_id, "TOU8BZ".parse().ok());
    assert_eq!(options.target.lsn, Some(("0/10".to_owned(), Lsn(16))));
    assert_eq!(options.target.inclusive, Some(false));
    assert!(options.force && !options.validate);
    assert_eq!(options.tablespace_mapping[0].new.as_os_str(), "/b");
    assert_eq!(options.external_mapping[0].old.as_os_str(), "/x=1");
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
        (
            "-I foo",
            "Invalid value for '--incremental-mode' option: 'foo'",
        ),
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
    let validate = |words: &str| fixture.with("validate", words, |request| request.validate());
    let all = validate("-j 2").unwrap().options;
    assert!(all.instance.is_none() && all.backup_id.is_none());
    assert_eq!(all.check.threads, 2);
    for (words, message) in [
        ("-i TOU8BZ", "required parameter not specified: --instance"),
        (
            "--force",
            "You cannot specify \"--force\" flag with the \"validate\" command",
        ),
        ("--xid=5", "required parameter not specified: --instance"),
        (
            "--archive-dir=here",
            "--archive-dir must be an absolute path",
        ),
    ] {
        assert_eq!(validate(words).unwrap_err(), message);
    }
    let show = |words: &str| fixture.with("show", words, |request| request.show());
    let (options, json) = show("--format=J").unwrap();
    assert!(json && options.instance.is_none());
    assert_eq!(
        show("--format=xml").unwrap_err(),
        "Invalid show format \"xml\""
    );
    let words = "--instance=two -D /d --remote-proto=none --compress";
    let added = fixture.with("add-instance", words, |request| request.add_instance());
    assert_eq!(
        added.unwrap().conf.encode(),
        "# Backup instance information\npgdata = /d\n"
    );
    let demo = |words: &str| fixture.with("demo", words, |request| request.demo());
    for (size, bytes) in [("64", 64 << 20), ("64MB", 64 << 20), ("2GB", 2 << 30)] {
        let words = format!("--size={size}");
        assert_eq!(demo(&words).unwrap().options.size_bytes, bytes);
    }
    assert!(demo("--size=big").is_err());
}
