//! Messages of streaming replication: reading never panics, what is WAL lies within the message,
//! and a status that we send has its fixed size.
#![no_main]

use gs_probackup::format::replication::{
    ServerMessage, Status, encode_status, parse_server_message,
};
use gs_probackup::types::{Lsn, ServerFlavor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (flavor, status_bytes) in [
        (ServerFlavor::OpenGauss, 65),
        (ServerFlavor::PostgreSql { major: 15 }, 34),
    ] {
        match parse_server_message(flavor, data) {
            Ok(ServerMessage::Wal(wal)) => {
                assert!(data.ends_with(wal.bytes) && wal.bytes.len() < data.len());
                assert!(wal.start.0.checked_add(wal.bytes.len() as u64).is_some());
                let status = Status {
                    written: wal.start,
                    flushed: Lsn(wal.server_end.0),
                    time: wal.time,
                    reply_requested: data.len() % 2 == 0,
                };
                let encoded = encode_status(flavor, &status);
                assert_eq!(encoded.len(), status_bytes);
                assert_eq!(encoded[0], b'r');
            }
            Ok(ServerMessage::Keepalive(_) | ServerMessage::ConfigFile) | Err(_) => {}
        }
    }
});
