//! Layers: whatever the stream is, it is refused or unpacked, and what was unpacked gives the same stream again.
#![no_main]

use std::cell::RefCell;

use ros_image::fuzzing::Layers;

thread_local! {
    /// In memory: each layer is synced to what it is on.
    static LAYERS: RefCell<Layers> = RefCell::new(Layers::new(&tempfile::tempdir_in("/dev/shm").unwrap().keep()));
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| LAYERS.with_borrow_mut(|layers| layers.import(data)));
