//! Tests of `replication.rs`; the openGauss bytes are out of a recorded backup.

use super::*;

const GAUSS: ServerFlavor = ServerFlavor::OpenGauss;
const POSTGRESQL: ServerFlavor = ServerFlavor::PostgreSql { major: 15 };

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn recorded_messages_of_opengauss_are_understood() {
    let first = bytes("6b0000002400000000010000000100000048fafde9c103030000019e00f4550000");
    assert_eq!(first.len(), 33);
    for (message, server_end, time, reply_requested) in [
        (first, 0x2400_0000, 848_556_319_439_432, false),
        (
            bytes("6b480100240000000001000000010000005ffafde9c10303000100000000000000"),
            0x2400_0148,
            848_556_319_439_455,
            true,
        ),
    ] {
        assert_eq!(
            parse_server_message(GAUSS, &message),
            Ok(ServerMessage::Keepalive(Keepalive {
                server_end: Lsn(server_end),
                time,
                reply_requested,
            }))
        );
    }
    let mut wal = bytes(
        "77b801002400000000e80100240000000045e60aeac1030300e8010024000000000000000000000000\
         0000000000000000000000000000000000e60aeac1030300",
    );
    wal.extend_from_slice(b"forty-eight bytes");
    assert_eq!(
        parse_server_message(GAUSS, &wal),
        Ok(ServerMessage::Wal(WalMessage {
            start: Lsn(0x2400_01B8),
            server_end: Lsn(0x2400_01E8),
            time: 848_556_320_286_277,
            bytes: b"forty-eight bytes",
        }))
    );
    assert_eq!(
        parse_server_message(GAUSS, b"mport = 1"),
        Ok(ServerMessage::ConfigFile)
    );
}

#[test]
fn recorded_status_of_gs_probackup_is_what_we_send() {
    for (recorded, flushed, time) in [
        (
            "720000000000000000000000000000000048010024000000000000000000000000d4060000000000480300\
             000007000000461afee9c103030000eeef4f7f000060",
            0x2400_0148,
            848_556_319_447_622,
        ),
        (
            "720000000000000000000000000000000048010026000000000000000000000000a2030000000000480300\
             00000700000099cadfeac1030300009cc2797f000060",
            0x2600_0148,
            848_556_334_238_361,
        ),
    ] {
        let mut recorded = bytes(recorded);
        // What the original leaves undefined: "apply read", padding, flags.
        for undefined in [33..41, 58..65] {
            recorded[undefined].fill(0);
        }
        let status = Status {
            written: Lsn(flushed),
            flushed: Lsn(flushed),
            time,
            reply_requested: false,
        };
        assert_eq!(encode_status(GAUSS, &status), recorded);
    }
}

#[test]
fn messages_of_postgresql_are_as_its_documentation_says() {
    let mut wal = bytes("77 0000000003000000 00000000030001E8 0002FF4B00000001");
    wal.extend_from_slice(b"WAL");
    assert_eq!(
        parse_server_message(POSTGRESQL, &wal),
        Ok(ServerMessage::Wal(WalMessage {
            start: Lsn(0x300_0000),
            server_end: Lsn(0x300_01E8),
            time: 0x0002_FF4B_0000_0001,
            bytes: b"WAL",
        }))
    );
    let keepalive = bytes("6B 00000000030001E8 FFFFFFFFFFFFFFFF 01");
    assert_eq!(
        parse_server_message(POSTGRESQL, &keepalive),
        Ok(ServerMessage::Keepalive(Keepalive {
            server_end: Lsn(0x300_01E8),
            time: -1,
            reply_requested: true,
        }))
    );
    let status = Status {
        written: Lsn(0x300_01E8),
        flushed: Lsn(0x300_0000),
        time: 1,
        reply_requested: true,
    };
    assert_eq!(
        encode_status(POSTGRESQL, &status),
        bytes("72 00000000030001E8 0000000003000000 0000000000000000 0000000000000001 01")
    );
}

#[test]
fn anything_else_is_refused_by_its_reason() {
    let length = |kind, found, expected| ReplicationError::Length {
        kind,
        found,
        expected,
    };
    let position = |start, length| ReplicationError::Position {
        start: Lsn(start),
        length,
    };
    let mut beyond = vec![b'w'; 26];
    beyond[1..9].fill(0xFF);
    for (flavor, payload, error) in [
        (GAUSS, vec![], ReplicationError::Empty),
        (GAUSS, vec![b'd'; 9], ReplicationError::Type { found: b'd' }),
        (
            POSTGRESQL,
            vec![b'm'; 9],
            ReplicationError::Type { found: b'm' },
        ),
        (GAUSS, vec![b'w'], length('w', 1, 65)),
        (GAUSS, vec![b'w'; 64], length('w', 64, 65)),
        (GAUSS, vec![b'k'; 32], length('k', 32, 33)),
        (GAUSS, vec![b'k'; 34], length('k', 34, 33)),
        (POSTGRESQL, vec![b'w'; 24], length('w', 24, 25)),
        (POSTGRESQL, vec![b'k'; 17], length('k', 17, 18)),
        (POSTGRESQL, vec![b'k'; 19], length('k', 19, 18)),
        (POSTGRESQL, beyond, position(u64::MAX, 1)),
    ] {
        assert_eq!(parse_server_message(flavor, &payload), Err(error));
    }
    let mut nowhere = vec![0; 65];
    nowhere[0] = b'w';
    assert_eq!(parse_server_message(GAUSS, &nowhere), Err(position(0, 0)));
}

#[test]
fn time_counts_from_2000() {
    assert_eq!(replication_time(EPOCH_2000_MICROSECONDS), 0);
    assert_eq!(replication_time(i64::MIN), i64::MIN);
}
