//! A door for the fuzz targets in `system-docker/fuzz`; built with `cfg(fuzzing)` only.

use crate::wire::{self, Answer, Command};

/// What a shim may send, in whatever pieces: frames come out whole, and in all what went in.
pub fn frames(data: &[u8]) {
    let (mut buffer, mut taken) = (Vec::new(), Vec::new());
    for piece in data.chunks(7) {
        buffer.extend_from_slice(piece);
        loop {
            match wire::take_frame(&mut buffer) {
                Ok(Some(frame)) => {
                    taken.extend(wire::head(frame.stream.number(), frame.bytes.len()));
                    taken.extend(frame.bytes);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    taken.extend(buffer);
    assert_eq!(taken, data, "bytes were lost");
    let _ = serde_json::from_slice::<Command>(data);
    let _ = serde_json::from_slice::<Answer>(data);
}
