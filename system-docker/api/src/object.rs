//! What a file is called in the object pool of the image store: builder and store have to agree on it.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::Digest;

/// What a file has besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Name of the object with this content and metadata.
#[must_use]
pub fn key(content: &Digest, meta: &Meta) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"ros-object-1\0");
    hash.update(content.bytes());
    for number in [meta.mode, meta.uid, meta.gid, meta.mtime.1] {
        hash.update(number.to_le_bytes());
    }
    hash.update(meta.mtime.0.to_le_bytes());
    for (name, value) in &meta.xattrs {
        for part in [name, value] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Digest::from_bytes(hash.finalize().into())
}
