//! Compiles the kernels for the emulator with the host's C++ compiler and sanitizer instrumentation. The emulator
//! implements the sanitizers' callbacks, so no sanitizer runtime is linked.

use std::path::{Path, PathBuf};
use std::{env, fs};

const FLAGS: &[&str] = &[
    "-std=c++20",
    // Line numbers for reports.
    "-g1",
    // Loads, stores and undefined behaviour call the emulator.
    "-fsanitize=thread,bounds,alignment,shift,integer-divide-by-zero",
    // Uninitialized variables get a pattern, so that they are not accidentally zero.
    "-ftrivial-auto-var-init=pattern",
    "-fno-exceptions",
    "-fno-strict-aliasing",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
];

/// Compiles the kernels and sets the cfg `emulated`, or warns if no suitable compiler is found. `defects` are the
/// kernels of the emulator's own tests, which only test binaries link.
pub fn build(kernels: &[PathBuf], defects: &[PathBuf]) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return without("it runs on Linux only");
    }
    if let Err(why) = usable(&out) {
        return without(&why);
    }
    let mut hooks = cc::Build::new();
    hooks.file("kernels/emulator/hooks.c").std("c11").opt_level(2).compile("vcycle_hooks");
    compiler(kernels).link_lib_modifier("+whole-archive").compile("vcycle_kernels");
    if !defects.is_empty() {
        compiler(defects).cargo_metadata(false).compile("vcycle_defects");
        // Only test binaries that use one of its symbols pull it in.
        println!("cargo:rustc-link-arg-tests={}", out.join("libvcycle_defects.a").display());
    }
    println!("cargo:rustc-cfg=emulated");
}

/// Returns a build of these kernels with all flags.
fn compiler(files: &[PathBuf]) -> cc::Build {
    let mut build = cc::Build::new();
    // The flag has to precede the files, because their extension alone would make cc look for nvcc.
    build.cpp(true).flag("-xc++").files(files).include("kernels").opt_level(2).debug(false).warnings(false);
    FLAGS.iter().for_each(|flag| {
        build.flag(flag);
    });
    // A stack overflow touches the guard page, however large the frame of the function is.
    build.flag_if_supported("-fstack-clash-protection");
    if build.get_compiler().is_like_clang() {
        // Also instrument a read that a write to the same place follows: it may read uninitialized memory.
        build.flag("-mllvm").flag("-tsan-instrument-read-before-write=1");
    }
    build
}

/// Checks that the host's compiler supports C++20 and the instrumentation: g++ 12, clang 14 or later.
///
/// # Errors
/// Says what is missing.
fn usable(out: &Path) -> Result<(), String> {
    let compiler = cc::Build::new().cpp(true).try_get_compiler().map_err(|e| format!("no C++ compiler ({e})"))?;
    let (source, object) = (out.join("probe.cc"), out.join("probe.o"));
    fs::write(&source, "template <auto F> struct S {}; void f(); int g(int* p) { S<&f> s; (void)s; return *p; }\n")
        .map_err(|e| format!("cannot write {}: {e}", source.display()))?;
    let run = compiler.to_command().args(FLAGS).arg("-c").arg(&source).arg("-o").arg(&object).output();
    match run {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let first = text.lines().next().unwrap_or("no error message");
            Err(format!("{} is not g++ 12, clang 14 or later ({first})", compiler.path().display()))
        }
        Err(e) => Err(format!("cannot run {}: {e}; install g++ 12 or later, or set CXX", compiler.path().display())),
    }
}

/// Warns that the build has no emulator.
fn without(why: &str) {
    println!(
        "cargo:warning=built without the emulator: {why}; --device emulator and the kernel tests need it (then: touch \
         build.rs)"
    );
}
