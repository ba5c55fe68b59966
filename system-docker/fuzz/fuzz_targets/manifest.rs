//! Manifests, indexes, configs, names: what a registry or an archive says an image is.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ros_image::fuzzing::manifest(data));
