//! Small files, several at a time. The kernel takes longer to make a file than this process to handle its content, so
//! a second thread helps. All files of one buffer are complete before more is read.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use engine::process::close_all;
use rustix::io::Errno;
use wire::filecopy::Time;

use super::file::{Incoming, Naming};

/// Longer files are written as they arrive.
pub(super) const SMALL: u64 = 64 << 10;
/// Fewer files are not worth a thread.
const WORTH: usize = 16;
/// Finished files that are still open: many are closed by one system call.
const OPEN_MAX: usize = 64;
/// The helper thread needs no more.
const STACK: usize = 128 << 10;

/// A file whose content is in the buffer.
#[derive(Debug)]
struct Job {
    /// Its path, in [`Batch::names`], and where its last component begins.
    path: Range<usize>,
    base: usize,
    mode: u32,
    times: [Time; 2],
    content: Range<usize>,
}

/// Files of one folder that are to be made together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    names: Vec<u8>,
    jobs: Vec<Job>,
}

/// A file that could not be made; all files before it were.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) path: Vec<u8>,
    pub(super) errno: Errno,
}

impl Batch {
    pub(super) const fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether a file in the folder `parent` may be added.
    pub(super) fn fits(&self, parent: &[u8]) -> bool {
        self.jobs.last().is_none_or(|job| {
            let path = self.names.get(job.path.clone()).unwrap_or_default();
            crate::beneath::parent(path).0 == parent
        })
    }

    /// Adds a file whose content is in this part of the buffer.
    pub(super) fn add(&mut self, path: &[u8], mode: u32, times: [Time; 2], content: Range<usize>) {
        let (_, base) = crate::beneath::parent(path);
        let begin = self.names.len();
        self.names.extend_from_slice(path);
        let end = self.names.len();
        let base = end.saturating_sub(base.len());
        self.jobs.push(Job { path: begin..end, base, mode, times, content });
    }

    /// The path of the first.
    pub(super) fn first(&self) -> &[u8] {
        self.jobs.first().and_then(|job| self.names.get(job.path.clone())).unwrap_or_default()
    }

    /// Drops all of them, because none can be made.
    pub(super) fn drop_all(&mut self, errno: Errno) -> Failed {
        let path = self.first().to_vec();
        self.jobs.clear();
        self.names.clear();
        Failed { path, errno }
    }

    /// Makes all of them in `parent`; the batch is empty afterwards. Files after one that fails may exist or not.
    pub(super) fn make(
        &mut self,
        naming: &mut Naming,
        parent: BorrowedFd<'_>,
        buffer: &[u8],
    ) -> Result<(), Failed> {
        let work = Work {
            batch: self,
            parent,
            buffer,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
            finished: Mutex::new(Vec::new()),
        };
        if work.batch.jobs.len() < WORTH {
            work.run(naming);
        } else {
            thread::scope(|scope| {
                let (mut theirs, work) = (*naming, &work);
                // If no thread can be started, this one does everything.
                let helper = thread::Builder::new().stack_size(STACK);
                let _ = helper.spawn_scoped(scope, move || work.run(&mut theirs));
                work.run(naming);
            });
        }
        close_all(&mut work.finished.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
        let failed = work.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let failed = failed.map(|(at, errno)| {
            let job = self.jobs.get(at).map(|job| job.path.clone()).unwrap_or_default();
            Failed { path: self.names.get(job).unwrap_or_default().to_vec(), errno }
        });
        self.jobs.clear();
        self.names.clear();
        failed.map_or(Ok(()), Err)
    }
}

/// What the two threads share.
struct Work<'a> {
    batch: &'a Batch,
    parent: BorrowedFd<'a>,
    buffer: &'a [u8],
    next: AtomicUsize,
    stop: AtomicBool,
    /// The first file that could not be made.
    failed: Mutex<Option<(usize, Errno)>>,
    /// Finished files that only have to be closed.
    finished: Mutex<Vec<OwnedFd>>,
}

impl Work<'_> {
    /// Makes one file after the other until none is left. The threads take them in order, so that all files before the
    /// first one that fails are made.
    fn run(&self, naming: &mut Naming) {
        while !self.stop.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.batch.jobs.get(at) else { return };
            if let Err(errno) = self.one(naming, job) {
                self.stop.store(true, Ordering::Relaxed);
                let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if failed.is_none_or(|(first, _)| at < first) {
                    *failed = Some((at, errno));
                }
                return;
            }
        }
    }

    fn one(&self, naming: &mut Naming, job: &Job) -> Result<(), Errno> {
        let name = self.batch.names.get(job.base..job.path.end).unwrap_or_default();
        let content = self.buffer.get(job.content.clone()).ok_or(Errno::INVAL)?;
        let len = content.len() as u64;
        let mut file = Incoming::begin(naming, self.parent, name, job.mode, len, job.times)?;
        let done = file.content(content).and_then(|()| file.finish(naming, self.parent, name));
        match done {
            Ok(()) => self.close(file.into_fd()),
            Err(_) => file.give_up(self.parent, name),
        }
        done
    }

    /// Closes a file later, together with others.
    fn close(&self, file: OwnedFd) {
        let mut finished = self.finished.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        finished.push(file);
        if finished.len() >= OPEN_MAX {
            let mut all = std::mem::take(&mut *finished);
            drop(finished);
            close_all(&mut all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    const TIMES: [Time; 2] = [Time { seconds: 1, nanoseconds: 0 }; 2];

    fn batch(count: usize) -> Batch {
        let mut batch = Batch::default();
        for file in 0..count {
            assert!(batch.fits(b"d"));
            batch.add(format!("d/{file}").as_bytes(), 0o644, TIMES, file..file + 2);
        }
        batch
    }

    #[test]
    fn each_file_gets_its_own_content() {
        let dir = tempfile::tempdir().unwrap();
        let parent = fs::File::open(dir.path()).unwrap();
        let buffer: Vec<u8> = (0..=255).collect();
        for naming in [Naming::Descriptor, Naming::Proc, Naming::InPlace] {
            for count in [1, WORTH - 1, 200] {
                let mut batch = batch(count);
                assert!(!batch.fits(b"other"));
                batch.make(&mut naming.clone(), parent.as_fd(), &buffer).unwrap();
                assert!(batch.is_empty() && batch.fits(b"other"));
                assert_eq!(fs::read_dir(dir.path()).unwrap().count(), count);
                for file in 0..count {
                    let path = dir.path().join(file.to_string());
                    assert_eq!(fs::read(&path).unwrap(), buffer[file..file + 2]);
                    fs::remove_file(path).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_first_that_fails_is_named_and_all_before_it_are_there() {
        let buffer = [7; 1000];
        for naming in [Naming::Descriptor, Naming::InPlace] {
            for (first, second) in [(0, 1), (40, 41), (150, 199)] {
                let dir = tempfile::tempdir().unwrap();
                let parent = fs::File::open(dir.path()).unwrap();
                for taken in [first, second] {
                    fs::write(dir.path().join(taken.to_string()), "old").unwrap();
                }
                let failed = batch(200).make(&mut naming.clone(), parent.as_fd(), &buffer).unwrap_err();
                assert_eq!(failed.errno, Errno::EXIST);
                assert_eq!(String::from_utf8(failed.path).unwrap(), format!("d/{first}"));
                for file in 0..first {
                    assert_eq!(fs::read(dir.path().join(file.to_string())).unwrap(), [7; 2], "{file}");
                }
                for taken in [first, second] {
                    assert_eq!(fs::read(dir.path().join(taken.to_string())).unwrap(), b"old");
                }
            }
        }
    }
}
