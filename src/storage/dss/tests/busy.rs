//! Files are read while a server works: no byte of another file is ever taken for one of theirs.

use super::*;
use crate::testing::dss_image::Image;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const OWN: u8 = 0x50;
const OTHERS: u8 = 0x51;

#[test]
fn a_unit_that_goes_to_another_file_and_back_is_never_read_as_the_wrong_one() {
    let scratch = tempfile::tempdir().unwrap();
    let image = Image::create(&scratch.path().join("image")).unwrap();
    image.truncate_plain(OTHERS).unwrap();
    image.extend_plain(OWN).unwrap();
    assert_eq!(image.check().unwrap().findings, []);
    let spec = GroupSpec {
        name: "data".to_owned(),
        devices: vec![image.path().to_owned()],
    };
    let rounds = std::env::var("GS_DSS_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(25, |text| text.parse().unwrap());
    let (done, patience) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut whole, mut empty, mut refused) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rest = 0;
            while !done.load(Ordering::Relaxed) {
                image.truncate_plain(OTHERS).unwrap();
                image.extend_plain(OWN).unwrap();
                // A server rests, too; how long decides what is refused, not what is right.
                rest = (rest + 5) % 8;
                let patience = patience.load(Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(rest + patience));
            }
        });
        // The other thread ends also if an assertion does not hold.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut group = None;
            for round in 0.. {
                if round >= rounds {
                    // That it is whole once is no matter of luck: the server rests longer.
                    if whole > 0 {
                        break;
                    }
                    patience.fetch_add(5, Ordering::Relaxed);
                }
                let opened = match group.take() {
                    Some(group) => Ok(group),
                    None => VolumeGroups::open(std::slice::from_ref(&spec), EngineChoice::Sync),
                };
                let Ok(mut opened) = opened else {
                    refused += 1;
                    continue;
                };
                let found = opened.find("+data/plain", true).unwrap();
                let mut bytes: Vec<u8> = Vec::new();
                let read = opened.group(0).read_file(&found.node, &mut |more| {
                    bytes.extend(more);
                    Ok(())
                });
                let wrong = bytes.iter().position(|byte| *byte != OWN);
                assert_eq!(wrong, None, "{read:?}");
                match read {
                    Ok(0) => empty += 1,
                    Ok(_) => whole += 1,
                    Err(_) => refused += 1,
                }
                let refreshed = opened.group(0).refresh();
                group = refreshed.is_ok().then_some(opened);
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(whole > 0 && whole + empty + refused >= rounds);
    // Beside no server it is read at once, so the busy one is what refused.
    assert!(image.look().is_ok());
}
