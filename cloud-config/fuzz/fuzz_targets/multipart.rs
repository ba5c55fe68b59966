//! Multiparts: the first byte says how parts are headed, `\xff` separates them, so that the fuzzer need not find out
//! what a boundary is.
#![no_main]

use cloud_config::userdata::unpack;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const KINDS: [&str; 6] = [
    "text/cloud-config",
    "text/x-shellscript",
    "text/jinja2",
    "text/x-include-url",
    "multipart/mixed; boundary=b",
    "text/plain",
];
const ENCODINGS: [&str; 4] = ["7bit", "base64", "quoted-printable", "binary"];

fuzz_target!(|bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_first() else { return };
    let mut mail = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\n".to_vec();
    for (index, body) in rest.split(|byte| *byte == 0xff).enumerate() {
        let at = usize::from(*head) + index;
        let (kind, encoding) = (KINDS[at % KINDS.len()], ENCODINGS[at / 6 % ENCODINGS.len()]);
        let header = format!("--b\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
        mail.extend_from_slice(header.as_bytes());
        mail.extend_from_slice(body);
        mail.extend_from_slice(b"\r\n");
    }
    mail.extend_from_slice(b"--b--\r\n");
    let _ = unpack(&mail, "fuzz", &json!({}));
});
