//! What the C library holds of memory that is free.

use nix::libc::malloc_trim;

/// Gives free memory back to the kernel: after something that took much, in a process that will sleep (malloc_trim(3)).
pub fn give_back() {
    // SAFETY: touches nothing but the allocator's own state, under its own locks.
    unsafe { malloc_trim(0) };
}
