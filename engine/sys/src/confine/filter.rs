#![forbid(unsafe_code)]
//! By seccomp: the system calls that a call's process may make while it runs.
//!
//! The calls in [`calls`] are allowed, and all others fail with `EPERM`, so that a C library that tries one more call
//! than it needs does not end the process. But calls that this code never makes, and that an attacker would make
//! first, end the process at once: the kernel logs that (`type=1326`), and the call is lost. `docs/safety.md` has both
//! lists, each line with its reason.

use std::io;

use libc::c_long;

use super::program::{Rule, Rules, assemble};
use super::{Files, Needs};

/// The kernel's name for this machine (`linux/audit.h`).
#[cfg(target_arch = "x86_64")]
const ARCH: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCH: Option<u32> = Some(0xc000_00b7);
/// There is no list for other machines.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: Option<u32> = None;

/// Confines this thread.
pub(super) fn apply(needs: Needs) -> io::Result<()> {
    let Some(arch) = ARCH else { return Ok(()) };
    let program = assemble(arch, &calls(needs))
        .ok_or_else(|| io::Error::other("the list of system calls is too long"))?;
    match seccompiler::apply_filter(&program) {
        // A kernel without seccomp filters.
        Err(seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
        {
            Ok(())
        }
        applied => applied.map_err(io::Error::other),
    }
}

/// Calls that are allowed with any arguments.
const PLAIN: &[c_long] = &[
    // Transfers on open descriptors.
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
    // Signals to this process itself, its own processor, and its own ids.
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

/// The same calls under names that newer machines do not have.
#[cfg(target_arch = "x86_64")]
const PLAIN_HERE: &[c_long] = &[libc::SYS_poll, libc::SYS_getpgrp, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const PLAIN_HERE: &[c_long] = &[];

/// Calls that no call's process ever makes.
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

/// Calls that look at files and folders.
const LOOKS: &[c_long] = &[
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_uname,
    // Closes many descriptors at once; they are all this process's own.
    libc::SYS_close_range,
];

/// Calls that make files and folders, and remove incomplete ones. They work below one folder only, by its descriptor,
/// which Landlock enforces.
const MAKES: &[c_long] = &[
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_fstatfs,
    libc::SYS_syncfs,
    // Calls by which the C library sets up a second thread.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
];

/// Flags with which a file is not opened for reading only.
const WRITES: libc::c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;

/// The calls with which the two ends of a copy use files.
fn of_files(files: Files, set: &mut impl FnMut(c_long, Rule)) {
    if files == Files::Nothing {
        return;
    }
    LOOKS.iter().for_each(|call| set(*call, Rule::Allow));
    match files {
        Files::Nothing => {}
        Files::Make => {
            MAKES.iter().for_each(|call| set(*call, Rule::Allow));
            // An existing file is never emptied, nor opened for reading and writing.
            let never = libc::O_TRUNC | libc::O_APPEND | libc::O_RDWR;
            set(libc::SYS_openat, Rule::Without(2, never.unsigned_abs()));
            // Small files are made by two threads. `clone3` has its flags in memory, where the filter cannot see them.
            set(libc::SYS_clone, Rule::AllowWith(0, libc::CLONE_THREAD.unsigned_abs()));
            set(libc::SYS_clone3, Rule::Missing);
        }
        Files::Read | Files::Move => {
            set(libc::SYS_openat, Rule::Without(2, WRITES.unsigned_abs()));
            if files == Files::Move {
                set(libc::SYS_unlinkat, Rule::Allow);
                set(libc::SYS_openat2, Rule::Allow);
            }
        }
    }
}

/// The system calls that a call's process may make.
fn calls(needs: Needs) -> Rules {
    let mut rules = Rules::new();
    let mut set = |call: c_long, rule: Rule| {
        // Numbers of system calls are small and not negative.
        rules.extend(u32::try_from(call).ok().map(|number| (number, rule)));
    };
    DEADLY.iter().chain(DEADLY_HERE).for_each(|call| set(*call, Rule::Kill));
    PLAIN.iter().chain(PLAIN_HERE).for_each(|call| set(*call, Rule::Allow));
    // Another process would be an attack. A thread is refused like other calls.
    set(libc::SYS_clone, Rule::KillWithout(0, libc::CLONE_THREAD.unsigned_abs()));
    // Only to the socket's peer, and to no other address.
    set(libc::SYS_sendto, Rule::Exactly(vec![(4, 0)]));
    // On a pipe that others share: only at the descriptor's own position, and without flags that mean another one.
    for call in [libc::SYS_preadv2, libc::SYS_pwritev2] {
        set(call, Rule::Exactly(vec![(3, u64::MAX), (5, u64::from(libc::RWF_NOWAIT.unsigned_abs()))]));
    }
    set(libc::SYS_splice, Rule::Exactly(vec![(1, 0), (3, 0)]));
    // Memory that cannot be executed.
    set(libc::SYS_mmap, Rule::Without(2, libc::PROT_EXEC.unsigned_abs()));
    set(libc::SYS_mprotect, Rule::Without(2, libc::PROT_EXEC.unsigned_abs()));
    let fcntl = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC, libc::F_GETPIPE_SZ, libc::F_SETPIPE_SZ];
    set(libc::SYS_fcntl, Rule::OneOf(1, fcntl.map(libc::c_int::unsigned_abs).to_vec()));
    let mut ioctls = [&[libc::FIONREAD as u32, libc::TIOCGPGRP as u32][..], needs.ioctls].concat();
    if matches!(needs.files, Files::Read | Files::Move) {
        // The width of the terminal that shows the progress, and whether it is a terminal.
        ioctls.extend([libc::TIOCGWINSZ as u32, libc::TCGETS as u32]);
    }
    set(libc::SYS_ioctl, Rule::OneOf(1, ioctls));
    // The child that was started before, by its descriptor.
    set(libc::SYS_waitid, Rule::OneOf(0, vec![libc::P_PIDFD]));
    // Only this process's own processor.
    set(libc::SYS_sched_setaffinity, Rule::OneOf(0, vec![0]));
    of_files(needs.files, &mut set);
    if needs.watches {
        for call in [libc::SYS_epoll_pwait, libc::SYS_epoll_ctl, libc::SYS_timerfd_settime] {
            set(call, Rule::Allow);
        }
        #[cfg(target_arch = "x86_64")]
        set(libc::SYS_epoll_wait, Rule::Allow);
    }
    if needs.uring {
        set(libc::SYS_io_uring_enter, Rule::Allow);
    }
    if needs.reopens {
        // Landlock allows only this process's own pipes to be opened.
        set(libc::SYS_openat, Rule::Allow);
        #[cfg(target_arch = "x86_64")]
        set(libc::SYS_open, Rule::Allow);
        set(libc::SYS_vmsplice, Rule::Allow);
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a filter is installed, the kernel runs it once for each system call.
    #[test]
    fn the_list_fits_a_program_with_everything_that_may_be_needed() {
        let all = Needs {
            reopens: true,
            uring: true,
            watches: true,
            ioctls: &[1, 2, 3],
            unknown: false,
            files: Files::Make,
        };
        for needs in [Needs::default(), all, Needs { files: Files::Move, ..all }] {
            let program = assemble(1, &calls(needs)).expect("fits");
            assert!(program.len() < 300, "{}", program.len());
        }
    }
}
