//! With the feature `link`: where the library is.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "link")]
    if let Err(error) = pkg_config::probe_library("xenvchan") {
        panic!("the feature \"link\" needs libxenvchan and its pkg-config file: {error}");
    }
}
