//! Every bound of the program in one place, with its reason and the relations between them.

use crate::types::{PAGE_SIZE, RELSEG_SIZE};

/// Bytes of one extent: the unit of reading, of CPU work and of writing. 1 MiB is where a raw
/// device reaches its bandwidth at a moderate queue depth.
pub const EXTENT_BYTES_MAX: usize = 1024 * 1024;

/// Pages of one extent.
pub const EXTENT_PAGES_MAX: usize = EXTENT_BYTES_MAX / PAGE_SIZE;

/// Bytes before each page in a backup file: block number and payload length.
pub const PAGE_RECORD_HEADER_BYTES: usize = 8;

/// Bytes that an extent takes in a backup file when no page shrinks.
pub const EXTENT_ENCODED_BYTES_MAX: usize =
    EXTENT_PAGES_MAX * (PAGE_SIZE + PAGE_RECORD_HEADER_BYTES);

/// Alignment of memory, offsets and lengths for O_DIRECT; holds for every device with sectors up to
/// 4 KiB.
pub const DIRECT_IO_ALIGNMENT: usize = 4096;

/// Bytes of one pooled buffer: an encoded extent, room to move it to an aligned position, and the
/// slack that a misaligned direct read needs at both ends.
pub const BUFFER_BYTES: usize = EXTENT_BYTES_MAX + 4 * DIRECT_IO_ALIGNMENT;

/// Pool buffers whatever the number of threads: what the device needs in flight to stay busy.
pub const BUFFERS_BASE: usize = 32;

/// Pool buffers for each CPU thread: an extent's input and output, being worked on, waiting before
/// and after.
pub const BUFFERS_PER_THREAD: usize = 12;

/// Requests in the engine at once.
pub const QUEUE_DEPTH: u32 = 128;

/// Files open in a transfer at once, four descriptors each at most.
pub const ACTIVE_FILES_MAX: usize = 96;

/// Files opened ahead of the transfer loop.
pub const FILES_AHEAD_MAX: usize = 32;

/// Bytes of page headers that files opened ahead may hold before no further one is opened: those of
/// a few segment files, so that a cluster of many takes no more memory than one of few.
pub const HELD_AHEAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes from which a file is read and written past the page cache; below, the cost of alignment
/// outweighs the gain.
pub const DIRECT_IO_BYTES_MIN: u64 = 512 * 1024;

/// Bytes between two wanted runs of a file that are cheaper to read along than to skip: about what
/// a device transfers in the time that a further request takes.
pub const READ_GAP_BYTES_MAX: usize = 64 * 1024;

/// Bytes between two changed runs of a data file that are read along. Less than above: of a
/// hundredth of the blocks, changed at random, 64 KiB made a third more to read, this a fiftieth.
pub const CHANGED_GAP_BYTES_MAX: usize = 16 * 1024;
/// A merge writes new records over old ones in a file of the FULL backup if the file has at least
/// this many times their bytes. Scattered writes of a page cost a device about twice what the same
/// bytes cost in a row, and the file written anew is read as well.
pub const OVERWRITE_SHARE_MAX: u64 = 4;

/// Times one request is repeated because the kernel said "interrupted" or "try again"; a kernel
/// that says so more often does not mean it.
pub const IO_REPEATS_MAX: u32 = 1000;

/// Threads of the pread/pwrite engine: enough to keep a disk busy with whole extents.
pub const SYNC_ENGINE_THREADS_MAX: u32 = 16;

/// Requests in flight in one engine at most.
pub const QUEUE_DEPTH_MAX: u32 = 1024;

/// Threads at most, per available core, as the original allows.
pub const THREADS_PER_CORE_MAX: usize = 10;

/// Bytes of one line of `backup_content.control`: the original reads lines into a buffer of this
/// size.
pub const CONTENT_LINE_BYTES_MAX: usize = 8191;

/// Bytes of one line of `backup.control` and `pg_probackup.conf`: the original's buffer less its
/// terminator.
pub const CONTROL_LINE_BYTES_MAX: usize = 1023;

/// Bytes of a whole `backup.control` or `pg_probackup.conf`: some 30 lines; anything larger is not
/// one.
pub const CONTROL_FILE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a path inside a backup: PATH_MAX less the room for the catalog's own directories.
pub const BACKUP_PATH_BYTES_MAX: usize = 1023;

/// Bytes of the compressed headers of one data file: those of a whole segment file, should they not
/// shrink at all.
pub const HEADER_STREAM_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Bytes of a page header record.
pub const HEADER_RECORD_BYTES: usize = 24;

/// Bytes of a line of `pg_probackup.conf`: the original reads 1023 at a time, the line end among
/// them, and takes what is left for a line of its own.
pub const CONF_LINE_BYTES_MAX: usize = 1022;

/// Bytes of a backup note, as the original's command line allows.
pub const NOTE_BYTES_MAX: usize = 1024;

/// Times a page that fails its checksum is read again before it counts as corrupt.
pub const PAGE_REREADS_MAX: u32 = 20;

/// Milliseconds before a page that fails its checksum is read again: the server needs microseconds
/// to write it.
pub const PAGE_REREAD_PAUSE_MS: u64 = 50;

/// Times in a run that pages are read again of which cannot be told whether they were ever written:
/// a minute and a half of pauses, should they come one after the other. Then one is read again
/// [`UNTOLD_REREADS_MIN`] times only, which is what a page needs that was being written.
pub const UNTOLD_REREADS_MAX: u32 = 1800;

/// Times that such a page is read again in any case.
pub const UNTOLD_REREADS_MIN: u32 = 3;

/// Pages that are kept of the maps of one segment-page file while wrong pages of it are judged.
pub const SPACE_MAP_PAGES_MAX: usize = 32;

/// Files that are kept open to read such maps.
pub const SPACE_MAP_FILES_MAX: usize = 8;

/// Blocks behind a wrong one that are looked at for a proof that it was written.
pub const LATER_BLOCKS_MAX: u32 = 16;

/// How often backups are listed before WAL is purged, until two lists agree: a merge changes them
/// once a second at most.
pub const LISTINGS_OF_BACKUPS_MAX: usize = 10;

/// Bytes of a WAL segment that are read at once and kept, while its records are looked at.
pub const WAL_READ_BYTES: usize = 1024 * 1024;

const _: () = assert!(WAL_READ_BYTES.is_multiple_of(WAL_PAGE_BYTES));

/// Bytes of WAL in a segment of an ordinary cluster.
pub const WAL_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes of WAL in a segment of a cluster on shared storage.
pub const DSS_WAL_SEGMENT_BYTES: u64 = WAL_SEGMENT_BYTES_MAX;

/// Bytes of the smallest WAL segment a server can be set up with.
pub const WAL_SEGMENT_BYTES_MIN: u64 = 1024 * 1024;

/// Bytes of the largest WAL segment a server can be set up with; openGauss on shared storage uses
/// it.
pub const WAL_SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Bytes of WAL in a page.
pub const WAL_PAGE_BYTES: usize = 8192;

/// Bytes of the largest WAL record we reassemble; the server refuses records of 1 GiB and more.
pub const WAL_RECORD_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Seconds that the start of a backup may take: a spread checkpoint goes on for most of the time
/// between two checkpoints, which may be an hour.
pub const START_BACKUP_SECONDS_MAX: u64 = 2 * 3600;

/// Seconds that a server has to leave backup mode after a failure; it does so anyway when the
/// session ends.
pub const STOP_BACKUP_SECONDS_AT_FAILURE: u64 = 5;

/// Milliseconds between two status messages while WAL is streamed: half the original's time-out,
/// and less than the six seconds after which openGauss gives a silent client up.
pub const WAL_STATUS_INTERVAL_MS: u64 = 5000;

/// Milliseconds that a status the server asked for may wait for WAL to become durable, so that it
/// can say so: far less than any server's patience.
pub const WAL_REPLY_DELAY_MS: u64 = 500;

/// Milliseconds without any message after which a WAL stream is given up: twice what PostgreSQL
/// lets pass before it sends a keepalive.
pub const WAL_STALL_MS: u64 = 60_000;

/// Milliseconds that a WAL stream waits for the rest of the last segment once the stop position is
/// durable. A primary switches the segment at once, so what has not come by then will not come.
pub const WAL_STOP_GRACE_MS: u64 = 5000;

/// Milliseconds after which a WAL stream looks at its flags again: cancelling and a stop position
/// take effect that fast.
pub const WAL_POLL_MS: u64 = 50;

/// Milliseconds after which a WAL stream that waits for the disk looks again.
pub const WAL_SYNC_POLL_MS: u64 = 2;

/// WAL segments that wait to be made durable while further ones are received: enough to ride out a
/// slow fsync, few enough to bound open files and dirty memory.
pub const WAL_UNSYNCED_SEGMENTS_MAX: usize = 8;

/// Bytes of a replication slot's name: the server's names less their terminator.
pub const SLOT_NAME_BYTES_MAX: usize = 63;

/// Times the control file of a running server is read until its CRC is right. The server writes it
/// within microseconds.
pub const CONTROL_FILE_READS_MAX: u32 = 20;

/// Milliseconds between two such reads.
pub const CONTROL_FILE_PAUSE_MS: u64 = 50;

/// Bytes of a password: what every pipe takes without a reader, and more than a line typed on a
/// terminal can have.
pub const PASSWORD_BYTES_MAX: usize = 4096;

/// Bytes of a message of the server that is no row and no stream: the texts of errors are the
/// longest, libpq warns of corruption at 30000 already.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a row: the changed blocks of a whole relation come in one value.
pub const SERVER_ROW_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of one message of a stream; servers send 128 KiB at most, openGauss 8 MiB.
pub const SERVER_STREAM_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of all rows of one answer that is kept in memory.
pub const SERVER_ANSWER_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Columns of an answer; servers allow 1664.
pub const SERVER_COLUMNS_MAX: usize = 1664;

/// Settings that a server may report about itself.
pub const SERVER_PARAMETERS_MAX: usize = 256;

/// Notices kept until somebody takes them.
pub const SERVER_NOTICES_MAX: usize = 100;

/// Bytes kept of one notice.
pub const SERVER_NOTICE_BYTES_MAX: usize = 4096;

/// Messages of a server before it is ready for the first statement: an honest one sends its
/// settings and a few more.
pub const SERVER_STARTUP_MESSAGES_MAX: usize = 10_000;

/// Iterations of a password hash at most, the bound that openGauss sets for itself; some seconds of
/// work.
pub const AUTH_ITERATIONS_MAX: u32 = 10_000_000;

/// Hosts of one connection string.
pub const CONNECT_HOSTS_MAX: usize = 64;

/// Bytes of a password file and of a certificate file.
pub const CREDENTIAL_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Milliseconds between two looks at the flag that cancels a run, while a server is waited for.
pub const SERVER_POLL_MS: u64 = 100;

/// Milliseconds that a cancelled statement is given to end, and the request to cancel it as many.
pub const CANCEL_GRACE_MS: u64 = 400;

/// Bytes that the sets of changed blocks of a backup may take; a relation beyond is copied whole. A
/// bit per block, they hold 16 TiB of changes in any order.
pub const CHANGED_BLOCKS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of a file of changed blocks: the server begins another at 128 MiB, after a whole batch.
pub const CBM_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Files of changed blocks that are in memory at a time.
pub const CBM_FILES_AT_ONCE_MAX: usize = 4;

/// Seconds that a server's tracking of changed blocks may stand still before a backup that needs it
/// gives up: some of the pauses that the tracking makes, and far less than a night.
pub const CBM_STALL_SECONDS_MAX: u64 = 120;

/// Milliseconds between two questions how far changed blocks are tracked.
pub const CBM_POLL_MS: u64 = 200;

/// Times the directory of changed blocks is listed because a file in it was renamed meanwhile.
pub const CBM_LISTINGS_MAX: u32 = 5;

/// Times that somebody else's lock is met in the directory of a backup that is all but deleted:
/// each is a process that looked at the backup in that instant.
pub const LOCKS_MET_WHILE_REMOVING_MAX: u32 = 20;

/// Seconds after the start of a backup for which its directory may be empty because it is just
/// being created: its id is the time at which that began.
pub const EMPTY_BACKUP_SECONDS_MIN: i64 = 5;

/// Volumes of a volume group at most.
pub const DSS_VOLUMES_MAX: usize = 256;

/// Bytes of the smallest allocation unit of a volume group.
pub const DSS_AU_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// Bytes of the largest allocation unit of a volume group.
pub const DSS_AU_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Times the metadata of a volume group are read until they fit together: a server that is at work
/// changes them some hundred times a second, each time within microseconds.
pub const DSS_READS_MAX: u32 = 30;

/// Times a file is copied again because its bytes were moved on their devices meanwhile: it takes a
/// truncation each time, which openGauss does not do to the same file twice a minute.
pub const MOVED_COPIES_MAX: u32 = 10;

/// Milliseconds before the metadata of a volume group are read again, times the tries so far.
pub const DSS_READ_PAUSE_MS: u64 = 5;

/// Links that one path on shared storage may lead through.
pub const DSS_LINKS_MAX: u32 = 16;

/// Bytes of a path on shared storage, and of a link's target.
pub const DSS_PATH_BYTES_MAX: usize = 1024;

/// Bytes of a name on shared storage with the zero byte behind it.
pub const DSS_NAME_BYTES: usize = 64;

/// Bytes of what the library of DSS says of an error that are passed on.
pub const DSS_ERROR_BYTES_MAX: usize = 1024;

/// Bytes that the library of DSS takes whole: what a direct read or write of a volume is made of.
pub const DSS_SECTOR_BYTES: usize = 512;

/// Bytes that are moved with one call of the library of DSS: those of a unit of the smallest kind,
/// which are in a row on a volume. The original does the same.
pub const DSS_CALL_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Names in a directory that the library of DSS is asked for, where a damaged one might never end:
/// as many as a large tablespace has files.
pub const DSS_DIRECTORY_NAMES_MAX: usize = 10_000_000;

/// Bytes of `dss_vg_conf.ini`: a line a volume group.
pub const DSS_CONF_BYTES_MAX: u64 = 64 * 1024;

/// Requests in flight while a volume is read: where fast devices reach their bandwidth with whole
/// extents.
pub const DSS_READ_DEPTH: u32 = 32;

/// Milliseconds for which a device that is to become a volume must not change: a server that does
/// anything at all to it writes within that time.
pub const DSS_QUIET_MS: u64 = 500;

/// Bytes at the start of a volume that make it none when they are zeros: those of the documented
/// `dd bs=2048 count=1000`, which are all controls in both copies.
pub const DSS_WIPED_BYTES: u64 = 2048 * 1000;

/// Bytes at the start of a device that are wiped in all: head and redo ring of a group, however
/// large its units are.
pub const DSS_CLEARED_BYTES: u64 = 2 * DSS_AU_BYTES_MAX;

/// Times a volume group is checked because a server changed it meanwhile.
pub const DSS_CHECKS_MAX: u32 = 5;

/// Findings of a check that are kept; further ones are counted.
pub const DSS_FINDINGS_MAX: usize = 1000;

/// Extents of a file that are read before its map is looked at again: a look costs three small
/// reads, which is little against these, and others are in flight meanwhile.
pub const DSS_EXTENTS_PER_LOOK: usize = 16;

const _: () = assert!(EXTENT_ENCODED_BYTES_MAX + 2 * DIRECT_IO_ALIGNMENT <= BUFFER_BYTES);
const _: () = assert!(EXTENT_ENCODED_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(SYNC_ENGINE_THREADS_MAX <= QUEUE_DEPTH_MAX);
const _: () = assert!(EXTENT_BYTES_MAX.is_multiple_of(DIRECT_IO_ALIGNMENT));
const _: () = assert!(BUFFER_BYTES.is_multiple_of(DIRECT_IO_ALIGNMENT));
const _: () = assert!(EXTENT_BYTES_MAX.is_multiple_of(PAGE_SIZE));
const _: () = assert!(WAL_SEGMENT_BYTES_MIN <= WAL_SEGMENT_BYTES);
const _: () = assert!(WAL_SEGMENT_BYTES <= WAL_SEGMENT_BYTES_MAX);
const _: () = assert!(BACKUP_PATH_BYTES_MAX < CONTENT_LINE_BYTES_MAX);
const _: () = assert!((RELSEG_SIZE as usize).is_multiple_of(EXTENT_PAGES_MAX));
const _: () = assert!(QUEUE_DEPTH <= QUEUE_DEPTH_MAX);
const _: () = assert!(WAL_REPLY_DELAY_MS < WAL_STATUS_INTERVAL_MS);
const _: () = assert!(2 * WAL_STATUS_INTERVAL_MS <= WAL_STALL_MS);
const _: () = assert!(WAL_SYNC_POLL_MS <= WAL_POLL_MS && WAL_POLL_MS <= 100);
const _: () = assert!(SERVER_MESSAGE_BYTES_MAX <= SERVER_STREAM_BYTES_MAX);
const _: () = assert!(SERVER_ROW_BYTES_MAX <= SERVER_ANSWER_BYTES_MAX);
const _: () = assert!(SERVER_POLL_MS + 2 * CANCEL_GRACE_MS < 1000);
const _: () = assert!(DSS_EXTENTS_PER_LOOK < DSS_READ_DEPTH as usize);
const _: () = assert!(DSS_CALL_BYTES_MAX.is_multiple_of(DSS_SECTOR_BYTES));
