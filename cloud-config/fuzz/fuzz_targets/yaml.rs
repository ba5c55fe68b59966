//! Any text as a configuration: it is read, checked, merged with itself, typed, hidden and written again, and what was
//! kept of it is right: written and read again, nothing is complained about.
#![no_main]

use cloud_config::redact::redact;
use cloud_config::schema::DOCUMENT;
use cloud_config::{Layer, check, edit, layers, tree};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    let Some(node) = layers::checked(&text, Layer::User, "fuzz", &mut found) else { return };
    for wrong in &found {
        let _ = (wrong.with_source(&text), wrong.to_json());
    }
    let merged = tree::merge(node.clone(), node.clone());
    let _ = check::to_json(&merged, DOCUMENT);
    let _ = redact(merged, DOCUMENT);
    let Ok(written) = edit::text_of(&node) else { return };
    let mut again = Vec::new();
    let kept = layers::checked(&written, Layer::User, "written", &mut again);
    let complaint = again.iter().find(|wrong| wrong.severity == cloud_config::Severity::Error);
    assert!(kept.is_some() && complaint.is_none(), "{written}\n{complaint:?}");
});
