#![allow(unsafe_code)] // dlopen and dlsym
//! Finding a library at run time, and the macro that declares its functions once for both ways of reaching them.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::ptr::NonNull;

/// Why a library cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    what: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for LoadError {}

/// A library that stays loaded, so that what was found in it is good for as long as the process.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Handle(NonNull<c_void>);

impl Handle {
    /// The first of these files that the dynamic loader finds.
    ///
    /// # Errors
    /// None is there, with the loader's words about the last.
    pub fn open(files: &[&CStr]) -> Result<Handle, LoadError> {
        for file in files {
            // SAFETY: a C string. What the library does when it is loaded is as trustworthy as any library of the
            // system that is linked; `RTLD_LOCAL` keeps its names to itself.
            let handle = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            if let Some(handle) = NonNull::new(handle) {
                return Ok(Handle(handle));
            }
        }
        Err(LoadError { what: last_error().unwrap_or_else(|| "no library to be loaded".to_owned()) })
    }

    /// Where the library has this function.
    ///
    /// # Errors
    /// It has none: it is older than the function.
    pub fn symbol(self, name: &CStr) -> Result<NonNull<c_void>, LoadError> {
        // SAFETY: the handle is an open library's, and the name a C string.
        let found = unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) };
        NonNull::new(found)
            .ok_or_else(|| LoadError { what: format!("the library has no {}", name.to_string_lossy()) })
    }
}

/// What the loader says about the last failure of this thread.
fn last_error() -> Option<String> {
    // SAFETY: takes nothing; the result is null or a C string that is good until this thread's next call of the loader.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, so a C string as just said; it is copied at once.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// A function as it is declared, for the test that compares it with the C header.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// Its name.
    pub name: &'static str,
    /// The types of its arguments, in Rust.
    pub args: &'static [&'static str],
    /// The type of its result; empty: none.
    pub ret: &'static str,
}

/// Declares the functions of a C library: as members of `Library`, which is loaded at run time, and with the feature
/// `link` as `extern` functions. `always` has every version of the library, `later` only newer ones.
#[doc(hidden)]
#[macro_export]
macro_rules! c_library {
    (
        files [$($file:literal),+ $(,)?];
        always { $( $(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?; )* }
        later { $( $(#[$ldoc:meta])* fn $lname:ident($($larg:ident: $lty:ty),* $(,)?) $(-> $lret:ty)?; )* }
    ) => {
        /// The functions of the library, found at run time. Each is as unsafe as the C function of its name.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, reason = "documented at each function")]
        pub struct Library {
            $( $(#[$doc])* pub $name: unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?, )*
            $( $(#[$ldoc])* pub $lname: Option<unsafe extern "C" fn($($larg: $lty),*) $(-> $lret)?>, )*
        }

        impl Library {
            /// Loads the library, which stays loaded.
            ///
            /// # Errors
            /// It is not installed, or is not the library that it should be.
            pub fn load() -> Result<Library, $crate::LoadError> {
                let library = $crate::load::Handle::open(&[$($file),+])?;
                Ok(Library {
                    $( $name: {
                        let name = concat!(stringify!($name), "\0");
                        let address = library.symbol($crate::load::c_str(name))?;
                        // SAFETY: the library's header gives the function of this name this very type, which a test
                        // compares; the address is not null, and the library stays loaded.
                        unsafe {
                            std::mem::transmute::<
                                std::ptr::NonNull<std::ffi::c_void>,
                                unsafe extern "C" fn($($ty),*) $(-> $ret)?,
                            >(address)
                        }
                    }, )*
                    $( $lname: {
                        let name = concat!(stringify!($lname), "\0");
                        library.symbol($crate::load::c_str(name)).ok().map(|address| {
                            // SAFETY: as above.
                            unsafe {
                                std::mem::transmute::<
                                    std::ptr::NonNull<std::ffi::c_void>,
                                    unsafe extern "C" fn($($lty),*) $(-> $lret)?,
                                >(address)
                            }
                        })
                    }, )*
                })
            }
        }

        #[cfg(feature = "link")]
        unsafe extern "C" {
            $( $(#[$doc])* pub fn $name($($arg: $ty),*) $(-> $ret)?; )*
            $( $(#[$ldoc])* pub fn $lname($($larg: $lty),*) $(-> $lret)?; )*
        }

        /// Every function, for the test that compares them with the C header.
        #[doc(hidden)]
        pub const SIGNATURES: &[$crate::load::Signature] = &[
            $( $crate::load::Signature {
                name: stringify!($name), args: &[$(stringify!($ty)),*], ret: concat!($(stringify!($ret))?),
            }, )*
            $( $crate::load::Signature {
                name: stringify!($lname), args: &[$(stringify!($lty)),*], ret: concat!($(stringify!($lret))?),
            }, )*
        ];
    };
}

/// For the macro: a literal that ends with its only NUL.
#[doc(hidden)]
#[must_use]
pub const fn c_str(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    }
}
