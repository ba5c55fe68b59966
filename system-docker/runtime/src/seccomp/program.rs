//! A filter as the kernel takes it. libseccomp needs 13 ms for Docker's profile, a fifth of a start, and most containers
//! have the same: what one shim compiled, the next ones read.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
};
use ros_api::Digest;
use ros_sys::seccomp::INSTRUCTION;
use rustix::fs::{MemfdFlags, memfd_create};

use super::EPERM;
use crate::RuntimeError;

/// Programs that are kept; one has some 10 kB.
const MOST: usize = 64;

/// The program of `filter`, from the folder `known` when an earlier shim put it there.
pub(crate) fn program(filter: &LinuxSeccomp, known: &Path) -> Result<Vec<u8>, RuntimeError> {
    let text = serde_json::to_vec(filter).map_err(io::Error::from)?;
    let file = known.join(Digest::of(&text).hex());
    if let Ok(program) = fs::read(&file)
        && !program.is_empty()
        && program.len() % INSTRUCTION == 0
    {
        return Ok(program);
    }
    let program = compile(filter)?;
    // libseccomp's megabyte, for which this shim has no further use.
    ros_sys::memory::give_back();
    // A program that cannot be kept is compiled again the next time.
    if let Err(e) = keep(&program, &file, known) {
        eprintln!("{}: {e}", file.display());
    }
    Ok(program)
}

/// By rename, since shims start at the same time.
fn keep(program: &[u8], file: &Path, known: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(known)?;
    if fs::read_dir(known)?.count() >= MOST {
        fs::remove_dir_all(known)?;
        fs::DirBuilder::new().mode(0o700).create(known)?;
    }
    let new = file.with_extension(std::process::id().to_string());
    fs::write(&new, program)?;
    fs::rename(&new, file)
}

/// Classic BPF. Calls that libseccomp has no name for are left out: the kernel at hand is as old as it, or they are refused.
fn compile(filter: &LinuxSeccomp) -> Result<Vec<u8>, RuntimeError> {
    let failed =
        |e: SeccompError| RuntimeError::Refused(format!("compile the seccomp filter: {e}"));
    let default = action(filter.default_action(), filter.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    for arch in filter.architectures().iter().flatten() {
        context.add_arch(machine(*arch)?).map_err(failed)?;
    }
    for rule in filter.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        // libseccomp refuses a rule that says what holds anyway.
        if action == default {
            continue;
        }
        let conditions = conditions(rule.args().as_deref().unwrap_or_default());
        for call in rule.names().iter().filter_map(|name| ScmpSyscall::from_name(name).ok()) {
            for all_of in &conditions {
                context.add_rule_conditional(action, call, all_of).map_err(failed)?;
            }
        }
    }
    let mut file =
        File::from(memfd_create("seccomp", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    context.export_bpf(&file).map_err(failed)?;
    let mut program = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut program)?;
    Ok(program)
}

/// What a rule's arguments ask for: one of these lists, all of it. Of one argument libseccomp compares once a list, so that
/// several comparisons of one are alternatives, as they are for runc.
fn conditions(args: &[LinuxSeccompArg]) -> Vec<Vec<ScmpArgCompare>> {
    let compare = |arg: &LinuxSeccompArg| {
        // Six arguments at most: what is more than that libseccomp refuses.
        let index = u32::try_from(arg.index()).unwrap_or(u32::MAX);
        let (operator, value) = comparison(arg);
        ScmpArgCompare::new(index, operator, value)
    };
    let indexes: HashSet<usize> = args.iter().map(LinuxSeccompArg::index).collect();
    if indexes.len() == args.len() {
        return vec![args.iter().map(compare).collect()];
    }
    args.iter().map(|arg| vec![compare(arg)]).collect()
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, RuntimeError> {
    let refused = |what: String| RuntimeError::Refused(format!("seccomp filter: {what}"));
    let number = errno.unwrap_or(EPERM);
    let out_of_range = || refused(format!("errno {number} is out of range"));
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => {
            ScmpAction::Errno(i32::try_from(number).map_err(|_| out_of_range())?)
        }
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(number).map_err(|_| out_of_range())?)
        }
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(refused("SCMP_ACT_NOTIFY has nobody who would be asked".into()));
        }
    })
}

/// The comparison and what is compared with. A masked one has the mask first, and what is to be left of it second
/// (<https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>).
fn comparison(arg: &LinuxSeccompArg) -> (ScmpCompareOp, u64) {
    let operator = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            return (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0));
        }
    };
    (operator, arg.value())
}

/// libseccomp's machine of the same name.
fn machine(arch: Arch) -> Result<ScmpArch, RuntimeError> {
    let name = serde_json::to_value(arch).map_err(io::Error::from)?;
    let known = name.as_str().and_then(|name| name.parse().ok());
    known.ok_or_else(|| RuntimeError::Refused(format!("seccomp filter: unknown machine {name}")))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability;

    use super::super::default_profile;
    use super::*;

    const X86_64: u32 = 0xC000_003E;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7FFF_0000;
    const ERRNO: u32 = 0x0005_0000;
    const KILL: u32 = 0;
    const NEW_USER: u64 = 0x1000_0000;
    const SIGCHLD: u64 = 17;

    /// What the kernel would answer: `struct seccomp_data` of `linux/seccomp.h` run through classic BPF.
    fn answer(program: &[u8], arch: u32, call: u32, arguments: &[u64]) -> u32 {
        let mut data = Vec::new();
        data.extend(call.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        let missing = std::iter::repeat_n(&0u64, 6 - arguments.len());
        arguments.iter().chain(missing).for_each(|argument| data.extend(argument.to_le_bytes()));
        let word = |at: u32| {
            let at = at as usize;
            u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
        };
        let (mut at, mut a, mut memory) = (0, 0u32, [0u32; 16]);
        loop {
            let &[c0, c1, jt, jf, k0, k1, k2, k3] = &program[at * INSTRUCTION..][..INSTRUCTION]
            else {
                panic!("half an instruction")
            };
            let k = u32::from_le_bytes([k0, k1, k2, k3]);
            let jump = |yes: bool| usize::from(if yes { jt } else { jf });
            at += 1;
            match u16::from_le_bytes([c0, c1]) {
                0x20 => a = word(k),
                0x60 => a = memory[k as usize],
                0x02 => memory[k as usize] = a,
                0x54 => a &= k,
                0x05 => at += k as usize,
                0x15 => at += jump(a == k),
                0x25 => at += jump(a > k),
                0x35 => at += jump(a >= k),
                0x45 => at += jump(a & k != 0),
                0x06 => return k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_default_profile_answers_as_dockers() {
        let plain = compile(&default_profile(&HashSet::new())).unwrap();
        let admin = compile(&default_profile(&HashSet::from([Capability::SysAdmin]))).unwrap();
        // The numbers of calls are those of arch/x86/entry/syscalls.
        type Case<'a> = (&'a str, u32, u32, &'a [u64], u32, u32);
        let table: [Case<'_>; 14] = [
            ("read", X86_64, 0, &[], ALLOW, ALLOW),
            ("mount", X86_64, 165, &[], ERRNO | 1, ALLOW),
            ("add_key", X86_64, 248, &[], ERRNO | 1, ERRNO | 1),
            ("a call that nobody knows", X86_64, 9999, &[], ERRNO | 1, ERRNO | 1),
            ("fork by clone", X86_64, 56, &[SIGCHLD], ALLOW, ALLOW),
            ("a user namespace by clone", X86_64, 56, &[NEW_USER | SIGCHLD], ERRNO | 1, ALLOW),
            ("a mount namespace by clone", X86_64, 56, &[0x2_0000 | SIGCHLD], ERRNO | 1, ALLOW),
            ("clone3", X86_64, 435, &[], ERRNO | 38, ALLOW),
            ("an inet socket", X86_64, 41, &[2], ALLOW, ALLOW),
            ("a vsock socket", X86_64, 41, &[40], ERRNO | 1, ERRNO | 1),
            ("Linux's personality", X86_64, 135, &[0], ALLOW, ALLOW),
            ("another personality", X86_64, 135, &[7], ERRNO | 1, ERRNO | 1),
            ("clone of 32 bits", I386, 120, &[NEW_USER | SIGCHLD], ERRNO | 1, ALLOW),
            ("another machine", 0x1234, 0, &[], KILL, KILL),
        ];
        for (what, arch, call, arguments, without, with) in table {
            let is = |program| answer(program, arch, call, arguments);
            assert_eq!((is(&plain), is(&admin)), (without, with), "{what}");
        }
    }

    #[test]
    fn what_was_compiled_is_read_again_and_not_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let known = dir.path().join("known");
        let first = program(&default_profile(&HashSet::new()), &known).unwrap();
        let file = fs::read_dir(&known).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read(&file).unwrap(), first);
        for torn in [&first[..9], &[]] {
            fs::write(&file, torn).unwrap();
            assert_eq!(program(&default_profile(&HashSet::new()), &known).unwrap(), first);
        }
        for n in 0..2 * MOST {
            fs::write(known.join(n.to_string()), b"").unwrap();
        }
        program(&default_profile(&HashSet::from([Capability::Bpf])), &known).unwrap();
        assert_eq!(fs::read_dir(&known).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut filter = default_profile(&HashSet::new());
        filter.set_default_action(LinuxSeccompAction::ScmpActNotify);
        assert!(compile(&filter).unwrap_err().to_string().contains("SCMP_ACT_NOTIFY"));
    }
}
