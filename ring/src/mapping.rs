#![allow(unsafe_code)] // says of mapped memory that any thread may hold it
//! Mapped memory, and the owner who unmaps it.

use std::io;

use memmap2::{Advice, MmapMut, MmapRaw};

/// One piece of memory. Its address is kept here, so that the owner need not be asked at each access.
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

// SAFETY: the pointer is the address of memory that the owner keeps mapped at the same place for as long as it lives,
// and both owners may be sent to another thread. `Region` is responsible for all accesses to the memory.
unsafe impl Send for Mapping {}
// SAFETY: a shared `Mapping` gives away its address and length only, which never change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Memory whose owner is not a mapping of the kernel's (`MmapRaw`), and which forked processes do not inherit
    /// already.
    ///
    /// # Safety
    /// `owner` keeps `len` bytes from `at` mapped at the same place for as long as it lives.
    #[cfg(feature = "xen")]
    pub(crate) unsafe fn owned_by(owner: impl Send + 'static, at: *mut u8, len: usize) -> Mapping {
        Mapping { at, len, owner: Owner::Other(Box::new(owner)) }
    }

    /// The address of its first byte.
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.at
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keeps processes that are forked from now on from inheriting it.
    pub(crate) fn keep_from_children(&self) -> io::Result<()> {
        match &self.owner {
            Owner::Kernel(map) => map.advise(Advice::DontFork),
            // Done when it was mapped, see [`Mapping::owned_by`].
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
