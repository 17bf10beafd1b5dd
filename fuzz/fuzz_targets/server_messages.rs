//! Bytes of any server are taken apart without a panic, in the same way however they arrive.
#![no_main]

use gs_probackup::server::ServerReport;
use gs_probackup::server::wire::{BackendMessage, Incoming, Message, column_names, row_values};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut whole = Incoming::default();
    whole.push(data);
    let mut names = Vec::new();
    while let Ok(Some(message)) = whole.next_message() {
        check(&message);
        names.push(message.name());
    }
    let mut parts = Incoming::default();
    let mut found = Vec::new();
    'parts: for part in data.chunks(7) {
        parts.push(part);
        loop {
            match parts.next_message() {
                Ok(Some(message)) => found.push(message.name()),
                Ok(None) => break,
                Err(_) => break 'parts,
            }
        }
    }
    assert_eq!(names, found);
});

fn check(message: &BackendMessage) {
    let BackendMessage::Other(message) = message else {
        return;
    };
    match message {
        Message::DataRow(row) => {
            for columns in 0..3 {
                if let Ok(values) = row_values(row, columns) {
                    assert_eq!(values.len(), columns);
                }
            }
        }
        Message::RowDescription(description) => {
            let _ = column_names(description);
        }
        Message::ErrorResponse(body) => {
            let _ = ServerReport::parse(body.fields()).map(|report| report.to_string());
        }
        Message::NoticeResponse(body) => {
            let _ = ServerReport::parse(body.fields()).map(|report| report.to_string());
        }
        _ => {}
    }
}
