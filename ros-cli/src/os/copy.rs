//! Copying a file so that it is on disk, and knowing what was copied.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use ros_api::Digest;
use sha2::{Digest as _, Sha256};

/// Copies a file so that it is on disk; answers its digest. The folder's entry is not on disk yet.
///
/// # Errors
/// When one cannot be read or the other not written.
pub fn copy(from: &Path, to: &Path, mode: u32) -> Result<Digest> {
    let mut source = File::open(from).with_context(|| format!("open {}", from.display()))?;
    let mut target = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let digest =
        pass(&mut source, &mut target).with_context(|| format!("write {}", to.display()))?;
    // FAT has no modes: it refuses some, and keeps none.
    let _ = target.set_permissions(fs::Permissions::from_mode(mode));
    target.sync_all().with_context(|| format!("fsync {}", to.display()))?;
    Ok(digest)
}

/// The digest of what is left to read.
///
/// # Errors
/// When it cannot be read.
pub fn digest(from: &mut impl Read) -> io::Result<Digest> {
    pass(from, &mut io::sink())
}

fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
    }
}
