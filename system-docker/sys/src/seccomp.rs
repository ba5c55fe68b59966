//! seccomp(2): a filter that is compiled already.

use std::io;

use nix::errno::Errno;
use nix::libc::{SECCOMP_SET_MODE_FILTER, SYS_seccomp, sock_filter, sock_fprog, syscall};

/// Bytes of one instruction, `struct sock_filter` of `linux/filter.h`.
pub const INSTRUCTION: usize = size_of::<sock_filter>();

/// Puts this thread, and what it executes, under a filter: a classic BPF program as `seccomp_export_bpf(3)` writes it. Needs
/// `CAP_SYS_ADMIN` in this thread's user namespace, or no-new-privileges.
///
/// # Errors
/// `EINVAL` when it is no program of whole instructions that the kernel accepts; `EACCES` without the privilege.
pub fn load(program: &[u8]) -> io::Result<()> {
    let instruction = |bytes: &[u8]| match *bytes {
        [c0, c1, jt, jf, k0, k1, k2, k3] => Ok(sock_filter {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        }),
        _ => Err(Errno::EINVAL),
    };
    let mut filter: Vec<_> =
        program.chunks(INSTRUCTION).map(instruction).collect::<Result<_, _>>()?;
    let len = u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?;
    let program = sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads `len` instructions from a vector that outlives the call, and checks them.
    Errno::result(unsafe { syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_refused() {
        for odd in [&[0u8; 7][..], &[0; 9], &[], &[0xff; 8], &vec![0; INSTRUCTION << 16]] {
            assert_eq!(
                load(odd).unwrap_err().raw_os_error(),
                Some(Errno::EINVAL as i32),
                "{}",
                odd.len()
            );
        }
    }
}
