#![forbid(unsafe_code)]
//! Watches the folder in which servers appear, in one process for all the calls of its machine.
//!
//! A user has few inotify instances (128 by default). If each call looked for itself, it would take one of them, or
//! have to look again and again. This takes one instance, and watches only while a call waits.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify;

use super::{Kind, Transport};

/// Sees servers of other machines that appear for this one.
pub struct ServerWatch {
    transport: Transport,
    inotify: Option<OwnedFd>,
    /// The watch, while a call waits.
    watch: Option<i32>,
}

/// Which servers have appeared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appeared {
    /// These, each by its domain and port.
    These(Vec<(u32, u32)>),
    /// Too many to be listed: any server may have appeared.
    Many,
}

impl ServerWatch {
    /// `None` where servers are not files.
    pub(super) fn new(transport: &Transport) -> Option<Self> {
        if transport.kind == Kind::Xen {
            return None;
        }
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Some(Self { transport: transport.clone(), inotify: inotify::init(flags).ok(), watch: None })
    }

    /// Whether there is a server of the machine `server` for this one on `port`. It may be one that has died.
    #[must_use]
    pub fn is_there(&self, server: u32, port: u32) -> bool {
        std::fs::symlink_metadata(self.transport.path(server, self.transport.own, port)).is_ok()
    }

    /// Makes the descriptor readable when servers appear. `false`: no event will come.
    pub fn watch(&mut self) -> bool {
        if self.watch.is_none()
            && let Some(inotify) = &self.inotify
        {
            // This project's listeners appear by a rename; upstream's are bound in place.
            let what = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE;
            self.watch = inotify::add_watch(inotify, &self.transport.dir, what).ok();
        }
        self.watch.is_some()
    }

    /// To be called when no call waits any more.
    pub fn rest(&mut self) {
        if let (Some(inotify), Some(watch)) = (&self.inotify, self.watch.take()) {
            // It fails if the folder was removed and the watch with it, and then nothing is left to do.
            let _ = inotify::remove_watch(inotify, watch);
        }
    }

    /// Which servers have appeared since the last call. To be called when the descriptor is readable.
    pub fn appeared(&mut self) -> Appeared {
        let mut these = Vec::new();
        let Some(fd) = &self.inotify else { return Appeared::These(these) };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                return Appeared::Many;
            }
            if event.events().contains(inotify::ReadFlags::IGNORED) && self.watch == Some(event.wd()) {
                // The folder was removed. (A watch that `rest` has ended had another number.)
                self.watch = None;
                return Appeared::Many;
            }
            let name = event.file_name().and_then(|name| name.to_str().ok());
            these.extend(name.and_then(|name| self.server(name)));
        }
        Appeared::These(these)
    }

    /// The machine and port of the server that has this file name, if it is one for this machine.
    fn server(&self, name: &str) -> Option<(u32, u32)> {
        let mut parts = name.split('.').skip(1).map_while(|part| part.parse::<u32>().ok());
        let (server, client, port) = (parts.next()?, parts.next()?, parts.next()?);
        let path = self.transport.path(server, client, port);
        let is_it = client == self.transport.own && path.file_name().is_some_and(|file| file == name);
        is_it.then_some((server, port))
    }

    /// Readable when servers have appeared; `None`: no event ever comes.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sizes;
    use std::path::Path;

    #[test]
    fn servers_for_this_machine_are_told_while_it_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [Kind::Shm, Kind::Socket] {
            let transport = Transport::new(kind, 3, folder.path());
            let mut server_watch = ServerWatch::new(&transport).unwrap();
            let serve = |own: u32, peer, port| {
                Transport::new(kind, own, folder.path()).listen(peer, port, Sizes::both(4096)).unwrap()
            };
            let _before = serve(7, 3, 512);
            assert!(server_watch.watch() && server_watch.watch());
            assert!(server_watch.is_there(7, 512) && !server_watch.is_there(7, 513));
            let _these = [serve(7, 3, 513), serve(7, 4, 514), serve(8, 3, 515)];
            std::fs::write(folder.path().join("shm.9.3.x.sock"), "").unwrap();
            assert_eq!(server_watch.appeared(), Appeared::These(vec![(7, 513), (8, 515)]));
            server_watch.rest();
            let _after = serve(7, 3, 516);
            assert_eq!(server_watch.appeared(), Appeared::These(Vec::new()));
            assert!(server_watch.is_there(7, 516));
        }
    }

    #[test]
    fn a_folder_that_is_made_anew_is_watched_anew() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("shm");
        let transport = Transport::new(Kind::Shm, 3, &folder);
        let mut server_watch = ServerWatch::new(&transport).unwrap();
        for _ in 0..2 {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
            assert!(server_watch.watch());
            let server = Transport::new(Kind::Shm, 7, &folder).listen(3, 513, Sizes::both(4096)).unwrap();
            assert_eq!(server_watch.appeared(), Appeared::These(vec![(7, 513)]));
            // A folder can be removed only once the server in it is gone.
            drop(server);
            std::fs::remove_dir_all(&folder).unwrap();
            assert_eq!(server_watch.appeared(), Appeared::Many, "nothing would tell any more");
        }
    }

    #[test]
    fn on_xen_there_are_no_files() {
        assert!(ServerWatch::new(&Transport::new(Kind::Xen, 3, Path::new(""))).is_none());
    }
}
