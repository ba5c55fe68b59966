//! What the C library holds of memory that is free.

use nix::libc::{M_ARENA_MAX, malloc_trim, mallopt};

/// All threads take memory from one arena: before the first of them is made, in a process whose threads come and go. What is
/// left in a thread's own arena keeps its pages for as long as nobody takes that arena again (mallopt(3)).
pub fn one_arena() {
    // SAFETY: sets a number under the allocator's own lock.
    unsafe { mallopt(M_ARENA_MAX, 1) };
}

/// Gives free memory back to the kernel: after something that took much, in a process that will sleep (malloc_trim(3)).
pub fn give_back() {
    // SAFETY: touches nothing but the allocator's own state, under its own locks.
    unsafe { malloc_trim(0) };
}
