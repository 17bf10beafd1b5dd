//! Files whose bytes lie in others are read and written as if they were their own.

use super::*;
use crate::limits::{DIRECT_IO_ALIGNMENT, EXTENT_BYTES_MAX};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const UNIT: u64 = 16 * 1024;
const UNITS: u64 = 96;
/// The file ends amid its last unit.
const SIZE: u64 = UNITS * UNIT - 5000;

/// Units lie on two devices, backwards, or nowhere, or with whoever is called.
#[derive(Debug)]
struct Scattered {
    devices: [Arc<File>; 2],
    /// Bytes in front of each device's units.
    shift: u64,
    called: Mutex<Vec<u8>>,
    size: AtomicU64,
}

impl Scattered {
    fn place(&self, offset: u64, length: u64) -> Place {
        let (unit, within) = (offset / UNIT, offset % UNIT);
        let length = length.min(UNIT - within);
        match unit % 5 {
            3 => Place::Zeros { length },
            4 => Place::Calls { length },
            kind => Place::Device {
                file: Arc::clone(&self.devices[usize::from(kind > 0)]),
                offset: self.shift + (UNITS - 1 - unit) * UNIT + within,
                length,
            },
        }
    }
}

impl Mapping for Scattered {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size.load(Ordering::Relaxed))
    }

    fn place_to_read(&self, offset: u64, length: u64) -> io::Result<Option<Place>> {
        let left = self.size()?.saturating_sub(offset);
        Ok((left > 0).then(|| self.place(offset, length.min(left))))
    }

    fn place_to_write(&self, offset: u64, length: u64) -> io::Result<Place> {
        if offset / UNIT >= UNITS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(match self.place(offset, length) {
            Place::Zeros { length } => Place::Calls { length },
            place => place,
        })
    }

    fn written(&self, offset: u64, length: u64) -> io::Result<()> {
        self.size.fetch_max(offset + length, Ordering::Relaxed);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let at = usize::try_from(offset).unwrap();
        // Half of what was asked for will do.
        let length = bytes.len().div_ceil(2);
        let called = self.called.lock().unwrap();
        bytes[..length].copy_from_slice(&called[at..at + length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let at = usize::try_from(offset).unwrap();
        self.called.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.size.store(length, Ordering::Relaxed);
        Ok(())
    }

    fn is_as_read(&self) -> io::Result<bool> {
        Ok(false)
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut noise);
    noise
}

fn device(path: &Path, direct: bool) -> Arc<File> {
    std::fs::write(path, noise(1, size(UNITS * UNIT) + 4096)).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).write(true);
    let buffered = OwnedFd::from(options.open(path).unwrap());
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
    let direct = direct.then(|| options.custom_flags(flags).open(path).ok());
    let direct = direct.flatten().map(OwnedFd::from);
    Arc::new(File::from_fds(path.to_owned(), buffered, direct))
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

/// A scattered file and its content.
fn scattered(scratch: &Path, shift: u64, direct: bool) -> (Arc<File>, Vec<u8>) {
    let devices = ["one", "two"].map(|name| device(&scratch.join(name), direct));
    let mapping = Scattered {
        devices,
        shift,
        called: Mutex::new(noise(2, size(UNITS * UNIT))),
        size: AtomicU64::new(SIZE),
    };
    let mut content = vec![0; size(SIZE)];
    for (unit, bytes) in (0..).zip(content.chunks_mut(size(UNIT))) {
        match mapping.place(unit * UNIT, bytes.len() as u64) {
            Place::Zeros { .. } => {}
            Place::Calls { .. } => {
                let called = mapping.called.lock().unwrap();
                bytes.copy_from_slice(&called[size(unit * UNIT)..][..bytes.len()]);
            }
            Place::Device { file, offset, .. } => file.read_exact_at(bytes, offset).unwrap(),
        }
    }
    let file = File::mapped("scattered".into(), Box::new(mapping));
    (Arc::new(file), content)
}

/// Runs a test with every engine, on devices with and without a page cache, aligned and not.
fn on_each(test: impl Fn(&mut dyn BlockIo, &BufferPool, &Arc<File>, Vec<u8>)) {
    for choice in [EngineChoice::Sync, EngineChoice::Auto] {
        for (direct, shift) in [
            (false, 0),
            (true, 0),
            (true, 4096),
            (false, 100),
            (true, 512),
        ] {
            let scratch = tempfile::tempdir().unwrap();
            let pool = BufferPool::new(16);
            let mut engine = open(choice, &pool, 8).unwrap();
            let (file, content) = scattered(scratch.path(), shift, direct);
            test(&mut *engine, &pool, &file, content);
            assert_eq!(engine.in_flight(), 0);
            drop(engine);
            assert_eq!(pool.available(), 16);
        }
    }
}

fn read(file: &Arc<File>, offset: u64, length: usize, buffer: Buffer) -> Request {
    Request::Read {
        file: Arc::clone(file),
        offset,
        length,
        buffer,
        memory_offset: 0,
    }
}

fn wait(engine: &mut dyn BlockIo, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    while done.len() < count {
        let before = done.len();
        engine
            .wait(&mut done, Some(Duration::from_secs(20)))
            .unwrap();
        assert!(done.len() > before, "only {before} of {count} came back");
    }
    done.sort_by_key(|done| done.token);
    done
}

/// Places and lengths of reads, at and across every border.
fn ranges() -> Vec<(u64, usize)> {
    let mut ranges = vec![
        (0, EXTENT_BYTES_MAX),
        (SIZE - 10, 100),
        (SIZE - 10, 10),
        (SIZE, 100),
        (SIZE + UNIT, 100),
        (u64::MAX, 10),
        (3, 0),
        (100, EXTENT_BYTES_MAX),
        (UNIT + 8192, EXTENT_BYTES_MAX / 2),
    ];
    ranges.extend((1..10).map(|unit| (unit * UNIT - 1, 2)));
    ranges.extend((1..10).map(|unit| (unit * UNIT - 5000, 20_000)));
    ranges
}

fn expected(content: &[u8], offset: u64, length: usize) -> &[u8] {
    let start = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(content.len());
    &content[start..start.saturating_add(length).min(content.len())]
}

#[test]
fn a_mapped_file_is_read_as_one() {
    on_each(|engine, pool, file, content| {
        let ranges = ranges();
        // As many at a time as there are buffers.
        for ranges in ranges.chunks(16) {
            for (token, (offset, length)) in (0..).zip(ranges) {
                let buffer = pool.try_take().unwrap();
                engine.submit(token, read(file, *offset, *length, buffer));
            }
            let done = wait(engine, ranges.len());
            for (done, (offset, length)) in done.into_iter().zip(ranges) {
                done.result.unwrap();
                let expected = expected(&content, *offset, *length);
                let buffer = done.buffer.unwrap();
                assert!(buffer.data() == expected, "{length} bytes at {offset}");
            }
        }
    });
}

#[test]
fn bytes_in_front_of_those_that_are_read_stay() {
    on_each(|engine, pool, file, content| {
        let mut buffer = pool.try_take().unwrap();
        buffer.whole_mut().fill(7);
        let memory_offset = 2 * DIRECT_IO_ALIGNMENT;
        let request = Request::Read {
            file: Arc::clone(file),
            offset: 4096,
            length: 5 * size(UNIT),
            buffer,
            memory_offset,
        };
        engine.submit(1, request);
        let done = wait(engine, 1).remove(0);
        done.result.unwrap();
        let buffer = done.buffer.unwrap();
        assert!(
            buffer.whole()[..memory_offset]
                .iter()
                .all(|byte| *byte == 7)
        );
        assert!(buffer.data() == expected(&content, 4096, 5 * size(UNIT)));
        assert_eq!(buffer.range().start, memory_offset);
    });
}

#[test]
fn synchronous_reads_see_the_same() {
    on_each(|_, _, file, content| {
        for (offset, length) in ranges() {
            let mut bytes = vec![0; length];
            let read = file.read_up_to_at(&mut bytes, offset).unwrap();
            assert!(bytes[..read] == *expected(&content, offset, length));
            let exact = file.read_exact_at(&mut bytes, offset);
            if read == length {
                exact.unwrap();
            } else {
                let kind = exact.unwrap_err().source.kind();
                assert_eq!(kind, io::ErrorKind::UnexpectedEof);
            }
        }
        assert_eq!((file.size().unwrap(), file.end().unwrap()), (SIZE, SIZE));
        assert!(!file.is_as_read().unwrap());
        file.look_again().unwrap();
    });
}

#[test]
fn a_mapped_file_is_written_as_one() {
    on_each(|engine, pool, file, mut content| {
        content.resize(size(UNITS * UNIT), 0);
        let writes = [
            (0, 100_000),
            (100_000, 4096),
            (5 * UNIT, 3),
            (SIZE - 7, 5007),
        ];
        for (seed, (offset, length)) in (10..).zip(writes) {
            let bytes = noise(seed, length);
            let mut buffer = pool.try_take().unwrap();
            let base = size(offset % 4096);
            buffer.set_range(base..base + length);
            buffer.data_mut().copy_from_slice(&bytes);
            content[size(offset)..size(offset) + length].copy_from_slice(&bytes);
            let request = Request::Write {
                file: Arc::clone(file),
                offset,
                buffer,
            };
            engine.submit(seed, request);
            let done = wait(engine, 1).remove(0);
            done.result.unwrap();
            assert!(done.buffer.unwrap().data() == bytes);
        }
        let bytes = noise(99, 50_000);
        file.write_all_at(&bytes, 333_333).unwrap();
        content[333_333..383_333].copy_from_slice(&bytes);
        for request in [
            Request::Sync {
                file: Arc::clone(file),
            },
            Request::Writeback {
                file: Arc::clone(file),
                offset: 0,
                length: 4096,
            },
        ] {
            engine.submit(1, request);
            wait(engine, 1).remove(0).result.unwrap();
        }
        assert_eq!(file.size().unwrap(), UNITS * UNIT);
        let mut bytes = vec![1; content.len()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        // What lies nowhere was written to where nobody reads it in this mapping.
        for unit in (0..UNITS).filter(|unit| unit % 5 == 3) {
            content[size(unit * UNIT)..][..size(UNIT)].fill(0);
        }
        assert!(bytes == content);
    });
}

#[test]
fn requests_that_fail_name_the_file_and_where_on_which_device() {
    on_each(|engine, pool, file, _| {
        // The device ends before the unit that is at its end.
        let mapping = file.mapping().unwrap();
        let Some(Place::Device { file: device, .. }) = mapping.place_to_read(0, 1).unwrap() else {
            panic!("the first unit is on a device");
        };
        device.set_len(UNIT * 20 + 1).unwrap();
        let buffer = pool.try_take().unwrap();
        engine.submit(5, read(file, 0, size(UNIT), buffer));
        let done = wait(engine, 1).remove(0);
        assert!(done.buffer.is_some());
        let error = done.result.unwrap_err();
        assert_eq!(error.path, Path::new("scattered"));
        assert_eq!(error.source.kind(), io::ErrorKind::UnexpectedEof);
        let mut bytes = [0; 10];
        let error = file.read_exact_at(&mut bytes, 0).unwrap_err();
        assert!(error.source.to_string().contains("one\""), "{error:?}");
        let mut buffer = pool.try_take().unwrap();
        buffer.set_range(0..10);
        let request = Request::Write {
            file: Arc::clone(file),
            offset: UNITS * UNIT,
            buffer,
        };
        engine.submit(6, request);
        let error = wait(engine, 1).remove(0).result.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert!(file.write_all_at(&[1], UNITS * UNIT).is_err());
    });
}

#[test]
fn requests_on_own_files_pass_between_those_on_mapped_ones() {
    on_each(|engine, pool, file, content| {
        let scratch = tempfile::tempdir().unwrap();
        let own = device(&scratch.path().join("own"), false);
        for token in 0..8 {
            let file = if token % 2 == 0 { file } else { &own };
            let buffer = pool.try_take().unwrap();
            engine.submit(token, read(file, 1000 * token, 100_000, buffer));
        }
        assert!(engine.in_flight() > 0);
        let own = noise(1, size(UNITS * UNIT));
        for done in wait(engine, 8) {
            done.result.unwrap();
            let whole = if done.token % 2 == 0 { &content } else { &own };
            assert!(done.buffer.unwrap().data() == expected(whole, 1000 * done.token, 100_000));
        }
        // Nothing to wait for: whoever wakes it ends the wait.
        engine.waker().wake();
        engine.wait(&mut Vec::new(), None).unwrap();
    });
}

#[test]
fn what_cannot_be_written_or_copied_says_so() {
    #[derive(Debug)]
    struct ToRead;
    impl Mapping for ToRead {
        fn size(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn place_to_read(&self, _: u64, _: u64) -> io::Result<Option<Place>> {
            Ok(None)
        }
    }
    let file = File::mapped("file".into(), Box::new(ToRead));
    let error = file.write_all_at(b"x", 0).unwrap_err();
    assert_eq!(error.source.to_string(), "it was opened to read");
    assert!(file.set_len(1).is_err());
    assert!(file.set_mode(0o600).is_ok() && file.sync().is_ok() && file.is_as_read().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let own = device(&scratch.path().join("own"), false);
    let error = own.copy_head_of(&file, 1).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::Unsupported);
}

/// An engine that is woken while it returns what is done, and forgets that.
#[derive(Debug, Default)]
struct Forgetful {
    waiting: Vec<(u64, Request)>,
}

impl BlockIo for Forgetful {
    fn submit(&mut self, token: u64, request: Request) {
        self.waiting.push((token, request));
    }

    fn wait(
        &mut self,
        completions: &mut Vec<Completion>,
        _: Option<Duration>,
    ) -> Result<(), IoError> {
        let Some((
            token,
            Request::Read {
                length,
                mut buffer,
                memory_offset,
                ..
            },
        )) = self.waiting.pop()
        else {
            panic!("there is nothing to wait for");
        };
        buffer.set_range(memory_offset..memory_offset + length);
        completions.push(Completion {
            token,
            result: Ok(()),
            buffer: Some(buffer),
        });
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    fn waker(&self) -> Waker {
        Waker(Arc::new(|| ()))
    }

    fn name(&self) -> &'static str {
        "forgetful"
    }
}

#[test]
fn whoever_is_woken_between_pieces_need_not_wait_for_the_others() {
    let scratch = tempfile::tempdir().unwrap();
    let (file, _) = scattered(scratch.path(), 0, false);
    let pool = BufferPool::new(1);
    let mut engine = mapped::MappedIo::new(Box::new(Forgetful::default()));
    engine.submit(1, read(&file, 0, 5 * size(UNIT), pool.try_take().unwrap()));
    engine.waker().wake();
    let mut done = Vec::new();
    engine.wait(&mut done, None).unwrap();
    assert_eq!((done.len(), engine.in_flight()), (0, 1));
    assert_eq!(wait(&mut engine, 1)[0].token, 1);
}

#[test]
fn a_file_that_was_once_said_to_have_moved_has_moved_for_good() {
    #[derive(Debug, Default)]
    struct Wavering(AtomicU64);
    impl Mapping for Wavering {
        fn size(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn place_to_read(&self, _: u64, _: u64) -> io::Result<Option<Place>> {
            Ok(None)
        }
        fn is_as_read(&self) -> io::Result<bool> {
            Ok(self.0.fetch_add(1, Ordering::Relaxed) != 1)
        }
    }
    let file = File::mapped("file".into(), Box::<Wavering>::default());
    let answers: Vec<bool> = (0..4).map(|_| file.is_as_read().unwrap()).collect();
    assert_eq!(answers, [true, false, false, false]);
}
