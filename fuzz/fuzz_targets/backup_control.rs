//! `backup.control`: no bytes make it panic; what is read is written and read back the same.
#![no_main]

use gs_probackup::format::catalog::{BackupControl, BackupStatus, replace_status};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let Ok((control, warnings)) = BackupControl::parse(bytes) else {
        return;
    };
    for warning in warnings {
        let text = warning.describe(Path::new("/backup.control"));
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    if control.check_storable().is_ok() {
        let (again, warnings) = BackupControl::parse(control.encode().as_bytes())
            .expect("what was checked can be read back");
        assert_eq!(again, control);
        assert_eq!(warnings, []);
    }
    let changed = replace_status(bytes, BackupStatus::Orphan).expect("there is a status");
    let (changed, _) = BackupControl::parse(&changed).expect("only the status changed");
    assert_eq!(
        changed,
        BackupControl {
            status: BackupStatus::Orphan,
            ..control
        }
    );
});
