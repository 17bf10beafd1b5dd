//! `pg_probackup.conf` and times: reading never panics, what is read is written and read back.
#![no_main]

use gs_probackup::format::catalog::{InstanceConf, NoZone, format_timestamp, parse_timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(seconds) = parse_timestamp(text, NoZone::Utc)
    {
        let again = parse_timestamp(&format_timestamp(seconds), NoZone::Utc);
        assert_eq!(again, Some(seconds), "{text:?}");
    }
    let Ok(conf) = InstanceConf::parse(bytes) else {
        return;
    };
    let again = InstanceConf::parse(conf.encode().as_bytes());
    assert_eq!(again, Ok(conf));
});
