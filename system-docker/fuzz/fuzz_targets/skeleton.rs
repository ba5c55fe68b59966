//! Skeletons of layers: whatever they say, they are refused or give ranges of the blob and a stream.
#![no_main]

use std::cell::RefCell;

use ros_image::fuzzing::Skeletons;

thread_local! {
    static SKELETONS: RefCell<Skeletons> =
        RefCell::new(Skeletons::new(&tempfile::tempdir_in("/dev/shm").unwrap().keep()));
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| SKELETONS.with_borrow(|skeletons| skeletons.read(data)));
