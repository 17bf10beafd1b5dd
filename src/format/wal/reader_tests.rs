//! Tests of `reader.rs`.

use super::super::builder::{DIALECTS, SEGMENT_BYTES, SYSTEM_IDENTIFIER, TIMELINE, WalBuilder};
use super::*;

fn first_record() -> Lsn {
    Lsn(WalBuilder::base().0 + 40)
}

/// Reads everything; the starts of the records, and how it ended.
fn read(wal: &WalBuilder, start: Lsn) -> (Vec<Lsn>, Result<EndOfWal, WalError>) {
    let mut reader = WalReader::new(wal.dialect, TIMELINE, SEGMENT_BYTES, start, wal.segments())
        .with_system_identifier(SYSTEM_IDENTIFIER);
    let mut starts = Vec::new();
    loop {
        match reader.next_record() {
            Ok(Some(record)) => starts.push(record.start),
            Ok(None) => return (starts, Ok(reader.end().unwrap().clone())),
            Err(error) => return (starts, Err(error)),
        }
    }
}

#[test]
fn records_are_followed_over_pages_and_segments() {
    for dialect in DIALECTS {
        let mut wal = WalBuilder::new(dialect);
        let mut starts = vec![
            wal.record(9, 0, b"short"),
            // Over two pages, then over a segment and a half.
            wal.record(9, 0, &[1; 9000]),
            wal.record(9, 0, &[2; 50_000]),
            // The header itself is cut by the page boundary.
            wal.fill_page(8),
            wal.record(9, 0, b"cut"),
            // Ends with its page.
            wal.fill_page(0),
            wal.record(9, 0, b"first of a page"),
        ];
        let end = wal.position();
        let (found, result) = read(&wal, first_record());
        assert_eq!(found, starts);
        assert!(matches!(result, Ok(EndOfWal::ZeroLength)));
        assert_eq!(end.0 % 8, 0);
        // Reading may start at any record.
        while !starts.is_empty() {
            assert_eq!(read(&wal, starts[0]).0, starts);
            starts.remove(0);
        }
    }
}

#[test]
fn a_switch_record_ends_its_segment() {
    for dialect in DIALECTS {
        let mut wal = WalBuilder::new(dialect);
        let mut starts = vec![wal.record(9, 0, b"x"), wal.switch()];
        assert_eq!(wal.position().0 % SEGMENT_BYTES, 0);
        let (found, result) = read(&wal, first_record());
        assert_eq!(found, starts);
        let absent = EndOfWal::SegmentAbsent {
            segment: "000000010000000000000004".to_owned(),
        };
        assert_eq!(result.unwrap(), absent);
        starts.push(wal.record(9, 0, b"y"));
        assert_eq!(read(&wal, first_record()).0, starts);
        // PostgreSQL leaves out the page headers behind the switch.
        let page = Lsn(WalBuilder::base().0 + PAGE_BYTES);
        for at in 0..24 {
            *wal.byte(Lsn(page.0 + at)) = 0;
        }
        assert_eq!(read(&wal, first_record()).0, starts);
        // Bytes in the void are noticed, in the page of the switch and behind.
        for at in [page.0 - 1, page.0 + 24, page.0 + 2 * PAGE_BYTES + 100] {
            let mut damaged = wal.clone();
            *damaged.byte(Lsn(at)) = 1;
            let (found, result) = read(&damaged, first_record());
            assert_eq!(found, starts[..2]);
            let Err(WalError::Record { record, fault }) = result else {
                panic!("{result:?}");
            };
            assert_eq!(record, starts[1]);
            assert_eq!(fault, RecordFault::Padding { at: Lsn(at) });
        }
    }
}

#[test]
fn wal_ends_cleanly_before_an_empty_or_recycled_page() {
    for dialect in DIALECTS {
        let mut wal = WalBuilder::new(dialect);
        let starts = vec![wal.record(9, 0, b"x"), wal.fill_page(0)];
        let (found, result) = read(&wal, first_record());
        assert_eq!(found, starts);
        assert_eq!(result.unwrap(), EndOfWal::ZeroPage);
        // A page of an earlier life of the file.
        let page = wal.position();
        wal.record(9, 0, b"old");
        let address = Lsn(page.0 - PAGE_BYTES);
        for (at, byte) in (page.0 + 8..).zip(address.0.to_le_bytes()) {
            *wal.byte(Lsn(at)) = byte;
        }
        let (found, result) = read(&wal, first_record());
        assert_eq!(found, starts);
        assert_eq!(result.unwrap(), EndOfWal::RecycledPage { address });
    }
}

#[test]
fn a_record_cut_short_is_an_error() {
    for dialect in DIALECTS {
        let mut wal = WalBuilder::new(dialect);
        let first = wal.record(9, 0, b"x");
        let cut = wal.record(9, 0, &[3; 40_000]);
        let size = usize::try_from(SEGMENT_BYTES).unwrap();
        let mut no_segment = wal.clone();
        no_segment.bytes.truncate(size);
        let (found, result) = read(&no_segment, first_record());
        assert_eq!(found, [first]);
        assert!(
            matches!(&result, Err(WalError::SegmentAbsent { segment, record })
                if segment == "000000010000000000000004" && *record == cut),
            "{result:?}"
        );
        wal.bytes.truncate(8192);
        let (found, result) = read(&wal, first_record());
        assert_eq!(found, [first]);
        assert!(matches!(result, Err(WalError::Page { .. })), "{result:?}");
    }
}

#[test]
fn postgresql_gives_up_a_record_that_a_crash_cut() {
    let mut wal = WalBuilder::new(DIALECTS[1]);
    let first = wal.fill_page(64);
    let cut = wal.record_bytes(9, 0, &[5; 500]);
    wal.put(&cut[..64]);
    wal.page_header(0, 8);
    let overwrite = wal.record(0, 0xD0, &[0; 16]);
    let (found, result) = read(&wal, first_record());
    assert_eq!(found, [first, overwrite]);
    assert_eq!(result.unwrap(), EndOfWal::ZeroLength);
    // openGauss has no such thing.
    wal.dialect = DIALECTS[0];
    let mut page = PageRuleProbe::header(8);
    assert_eq!(
        page.flags(0x08, Arrival::Continued(7)),
        Err(PageFault::Flags { found: 8 })
    );
}

/// A page of openGauss to damage.
struct PageRuleProbe(Vec<u8>);

impl PageRuleProbe {
    fn header(page: u64) -> PageRuleProbe {
        let mut bytes = vec![0; WAL_PAGE_BYTES];
        bytes[..2].copy_from_slice(&0xD074_u16.to_le_bytes());
        bytes[4] = 1;
        bytes[8..16].copy_from_slice(&(page * PAGE_BYTES).to_le_bytes());
        PageRuleProbe(bytes)
    }

    fn flags(&mut self, flags: u8, arrival: Arrival) -> Result<PageKind, PageFault> {
        self.verify(flags, arrival, 0)
    }

    fn verify(
        &mut self,
        flags: u8,
        arrival: Arrival,
        reserved: u32,
    ) -> Result<PageKind, PageFault> {
        self.0[2] = flags;
        let page = Lsn(u64::from_le_bytes(self.0[8..16].try_into().unwrap()));
        PageRule {
            dialect: WalDialect::OpenGauss,
            magic: 0xD074,
            timeline: TIMELINE,
            segment_bytes: 1 << 20,
            system_identifier: None,
            reserved,
        }
        .verify(&self.0, page, arrival)
    }
}

#[test]
fn a_page_of_shared_storage_states_the_page_size() {
    let mut page = PageRuleProbe::header(8);
    page.0[20..24].copy_from_slice(&8192_u32.to_le_bytes());
    let fault = Err(PageFault::Reserved { found: 8192 });
    assert_eq!(page.flags(4, Arrival::Start), Ok(PageKind::Regular));
    // Then all pages do.
    assert_eq!(
        page.verify(4, Arrival::Boundary, 8192),
        Ok(PageKind::Regular)
    );
    assert_eq!(page.verify(4, Arrival::Boundary, 0), fault);
    page.0[20] = 1;
    let fault = Err(PageFault::Reserved { found: 8193 });
    assert_eq!(page.flags(4, Arrival::Start), fault);
}

#[test]
fn the_page_that_reading_starts_on_may_be_of_the_timeline_before() {
    let mut wal = WalBuilder::new(DIALECTS[0]);
    wal.record(9, 0, b"x");
    let read = |timeline| {
        WalReader::new(
            wal.dialect,
            TimelineId(timeline),
            SEGMENT_BYTES,
            first_record(),
            wal.segments(),
        )
        .next_record()
    };
    assert!(read(2).unwrap().is_some());
    let error = read(0).unwrap_err();
    assert!(matches!(
        error,
        WalError::Page {
            fault: PageFault::Timeline {
                found: 1,
                expected: 0
            },
            ..
        }
    ));
}

#[test]
fn impossible_arguments_are_refused() {
    let mut wal = WalBuilder::new(DIALECTS[0]);
    wal.record(9, 0, &[1; 9000]);
    let base = WalBuilder::base().0;
    for start in [0, 0x18, 0x27, 0x29, 0x2C, 0x2000, 0x2010] {
        let lsn = Lsn(base + start);
        let result = read(&wal, lsn).1;
        assert!(
            matches!(&result, Err(WalError::Start { lsn: found }) if *found == lsn),
            "{start:x} {result:?}"
        );
    }
    let error = read(&wal, Lsn(u64::MAX - 7)).1;
    assert!(matches!(error, Err(WalError::Start { .. })));
    let mut reader = WalReader::new(
        WalDialect::PostgreSql { major: 14 },
        TIMELINE,
        SEGMENT_BYTES,
        first_record(),
        wal.segments(),
    );
    let error = reader.next_record().unwrap_err();
    assert!(matches!(error, WalError::UnknownDialect { major: 14 }));
    for found in [0, 1, 4096, SEGMENT_BYTES + 1, 1 << 33] {
        let mut reader =
            WalReader::new(wal.dialect, TIMELINE, found, first_record(), wal.segments());
        let error = reader.next_record().unwrap_err();
        assert!(matches!(error, WalError::SegmentSize { .. }), "{error:?}");
    }
}

#[test]
fn a_segment_of_the_wrong_length_or_cluster_is_refused() {
    let mut wal = WalBuilder::new(DIALECTS[0]);
    wal.record(9, 0, b"x");
    let mut reader = WalReader::new(wal.dialect, TIMELINE, SEGMENT_BYTES, first_record(), |_| {
        Ok::<_, std::io::Error>(Some(vec![0; 100]))
    });
    let error = reader.next_record().unwrap_err();
    assert_eq!(
        error.to_string(),
        "WAL segment \"000000010000000000000003\" has 100 bytes, expected 32768"
    );
    let mut reader = WalReader::new(
        wal.dialect,
        TIMELINE,
        SEGMENT_BYTES,
        first_record(),
        wal.segments(),
    )
    .with_system_identifier(5);
    let error = reader.next_record().unwrap_err();
    assert_eq!(
        error.to_string(),
        "WAL page at 0/18000 is not valid: system identifier 1311768467463790320, expected 5"
    );
    let mut reader = WalReader::new(wal.dialect, TIMELINE, SEGMENT_BYTES, first_record(), |_| {
        Err::<Option<Vec<u8>>, _>(std::io::Error::other("no such device"))
    });
    let error = reader.next_record().unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "no such device");
}
