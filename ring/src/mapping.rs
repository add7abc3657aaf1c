#![allow(unsafe_code)] // says of mapped memory that any thread may hold it
//! Mapped memory, and who gives it back.

use std::io;

use memmap2::{Advice, MmapMut, MmapRaw};

#[cfg(feature = "xen")]
use crate::xendev::LibraryPages;

/// One piece of memory. Where it begins stands here, so that nobody asks the owner for it at each access.
pub(crate) struct Mapping {
    at: *mut u8,
    len: usize,
    /// Gives the memory back when it is dropped.
    owner: Owner,
}

enum Owner {
    Kernel(MmapRaw),
    #[cfg(feature = "xen")]
    Library(#[expect(dead_code, reason = "held, and nothing else")] LibraryPages),
}

// SAFETY: the pointer is the address of memory that the owner keeps mapped at the same place for as long as it lives, and
// both owners may be sent to another thread; what is done with the memory is `Region`'s affair.
unsafe impl Send for Mapping {}
// SAFETY: a shared `Mapping` gives away its address and length only, which never change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Where it begins.
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.at
    }

    /// Bytes of it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Leaves it to no process that is forked from now on.
    pub(crate) fn keep_from_children(&self) -> io::Result<()> {
        match &self.owner {
            Owner::Kernel(map) => map.advise(Advice::DontFork),
            // As soon as they were mapped.
            #[cfg(feature = "xen")]
            Owner::Library(_) => Ok(()),
        }
    }
}

impl From<MmapRaw> for Mapping {
    fn from(map: MmapRaw) -> Mapping {
        Mapping { at: map.as_mut_ptr(), len: map.len(), owner: Owner::Kernel(map) }
    }
}

impl From<MmapMut> for Mapping {
    fn from(map: MmapMut) -> Mapping {
        MmapRaw::from(map).into()
    }
}

#[cfg(feature = "xen")]
impl From<LibraryPages> for Mapping {
    fn from(pages: LibraryPages) -> Mapping {
        Mapping { at: pages.as_mut_ptr(), len: pages.len(), owner: Owner::Library(pages) }
    }
}
