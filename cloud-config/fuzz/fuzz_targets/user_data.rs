//! Any bytes as user data, in whichever of its forms: taken apart and checked.
#![no_main]

use cloud_config::userdata::{diagnose, unpack};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let unpacked = unpack(bytes, "fuzz", &json!({ "v1": { "instance_id": "i" } }));
    assert!(unpacked.documents.len() + unpacked.scripts.len() <= 512);
    let _ = diagnose(bytes, "fuzz");
});
