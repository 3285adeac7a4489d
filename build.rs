//! Builds the kernels twice: into device code with nvcc, if there is one, and for the emulator with the host's C++
//! compiler.

#[cfg(feature = "emulator")]
#[path = "build/emulator.rs"]
mod emulator;
#[path = "build/nvcc.rs"]
mod nvcc;

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=kernels/emulator");
    println!("cargo:rerun-if-changed=tests/emulator/kernels");
    println!("cargo:rustc-check-cfg=cfg(emulated)");
    // Set only by `.ci/memory`.
    println!("cargo:rustc-check-cfg=cfg(heap_arenas)");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let kernels = ["kernels", "kernels/sm80", "kernels/sm90"].map(|folder| files(Path::new(folder))).concat();
    nvcc::build(&kernels, &out);
    #[cfg(feature = "emulator")]
    emulator::build(&kernels, &files(Path::new("tests/emulator/kernels")));
}

/// Returns the `.cu` files of a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).map(|all| all.flatten().map(|entry| entry.path()).collect::<Vec<_>>());
    let mut files = entries.unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    files.sort();
    files
}
