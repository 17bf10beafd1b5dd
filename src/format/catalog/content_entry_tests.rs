//! Tests of single content lines.

use super::*;

const LINES: [&str; 7] = [
    concat!(
        r#"{"path":"base", "size":"0", "mode":"16832", "is_datafile":"0", "#,
        r#""is_cfs":"0", "crc":"0", "compress_alg":"none", "external_dir_num":"0", "#,
        r#""dbOid":"0", "file_type":"0"}"#,
    ),
    concat!(
        r#"{"path":"base/15000/12345.1", "size":"9321", "mode":"33152", "#,
        r#""is_datafile":"1", "is_cfs":"0", "crc":"2203316410", "compress_alg":"zstd", "#,
        r#""external_dir_num":"0", "dbOid":"15000", "file_type":"0","segno":"1","#,
        r#""n_blocks":"110","n_headers":"4","hdr_crc":"99812331","hdr_off":"0","#,
        r#""hdr_size":"71"}"#,
    ),
    concat!(
        r#"{"path":"base/15000/12346", "size":"-1", "mode":"33152", "is_datafile":"1", "#,
        r#""is_cfs":"0", "crc":"0", "compress_alg":"none", "external_dir_num":"0", "#,
        r#""dbOid":"15000", "file_type":"0","segno":"0","n_blocks":"8"}"#,
    ),
    concat!(
        r#"{"path":"base/16384/16431_compress", "size":"50131", "mode":"33152", "#,
        r#""is_datafile":"1", "is_cfs":"0", "crc":"2269698568", "compress_alg":"zlib", "#,
        r#""external_dir_num":"0", "dbOid":"16384", "file_type":"0","segno":"0","#,
        r#""compressedFile":"1","compressedChunkSize":"4096","compressedAlgorithm":"2","#,
        r#""n_blocks":"24","n_headers":"24","hdr_crc":"83162515","hdr_off":"60072","#,
        r#""hdr_size":"363"}"#,
    ),
    concat!(
        r#"{"path":"pg_tblspc/16385", "size":"0", "mode":"16832", "is_datafile":"0", "#,
        r#""is_cfs":"0", "crc":"0", "compress_alg":"none", "external_dir_num":"0", "#,
        r#""dbOid":"0", "file_type":"0","linked":"/gauss/ts/ts1"}"#,
    ),
    concat!(
        r#"{"path":"PG_9.2_201611171_single/16384/16441", "size":"8", "mode":"33152", "#,
        r#""is_datafile":"0", "is_cfs":"0", "crc":"7", "compress_alg":"none", "#,
        r#""external_dir_num":"1", "dbOid":"0", "file_type":"0"}"#,
    ),
    concat!(
        r#"{"path":"global/pg_control", "size":"8192", "mode":"33152", "#,
        r#""is_datafile":"0", "is_cfs":"0", "crc":"1298312345", "compress_alg":"none", "#,
        r#""external_dir_num":"0", "dbOid":"0", "file_type":"1"}"#,
    ),
];

fn parse(line: &str) -> Result<ContentEntry<'_>, ContentListError> {
    ContentEntry::parse_line(line.as_bytes(), 1)
}

fn encode(entry: &ContentEntry<'_>) -> Result<String, ContentListError> {
    let mut out = Vec::new();
    entry.encode_line(&mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn lines_of_the_original_come_back_byte_for_byte() {
    for line in LINES {
        assert_eq!(encode(&parse(line).unwrap()).unwrap(), format!("{line}\n"));
    }
}

#[test]
fn an_entry_has_what_its_line_says() {
    let entry = parse(LINES[1]).unwrap();
    assert_eq!(entry.path, "base/15000/12345.1");
    assert_eq!(entry.size, EntrySize::Bytes(9321));
    assert_eq!((entry.segno, entry.n_blocks), (1, Some(110)));
    let headers = entry.headers.unwrap();
    assert_eq!((headers.count, headers.size), (4, 71));
    assert!(entry.is_regular() && !entry.is_directory() && !entry.is_symlink());
    assert_eq!(entry.permissions(), 0o600);
    assert_eq!(parse(LINES[2]).unwrap().size, EntrySize::Unchanged);
    assert!(parse(LINES[0]).unwrap().is_directory());
    let linked = parse(LINES[4]).unwrap().linked;
    assert_eq!(linked.as_deref(), Some("/gauss/ts/ts1"));
}

#[test]
fn keys_may_come_in_any_order_and_unknown_ones_are_ignored() {
    let line = concat!(
        r#"{"file_type":"0", "future":"x" ,"dbOid":"0","crc":"0", "#,
        r#""compress_alg":"none","is_datafile":"0","mode":"33152","size":"0","path":"a,"#,
        r#"b"}"#,
    );
    let entry = parse(line).unwrap();
    assert_eq!(entry.path, "a,b");
    assert_eq!(entry.external_dir, 0);
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in [
        "",
        "/etc/passwd",
        "..",
        "base/../../x",
        "base//x",
        "./x",
        "base/",
        "a\tb",
        "a\u{7f}b",
    ] {
        let line = LINES[0].replacen("\"base\"", &format!("\"{path}\""), 1);
        let error = parse(&line).unwrap_err();
        assert!(
            matches!(error, ContentListError::UnsafePath { .. }),
            "{path:?}: {error}"
        );
    }
    let long = format!("\"{}\"", "x".repeat(BACKUP_PATH_BYTES_MAX + 1));
    assert!(parse(&LINES[0].replacen("\"base\"", &long, 1)).is_err());
}

#[test]
fn lines_that_are_no_entry_are_refused() {
    for end in 0..LINES[1].len() {
        assert!(parse(&LINES[1][..end]).is_err(), "cut at {end}");
    }
    for (from, to) in [
        ("\"size\":\"9321\"", "\"size\":\"-2\""),
        ("\"size\":\"9321\"", "\"size\":\"09321\""),
        ("\"size\":\"9321\"", "\"size\":\"9223372036854775808\""),
        ("\"size\":\"9321\"", "\"size\":9321"),
        ("\"size\":\"9321\"", "\"size\":\"9321\", \"size\":\"9321\""),
        ("\"crc\":\"2203316410\"", "\"crc\":\"4294967296\""),
        ("\"crc\":\"2203316410\"", "\"crc\":\"\""),
        ("\"is_datafile\":\"1\"", "\"is_datafile\":\"2\""),
        ("\"zstd\"", "\"brotli\""),
        ("\"zstd\"", "\"\""),
        ("\"file_type\":\"0\"", "\"file_type\":\"7\""),
        ("\"n_headers\":\"4\"", "\"n_headers\":\"131073\""),
        ("\"hdr_crc\":\"99812331\",", ""),
        ("\"external_dir_num\":\"0\"", "\"external_dir_num\":\"-1\""),
        (", \"mode\":\"33152\"", ""),
        ("}", "} "),
        ("\"segno\"", "x\"segno\""),
    ] {
        let line = LINES[1].replacen(from, to, 1);
        assert_ne!(line, LINES[1], "{from}");
        assert!(parse(&line).is_err(), "{to}");
    }
    assert!(ContentEntry::parse_line(b"{\"path\":\"\xFF\"}", 1).is_err());
}

#[test]
fn what_the_original_cannot_read_back_is_not_written() {
    let long = "x".repeat(BACKUP_PATH_BYTES_MAX + 1);
    for path in ["a,b", "a\"b", "a\nb", "a\0b", "", "/a", "a/../b", &long] {
        let entry = ContentEntry::file(path, 0o600, EntrySize::Bytes(1), 0);
        assert!(encode(&entry).is_err(), "{path:?}");
    }
    let mut entry = ContentEntry::directory("pg_tblspc/1", 0o700);
    entry.linked = Some("/a,b".into());
    assert!(encode(&entry).is_err());
    entry.linked = Some("x".repeat(CONTENT_LINE_BYTES_MAX).into());
    assert!(encode(&entry).is_err());
    entry.linked = Some("/plain".into());
    assert!(encode(&entry).is_ok());
    entry.segno = 1;
    assert!(encode(&entry).is_err());
    let mut entry = ContentEntry::file("x", 0o600, EntrySize::Bytes(u64::MAX), 0);
    assert!(encode(&entry).is_err());
    entry.size = EntrySize::Bytes(1);
    entry.external_dir = u32::MAX;
    assert!(encode(&entry).is_err());
}
