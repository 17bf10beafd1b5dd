//! The transfer loop: one thread that keeps reads, CPU work and writes in flight until every file
//! is done.
//!
//! The life of an extent: its buffers are taken from the pool, it is read, processed on the rayon
//! pool, collected when all earlier extents of its file were, written, and its buffers go back. A
//! file whose last extent was collected and written is completed on the pool (header map), sealed
//! (tail), made durable and finished.
//!
//! A page that must be read again waits in `delayed`; other extents go on meanwhile, its own file's
//! later ones up to collection. When its pause is over it is read by the thread that judges it: a
//! slow device then holds up one CPU thread, not the loop. What is read again are the bytes of bad
//! pages only. Unwritten changes come from the page cache, where the server's last write is; a page
//! without such changes comes from the medium, since the cache is told to forget it first.

use super::feed::Feed;
use super::slab::Slab;
use super::{Budget, Kind, PipelineError, Processed, ReadRange, Write};
use crate::io::{
    self, BlockIo, Buffer, BufferPool, Completion, EngineChoice, File, Request, Waker,
};
use crate::limits::{ACTIVE_FILES_MAX, PAGE_REREAD_PAUSE_MS, QUEUE_DEPTH};
use crate::monitor::Monitor;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How a transfer runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which I/O engine to use.
    pub engine: EngineChoice,
    /// CPU threads.
    pub threads: usize,
    /// Whether finished files are made durable.
    pub sync: bool,
    /// Set by a signal handler: ends the run within a moment.
    pub cancel: Arc<AtomicBool>,
}

/// Moves every file of `items` through `kind`, in their order as far as files start. Items are
/// made when their turn comes: of a million files only some dozens are in memory at a time.
///
/// # Errors
/// The first failure; everything in flight has then come to rest.
///
/// # Panics
/// When the rayon pool cannot start its threads, or a thread panicked.
pub fn transfer<K: Kind>(
    kind: &K,
    items: impl ExactSizeIterator<Item = K::Item> + Send,
    settings: &Settings,
    monitor: &dyn Monitor,
) -> Result<(), PipelineError> {
    if items.len() == 0 {
        return Ok(());
    }
    let pool = BufferPool::new(Budget::for_threads(settings.threads).buffers);
    let io = io::open(settings.engine, &pool, QUEUE_DEPTH)?;
    let cpu = rayon::ThreadPoolBuilder::new()
        .num_threads(settings.threads)
        .thread_name(|index| format!("cpu-{index}"))
        .build()
        .expect("threads can be started: their number was checked against the cores");
    let waker = io.waker();
    std::thread::scope(|threads| {
        let feed = Feed::start(threads, kind, items, waker.clone());
        cpu.in_place_scope(|scope| {
            let (done, results) = channel();
            let mut transfer = Loop {
                kind,
                scope,
                settings,
                monitor,
                io,
                pool,
                feed,
                done,
                results,
                waker,
                extents: Slab::default(),
                writes: Slab::default(),
                files: Slab::default(),
                reading: Vec::new(),
                delayed: Vec::new(),
                on_cpu: 0,
                failure: None,
            };
            transfer.run()
        })
    })
}

/// An extent between its read and its collection.
struct ActiveExtent<K: Kind> {
    file: usize,
    sequence: u64,
    extent: Option<K::Extent>,
    source: Arc<File>,
    offset: u64,
    length: usize,
    attempt: u32,
    input: Option<Buffer>,
    output: Option<Buffer>,
    reread: Vec<Range<usize>>,
    /// Left to read.
    parts: std::vec::IntoIter<Range<usize>>,
    /// Being read.
    part: Range<usize>,
}

impl<K: Kind> ActiveExtent<K> {
    /// The buffer whose last part was read, `read` bytes of it: it has the extent, or that up to
    /// the end of the file.
    fn with_all_parts(&self, mut input: Buffer, read: usize) -> Buffer {
        let data = input.range();
        let end = if read < self.part.len() {
            self.part.start + read
        } else {
            self.length
        };
        // Only a read of everything may begin in the middle of a page of the device.
        let start = data.start - self.part.start;
        input.set_range(start..start + end);
        input
    }
}

/// A file between its first extent and its end. `state` is away while the CPU completes it.
struct ActiveFile<K: Kind> {
    state: Option<K::File>,
    next_sequence: u64,
    next_collected: u64,
    waiting: BTreeMap<u64, Collected<K>>,
    writes: usize,
    exhausted: bool,
    completed: bool,
    completing: bool,
}

/// A processed extent that waits for its turn to be collected.
struct Collected<K: Kind> {
    done: Option<K::Done>,
    bytes: u64,
    input: Option<Buffer>,
    output: Option<Buffer>,
}

/// What comes back from the CPU pool.
enum CpuResult<K: Kind> {
    Extent {
        token: usize,
        extent: K::Extent,
        input: Buffer,
        output: Option<Buffer>,
        processed: Result<Processed<K::Done>, PipelineError>,
    },
    File {
        index: usize,
        state: K::File,
        completed: Result<(), PipelineError>,
    },
    /// The work panicked; the pool's scope passes that on once the loop has ended.
    Panicked,
}

/// Sends the result of CPU work when it is dropped, also while a panic unwinds.
struct Reply<K: Kind> {
    done: Sender<CpuResult<K>>,
    waker: Waker,
    result: Option<CpuResult<K>>,
}

impl<K: Kind> Drop for Reply<K> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or(CpuResult::Panicked);
        // The loop outlives the pool's work: it waits until `on_cpu` is zero.
        let _ = self.done.send(result);
        self.waker.wake();
    }
}

/// A write with several runs left to do.
struct ActiveWrite {
    file_index: usize,
    target: Arc<File>,
    runs: Vec<(u64, Range<usize>)>,
}

/// Request tokens: what kind of request in the upper bits, an index in the lower ones.
const READ_TOKEN: u64 = 0;
const WRITE_TOKEN: u64 = 1 << 56;
const SYNC_TOKEN: u64 = 2 << 56;
const INDEX_MASK: u64 = (1 << 56) - 1;

struct Loop<'scope, 'env, K: Kind> {
    kind: &'env K,
    scope: &'scope rayon::Scope<'env>,
    settings: &'env Settings,
    monitor: &'env dyn Monitor,
    io: Box<dyn BlockIo>,
    pool: BufferPool,
    feed: Feed<K>,
    done: Sender<CpuResult<K>>,
    results: Receiver<CpuResult<K>>,
    waker: Waker,
    extents: Slab<ActiveExtent<K>>,
    writes: Slab<ActiveWrite>,
    files: Slab<ActiveFile<K>>,
    /// Files that have extents left to read, the next one last.
    reading: Vec<usize>,
    delayed: Vec<(Instant, usize)>,
    on_cpu: usize,
    failure: Option<PipelineError>,
}

impl<'env, K: Kind> Loop<'_, 'env, K> {
    fn run(&mut self) -> Result<(), PipelineError> {
        let mut completions = Vec::new();
        loop {
            if self.settings.cancel.load(Ordering::Relaxed) {
                self.fail(PipelineError::Interrupted);
            }
            if self.failure.is_none() {
                self.start_reads();
            }
            if self.is_idle() {
                break;
            }
            // Even without an event, look at the cancel flag now and then.
            let timeout = self.next_due().unwrap_or(Duration::from_millis(200));
            self.io.wait(&mut completions, Some(timeout))?;
            for completion in completions.drain(..) {
                self.on_completion(completion);
            }
            while let Ok(result) = self.results.try_recv() {
                self.on_cpu_result(result);
            }
            self.restart_delayed();
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn is_idle(&self) -> bool {
        let at_rest = self.io.in_flight() == 0 && self.on_cpu == 0;
        if self.failure.is_some() {
            return at_rest;
        }
        at_rest && self.delayed.is_empty() && self.files.len() == 0 && self.feed.is_exhausted()
    }

    fn fail(&mut self, error: PipelineError) {
        if self.failure.is_none() {
            self.failure = Some(error);
            self.feed.stop();
            self.delayed.clear();
        }
    }

    /// Takes files and buffers as long as there are both, and asks for their extents.
    fn start_reads(&mut self) {
        loop {
            if self.reading.is_empty() {
                match self.next_file() {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => return self.fail(error),
                }
                continue;
            }
            // Two buffers, so that an extent never waits for its second one while it holds the
            // first.
            if self.pool.available() < 2 {
                return;
            }
            let index = *self.reading.last().expect("just seen not to be empty");
            let file = self.files.get_mut(index);
            let state = file
                .state
                .as_mut()
                .expect("a file that is read is not being completed");
            if let Some((range, extent)) = self.kind.next_extent(state) {
                let sequence = file.next_sequence;
                file.next_sequence += 1;
                self.start_read(index, sequence, range, extent);
            } else {
                file.exhausted = true;
                self.reading.pop();
                self.advance_file(index);
            }
        }
    }

    /// Takes the next file from the feed; false when there is none at the moment.
    fn next_file(&mut self) -> Result<bool, PipelineError> {
        if self.files.len() >= ACTIVE_FILES_MAX {
            return Ok(false);
        }
        let Some(opened) = self.feed.next() else {
            return Ok(false);
        };
        if let Some(state) = opened? {
            let index = self.files.insert(ActiveFile {
                state: Some(state),
                next_sequence: 0,
                next_collected: 0,
                waiting: BTreeMap::new(),
                writes: 0,
                exhausted: false,
                completed: false,
                completing: false,
            });
            self.reading.push(index);
        } else {
            self.monitor.add_file();
        }
        Ok(true)
    }

    fn start_read(&mut self, file: usize, sequence: u64, range: ReadRange, extent: K::Extent) {
        let input = self.pool.try_take().expect("availability was checked");
        let output = range.needs_output.then(|| {
            self.pool
                .try_take()
                .expect("availability of both was checked")
        });
        let parts = if range.parts.is_empty() {
            std::iter::once(0..range.length).collect()
        } else {
            range.parts
        };
        let token = self.extents.insert(ActiveExtent {
            file,
            sequence,
            extent: Some(extent),
            source: range.source,
            offset: range.offset,
            length: range.length,
            attempt: 0,
            input: None,
            output,
            reread: Vec::new(),
            parts: parts.into_iter(),
            part: 0..0,
        });
        self.read_part(token, input);
    }

    /// Reads the next part of an extent. They are read one after the other: it is the extents that
    /// are many.
    fn read_part(&mut self, token: usize, input: Buffer) {
        let active = self.extents.get_mut(token);
        active.part = active.parts.next().expect("there is a part left to read");
        let start = u64::try_from(active.part.start).expect("an extent is small");
        let request = Request::Read {
            file: active.source.clone(),
            offset: active.offset + start,
            length: active.part.len(),
            buffer: input,
            memory_offset: active.part.start,
        };
        self.io.submit(READ_TOKEN | index_bits(token), request);
    }

    fn on_completion(&mut self, completion: Completion) {
        let index = usize::try_from(completion.token & INDEX_MASK).expect("made from a usize");
        match completion.token & !INDEX_MASK {
            READ_TOKEN => self.on_read(index, completion),
            WRITE_TOKEN => self.on_write(index, completion),
            _ => self.on_synced(index, completion.result),
        }
    }

    fn on_read(&mut self, token: usize, completion: Completion) {
        let input = completion.buffer.expect("a read carries its buffer");
        if let Err(error) = completion.result {
            let extent = self.extents.remove(token);
            let file = self.files.get_mut(extent.file);
            let state = file
                .state
                .as_mut()
                .expect("a file with extents in flight is present");
            match self.kind.read_failed(state, error) {
                Ok(()) => self.hand_in(extent.file, extent.sequence, None, 0, (None, None)),
                Err(error) => self.fail(error),
            }
            return;
        }
        let active = self.extents.get_mut(token);
        let read = input.data().len();
        if read == active.part.len() && active.parts.len() > 0 {
            return self.read_part(token, input);
        }
        active.input = Some(active.with_all_parts(input, read));
        self.start_processing(token);
    }

    fn start_processing(&mut self, token: usize) {
        let active = self.extents.get_mut(token);
        let mut extent = active
            .extent
            .take()
            .expect("an extent is processed by one thread");
        let mut input = active.input.take().expect("the extent was read");
        let mut output = active.output.take();
        let attempt = active.attempt;
        let reread = std::mem::take(&mut active.reread);
        let (source, offset) = (active.source.clone(), active.offset);
        let kind = self.kind;
        self.spawn(move || {
            let processed = read_again(&source, offset, &reread, &mut input)
                .and_then(|()| kind.process(&mut extent, attempt, &mut input, output.as_mut()));
            CpuResult::Extent {
                token,
                extent,
                input,
                output,
                processed,
            }
        });
    }

    /// Has `work` done on the pool; its result comes back even if that is a panic, for which the
    /// loop would otherwise wait for ever.
    fn spawn(&mut self, work: impl FnOnce() -> CpuResult<K> + Send + 'env) {
        let reply = Reply {
            done: self.done.clone(),
            waker: self.waker.clone(),
            result: None,
        };
        self.on_cpu += 1;
        self.scope.spawn(move |_| {
            let mut reply = reply;
            reply.result = Some(work());
        });
    }

    fn on_cpu_result(&mut self, result: CpuResult<K>) {
        self.on_cpu -= 1;
        match result {
            CpuResult::Extent {
                token,
                extent,
                input,
                output,
                processed,
            } => match processed {
                Ok(Processed::Done(done)) => {
                    let active = self.extents.remove(token);
                    let bytes = u64::try_from(active.length).expect("an extent is small");
                    let buffers = (Some(input), output);
                    self.hand_in(active.file, active.sequence, Some(done), bytes, buffers);
                }
                Ok(Processed::Reread(ranges)) => {
                    let active = self.extents.get_mut(token);
                    active.extent = Some(extent);
                    active.input = Some(input);
                    active.output = output;
                    active.reread = ranges;
                    active.attempt += 1;
                    let due = Instant::now() + Duration::from_millis(PAGE_REREAD_PAUSE_MS);
                    self.delayed.push((due, token));
                }
                Ok(Processed::Fetch(parts)) => {
                    let active = self.extents.get_mut(token);
                    active.extent = Some(extent);
                    active.output = output;
                    // After a failure nothing is read any more, and nobody waits for the extent.
                    if self.failure.is_none() {
                        active.parts = parts.into_iter();
                        self.read_part(token, input);
                    }
                }
                Err(error) => self.fail(error),
            },
            CpuResult::File {
                index,
                state,
                completed,
            } => {
                let file = self.files.get_mut(index);
                file.state = Some(state);
                file.completed = true;
                match completed {
                    Ok(()) => self.seal_file(index),
                    Err(error) => self.fail(error),
                }
            }
            CpuResult::Panicked => self.fail(PipelineError::Interrupted),
        }
    }

    /// Collects the extent and every later one that waited for it.
    fn hand_in(
        &mut self,
        index: usize,
        sequence: u64,
        done: Option<K::Done>,
        bytes: u64,
        (input, output): (Option<Buffer>, Option<Buffer>),
    ) {
        let file = self.files.get_mut(index);
        file.waiting.insert(
            sequence,
            Collected {
                done,
                bytes,
                input,
                output,
            },
        );
        while let Some(next) = {
            let file = self.files.get_mut(index);
            let turn = file.next_collected;
            file.waiting.remove(&turn)
        } {
            let file = self.files.get_mut(index);
            file.next_collected += 1;
            self.monitor.add_bytes(next.bytes);
            let (Some(done), Some(input)) = (next.done, next.input) else {
                continue;
            };
            let state = file
                .state
                .as_mut()
                .expect("a file being collected is present");
            match self.kind.collect(state, done, input, next.output) {
                Ok(Some(write)) if self.failure.is_none() => {
                    file.writes += 1;
                    self.start_write(index, write);
                }
                Ok(_) => {}
                Err(error) => return self.fail(error),
            }
        }
        self.advance_file(index);
    }

    fn start_write(&mut self, file_index: usize, write: Write) {
        let Write {
            file: target,
            mut buffer,
            mut runs,
        } = write;
        runs.reverse();
        let (offset, range) = runs.pop().expect("a write has a run");
        buffer.set_range(range);
        let active = ActiveWrite {
            file_index,
            target: target.clone(),
            runs,
        };
        let token = self.writes.insert(active);
        let request = Request::Write {
            file: target,
            offset,
            buffer,
        };
        self.io.submit(WRITE_TOKEN | index_bits(token), request);
    }

    fn on_write(&mut self, token: usize, completion: Completion) {
        let mut buffer = completion.buffer.expect("a write carries its buffer");
        if let Err(error) = completion.result {
            return self.fail(PipelineError::Io(error));
        }
        let active = self.writes.get_mut(token);
        if let (Some((offset, range)), true) = (active.runs.pop(), self.failure.is_none()) {
            buffer.set_range(range);
            let request = Request::Write {
                file: active.target.clone(),
                offset,
                buffer,
            };
            self.io.submit(WRITE_TOKEN | index_bits(token), request);
            return;
        }
        drop(buffer);
        let index = self.writes.remove(token).file_index;
        self.files.get_mut(index).writes -= 1;
        self.advance_file(index);
    }

    /// Moves a file on when nothing of it is left to read, collect or write.
    fn advance_file(&mut self, index: usize) {
        let file = self.files.get_mut(index);
        let collected = file.exhausted && file.next_collected == file.next_sequence;
        if self.failure.is_some() || !collected || file.writes > 0 || file.completing {
            return;
        }
        file.completing = true;
        let mut state = file.state.take().expect("a collected file is present");
        let kind = self.kind;
        self.spawn(move || {
            let completed = kind.complete(&mut state);
            CpuResult::File {
                index,
                state,
                completed,
            }
        });
    }

    fn seal_file(&mut self, index: usize) {
        if self.failure.is_some() {
            return;
        }
        let file = self.files.get_mut(index);
        let state = file.state.as_mut().expect("a completed file is present");
        match self.kind.seal(state) {
            Ok(Some(target)) if self.settings.sync => {
                self.io.submit(
                    SYNC_TOKEN | index_bits(index),
                    Request::Sync { file: target },
                );
            }
            Ok(_) => self.finish_file(index),
            Err(error) => self.fail(error),
        }
    }

    fn on_synced(&mut self, index: usize, result: Result<(), io::IoError>) {
        match result {
            Ok(()) => self.finish_file(index),
            Err(error) => self.fail(PipelineError::Io(error)),
        }
    }

    fn finish_file(&mut self, index: usize) {
        let file = self.files.remove(index);
        self.monitor.add_file();
        if let Err(error) = self
            .kind
            .finish(file.state.expect("a sealed file is present"))
        {
            self.fail(error);
        }
    }

    fn next_due(&self) -> Option<Duration> {
        let due = self.delayed.iter().map(|(due, _)| *due).min()?;
        Some(
            due.saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1)),
        )
    }

    /// Has the extents whose pause is over read again and processed once more.
    fn restart_delayed(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition::<Vec<_>, _>(|(due, _)| *due <= now);
        self.delayed = later;
        for (_, token) in due {
            self.start_processing(token);
        }
    }
}

/// Reads ranges of an extent that begins at `offset` again; where the file ends in one by now, so
/// do the data.
fn read_again(
    source: &File,
    offset: u64,
    ranges: &[Range<usize>],
    input: &mut Buffer,
) -> Result<(), PipelineError> {
    if !ranges.is_empty() {
        source.look_again()?;
    }
    for range in ranges {
        let from = offset + u64::try_from(range.start).expect("a range of a buffer is small");
        let length = u64::try_from(range.len()).expect("a range of a buffer is small");
        source.drop_cache_of(from, length);
        let read = source.read_up_to_at(&mut input.data_mut()[range.clone()], from)?;
        if read < range.len() {
            let start = input.range().start;
            input.set_range(start..start + range.start + read);
            break;
        }
    }
    Ok(())
}

fn index_bits(index: usize) -> u64 {
    u64::try_from(index).expect("a usize fits on every supported platform")
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
