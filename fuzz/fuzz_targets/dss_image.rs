//! A whole small volume group, changed as the bytes say with checksums kept right: listing, reading
//! and checking it never panic, hang or grow.

#![no_main]

use gs_probackup::testing::dss_image::Image;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    /// One a process: making it anew takes longer than looking at it.
    static IMAGE: RefCell<Image> = RefCell::new(create());
}

fn create() -> Image {
    let name = format!("gs_probackup-fuzz-{}.img", std::process::id());
    Image::create(&std::env::temp_dir().join(name)).expect("a file in the temporary directory")
}

fuzz_target!(|data: &[u8]| {
    // More changes bring nothing that some do not.
    let data = &data[..data.len().min(64 * 13)];
    IMAGE.with_borrow_mut(|image| {
        image.change(data).expect("the image can be written");
        let _ = image.look();
        let _ = image.check();
        image.revert().expect("the image can be written");
    });
});
