#![forbid(unsafe_code)]
//! Stands for the Xen transport in a build without the feature `xen`: types of which no value can exist.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::channel::Channel;
use crate::error::Error;
use crate::layout::Orders;

fn absent<T>() -> Result<T, Error> {
    Err(Error::Config("this build has no Xen transport; set QREXEC_TRANSPORT to shm or socket".into()))
}

pub(super) fn own_domain() -> Result<u32, Error> {
    absent()
}

pub(super) struct RingShare;

impl RingShare {
    pub(super) fn now() -> RingShare {
        RingShare
    }
}

pub(super) enum XenListener {}

impl XenListener {
    pub(super) fn new(
        _own: u32,
        _peer: u32,
        _port: u32,
        _least: Orders,
        _share: Option<RingShare>,
    ) -> Result<XenListener, Error> {
        absent()
    }

    pub(super) fn accept(&mut self) -> Result<Option<Channel>, Error> {
        match *self {}
    }
}

impl AsFd for XenListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}

pub(super) enum XenConnector {}

impl XenConnector {
    pub(super) fn new(_own: u32, _server: u32, _port: u32) -> Result<XenConnector, Error> {
        absent()
    }

    pub(super) fn poll(&mut self) -> Result<Option<Channel>, Error> {
        match *self {}
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match *self {}
    }
}

impl AsFd for XenConnector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}

pub(super) enum DomainMonitor {}

impl DomainMonitor {
    pub(super) fn new(_own: u32) -> Result<DomainMonitor, Error> {
        absent()
    }

    pub(super) fn on_ready(&mut self) -> Result<(), Error> {
        match *self {}
    }
}

impl AsFd for DomainMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}

pub(super) mod libxenvchan {
    use super::{AsFd, BorrowedFd, Channel, Duration, Error, Orders, absent};

    pub(in super::super) enum LibraryListener {}

    impl LibraryListener {
        pub(in super::super) fn new(
            _peer: u32,
            _port: u32,
            _orders: Orders,
        ) -> Result<LibraryListener, Error> {
            absent()
        }

        pub(in super::super) fn accept(&mut self) -> Result<Option<Channel>, Error> {
            match *self {}
        }
    }

    impl AsFd for LibraryListener {
        fn as_fd(&self) -> BorrowedFd<'_> {
            match *self {}
        }
    }

    pub(in super::super) enum LibraryConnector {}

    impl LibraryConnector {
        pub(in super::super) fn new(_own: u32, _server: u32, _port: u32) -> Result<LibraryConnector, Error> {
            absent()
        }

        pub(in super::super) fn poll(&mut self) -> Result<Option<Channel>, Error> {
            match *self {}
        }

        pub(in super::super) fn retry_after(&self) -> Option<Duration> {
            match *self {}
        }
    }

    impl AsFd for LibraryConnector {
        fn as_fd(&self) -> BorrowedFd<'_> {
            match *self {}
        }
    }
}
