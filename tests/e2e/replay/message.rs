//! The messages that go over the wire, as far as the replay looks into them.

use std::collections::BTreeMap;

/// What a request for TLS, for GSS encryption and for a cancel have in place of a version.
const TLS_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Nobody sends more at once in a test.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A message with a tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Takes a whole message off the front, if there is one.
    pub(super) fn take(bytes: &mut Vec<u8>) -> Option<Message> {
        let size = usize::try_from(u32_at(bytes, 1)?).unwrap();
        assert!((4..=BODY_BYTES_MAX).contains(&size), "a message of {size}");
        if bytes.len() < 1 + size {
            return None;
        }
        let whole: Vec<u8> = bytes.drain(..=size).collect();
        Some(Message {
            tag: whole[0],
            body: whole[5..].to_vec(),
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let size = u32::try_from(self.body.len() + 4).unwrap();
        let mut bytes = vec![self.tag];
        bytes.extend(size.to_be_bytes());
        bytes.extend(&self.body);
        bytes
    }

    /// The text of a query or parse message.
    pub(super) fn statement(&self) -> String {
        let skipped = match self.tag {
            // The name of the prepared statement.
            b'P' => text_at(&self.body, 0).len() + 1,
            _ => 0,
        };
        text_at(&self.body, skipped)
    }

    /// The parameters of a bind message, which are texts.
    pub(super) fn parameters(&self) -> Vec<String> {
        let mut at = text_at(&self.body, 0).len() + 1;
        at += text_at(&self.body, at).len() + 1;
        let formats = usize::from(u16_at(&self.body, at));
        at += 2 + 2 * formats;
        let count = u16_at(&self.body, at);
        at += 2;
        let mut parameters = Vec::new();
        for _ in 0..count {
            let size = usize::try_from(u32_at(&self.body, at).expect("a whole message")).unwrap();
            at += 4;
            let bytes = self.body[at..at + size].to_vec();
            parameters.push(String::from_utf8(bytes).unwrap());
            at += size;
        }
        parameters
    }

    /// The kind of an authentication message.
    pub(super) fn authentication(&self) -> Option<u32> {
        (self.tag == b'R').then(|| u32_at(&self.body, 0))?
    }

    /// The columns of a data row.
    pub(crate) fn columns(&self) -> Vec<String> {
        let mut at = 2;
        let mut columns = Vec::new();
        for _ in 0..u16_at(&self.body, 0) {
            let size = u32_at(&self.body, at).expect("a whole message");
            at += 4;
            // A null counts as empty.
            let size = if size == u32::MAX {
                0
            } else {
                usize::try_from(size).unwrap()
            };
            let text = String::from_utf8(self.body[at..at + size].to_vec()).unwrap();
            columns.push(text);
            at += size;
        }
        columns
    }

    /// A field of an error or a notice.
    pub(crate) fn field(&self, code: u8) -> Option<String> {
        let fields = self.body.split(|byte| *byte == 0);
        let mut found = fields.filter(|field| field.first() == Some(&code));
        Some(String::from_utf8_lossy(&found.next()?[1..]).into_owned())
    }
}

/// The first message of a connection, which has no tag.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Startup {
    /// Major version in the upper half, minor in the lower.
    pub(crate) version: u32,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Startup {
    pub(super) fn take(bytes: &mut Vec<u8>) -> Option<Startup> {
        let size = usize::try_from(u32_at(bytes, 0)?).unwrap();
        assert!((8..=10_000).contains(&size), "a first message of {size}");
        if bytes.len() < size {
            return None;
        }
        let whole: Vec<u8> = bytes.drain(..size).collect();
        let version = u32_at(&whole, 4).expect("eight bytes at least");
        let mut parameters = BTreeMap::new();
        if version >> 16 == 3 {
            let mut at = 8;
            while at < size && whole[at] != 0 {
                let name = text_at(&whole, at);
                at += name.len() + 1;
                let value = text_at(&whole, at);
                at += value.len() + 1;
                parameters.insert(name, value);
            }
        }
        Some(Startup {
            version,
            parameters,
        })
    }

    pub(super) fn is_tls_request(&self) -> bool {
        matches!(self.version, TLS_REQUEST | GSS_REQUEST)
    }

    pub(super) fn is_cancel(&self) -> bool {
        self.version == CANCEL_REQUEST
    }

    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().expect("four bytes")))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn text_at(bytes: &[u8], at: usize) -> String {
    let end = bytes[at..].iter().position(|byte| *byte == 0);
    let end = at + end.expect("a text ends with a zero");
    String::from_utf8(bytes[at..end].to_vec()).unwrap()
}

/// A row description of columns that are texts but for the types named.
pub(super) fn row_description(columns: &[(&str, u32)]) -> Message {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for (name, oid) in columns {
        body.extend(name.as_bytes());
        body.push(0);
        body.extend([0; 6]);
        body.extend(oid.to_be_bytes());
        // Variable size, no modifier, text.
        body.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    }
    Message { tag: b'T', body }
}

pub(super) fn data_row(columns: &[&str]) -> Message {
    let columns: Vec<Option<&str>> = columns.iter().copied().map(Some).collect();
    data_row_with_nulls(&columns)
}

pub(super) fn data_row_with_nulls(columns: &[Option<&str>]) -> Message {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for column in columns {
        let Some(column) = column else {
            body.extend(u32::MAX.to_be_bytes());
            continue;
        };
        body.extend(u32::try_from(column.len()).unwrap().to_be_bytes());
        body.extend(column.as_bytes());
    }
    Message { tag: b'D', body }
}

/// An error or a notice with the fields that the server sends.
pub(super) fn report(tag: u8, severity: &str, sqlstate: &str, text: &str) -> Message {
    let fields = format!("S{severity}\0c0\0M{text}\0C{sqlstate}\0dBACKEND\0\0");
    Message {
        tag,
        body: fields.into_bytes(),
    }
}

pub(super) fn command_complete(text: &str) -> Message {
    Message {
        tag: b'C',
        body: format!("{text}\0").into_bytes(),
    }
}
