#![forbid(unsafe_code)]
//! The system calls of a call's process once it runs, by seccomp.
//!
//! Two filters. The first lets through what stands in [`calls`] and answers everything else with `EPERM`: a C library that
//! tries one more call than it needs costs nobody a call. The second ends the process at once for what nothing in here ever
//! does and a stranger who has taken it over would do first: the kernel says so in its log (`type=1326`), and the call is
//! lost. `docs/safety.md` has both lists, each line with its reason.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Needs;

/// What a system call may be asked: one of these, or anything if there are none.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Confines this thread.
pub(super) fn apply(needs: Needs) -> io::Result<()> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        // The crate knows no other machines.
        return Ok(());
    };
    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filters = [
        (deadly(), SeccompAction::Allow, SeccompAction::KillProcess),
        (calls(needs), eperm, SeccompAction::Allow),
    ];
    for (rules, otherwise, matched) in filters {
        let rules = rules.map_err(io::Error::other)?;
        let filter = SeccompFilter::new(rules, otherwise, matched, arch).map_err(io::Error::other)?;
        let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
        match seccompiler::apply_filter(&program) {
            // A kernel without filters.
            Err(seccompiler::Error::Seccomp(error)) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Ok(());
            }
            applied => applied.map_err(io::Error::other)?,
        }
    }
    Ok(())
}

/// Argument `index` is `value`, in its low 32 bits.
fn is(index: u8, value: u32) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    one_of(index, &[value])
}

/// Argument `index` is one of these, in its low 32 bits.
fn one_of(index: u8, values: &[u32]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |value: &u32| {
        SeccompRule::new(vec![SeccompCondition::new(index, Len::Dword, Op::Eq, u64::from(*value))?])
    };
    values.iter().map(rule).collect()
}

/// Argument `index` has these bits exactly as `value` has them.
fn bits(index: u8, mask: u64, value: u64) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    Ok(vec![SeccompRule::new(vec![SeccompCondition::new(index, Len::Qword, Op::MaskedEq(mask), value)?])?])
}

/// What needs no look at its arguments.
const PLAIN: &[c_long] = &[
    // Bytes, of what is open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_fstat,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // Signals to this process itself, and its own place and names.
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getpgid,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same under names that newer machines do without.
#[cfg(target_arch = "x86_64")]
const PLAIN_HERE: &[c_long] = &[libc::SYS_poll, libc::SYS_getpgrp, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const PLAIN_HERE: &[c_long] = &[];

/// What a call's process may do.
fn calls(needs: Needs) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = PLAIN.iter().chain(PLAIN_HERE).map(|call| (*call, Vec::new())).collect();
    // To whom the socket is connected, and to no other name.
    rules.insert(libc::SYS_sendto, bits(4, u64::MAX, 0)?);
    // Memory that can hold no program.
    let no_program = || bits(2, libc::PROT_EXEC as u64, 0);
    rules.insert(libc::SYS_mmap, no_program()?);
    rules.insert(libc::SYS_mprotect, no_program()?);
    let fcntl = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC, libc::F_GETPIPE_SZ, libc::F_SETPIPE_SZ];
    rules.insert(libc::SYS_fcntl, one_of(1, &fcntl.map(libc::c_int::unsigned_abs))?);
    let mut ioctls = vec![libc::FIONREAD as u32, libc::TIOCGPGRP as u32];
    ioctls.extend(needs.ioctls.iter().copied());
    rules.insert(libc::SYS_ioctl, one_of(1, &ioctls)?);
    // The child that was started before, by its descriptor.
    rules.insert(libc::SYS_waitid, is(0, libc::P_PIDFD)?);
    // Nobody else's place.
    rules.insert(libc::SYS_sched_setaffinity, is(0, 0)?);
    if needs.watches {
        for call in [libc::SYS_epoll_pwait, libc::SYS_epoll_ctl, libc::SYS_timerfd_settime] {
            rules.insert(call, Vec::new());
        }
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_epoll_wait, Vec::new());
    }
    if needs.uring {
        rules.insert(libc::SYS_io_uring_enter, Vec::new());
    }
    if needs.reopens {
        // Landlock leaves pipes of our own to be opened, and nothing else.
        rules.insert(libc::SYS_openat, Vec::new());
        rules.insert(libc::SYS_vmsplice, Vec::new());
    }
    Ok(rules)
}

/// What nothing in a call's process ever does.
const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_kill,
];

#[cfg(target_arch = "x86_64")]
const DEADLY_HERE: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const DEADLY_HERE: &[c_long] = &[];

fn deadly() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = DEADLY.iter().chain(DEADLY_HERE).map(|call| (*call, Vec::new())).collect();
    // Another process. A thread is refused like anything else.
    rules.insert(libc::SYS_clone, bits(0, libc::CLONE_THREAD as u64, 0)?);
    Ok(rules)
}
