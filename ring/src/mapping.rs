#![allow(unsafe_code)] // says of mapped memory that any thread may hold it
//! Mapped memory, and who gives it back.

use std::io;

use memmap2::{Advice, MmapMut, MmapRaw};

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
    Other(#[expect(dead_code, reason = "held, and nothing else")] Box<dyn Send>),
}

// SAFETY: the pointer is the address of memory that the owner keeps mapped at the same place for as long as it lives, and
// both owners may be sent to another thread; what is done with the memory is `Region`'s affair.
unsafe impl Send for Mapping {}
// SAFETY: a shared `Mapping` gives away its address and length only, which never change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Memory that something else than the kernel's own mapping keeps, which leaves it to no forked process.
    ///
    /// # Safety
    /// `owner` keeps `len` bytes from `at` mapped at the same place for as long as it lives.
    #[cfg(feature = "xen")]
    pub(crate) unsafe fn owned_by(owner: impl Send + 'static, at: *mut u8, len: usize) -> Mapping {
        Mapping { at, len, owner: Owner::Other(Box::new(owner)) }
    }

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
            Owner::Other(_) => Ok(()),
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
