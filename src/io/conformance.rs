//! What every engine must do, on real files: the same tests over each engine, with and without
//! direct I/O.
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use super::ring::RingIo;
use super::{BlockIo, Buffer, BufferPool, Completion, EngineChoice, File, IoError, Request, open};
use crate::limits::{BUFFER_BYTES, EXTENT_BYTES_MAX, EXTENT_ENCODED_BYTES_MAX};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEPTH: u32 = 4;
const SOON: Option<Duration> = Some(Duration::from_secs(20));

/// An engine and a way to open files, with what a test needs around them.
struct Bench {
    engine: Box<dyn BlockIo>,
    pool: BufferPool,
    direct: bool,
    scratch: tempfile::TempDir,
}

/// Runs a test on every engine, with buffered and direct files.
fn on_each(buffers: usize, test: impl Fn(&mut Bench)) {
    for direct in [false, true] {
        for number in 0.. {
            let pool = BufferPool::new(buffers);
            let engine: Box<dyn BlockIo> = match number {
                0 => open(EngineChoice::Sync, &pool, DEPTH).unwrap(),
                1 => match open(EngineChoice::Ring, &pool, DEPTH) {
                    Ok(engine) => engine,
                    Err(error) => return skip(&format!("{error}: {}", error.source)),
                },
                2 => Box::new(RingIo::as_on_an_old_kernel(DEPTH).unwrap()),
                _ => break,
            };
            let scratch = tempfile::tempdir().unwrap();
            let mut bench = Bench {
                engine,
                pool,
                direct,
                scratch,
            };
            if direct && !bench.create("probe").is_direct() {
                return skip("TMPDIR is on a file system without O_DIRECT");
            }
            eprintln!("engine {} ({number}), direct {direct}", bench.engine.name());
            test(&mut bench);
            assert_eq!(bench.engine.in_flight(), 0);
            drop(bench.engine);
            assert_eq!(bench.pool.available(), buffers);
        }
    }
}

fn skip(why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "must not be skipped in CI: {why}"
    );
    eprintln!("SKIPPED: {why}");
}

impl Bench {
    /// A file with this content, opened to read and write.
    fn file(&self, name: &str, content: &[u8]) -> Arc<File> {
        std::fs::write(self.scratch.path().join(name), content).unwrap();
        self.create(name)
    }

    fn create(&self, name: &str) -> Arc<File> {
        open_file(&self.scratch.path().join(name), self.direct)
    }

    fn content(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.scratch.path().join(name)).unwrap()
    }

    fn buffer(&self) -> Buffer {
        self.pool
            .try_take()
            .expect("the test has set its pool large enough")
    }

    fn filled(&self, base: usize, data: &[u8]) -> Buffer {
        let mut buffer = self.buffer();
        buffer.set_range(base..base + data.len());
        buffer.data_mut().copy_from_slice(data);
        buffer
    }

    /// Waits for this many completions and sorts them by token.
    fn finish(&mut self, count: usize) -> Vec<Completion> {
        let mut done = Vec::new();
        while done.len() < count {
            let before = done.len();
            self.engine.wait(&mut done, SOON).unwrap();
            assert!(
                done.len() > before,
                "only {before} of {count} requests came back"
            );
        }
        assert_eq!(done.len(), count);
        done.sort_by_key(|completion| completion.token);
        done
    }

    fn run(&mut self, request: Request) -> Completion {
        self.engine.submit(99, request);
        assert_eq!(self.engine.in_flight(), 1);
        let completion = self.finish(1).remove(0);
        assert_eq!(completion.token, 99);
        completion
    }

    fn read(&mut self, file: &Arc<File>, offset: u64, length: usize) -> Result<Vec<u8>, IoError> {
        let file = Arc::clone(file);
        let buffer = self.buffer();
        let done = self.run(Request::Read {
            memory_offset: 0,
            file,
            offset,
            length,
            buffer,
        });
        let buffer = done
            .buffer
            .expect("a read returns its buffer, also after a failure");
        done.result.map(|()| buffer.data().to_vec())
    }

    fn write(&mut self, file: &Arc<File>, offset: u64, buffer: Buffer) -> Result<(), IoError> {
        let file = Arc::clone(file);
        let done = self.run(Request::Write {
            file,
            offset,
            buffer,
        });
        assert!(
            done.buffer.is_some(),
            "a write returns its buffer, also after a failure"
        );
        done.result
    }
}

fn open_file(path: &Path, direct: bool) -> Arc<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let buffered = OwnedFd::from(options.open(path).unwrap());
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap();
    let direct = direct.then(|| {
        options
            .custom_flags(flags)
            .open(path)
            .ok()
            .map(OwnedFd::from)
    });
    Arc::new(File::from_fds(path.to_owned(), buffered, direct.flatten()))
}

/// Bytes that look random and are the same on every run.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut noise = vec![0; bytes];
    hasher.finalize_xof().fill(&mut noise);
    noise
}

#[test]
fn reads_bring_the_files_bytes_at_any_offset_and_length() {
    on_each(1, |bench| {
        let content = noise(1, 3 * EXTENT_BYTES_MAX + 777);
        let file = bench.file("f", &content);
        let lengths = [
            1,
            7,
            511,
            512,
            4096,
            8192,
            100_000,
            EXTENT_ENCODED_BYTES_MAX,
        ];
        for offset in [
            0, 1, 511, 512, 4095, 4096, 4097, 1_000_000, 3_145_000, 3_146_504,
        ] {
            for length in lengths {
                let there = content.len().min(offset + length);
                let read = bench.read(&file, offset as u64, length).unwrap();
                assert!(read == content[offset..there], "{length} bytes at {offset}");
            }
        }
    });
}

#[test]
fn reads_at_and_behind_the_end_bring_what_is_there() {
    on_each(1, |bench| {
        for size in [0usize, 1, 4095, 4096, 4097, 8192] {
            let content = noise(2, size);
            let file = bench.file("f", &content);
            assert!(
                bench.read(&file, 0, 20_000).unwrap() == content,
                "size {size}"
            );
            assert!(bench.read(&file, size as u64, 10).unwrap().is_empty());
            assert!(bench.read(&file, 1 << 33, 10).unwrap().is_empty());
            assert!(bench.read(&file, 0, 0).unwrap().is_empty());
        }
    });
}

#[test]
fn writes_arrive_wherever_the_data_lie_in_their_buffer() {
    on_each(1, |bench| {
        let mut wanted = noise(3, 2 * EXTENT_BYTES_MAX);
        let file = bench.file("f", &wanted);
        let cases = [
            (0usize, 0usize, 4096usize),
            (4096, 4096, EXTENT_BYTES_MAX),
            (8192, 1, 8192),
            (12_289, 0, 4096),
            (100, 200, 300),
            (2_000_000, 8192, EXTENT_ENCODED_BYTES_MAX),
            (3_200_000, 0, 4096),
            (3_204_096, 0, 5),
            (3_204_101, 4096, 0),
            (3_205_000, 0, BUFFER_BYTES),
        ];
        for (seed, (offset, base, length)) in (4..).zip(cases) {
            let data = noise(seed, length);
            bench
                .write(&file, offset as u64, bench.filled(base, &data))
                .unwrap();
            wanted.resize(wanted.len().max(offset + length), 0);
            wanted[offset..offset + length].copy_from_slice(&data);
            assert!(bench.content("f") == wanted, "{length} bytes at {offset}");
        }
    });
}

#[test]
fn what_was_written_is_read_back_through_the_same_file() {
    on_each(1, |bench| {
        let file = bench.create("f");
        let data = noise(5, 300_000);
        bench.write(&file, 0, bench.filled(0, &data)).unwrap();
        assert!(bench.read(&file, 0, 300_000).unwrap() == data);
        // Through the other descriptor of a direct file.
        bench
            .write(&file, 4096, bench.filled(8192, &data[..4096]))
            .unwrap();
        assert!(bench.read(&file, 4096, 4096).unwrap() == data[..4096]);
        file.write_all_at(b"tail", 4090).unwrap();
        assert_eq!(bench.read(&file, 4090, 4).unwrap(), b"tail");
    });
}

#[test]
fn more_requests_than_the_depth_are_all_done() {
    on_each(40, |bench| {
        let content = noise(6, 40 * 65_536);
        let file = bench.create("f");
        let chunks = content.chunks(65_536);
        for ((token, chunk), offset) in (0..).zip(chunks).zip((0..).step_by(65_536)) {
            let buffer = bench.filled(0, chunk);
            let file = Arc::clone(&file);
            bench.engine.submit(
                token,
                Request::Write {
                    file,
                    offset,
                    buffer,
                },
            );
        }
        assert_eq!(bench.engine.in_flight(), 40);
        assert!(bench.finish(40).iter().all(|done| done.result.is_ok()));
        assert!(
            bench
                .run(Request::Sync {
                    file: Arc::clone(&file)
                })
                .result
                .is_ok()
        );
        assert!(bench.content("f") == content);

        for token in 0..40 {
            let (buffer, file) = (bench.buffer(), Arc::clone(&file));
            let offset = token * 65_536;
            bench.engine.submit(
                token,
                Request::Read {
                    memory_offset: 0,
                    file,
                    offset,
                    length: 65_536,
                    buffer,
                },
            );
        }
        for (done, chunk) in bench.finish(40).iter().zip(content.chunks(65_536)) {
            assert!(done.result.is_ok());
            assert!(
                done.buffer.as_ref().unwrap().data() == chunk,
                "token {}",
                done.token
            );
        }
    });
}

#[test]
fn many_small_files_come_and_go() {
    on_each(8, |bench| {
        let mut done = Vec::new();
        let mut next = 0;
        let mut finished = 0;
        while finished < 500 {
            while next < 500 {
                let Some(mut buffer) = bench.pool.try_take() else {
                    break;
                };
                let data = noise(next, 100 + usize::try_from(next).unwrap());
                buffer.set_range(0..data.len());
                buffer.data_mut().copy_from_slice(&data);
                let file = bench.create(&next.to_string());
                bench.engine.submit(
                    next,
                    Request::Write {
                        file,
                        offset: 0,
                        buffer,
                    },
                );
                next += 1;
            }
            bench.engine.wait(&mut done, SOON).unwrap();
            finished += done.len();
            for completion in done.drain(..) {
                completion.result.unwrap();
            }
        }
        for number in 0..500 {
            let wanted = noise(number, 100 + usize::try_from(number).unwrap());
            assert!(bench.content(&number.to_string()) == wanted);
        }
    });
}

#[test]
fn sync_and_writeback_complete() {
    on_each(1, |bench| {
        let file = bench.file("f", b"some bytes");
        let requests = [
            Request::Sync {
                file: Arc::clone(&file),
            },
            Request::Writeback {
                file: Arc::clone(&file),
                offset: 0,
                length: 10,
            },
            Request::Writeback {
                file: Arc::clone(&file),
                offset: 0,
                length: u64::MAX,
            },
            Request::Writeback {
                file: Arc::clone(&file),
                offset: 5,
                length: 0,
            },
        ];
        for request in requests {
            let done = bench.run(request);
            assert!(done.result.is_ok() && done.buffer.is_none());
        }
    });
}

#[test]
fn errors_name_operation_path_and_offset() {
    on_each(1, |bench| {
        let full = open_file(Path::new("/dev/full"), false);
        let error = bench.write(&full, 8192, bench.filled(0, b"x")).unwrap_err();
        assert_eq!(
            error.source.raw_os_error(),
            Some(Errno::NOSPC.raw_os_error())
        );
        assert_eq!(
            error.to_string(),
            "cannot write \"/dev/full\" at offset 8192"
        );

        let directory = std::fs::File::open(bench.scratch.path()).unwrap();
        let directory = File::from_fds("the directory".into(), directory.into(), None);
        let error = bench.read(&Arc::new(directory), 10, 10).unwrap_err();
        assert_eq!(
            error.source.raw_os_error(),
            Some(Errno::ISDIR.raw_os_error())
        );
        assert_eq!((error.operation, error.offset), ("read", 10));

        let path = bench.scratch.path().join("read only");
        std::fs::write(&path, b"").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let file = Arc::new(File::from_fds(path.clone(), file.into(), None));
        let error = bench.write(&file, 0, bench.filled(0, b"x")).unwrap_err();
        assert_eq!(
            error.source.raw_os_error(),
            Some(Errno::BADF.raw_os_error())
        );
        assert_eq!(error.path, path);

        let pipe = File::from_fds("pipe".into(), rustix::pipe::pipe().unwrap().0, None);
        let error = bench
            .run(Request::Sync {
                file: Arc::new(pipe),
            })
            .result
            .unwrap_err();
        assert_eq!(error.operation, "fsync");
        // A failure does not harm the engine.
        let file = bench.file("f", b"abc");
        assert_eq!(bench.read(&file, 1, 1).unwrap(), b"b");
    });
}

#[test]
fn a_request_behind_the_largest_offset_fails() {
    on_each(1, |bench| {
        let file = bench.file("f", b"abc");
        assert!(bench.read(&file, u64::MAX - 1, 10).is_err());
        assert!(bench.write(&file, u64::MAX, bench.filled(0, b"x")).is_err());
        assert!(
            bench
                .write(&file, i64::MAX.unsigned_abs(), bench.filled(0, b"xy"))
                .is_err()
        );
    });
}

#[test]
fn buffers_of_another_pool_work_too() {
    on_each(1, |bench| {
        let other = BufferPool::new(1);
        let file = bench.file("f", b"abc");
        let buffer = other.try_take().unwrap();
        let done = bench.run(Request::Read {
            memory_offset: 0,
            file,
            offset: 0,
            length: 3,
            buffer,
        });
        assert_eq!(done.buffer.unwrap().data(), b"abc");
    });
}

#[test]
fn a_timeout_ends_a_wait_and_so_does_nothing_else() {
    on_each(1, |bench| {
        let mut done = Vec::new();
        let start = Instant::now();
        bench
            .engine
            .wait(&mut done, Some(Duration::from_millis(30)))
            .unwrap();
        assert!(start.elapsed() >= Duration::from_millis(30));
        bench.engine.wait(&mut done, Some(Duration::ZERO)).unwrap();
        assert!(done.is_empty());
        assert!(start.elapsed() < Duration::from_secs(10));
        // A request that is pushed in a wait without time is on its way all the same.
        let file = bench.file("f", b"abc");
        bench.engine.submit(1, Request::Sync { file });
        bench.engine.wait(&mut done, Some(Duration::ZERO)).unwrap();
        let rest = 1 - done.len();
        bench.finish(rest);
    });
}

#[test]
fn who_only_asks_and_never_waits_gets_completions_too() {
    on_each(1, |bench| {
        let file = bench.file("f", &noise(10, EXTENT_BYTES_MAX));
        file.sync().unwrap();
        file.drop_cache();
        let (file, buffer) = (Arc::clone(&file), bench.buffer());
        let length = EXTENT_BYTES_MAX;
        bench.engine.submit(
            1,
            Request::Read {
                memory_offset: 0,
                file,
                offset: 0,
                length,
                buffer,
            },
        );
        let start = Instant::now();
        let mut done = Vec::new();
        while done.is_empty() {
            bench.engine.wait(&mut done, Some(Duration::ZERO)).unwrap();
            assert!(start.elapsed() < Duration::from_secs(20));
        }
    });
}

#[test]
fn a_wake_before_a_wait_ends_it_at_once_but_only_it() {
    on_each(1, |bench| {
        let waker = bench.engine.waker();
        let mut done = Vec::new();
        for _ in 0..3 {
            waker.wake();
            waker.clone().wake();
            let start = Instant::now();
            bench.engine.wait(&mut done, SOON).unwrap();
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        let start = Instant::now();
        bench
            .engine
            .wait(&mut done, Some(Duration::from_millis(20)))
            .unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
    });
}

#[test]
fn another_thread_wakes_a_wait_without_limit() {
    on_each(1, |bench| {
        let waker = bench.engine.waker();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for () in told {
                    std::thread::yield_now();
                    waker.wake();
                }
            });
            for _ in 0..500 {
                tell.send(()).unwrap();
                let mut done = Vec::new();
                bench.engine.wait(&mut done, None).unwrap();
                assert!(done.is_empty());
            }
            drop(tell);
        });
        // The engine is gone before its waker.
        let waker = bench.engine.waker();
        bench.engine = open(EngineChoice::Sync, &bench.pool, 1).unwrap();
        waker.wake();
    });
}

#[test]
fn wakes_and_completions_do_not_swallow_each_other() {
    on_each(2, |bench| {
        let file = bench.file("f", &noise(8, 100_000));
        let waker = bench.engine.waker();
        for _ in 0..200 {
            let buffer = bench.buffer();
            let file = Arc::clone(&file);
            bench.engine.submit(
                1,
                Request::Read {
                    memory_offset: 0,
                    file,
                    offset: 0,
                    length: 90_000,
                    buffer,
                },
            );
            waker.wake();
            let mut done = Vec::new();
            while done.is_empty() {
                bench.engine.wait(&mut done, SOON).unwrap();
            }
            assert!(done[0].result.is_ok());
        }
    });
}

#[test]
fn dropping_an_engine_waits_for_its_requests_and_frees_their_buffers() {
    on_each(16, |bench| {
        let content = noise(9, EXTENT_BYTES_MAX);
        let file = bench.file("f", &content);
        for token in 0..16 {
            let (file, buffer) = (Arc::clone(&file), bench.buffer());
            let length = EXTENT_BYTES_MAX;
            bench.engine.submit(
                token,
                Request::Read {
                    memory_offset: 0,
                    file,
                    offset: 0,
                    length,
                    buffer,
                },
            );
        }
        let mut done = Vec::new();
        bench.engine.wait(&mut done, Some(Duration::ZERO)).unwrap();
        bench.engine = open(EngineChoice::Sync, &bench.pool, 1).unwrap();
        drop(done);
        assert_eq!(bench.pool.available(), 16);
        assert_eq!(Arc::strong_count(&file), 1);
        // Nothing writes to the buffers any more.
        let buffers: Vec<Buffer> = (0..16)
            .map(|_| bench.filled(0, &[7; BUFFER_BYTES]))
            .collect();
        std::thread::sleep(Duration::from_millis(5));
        assert!(
            buffers
                .iter()
                .all(|buffer| buffer.data().iter().all(|&byte| byte == 7))
        );
    });
}

#[test]
fn dropping_a_ring_cancels_what_would_never_end() {
    let pool = BufferPool::new(3);
    let ring = || -> std::io::Result<[RingIo; 2]> {
        Ok([RingIo::new(&pool, 2)?, RingIo::as_on_an_old_kernel(2)?])
    };
    let rings = match ring() {
        Ok(rings) => rings,
        Err(error) => return skip(&format!("io_uring: {error}")),
    };
    for mut ring in rings {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let file = Arc::new(File::from_fds("pipe".into(), reader, None));
        for token in 0..3 {
            let (file, buffer) = (Arc::clone(&file), pool.try_take().unwrap());
            ring.submit(
                token,
                Request::Read {
                    memory_offset: 0,
                    file,
                    offset: 0,
                    length: 1,
                    buffer,
                },
            );
        }
        let mut done = Vec::new();
        ring.wait(&mut done, Some(Duration::from_millis(1)))
            .unwrap();
        assert!(done.is_empty());
        drop(ring);
        assert_eq!(pool.available(), 3);
    }
}

#[test]
fn a_depth_of_nothing_is_one_and_one_of_millions_is_bounded() {
    let pool = BufferPool::new(1);
    for depth in [0, 1, u32::MAX] {
        for choice in [EngineChoice::Sync, EngineChoice::Auto] {
            let mut engine = open(choice, &pool, depth).unwrap();
            let file = open_file(Path::new("/dev/null"), false);
            let buffer = pool.try_take().unwrap();
            engine.submit(
                1,
                Request::Read {
                    memory_offset: 0,
                    file,
                    offset: 0,
                    length: 1,
                    buffer,
                },
            );
            let mut done = Vec::new();
            engine.wait(&mut done, SOON).unwrap();
            assert!(done[0].result.is_ok());
        }
    }
}
