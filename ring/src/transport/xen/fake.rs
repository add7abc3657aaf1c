#![forbid(unsafe_code)]
//! A xenstore for tests: keys, watches and refusals, on socket pairs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::store::Store;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
pub(super) struct Xenstore(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    keys: BTreeMap<String, String>,
    /// Keys that exist and may not be read.
    forbidden: BTreeSet<String>,
    no_watches: bool,
    watches: Vec<(String, String, UnixStream)>,
    /// Requests that came, as type and path.
    log: Vec<(u32, String)>,
}

impl Xenstore {
    pub(super) fn new() -> Xenstore {
        Xenstore::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A connection, which a thread serves until it is closed.
    pub(super) fn connect(&self) -> Store {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let xenstore = self.clone();
        std::thread::spawn(move || {
            let mut header = [0; 16];
            while theirs.read_exact(&mut header).is_ok() {
                let mut body = vec![0; u32::from_ne_bytes(header[12..].try_into().unwrap()) as usize];
                theirs.read_exact(&mut body).unwrap();
                let ty = u32::from_ne_bytes(header[..4].try_into().unwrap());
                xenstore.answer(ty, &body, &theirs);
            }
        });
        Store::over(ours.into())
    }

    fn answer(&self, ty: u32, body: &[u8], to: &UnixStream) {
        let words: Vec<String> =
            body.split(|b| *b == 0).map(|word| String::from_utf8(word.to_vec()).unwrap()).collect();
        let mut state = self.state();
        state.log.push((ty, words[0].clone()));
        let answer = match ty {
            4 if state.no_watches => Err("E2BIG"),
            4 => {
                state.watches.push((words[0].clone(), words[1].clone(), to.try_clone().unwrap()));
                say(to, 15, body);
                Ok("OK".to_owned())
            }
            5 => {
                state.watches.retain(|(path, token, _)| (path, token) != (&words[0], &words[1]));
                Ok("OK".to_owned())
            }
            _ if state.forbidden.contains(&words[0]) => Err("EACCES"),
            2 => state.keys.get(&words[0]).cloned().ok_or("ENOENT"),
            _ => Ok("OK".to_owned()),
        };
        match answer {
            Ok(value) => say(to, ty, value.as_bytes()),
            Err(name) => say(to, 16, format!("{name}\0").as_bytes()),
        }
    }

    pub(super) fn set(&self, path: &str, value: &str) {
        self.state().keys.insert(path.into(), value.into());
        self.fire(path);
    }

    pub(super) fn remove(&self, path: &str) {
        self.state().keys.remove(path);
        self.fire(path);
    }

    pub(super) fn forbid(&self, path: &str) {
        self.state().forbidden.insert(path.into());
        self.fire(path);
    }

    pub(super) fn refuse_watches(&self) {
        self.state().no_watches = true;
    }

    pub(super) fn watchers(&self, path: &str) -> usize {
        self.state().watches.iter().filter(|(watched, ..)| watched == path).count()
    }

    /// How many requests of a type came for a path.
    pub(super) fn asked(&self, ty: u32, path: &str) -> usize {
        self.state().log.iter().filter(|(asked, of)| *asked == ty && of == path).count()
    }

    pub(super) fn fire(&self, path: &str) {
        for (watched, token, to) in &self.state().watches {
            if watched == path {
                say(to, 15, format!("{path}\0{token}\0").as_bytes());
            }
        }
    }
}

fn say(mut to: &UnixStream, ty: u32, body: &[u8]) {
    let words = [ty, 0, 0, body.len() as u32];
    let message: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).chain(body.iter().copied()).collect();
    // A client that has gone needs no answer.
    let _ = to.write_all(&message);
}

/// Calls `done` each time the descriptor is ready, until it is true.
pub(super) fn until<T: AsFd>(mut done: impl FnMut(&mut T) -> bool, thing: &mut T) {
    let start = Instant::now();
    while !done(thing) {
        assert!(start.elapsed() < LIMIT, "it never came");
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(&*thing, PollFlags::IN)], Some(&limit)).unwrap();
    }
}
