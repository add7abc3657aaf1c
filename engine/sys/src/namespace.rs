#![allow(unsafe_code)] // unshare(2) can take the descriptor table apart; this file never asks for that
//! A PID namespace for the children of this process, so that the kernel ends all of them with the first one.
//!
//! The lab uses it: [`leave`] in a small process of its own, [`settle`] in the child that becomes process 1 there.

use std::io;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{getgid, getuid};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

/// From now on the children of this process live in a PID and mount namespace of their own; this process stays.
///
/// Tried without a user namespace first (root may), then through one in which the caller keeps its own uid and gid.
/// The calling process must have one thread, and can do little afterwards: it should start one child and wait for it.
///
/// # Errors
/// Where the system forbids namespaces (`EPERM`, `EINVAL`, `ENOSPC`, `ENOSYS`). After a failure the process may be in
/// a user namespace without a mapping, so its only sensible next step is to exit.
pub fn leave() -> io::Result<()> {
    let rooms = UnshareFlags::NEWPID | UnshareFlags::NEWNS;
    if unshare(rooms).is_ok() {
        return Ok(());
    }
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    unshare(rooms | UnshareFlags::NEWUSER)?;
    // user_namespaces(7): without privilege outside, setgroups has to be given up before a group may be mapped.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1\n"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1\n"))?;
    carry_mount_right()
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the one danger that rustix names is UnshareFlags::FILES, which would give threads different descriptor
    // tables. Both callers above build `flags` from NEWPID, NEWNS and NEWUSER only.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Lets `CAP_SYS_ADMIN` of the new user namespace survive the execve of the child, which needs it to mount `/proc`.
fn carry_mount_right() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable |= CapabilitySet::SYS_ADMIN;
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, true)?;
    Ok(())
}

/// For process 1 of the namespace: gives it a `/proc` that shows its own processes, then drops the right to mount.
///
/// Returns whether `/proc` is the namespace's own. Where the system masks parts of `/proc` it forbids a new one; then
/// the outer one stays, in which `/proc/self` is right but process numbers are not.
pub fn settle() -> io::Result<bool> {
    let private = mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let own = private.and_then(|()| mount("proc", "/proc", "proc", flags, None)).is_ok();
    if !getuid().is_root() {
        rustix::thread::clear_ambient_capability_set()?;
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets)?;
    }
    Ok(own)
}
