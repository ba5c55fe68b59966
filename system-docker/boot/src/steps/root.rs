//! Makes `/` an ordinary mount. The initramfs itself can neither be pivoted away from nor moved, so every
//! container start would fail; a bind of it, moved over it, can, and nothing has to be copied.
//!
//! It comes before STATE is mounted: what is mounted by then stays mounted under the old root as well,
//! and a STATE that cannot be unmounted is not clean at the next boot.

use std::fs;
use std::io;
use std::path::Path;

use ros_api::durable::named;
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change, mount_move};
use rustix::process::{chdir, chroot};

/// Where the bind is while it is made.
const NEW: &str = "/n";

/// Binds, moves, changes root, shares.
pub fn make_movable() -> io::Result<String> {
    let new = Path::new(NEW);
    let failed = |verb: &'static str| move |e: rustix::io::Errno| named(verb, new, &e.into());
    fs::create_dir_all(new).map_err(|e| named("create", new, &e))?;
    mount_bind_recursive("/", new).map_err(failed("bind / at"))?;
    chdir(new).map_err(failed("enter"))?;
    mount_move(".", "/").map_err(failed("move to /"))?;
    chroot(".").map_err(failed("change root to"))?;
    chdir("/").map_err(failed("leave"))?;
    // Mounts that a container makes under a shared path shall be seen by all others.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).map_err(|e| named("share", Path::new("/"), &e.into()))?;
    let _ = fs::remove_dir(new);
    Ok(String::new())
}
