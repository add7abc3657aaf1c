#![allow(unsafe_code)] // stands for the functions of two C libraries
//! The layer on top of stand-in functions that record their calls.

use std::cell::RefCell;
use std::ffi::c_uint;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use xengnttab_sys::xentoollog_logger;

use super::*;
use crate::mapping::Mapping;

thread_local! {
    /// The calls made in this thread, in short.
    static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn note(call: impl Into<String>) {
    CALLS.with_borrow_mut(|calls| calls.push(call.into()));
}

/// The calls since the last time.
fn calls() -> Vec<String> {
    CALLS.take()
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: takes nothing.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the place is this thread's, for as long as it runs.
    unsafe { place.write(errno) };
    -1
}

/// A handle is an eventfd: it receives what is sent on it.
unsafe extern "C" fn open(_: *mut xentoollog_logger, _: c_uint) -> *mut xenevtchn_handle {
    note("open");
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    Box::into_raw(Box::new(counter)).cast()
}

unsafe extern "C" fn close(at: *mut xenevtchn_handle) -> c_int {
    note("close");
    // SAFETY: made by `open`, and closed once.
    drop(unsafe { Box::from_raw(at.cast::<OwnedFd>()) });
    0
}

fn counter<'a>(at: *mut xenevtchn_handle) -> &'a OwnedFd {
    // SAFETY: made by `open`, and not closed yet.
    unsafe { &*at.cast::<OwnedFd>() }
}

unsafe extern "C" fn fd(at: *mut xenevtchn_handle) -> c_int {
    counter(at).as_raw_fd()
}

unsafe extern "C" fn notify(at: *mut xenevtchn_handle, port: u32) -> c_int {
    note(format!("notify {port}"));
    rustix::io::write(counter(at), &1u64.to_ne_bytes()).map_or_else(|_| fail(libc::EIO), |_| 0)
}

unsafe extern "C" fn bind_unbound(_: *mut xenevtchn_handle, domain: u32) -> c_int {
    if domain == 9 { fail(libc::ENOSPC) } else { 70 + domain as c_int }
}

/// Domain 8 does not exist, and for domain 5 the caller lacks permission.
unsafe extern "C" fn bind_interdomain(_: *mut xenevtchn_handle, domain: u32, port: u32) -> c_int {
    match (domain, port) {
        (8, _) => fail(libc::ESRCH),
        (5, _) => fail(libc::EACCES),
        (_, IMPOSSIBLE_PORT | 1) => fail(libc::EINVAL),
        _ => 80 + port as c_int,
    }
}

unsafe extern "C" fn bind_virq(_: *mut xenevtchn_handle, _: c_uint) -> c_int {
    fail(libc::ENOSYS)
}

unsafe extern "C" fn pending(at: *mut xenevtchn_handle) -> c_int {
    note("pending");
    rustix::io::read(counter(at), &mut [0u8; 8]).map_or_else(|_| fail(libc::EIO), |_| 77)
}

unsafe extern "C" fn unmask(_: *mut xenevtchn_handle, port: u32) -> c_int {
    note(format!("unmask {port}"));
    0
}

fn fake_events() -> Events {
    Events {
        xenevtchn_open: open,
        xenevtchn_close: close,
        xenevtchn_fd: fd,
        xenevtchn_notify: notify,
        xenevtchn_bind_unbound_port: bind_unbound,
        xenevtchn_bind_interdomain: bind_interdomain,
        xenevtchn_bind_virq: bind_virq,
        xenevtchn_unbind: unmask,
        xenevtchn_pending: pending,
        xenevtchn_unmask: unmask,
        xenevtchn_restrict: None,
        xenevtchn_fdopen: None,
    }
}

#[test]
fn an_event_is_taken_once_and_never_waited_for() {
    let channel = EventChannel::unbound(fake_events(), 3).unwrap();
    assert_eq!(channel.port(), 73);
    assert!(!channel.take().unwrap());
    assert_eq!(calls(), ["open"], "what would wait is not called");
    channel.notify().unwrap();
    assert!(channel.take().unwrap());
    assert!(!channel.take().unwrap());
    assert_eq!(calls(), ["notify 73", "pending", "unmask 77"]);
}

#[test]
fn a_handle_is_closed_with_the_last_of_its_channels() {
    let channel = EventChannel::unbound(fake_events(), 3).unwrap();
    let copy = channel.duplicate();
    drop(channel);
    copy.notify().unwrap();
    assert!(copy.take().unwrap());
    assert!(!calls().contains(&"close".to_owned()));
    drop(copy);
    assert_eq!(calls(), ["close"]);
}

#[test]
fn a_port_that_waits_for_nobody_is_no_error_and_anything_else_is() {
    let bound = |peer, port| EventChannel::bound(fake_events(), peer, port);
    assert_eq!(bound(3, 2).unwrap().unwrap().port(), 82);
    assert!(bound(3, 1).unwrap().is_none());
    assert!(bound(8, 2).unwrap().is_none());
    let said = bound(5, 2).err().unwrap().to_string();
    assert!(said.starts_with("binding to event channel 2 of domain 5"), "{said}");
    let said = EventChannel::unbound(fake_events(), 9).err().unwrap().to_string();
    assert!(said.starts_with("making an event channel for domain 9"), "{said}");
    let calls = calls();
    let count = |what: &str| calls.iter().filter(|call| *call == what).count();
    assert_eq!((count("open"), count("close")), (5, 5));
}

#[test]
fn a_domain_is_gone_when_the_hypervisor_does_not_know_it_and_only_then() {
    let asker = Asker::new(fake_events()).unwrap();
    assert_eq!([3, 8, 5].map(|domain| asker.knows(domain)), [true, false, true]);
}

/// A device is a number: 1 maps, 2 grants.
unsafe extern "C" fn open_mapping(_: *mut xentoollog_logger, _: c_uint) -> *mut xengntdev_handle {
    note("open 1");
    std::ptr::without_provenance_mut(1)
}

unsafe extern "C" fn open_granting(_: *mut xentoollog_logger, _: c_uint) -> *mut xengntdev_handle {
    note("open 2");
    std::ptr::without_provenance_mut(2)
}

unsafe extern "C" fn close_device(at: *mut xengntdev_handle) -> c_int {
    note(format!("close {}", at.addr()));
    0
}

fn anonymous(count: usize) -> *mut c_void {
    // SAFETY: new memory, as much as is said.
    unsafe {
        libc::mmap(null_mut(), count * PAGE, PROTECTION, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }
}

unsafe extern "C" fn give_back(at: *mut xengntdev_handle, start: *mut c_void, count: u32) -> c_int {
    note(format!("give back {count} by {}", at.addr()));
    // SAFETY: made by `anonymous`, and given back once.
    unsafe { libc::munmap(start, count as usize * PAGE) }
}

/// Domain 7 has granted nothing, and domain 6 leads to a lack of memory.
fn mapped(domain: u32, count: usize) -> *mut c_void {
    match domain {
        7 => fail(libc::EINVAL),
        6 => fail(libc::ENOMEM),
        _ => return anonymous(count),
    };
    null_mut()
}

unsafe extern "C" fn map_one(_: *mut xengntdev_handle, domain: u32, _: u32, _: c_int) -> *mut c_void {
    mapped(domain, 1)
}

unsafe extern "C" fn map_any(
    _: *mut xengntdev_handle,
    _: u32,
    _: *mut u32,
    _: *mut u32,
    _: c_int,
) -> *mut c_void {
    null_mut()
}

unsafe extern "C" fn map_many(
    _: *mut xengntdev_handle,
    count: u32,
    domain: u32,
    _: *mut u32,
    _: c_int,
) -> *mut c_void {
    note(format!("map {count} of {domain}"));
    mapped(domain, count as usize)
}

unsafe extern "C" fn map_notify(
    _: *mut xengntdev_handle,
    domain: u32,
    reference: u32,
    _: c_int,
    offset: u32,
    port: u32,
) -> *mut c_void {
    note(format!("map {reference} of {domain} with {offset} and {port}"));
    mapped(domain, 1)
}

unsafe extern "C" fn set_max(_: *mut xengntdev_handle, _: u32) -> c_int {
    0
}

unsafe extern "C" fn share(
    _: *mut xengntdev_handle,
    domain: u32,
    count: c_int,
    references: *mut u32,
    writable: c_int,
) -> *mut c_void {
    note(format!("grant {count} to {domain}, {writable}"));
    if count == 3 {
        fail(libc::ENOSPC);
        return null_mut();
    }
    // SAFETY: the caller has a word for each page.
    let references = unsafe { std::slice::from_raw_parts_mut(references, count as usize) };
    references.iter_mut().zip(101..).for_each(|(reference, number)| *reference = number);
    anonymous(count as usize)
}

unsafe extern "C" fn share_notify(
    _: *mut xengntdev_handle,
    domain: u32,
    reference: *mut u32,
    writable: c_int,
    offset: u32,
    port: u32,
) -> *mut c_void {
    note(format!("grant one to {domain}, {writable}, with {offset} and {port}"));
    // SAFETY: one word of the caller's.
    unsafe { *reference = 100 };
    anonymous(1)
}

fn fake_grants() -> Grants {
    Grants {
        xengnttab_open: open_mapping,
        xengnttab_close: close_device,
        xengnttab_map_grant_ref: map_one,
        xengnttab_map_grant_refs: map_any,
        xengnttab_map_domain_grant_refs: map_many,
        xengnttab_map_grant_ref_notify: map_notify,
        xengnttab_unmap: give_back,
        xengnttab_set_max_grants: set_max,
        xengntshr_open: open_granting,
        xengntshr_close: close_device,
        xengntshr_share_pages: share,
        xengntshr_share_page_notify: share_notify,
        xengntshr_unshare: give_back,
        xengnttab_grant_copy: None,
        xengnttab_fd: None,
        xengnttab_dmabuf_exp_from_refs: None,
        xengnttab_dmabuf_exp_wait_released: None,
        xengnttab_dmabuf_imp_to_refs: None,
        xengnttab_dmabuf_imp_release: None,
        xengntshr_fd: None,
    }
}

const NOTICE: Notice = Notice { offset: 20, port: 4 };

#[test]
fn the_first_page_has_the_notice_and_all_are_given_back() {
    let Granted { head, tail, references } = grant(fake_grants(), 3, 3, NOTICE).unwrap();
    assert_eq!(references, [100, 101, 102]);
    assert_eq!((head.len(), tail.as_ref().map(Mapping::len)), (PAGE, Some(2 * PAGE)));
    let last = head.as_mut_ptr().wrapping_add(PAGE - 1);
    // SAFETY: the last byte of what was just mapped.
    unsafe { last.write(1) };
    let wanted = ["open 2", "grant one to 3, 1, with 20 and 4", "open 2", "grant 2 to 3, 1"];
    assert_eq!(calls(), wanted);
    drop((head, tail));
    assert_eq!(calls(), ["give back 1 by 2", "close 2", "give back 2 by 2", "close 2"]);
}

#[test]
fn what_was_granted_goes_when_the_rest_cannot_be() {
    let said = grant(fake_grants(), 3, 4, NOTICE).err().unwrap().to_string();
    assert!(said.starts_with("granting 4 pages (is the limit"), "{said}");
    let calls = calls();
    assert_eq!(calls[calls.len() - 3..], ["close 2", "give back 1 by 2", "close 2"]);
    assert!(grant(fake_grants(), 3, 0, NOTICE).is_err());
}

#[test]
fn a_mapped_page_is_mapped_again_for_its_notice() {
    let (origin, pages) = map(fake_grants(), 3, &[41, 42]).unwrap().unwrap();
    assert_eq!(pages.len(), 2 * PAGE);
    let again = origin.notify_unmap(NOTICE).unwrap();
    assert_eq!(again.len(), PAGE);
    assert_eq!(calls(), ["open 1", "map 2 of 3", "open 1", "map 41 of 3 with 20 and 4"]);
    drop(pages);
    assert_eq!(calls(), ["give back 2 by 1", "close 1"]);
}

#[test]
fn what_the_peer_did_not_grant_is_not_there_and_a_shortage_is_an_error() {
    assert!(map(fake_grants(), 7, &[41]).unwrap().is_none());
    assert!(map(fake_grants(), 3, &[]).unwrap().is_none());
    let said = map(fake_grants(), 6, &[41]).err().unwrap().to_string();
    assert!(said.starts_with("mapping 1 pages of domain 6"), "{said}");
    assert_eq!(calls(), ["open 1", "map 1 of 7", "close 1", "open 1", "map 1 of 6", "close 1"]);
}
