//! Any text as a kernel command line.
#![no_main]

use cloud_config::schema::DOCUMENT;
use cloud_config::{check, cmdline};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed = cmdline::parse(text);
    let _ = check::check(parsed.config, DOCUMENT, "", &mut Vec::new());
    let words = cmdline::words(text);
    assert!(words.iter().all(|word| !word.is_empty()));
});
