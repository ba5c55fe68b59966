//! The marker that the network is ready: what the service's health check looks for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Marks the network ready, saying why; the first reason stays.
///
/// # Errors
/// When the marker cannot be written.
pub fn mark(path: &Path, why: &str) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::write(path, format!("{why}\n")).with_context(|| format!("write {}", path.display()))
}

/// Takes the marker of an earlier run away.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn clear(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
