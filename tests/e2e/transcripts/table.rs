//! Which recorded runs are repeated on which catalog, how they differ from the recording, and which
//! are left out.

/// A way in which runs differ, and the lines that it is about.
#[derive(Debug)]
pub(super) struct Difference {
    /// The name of its row in `docs/compatibility.md`.
    pub(super) name: &'static str,
    /// What lines of the original contain that are not here, or not so.
    pub(super) theirs: &'static [&'static str],
    /// What lines contain that are only here, or so only here.
    pub(super) ours: &'static [&'static str],
    /// Whether the lines come in another order.
    pub(super) is_order: bool,
}

const fn difference(
    name: &'static str,
    theirs: &'static [&'static str],
    ours: &'static [&'static str],
) -> Difference {
    Difference {
        name,
        theirs,
        ours,
        is_order: false,
    }
}

const fn order(name: &'static str) -> Difference {
    Difference {
        name,
        theirs: &[],
        ours: &[],
        is_order: true,
    }
}

/// What a session needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Control files and settings.
    Records,
    /// Whole backups, which are read.
    Validate,
    /// Whole backups, which are restored.
    Restore,
}

/// Runs on one catalog, one after another.
pub(super) struct Session {
    pub(super) kind: Kind,
    pub(super) catalogs: &'static [&'static str],
    /// The run whose comment says what was done to the catalog before.
    pub(super) prepared_like: Option<&'static str>,
    pub(super) steps: &'static [Step],
}

/// A recorded run and how ours differs.
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Our exit code, where it is another one.
    pub(super) code: Option<i32>,
    pub(super) differences: &'static [&'static Difference],
}

/// Recorded runs that are not repeated; a name that ends with `*` stands for all that begin so.
pub(super) struct Skip {
    pub(super) name: &'static str,
    pub(super) reason: &'static str,
}

/// In every run that has such lines.
pub(super) static ALWAYS: [&Difference; 3] = [&LEVEL, &HINTS, &BAR];

static LEVEL: Difference = difference("lines of level LOG", &["LOG: "], &[]);
static HINTS: Difference = difference("hints", &[], &["HINT: "]);
static BAR: Difference = difference("progress bar", &["Progress: ["], &[]);
static BY_NAME: Difference = order("instances by name");
static OLDEST_FIRST: Difference = order("oldest backup first");
static ORPHANS_IN_ORDER: Difference = order("orphans in the order of their chain");
static NOT_READ: Difference = difference("no reading above damage", &CHECKED, &CHECKED);
const CHECKED: [&str; 5] = [
    "INFO: Validating backup ",
    "INFO: Begin validate file",
    "INFO: Finish validate file",
    " data files are valid",
    " WAL segments are valid",
];
static PARENT: Difference = difference(
    "a parent that has no record",
    &["his parent 0 is missing", "has missing parent 0"],
    &["his parent TOU8CR is missing"],
);
static COUNT: Difference = difference(
    "how many are not valid",
    &[],
    &["of the backups are not valid"],
);
static WORDS: Difference = difference(
    "words for damage",
    &[
        "An error occured during",
        "have wrong checksum",
        "Invalid CRC of backup file",
        "Invalid size of backup file",
        "Cannot open header file1",
        "Cannot get page headers",
    ],
    &[
        "zlib payload",
        "page verification failed",
        "Invalid CRC of backup file",
        "is damaged: it has",
        "page_header_map",
        "… and ",
        "Cannot get page headers",
    ],
);
static NO_RELATION: Difference = difference(
    "damaged files that are no relations",
    &["INFO: All backups are valid"],
    &[
        "data files are corrupted",
        "is orphaned because his parent",
        "WARNING: Some backups are not valid",
    ],
);
static WAL_FILE: Difference = difference(
    "damaged WAL",
    &[
        "Thread [1]:",
        "There are not enough WAL records",
        "WAL segments are corrupted",
    ],
    &["data files are corrupted"],
);
static NO_LIST: Difference = difference(
    "missing or damaged content list",
    &[
        "ERROR: cannot open ",
        "Invalid CRC of backup control file",
        "Failed to get file list",
    ],
    &[
        "WARNING: cannot open ",
        "WARNING: Content list ",
        "file list is corrupted",
        "is orphaned because his parent",
        "WARNING: Some backups are not valid",
    ],
);
static WAL_OF_ALL: Difference = difference(
    "WAL of parents",
    &[" WAL segments are valid"],
    &[" WAL segments are valid"],
);
static RESTORE_LINES: Difference = difference(
    "lines of a restore",
    &[
        "INFO: Begin restore file",
        "INFO: Finish restore file",
        "INFO: Restore incremental ratio",
    ],
    &[],
);
static FAILED_RESTORE: Difference = difference(
    "a restore that fails",
    &[
        "ERROR: Cannot open header",
        "ERROR: Backup files restoring failed",
        "INFO: Start restoring",
    ],
    &["page_header_map", "Cannot get page headers"],
);
static DEFAULT_LEVEL: Difference = difference(
    "default of log-level-console",
    &["log-level-console"],
    &["log-level-console"],
);
static INSTANCE_NAME: Difference = difference(
    "instance names with a slash",
    &["INFO: Instance 'a/b' successfully inited"],
    &["ERROR: Instance name 'a/b' is not valid"],
);

const fn same(name: &'static str) -> Step {
    differs(name, &[])
}

const fn differs(name: &'static str, differences: &'static [&'static Difference]) -> Step {
    Step {
        name,
        code: None,
        differences,
    }
}

const fn fails(name: &'static str, differences: &'static [&'static Difference]) -> Step {
    Step {
        name,
        code: Some(1),
        differences,
    }
}

const ALL: &[&str] = &["zstd", "lz4", "none", "pglz", "ext", "zlib"];

const fn session(
    kind: Kind,
    catalogs: &'static [&'static str],
    prepared_like: Option<&'static str>,
    steps: &'static [Step],
) -> Session {
    Session {
        kind,
        catalogs,
        prepared_like,
        steps,
    }
}

const fn records(prepared_like: Option<&'static str>, steps: &'static [Step]) -> Session {
    session(Kind::Records, &["zlib"], prepared_like, steps)
}

const fn validate(prepared_like: &'static str, steps: &'static [Step]) -> Session {
    session(Kind::Validate, &["zlib"], Some(prepared_like), steps)
}

const fn restore(prepared_like: Option<&'static str>, steps: &'static [Step]) -> Session {
    session(Kind::Restore, &["zlib"], prepared_like, steps)
}

/// What validating a chain with damage in its FULL backup always differs in.
const DAMAGED: &[&Difference] = &[&NOT_READ, &COUNT, &WORDS];
const LOST: &[&Difference] = &[&NOT_READ, &COUNT];

pub(super) static SESSIONS: &[Session] = &[
    session(
        Kind::Records,
        &[],
        None,
        &[
            same("err-B-relative"),
            same("err-init-noB"),
            same("err-backup-noB"),
            same("err-backup-noinstance"),
            same("err-unknown-command"),
            same("err-unknown-option"),
            same("err-unknown-short"),
            same("err-option-needs-arg"),
            same("err-format"),
            same("err-j-abc"),
            same("noargs"),
            same("help-version"),
            same("help-help"),
            same("help-archive-push"),
        ],
    ),
    session(
        Kind::Records,
        ALL,
        None,
        &[
            differs("show", &[&BY_NAME]),
            differs("show-json", &[&BY_NAME]),
            same("show-instance-ext"),
            same("show-instance-lz4"),
            same("show-instance-none"),
            same("show-instance-pglz"),
            same("show-instance-zlib"),
            same("show-instance-zstd"),
            same("show-instance-json-ext"),
            same("show-instance-json-lz4"),
            same("show-instance-json-none"),
            same("show-instance-json-pglz"),
            same("show-instance-json-zlib"),
            same("show-instance-json-zstd"),
            same("show-instance-json---instance=ext"),
            same("show-instance-json---instance=lz4"),
            same("show-instance-json---instance=none"),
            same("show-instance-json---instance=pglz"),
            same("show-instance-json---instance=zlib"),
            same("show-instance-json---instance=zstd"),
            same("show-id-ext-0"),
            same("show-id-ext-1"),
            same("show-id-lz4-0"),
            same("show-id-lz4-1"),
            same("show-id-lz4-2"),
            same("show-id-none-0"),
            same("show-id-none-1"),
            same("show-id-none-2"),
            same("show-id-pglz-0"),
            same("show-id-pglz-1"),
            same("show-id-pglz-2"),
            same("show-id-zlib-0"),
            same("show-id-zlib-1"),
            same("show-id-zlib-2"),
            same("show-id-zstd-0"),
            same("show-id-zstd-1"),
            same("show-id-zstd-2"),
            same("show-id-json-zlib-0"),
            same("show-id-json-zlib-1"),
            same("show-id-json-zlib-2"),
            same("err-id-show"),
            same("err-id-show-bad"),
            same("err-B-missing-dir"),
            same("err-unknown-instance-show"),
            differs("show-config-ext", &[&DEFAULT_LEVEL]),
            differs("show-config-lz4", &[&DEFAULT_LEVEL]),
            differs("show-config-none", &[&DEFAULT_LEVEL]),
            differs("show-config-pglz", &[&DEFAULT_LEVEL]),
            differs("show-config-zlib", &[&DEFAULT_LEVEL]),
            differs("show-config-zstd", &[&DEFAULT_LEVEL]),
            differs("show-config-json-ext", &[&DEFAULT_LEVEL]),
            differs("show-config-json-lz4", &[&DEFAULT_LEVEL]),
            differs("show-config-json-none", &[&DEFAULT_LEVEL]),
            differs("show-config-json-pglz", &[&DEFAULT_LEVEL]),
            differs("show-config-json-zlib", &[&DEFAULT_LEVEL]),
            differs("show-config-json-zstd", &[&DEFAULT_LEVEL]),
            same("show-config---format=json"),
            same("show-config-json---instance=--format=json"),
            same("err-show-config-format"),
        ],
    ),
    records(
        None,
        &[
            same("set-config-bad-alg"),
            same("set-config-bad-level"),
            same("set-config-bad-loglevel"),
            same("set-config-nothing"),
            same("set-config"),
            same("show-config-after-set"),
            same("show-config-json-after-set"),
        ],
    ),
    records(
        None,
        &[
            same("err-init-nonempty"),
            same("err-add-instance-noD"),
            same("err-add-instance-badD"),
            same("err-add-instance-notpgdata"),
            same("err-add-instance-dup"),
            fails("err-add-instance-badname", &[&INSTANCE_NAME]),
            same("add-instance-ext"),
            same("add-instance-lz4"),
            same("add-instance-none"),
            same("add-instance-pglz"),
            same("add-instance-zstd"),
            same("add-instance-merge"),
            same("err-compress-alg"),
            same("err-compress-level"),
            same("err-compress-level-lz4"),
            same("err-compress-level-nan"),
            same("err-compress-level-neg"),
            same("err-mode-missing"),
            same("err-mode-page"),
            same("err-mode-xyz"),
            same("err-unknown-instance-backup"),
            same("err-unknown-instance-merge"),
            same("err-unknown-instance-restore"),
            same("err-unknown-instance-validate"),
            same("err-restore-I-bad"),
            same("err-restore-T-bad"),
            same("err-restore-T-relative"),
            same("err-restore-target-bad"),
            same("err-restore-target-time-bad"),
            same("err-restore-target-two"),
            same("err-id-restore"),
            same("err-id-restore-bad"),
            same("err-id-validate"),
            same("err-id-merge"),
            same("err-merge-noid"),
        ],
    ),
    session(
        Kind::Records,
        &["lz4"],
        None,
        &[
            same("err-del-instance-unknown"),
            same("err-del-instance-nonempty-ok"),
        ],
    ),
    session(
        Kind::Records,
        &["merge_before"],
        None,
        &[same("show-merge-before")],
    ),
    session(
        Kind::Records,
        &["merge_after"],
        None,
        &[same("show-merge-after")],
    ),
    records(Some("show-bad-status"), &[same("show-bad-status")]),
    records(Some("show-bogus-key"), &[same("show-bogus-key")]),
    session(
        Kind::Validate,
        &["zlib"],
        None,
        &[
            differs("validate-good-id", &[&WAL_OF_ALL]),
            differs("validate-good-instance", &[&OLDEST_FIRST]),
            same("validate-good-no-progress-quiet"),
        ],
    ),
    validate(
        "validate-flip-zlib",
        &[
            differs("validate-flip-zlib", DAMAGED),
            same("show-after-flip-zlib"),
            differs(
                "validate-flip-again-zlib",
                &[&ORPHANS_IN_ORDER, &COUNT, &WORDS],
            ),
        ],
    ),
    validate(
        "validate-flip-in-ptrack1",
        &[
            differs("validate-flip-in-ptrack1", &[&NOT_READ, &COUNT, &WORDS]),
            same("show-after-flip-in-ptrack1"),
        ],
    ),
    validate(
        "validate-flip-header-map",
        &[differs("validate-flip-header-map", DAMAGED)],
    ),
    validate(
        "validate-flip-nondata",
        &[fails(
            "validate-flip-nondata",
            &[&NOT_READ, &COUNT, &NO_RELATION],
        )],
    ),
    validate(
        "validate-flip-wal",
        &[differs(
            "validate-flip-wal",
            &[&NOT_READ, &COUNT, &WAL_FILE],
        )],
    ),
    validate(
        "validate-appended",
        &[differs("validate-appended", DAMAGED)],
    ),
    validate(
        "validate-missing-wal",
        &[differs("validate-missing-wal", LOST)],
    ),
    validate(
        "validate-no-content",
        &[differs(
            "validate-no-content",
            &[&NOT_READ, &COUNT, &NO_LIST],
        )],
    ),
    validate(
        "validate-flip-content",
        &[fails(
            "validate-flip-content",
            &[&NOT_READ, &COUNT, &NO_LIST],
        )],
    ),
    validate(
        "validate-missing",
        &[
            differs("validate-missing", LOST),
            same("show-after-missing"),
        ],
    ),
    validate(
        "validate-truncated",
        &[
            differs("validate-truncated", DAMAGED),
            same("show-after-truncated"),
        ],
    ),
    validate(
        "validate-no-header-map",
        &[
            differs("validate-no-header-map", DAMAGED),
            same("show-after-no-header-map"),
        ],
    ),
    validate("validate-stale-lock", &[same("validate-stale-lock")]),
    validate(
        "show-no-control",
        &[
            same("show-no-control"),
            differs("validate-no-control", &[&OLDEST_FIRST, &PARENT, &COUNT]),
            same("show-after-no-control"),
        ],
    ),
    validate(
        "show-orphan",
        &[
            same("show-orphan"),
            differs("validate-orphan", &[&OLDEST_FIRST, &COUNT]),
            same("show-after-orphan"),
        ],
    ),
    session(
        Kind::Validate,
        &["none"],
        Some("validate-flip-none"),
        &[
            differs("validate-flip-none", DAMAGED),
            same("show-after-flip-none"),
            differs(
                "validate-flip-again-none",
                &[&ORPHANS_IN_ORDER, &COUNT, &WORDS],
            ),
        ],
    ),
    restore(
        None,
        &[
            same("err-restore-nonempty"),
            same("err-restore-noD"),
            differs("restore-good", &[&WAL_OF_ALL, &RESTORE_LINES]),
            differs("restore-zlib-0", &[&RESTORE_LINES]),
        ],
    ),
    restore(
        Some("validate-truncated"),
        &[differs("restore-truncated-novalidate", &[&RESTORE_LINES])],
    ),
    restore(
        Some("validate-flip-zlib"),
        &[differs("restore-flip-zlib", &[&WORDS, &ORPHANS_IN_ORDER])],
    ),
    restore(
        Some("validate-no-header-map"),
        &[differs(
            "restore-no-header-map",
            &[&WORDS, &ORPHANS_IN_ORDER],
        )],
    ),
    restore(
        Some("validate-no-header-map"),
        &[differs(
            "restore-no-header-map-novalidate",
            &[&RESTORE_LINES, &FAILED_RESTORE],
        )],
    ),
];

const fn skip(name: &'static str, reason: &'static str) -> Skip {
    Skip { name, reason }
}

const AFTER_LOST_STATE: &str =
    "the catalog was in a state that was not recorded: after a merge that failed";
const OWN_HELP: &str =
    "the words of the help are our own; its options are compared in another test";
const NEEDS_SERVER: &str = "needs the recorded server, which is replayed in tests of their own";
const LIKE_ZLIB: &str =
    "says the same as the zlib chain; its restored trees are compared with the recorded manifests";
const INCREMENTAL: &str = "incremental restore has tests of its own";
const REMOVES: &str = "deletion, retention and pinning have tests of their own";

pub(super) static SKIPPED: &[Skip] = &[
    skip("backup--help", OWN_HELP),
    skip("restore--help", OWN_HELP),
    skip("show--help", OWN_HELP),
    skip("backup-*", NEEDS_SERVER),
    skip("err-backup-nodb", NEEDS_SERVER),
    skip("err-backup-nouser", NEEDS_SERVER),
    skip("err-backup-server-down", NEEDS_SERVER),
    skip("err-ptrack-nofull", NEEDS_SERVER),
    skip(
        "err-mode-delta",
        "DELTA is a mode here: documented, and tested with real servers",
    ),
    skip(
        "show-nofull",
        "its catalog was not recorded: a backup that a PTRACK without parent left",
    ),
    skip(
        "err-validate-empty-instance",
        "its catalog was not recorded, as for show-nofull",
    ),
    skip(
        "del-instance",
        "its catalog was not recorded, as for show-nofull",
    ),
    skip(
        "add-instance-zlib",
        "the same as the other five, on an instance that is there already",
    ),
    skip("init", "an empty directory; repeated by manage_catalog"),
    skip("err-extra-arg", AFTER_LOST_STATE),
    skip("err-j", AFTER_LOST_STATE),
    skip("err-restore-ts-inuse", AFTER_LOST_STATE),
    skip(
        "err-merge-full",
        "the original fails at compressed relations, which are merged here",
    ),
    skip(
        "merge-compresstype",
        "the original fails at compressed relations, merged here",
    ),
    skip(
        "show-after-merge-compresstype",
        "what the failed merge of the original left",
    ),
    skip(
        "merge",
        "repeated by merge_recorded_chain, whose result is compared byte for byte",
    ),
    skip(
        "validate-merge-after",
        "the same as validate-good-instance, on a merged backup",
    ),
    skip(
        "validate-good-all",
        "the same as validate-good-instance, for each of the instances",
    ),
    skip(
        "validate-locked-by-live-pid",
        "waits for a minute; waiting has tests of its own",
    ),
    skip(
        "show-after-flip-content",
        "the original crashed before it could write a status",
    ),
    skip(
        "err-restore-T-only",
        "allowed here: documented, and part of the restore tests",
    ),
    skip("restore-incremental-*", INCREMENTAL),
    skip("err-restore-inc-notpgdata", INCREMENTAL),
    skip("restore-flip-none", "the same as restore-flip-zlib"),
    skip(
        "restore-flip-novalidate-*",
        "the same as restore-truncated-novalidate",
    ),
    skip(
        "restore-good-threads-novalidate",
        "the same as restore-truncated-novalidate",
    ),
    skip(
        "restore-zlib-*",
        "the same as restore-good for another backup of the chain",
    ),
    skip("restore-ext-*", LIKE_ZLIB),
    skip("restore-lz4-*", LIKE_ZLIB),
    skip("restore-none-*", LIKE_ZLIB),
    skip("restore-pglz-*", LIKE_ZLIB),
    skip("restore-zstd-*", LIKE_ZLIB),
    skip("restore-merge_*", LIKE_ZLIB),
    skip("help*", OWN_HELP),
    skip("lite-help*", OWN_HELP),
    skip(
        "version*",
        "another version; the form of the line is tested by manage_catalog",
    ),
    skip("delete-*", REMOVES),
    skip("retention-*", REMOVES),
    skip("set-backup-*", REMOVES),
    skip("err-delete-noid", REMOVES),
    skip("err-id-delete", REMOVES),
    skip("err-id-setbackup", REMOVES),
    skip("err-setbackup-nothing", REMOVES),
    skip("err-unknown-instance-delete", REMOVES),
    skip("show-after-delete-*", REMOVES),
    skip("show-after-retention", REMOVES),
    skip("show-after-set-backup-json", REMOVES),
];
