//! Copies between shared and private memory by the widest loads and stores that every processor of a kind has. Copying
//! a word at a time takes half as long again.
#![allow(unsafe_code)] // The language has no access to memory that somebody else changes which is wider than a word.

/// What is copied in one step.
const BLOCK: usize = 64;

/// Copies as many whole blocks as `len` bytes contain. Returns how many bytes that were, which may be none.
///
/// The copy is one piece of assembly. Whatever the other side of shared memory does meanwhile, a load gives some
/// bytes, or a store is overwritten; the language's rules about concurrent access do not apply, because it sees no
/// access.
///
/// # Safety
/// `len` bytes from `from` can be read and `len` bytes from `to` can be written, they do not overlap, and no reference to
/// bytes from `to` is alive but the caller's own.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) unsafe fn copy_blocks(to: *mut u8, from: *const u8, len: usize) -> usize {
    let whole = len - len % BLOCK;
    if whole > 0 {
        // SAFETY: reads and writes exactly `whole` bytes, which the caller vouches for; every register that it changes is
        // named, and it needs no stack. Every x86-64 processor has these instructions, which need no alignment.
        unsafe {
            core::arch::asm!(
                "2:",
                "movdqu {a}, [{from}]",
                "movdqu {b}, [{from} + 16]",
                "movdqu {c}, [{from} + 32]",
                "movdqu {d}, [{from} + 48]",
                "movdqu [{to}], {a}",
                "movdqu [{to} + 16], {b}",
                "movdqu [{to} + 32], {c}",
                "movdqu [{to} + 48], {d}",
                "add {from}, 64",
                "add {to}, 64",
                "sub {left}, 64",
                "jnz 2b",
                from = inout(reg) from => _,
                to = inout(reg) to => _,
                left = inout(reg) whole => _,
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack),
            );
        }
    }
    whole
}

/// Other machines copy by words.
///
/// # Safety
/// None is needed.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(crate) unsafe fn copy_blocks(_to: *mut u8, _from: *const u8, _len: usize) -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_copied_and_nothing_beside_them() {
        let from: Vec<u8> = (0..1000).map(|at| (at % 251) as u8 + 1).collect();
        for shift in [0, 1, 7, 16, 63] {
            for len in [0, 1, 63, 64, 65, 127, 128, 500, 900] {
                let mut to = vec![0_u8; 1000];
                let (source, target) = (from[shift..].as_ptr(), to[5..].as_mut_ptr());
                // SAFETY: both have more bytes than that, and are different vectors.
                let done = unsafe { copy_blocks(target, source, len) };
                assert!(done <= len && (done == 0 || len - done < BLOCK), "{len}: {done}");
                assert_eq!(to[5..5 + done], from[shift..shift + done]);
                assert!(to[..5].iter().chain(&to[5 + done..]).all(|byte| *byte == 0), "{shift} {len}");
            }
        }
    }
}
