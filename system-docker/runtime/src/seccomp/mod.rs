//! Docker's default seccomp profile as data: everything is refused with EPERM but what is listed, and some of that only
//! with a capability (<https://docs.docker.com/engine/security/seccomp/>). Names that the kernel at hand does not know
//! are left out.

mod custom;
mod program;

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

pub use custom::SeccompProfile;
pub(crate) use program::program;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const AF_VSOCK: u64 = 40;
/// The flags of clone(2) that make a namespace.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// What personality(2) may be given: Linux, 32 bit, no address randomisation, both, and the question.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const ALWAYS: &str = "
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2
fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd
getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername
getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents
io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap
mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64
prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64
ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid
setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid
setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn
socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs
sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4
waitid waitpid write writev arch_prctl modify_ldt";

const WITH_CAPABILITY: [(Capability, &str); 14] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// The profile for a container with these capabilities.
pub(crate) fn default_profile(capabilities: &HashSet<Capability>) -> LinuxSeccomp {
    let mut rules = vec![allow(names(ALWAYS), None)];
    let granted =
        WITH_CAPABILITY.iter().filter(|(capability, _)| capabilities.contains(capability));
    rules.extend(granted.map(|(_, list)| allow(names(list), None)));
    rules.extend(
        PERSONALITIES.map(|value| {
            allow(names("personality"), arg(LinuxSeccompOperator::ScmpCmpEq, value, 0))
        }),
    );
    rules.push(allow(names("socket"), arg(LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK, 0)));
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow(
            names("clone"),
            arg(LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NAMESPACES, 0),
        ));
        rules.push(no_such_call("clone3"));
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]))
        .set_syscalls(Some(rules));
    profile
}

fn names(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

fn allow(names: Vec<String>, args: Option<Vec<LinuxSeccompArg>>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names).set_action(LinuxSeccompAction::ScmpActAllow).set_args(args);
    rule
}

/// A condition on the first argument.
fn arg(op: LinuxSeccompOperator, value: u64, value_two: u64) -> Option<Vec<LinuxSeccompArg>> {
    LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(value)
        .value_two(value_two)
        .op(op)
        .build()
        .ok()
        .map(|arg| vec![arg])
}

/// "No such call" makes the C library fall back to clone(2), whose flags a filter can see.
fn no_such_call(name: &str) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names(name))
        .set_action(LinuxSeccompAction::ScmpActErrno)
        .set_errno_ret(Some(ENOSYS));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(capabilities: &[Capability]) -> HashSet<String> {
        let profile = default_profile(&capabilities.iter().copied().collect());
        let rules = profile.syscalls().clone().unwrap();
        let plain = |rule: &&LinuxSyscall| {
            rule.action() == LinuxSeccompAction::ScmpActAllow && rule.args().is_none()
        };
        rules.iter().filter(plain).flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn a_capability_opens_its_calls() {
        let table = [
            ("mount", Capability::SysAdmin),
            ("reboot", Capability::SysBoot),
            ("settimeofday", Capability::SysTime),
        ];
        for (call, capability) in table {
            assert!(!allowed(&[]).contains(call), "{call}");
            assert!(allowed(&[capability]).contains(call), "{call}");
        }
    }

    #[test]
    fn what_docker_never_allows() {
        for call in [
            "keyctl",
            "add_key",
            "kexec_load",
            "userfaultfd",
            "io_uring_setup",
            "nfsservctl",
            "swapon",
            "unshare",
        ] {
            assert!(!allowed(&[]).contains(call), "{call}");
        }
    }

    #[test]
    fn no_name_is_listed_twice() {
        let list = names(ALWAYS);
        assert_eq!(list.len(), list.iter().collect::<HashSet<_>>().len());
    }

    #[test]
    fn clone_cannot_make_namespaces_without_sys_admin() {
        assert!(!allowed(&[]).contains("clone"));
        assert!(allowed(&[Capability::SysAdmin]).contains("clone"));
    }
}
