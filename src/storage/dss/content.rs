//! Reading the bytes of a file, in order, with many requests in flight.
//!
//! A server may give a unit to another file between the look at the map and the read. So:
//!
//! 1. Extents are read ahead as the map says.
//! 2. When some are there, node and map are read again, as far as these extents need them.
//! 3. If nothing moved, the extents are handed on. A unit cannot have been away and come back: a
//!    file that lost one counts a truncation, and a new file has another number.
//! 4. If something moved, what was read ahead is forgotten, and the metadata are read again.

use super::DssError;
use super::group::{VolumeGroup, pause};
use super::map::{DeviceRange, Part};
use super::reader::{Piece, Reader, check};
use crate::format::dss::{BlockId, Node};
use crate::io::Buffer;
use crate::limits::{DSS_EXTENTS_PER_LOOK, DSS_PATH_BYTES_MAX, DSS_READS_MAX, EXTENT_BYTES_MAX};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Takes the bytes of a file, in order.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A run of bytes that was asked for, at most an extent.
#[derive(Debug)]
enum Ahead {
    Zeros(usize),
    Waiting(Piece),
    Read(Buffer),
}

/// Whether a part was read as its map said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done,
    Moved,
}

/// A part of a file on its way.
#[derive(Debug)]
struct Flow<'a> {
    node: &'a Node,
    second_level: &'a [BlockId],
    part: &'a Part,
    /// What was asked for and not handed on, in order; the first has this token.
    ahead: VecDeque<Ahead>,
    first_token: u64,
}

impl VolumeGroup {
    /// Hands all bytes of a file on, in order, and returns how many there were. A file that grows
    /// or is cut meanwhile is read up to where it ends then.
    ///
    /// # Errors
    /// Where it cannot be read, is damaged, is removed meanwhile or moves all the time; what was
    /// handed on before is right. [`DssError::Sink`] where `sink` fails.
    pub fn read_file(
        &mut self,
        node: &Node,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64, DssError> {
        /// A volume on which nothing changes stays damaged.
        const STILL_ERRORS_MAX: u32 = 3;
        let mut node = node.clone();
        let (mut at, mut tries, mut still) = (0, 0, 0);
        while at < node.written_bytes {
            let before = at;
            let result = self.read_part(&node, &mut at, sink);
            if at > before {
                (tries, still) = (0, 0);
            }
            let error = match result {
                Ok(Outcome::Done) => continue,
                Ok(Outcome::Moved) => DssError::Changing {
                    group: self.name().to_owned(),
                    tries: DSS_READS_MAX,
                },
                Err(error) if error.may_pass() => error,
                Err(error) => return Err(error),
            };
            tries += 1;
            still = if self.has_changed()? { 0 } else { still + 1 };
            if tries >= DSS_READS_MAX || still >= STILL_ERRORS_MAX {
                return Err(error);
            }
            pause(tries);
            self.refresh()?;
            let now = self.node_now(&node)?;
            node = now.ok_or_else(|| DssError::NotFound {
                path: node.name.to_string(),
            })?;
        }
        Ok(at)
    }

    /// The target of a link.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read_link(&mut self, node: &Node) -> Result<String, DssError> {
        let second_level = self.second_level(node)?;
        if second_level.is_empty() {
            return Err(self
                .devices
                .damaged(format!("link {} has no target", node.name)));
        }
        let part = self.part(node, &second_level, 0, 0..1)?;
        let ranges = self.part_ranges(node, &part, 0..DSS_PATH_BYTES_MAX as u64)?;
        let mut target = Vec::new();
        for range in ranges {
            if let DeviceRange::Data { offset, length, .. } = range {
                let device = self.devices.device(part.units[0].au)?;
                let length = usize::try_from(length).unwrap_or(DSS_PATH_BYTES_MAX);
                target.extend(self.reader.read(&device.clone(), offset, length)?);
            }
        }
        let end = target.iter().position(|byte| *byte == 0);
        target.truncate(end.unwrap_or(target.len()));
        String::from_utf8(target).map_err(|_| {
            let what = format!("the target of link {} is no text", node.name);
            self.devices.damaged(what)
        })
    }

    /// Hands on the part of a file that begins at `at`, to its end, and moves `at` along.
    fn read_part(
        &mut self,
        node: &Node,
        at: &mut u64,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, DssError> {
        let second_level = self.second_level(node)?;
        let number = *at / self.part_bytes();
        let part = self.part(node, &second_level, number, 0..usize::MAX)?;
        let end = node.written_bytes.min(part.start + self.part_bytes());
        let ranges = self.part_ranges(node, &part, *at..end)?;
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Reader::open(self.engine)?,
        };
        let mut flow = Flow {
            node,
            second_level: &second_level,
            part: &part,
            ahead: VecDeque::new(),
            first_token: 0,
        };
        let result = self.flow(&mut flow, &mut stream, &ranges, at, sink);
        while stream.in_flight() > 0 {
            stream.wait()?;
        }
        self.stream = Some(stream);
        result
    }

    fn flow(
        &mut self,
        flow: &mut Flow<'_>,
        stream: &mut Reader,
        ranges: &[DeviceRange],
        at: &mut u64,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, DssError> {
        let mut pieces = ranges.iter().flat_map(split).peekable();
        loop {
            while let Some(next) = pieces.peek() {
                let token = flow.first_token + flow.ahead.len() as u64;
                if flow.ahead.len() >= 4 * DSS_EXTENTS_PER_LOOK {
                    break;
                }
                if let Ahead::Waiting(piece) = next
                    && !stream.submit(token, piece)
                {
                    break;
                }
                flow.ahead.extend(pieces.next());
            }
            let is_ready = |ahead: &&Ahead| !matches!(ahead, Ahead::Waiting(_));
            let ready = flow.ahead.iter().take_while(is_ready).count();
            if ready >= DSS_EXTENTS_PER_LOOK || (ready > 0 && ready == flow.ahead.len()) {
                let lengths = flow.ahead.iter().take(ready).map(Ahead::length);
                let end = *at + lengths.sum::<usize>() as u64;
                if !self.is_still_there(flow, *at, end)? {
                    return Ok(Outcome::Moved);
                }
                for ahead in flow.ahead.drain(..ready) {
                    *at += ahead.length() as u64;
                    ahead.hand_on(sink)?;
                }
                flow.first_token += ready as u64;
            } else if flow.ahead.is_empty() {
                return Ok(Outcome::Done);
            } else {
                flow.take_done(stream)?;
            }
        }
    }

    /// Whether bytes of the file are still where its map said when they were read.
    fn is_still_there(&mut self, flow: &Flow<'_>, at: u64, end: u64) -> Result<bool, DssError> {
        let node = flow.node;
        if !self.is_node_still(node, flow.second_level)? {
            return Ok(false);
        }
        let number = flow.part.start / self.part_bytes();
        let au_bytes = self.state.core.au_bytes;
        let unit = |at: u64| usize::try_from((at - flow.part.start) / au_bytes).expect("in a part");
        let wanted = unit(at)..unit(end - 1) + 1;
        self.are_units_still(node, flow.second_level, number, flow.part, wanted)
    }
}

impl Flow<'_> {
    /// Waits for requests and puts what they brought where it belongs.
    fn take_done(&mut self, stream: &mut Reader) -> Result<(), DssError> {
        for (token, buffer, result) in stream.wait()? {
            let number = usize::try_from(token - self.first_token).expect("it waits");
            let ahead = &mut self.ahead[number];
            if let Ahead::Waiting(piece) = ahead {
                check(piece, &buffer, result)?;
                *ahead = Ahead::Read(buffer);
            }
        }
        Ok(())
    }
}

impl Ahead {
    fn length(&self) -> usize {
        match self {
            Ahead::Zeros(length) => *length,
            Ahead::Waiting(piece) => piece.length,
            Ahead::Read(buffer) => buffer.data().len(),
        }
    }

    fn hand_on(self, sink: &mut Sink<'_>) -> Result<(), DssError> {
        let done = match self {
            Ahead::Read(buffer) => sink(buffer.data()),
            Ahead::Zeros(length) => (0..length)
                .step_by(ZEROS.len())
                .try_for_each(|start| sink(&ZEROS[..ZEROS.len().min(length - start)])),
            Ahead::Waiting(_) => unreachable!("only what was read is handed on"),
        };
        done.map_err(|source| DssError::Sink { source })
    }
}

/// A run of bytes in extents.
fn split(range: &DeviceRange) -> impl Iterator<Item = Ahead> {
    let (place, length) = match range {
        DeviceRange::Zeros { length } => (None, *length),
        DeviceRange::Data {
            file,
            offset,
            length,
        } => (Some((Arc::clone(file), *offset)), *length),
    };
    let extent = EXTENT_BYTES_MAX as u64;
    (0..length.div_ceil(extent)).map(move |number| {
        let start = number * extent;
        let length = usize::try_from(extent.min(length - start)).expect("at most an extent");
        match &place {
            None => Ahead::Zeros(length),
            Some((file, offset)) => Ahead::Waiting(Piece {
                file: Arc::clone(file),
                offset: offset + start,
                length,
            }),
        }
    })
}
