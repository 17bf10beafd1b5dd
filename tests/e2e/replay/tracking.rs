//! How the replaying server answers questions about changed blocks.

use super::message::{Message, command_complete, data_row_with_nulls, row_description};
use super::recording::{Recording, Statement};
use std::path::Path;

/// Our question how far changes are tracked; the original asks without the schema.
pub(super) const LOCATION: &str = "SELECT pg_catalog.pg_cbm_tracked_location()";
pub(super) const RECORDED_LOCATION: &str = "SELECT pg_cbm_tracked_location()";

/// What only our question for changed blocks has.
pub(super) const CHANGED: &str = "FROM pg_catalog.pg_cbm_get_changed_block(";

/// Object ids of types.
const BOOL: u32 = 16;
const TEXT: u32 = 25;
const OID: u32 = 26;

/// What the server says of changed blocks, if not what was recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracking {
    /// How far changes are tracked, one after another, the last one for ever; `None` is NULL.
    pub(crate) positions: Vec<Option<String>>,
    /// The words that refuse the question for blocks.
    pub(crate) refusal: Option<String>,
}

impl Tracking {
    /// The next position that is not the recorded one.
    pub(super) fn next_position(&mut self) -> Option<Option<String>> {
        if self.positions.len() > 1 {
            return Some(self.positions.remove(0));
        }
        self.positions.first().cloned()
    }
}

pub(super) fn location(position: Option<&str>) -> Vec<Message> {
    vec![
        row_description(&[("pg_cbm_tracked_location", TEXT)]),
        data_row_with_nulls(&[position]),
        command_complete("SELECT 1"),
    ]
}

/// The recorded rows of the range with the columns that the original does not ask for.
pub(super) fn changed_blocks(
    statement: &Statement,
    replies: &[(Statement, Vec<Message>)],
) -> Option<Vec<Message>> {
    let rows = recorded_rows(replies, &statement.parameters)?;
    let columns = [
        ("path", TEXT),
        ("rel_dropped", BOOL),
        ("rel_created", BOOL),
        ("rel_truncated", BOOL),
        ("truncate_blocknum", OID),
        ("changed_block_number", OID),
        ("changed_block_list", TEXT),
    ];
    let mut reply = vec![row_description(&columns)];
    for row in &rows {
        let [path, number, list] = &row[..] else {
            panic!("three columns were recorded: {row:?}");
        };
        let [no, null] = [Some("f"), None];
        let row = [Some(&**path), no, no, no, null, Some(number), Some(list)];
        reply.push(data_row_with_nulls(&row));
    }
    reply.push(command_complete(&format!("SELECT {}", rows.len())));
    Some(reply)
}

/// The recorded rows of a range: path, number and list of blocks.
fn recorded_rows(
    replies: &[(Statement, Vec<Message>)],
    range: &[String],
) -> Option<Vec<Vec<String>>> {
    let position = |text: &String| {
        let (high, low) = text.split_once('/').expect("a position");
        let [high, low] = [high, low].map(|half| u64::from_str_radix(half, 16).unwrap());
        high << 32 | low
    };
    let positions = |range: &[String]| range.iter().map(position).collect::<Vec<u64>>();
    let (_, reply) = replies.iter().find(|(recorded, _)| {
        recorded.text.contains("pg_cbm_get_changed_block")
            && positions(&recorded.parameters) == positions(range)
    })?;
    let rows = reply.iter().filter(|message| message.tag == b'D');
    Some(rows.map(Message::columns).collect())
}

/// Files and blocks that a recorded session was told to have changed.
pub(crate) fn recorded_changes(gauss: &Path, session: &str) -> Vec<(String, Vec<u32>)> {
    let replies = Recording::read(gauss, session).main.replies;
    let mut asked = replies.iter().map(|(statement, _)| statement);
    let asked = asked.find(|statement| statement.text.contains("pg_cbm_get_changed_block"));
    let range = asked.expect("an increment was recorded").parameters.clone();
    let rows = recorded_rows(&replies, &range).expect("it was answered");
    let rows = rows.into_iter().map(|row| {
        let blocks = row[2].split(", ").map(|block| block.parse().unwrap());
        (row[0].clone(), blocks.collect())
    });
    rows.collect()
}
