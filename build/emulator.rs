//! The kernels for the emulator: the host's C++ compiler, instrumented as for its sanitizers, none of whose runtimes is linked.

use std::path::{Path, PathBuf};
use std::{env, fs};

const FLAGS: &[&str] = &[
    "-std=c++20",
    // Lines for reports.
    "-g1",
    // Loads, stores and what is undefined call the emulator.
    "-fsanitize=thread,bounds,alignment,shift,integer-divide-by-zero",
    // What was never set is not zero by chance.
    "-ftrivial-auto-var-init=pattern",
    "-fno-exceptions",
    "-fno-strict-aliasing",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
];

/// Sets the cfg `emulated` where a compiler was found that can do it. `defects` are kernels of the emulator's own tests, which
/// only test binaries link.
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
        // Only the binary that asks for one of its symbols takes it.
        println!("cargo:rustc-link-arg-tests={}", out.join("libvcycle_defects.a").display());
    }
    println!("cargo:rustc-cfg=emulated");
}

fn compiler(files: &[PathBuf]) -> cc::Build {
    let mut build = cc::Build::new();
    // Before the files, whose ending alone would make cc look for nvcc.
    build.cpp(true).flag("-xc++").files(files).include("kernels").opt_level(2).debug(false).warnings(false);
    FLAGS.iter().for_each(|flag| {
        build.flag(flag);
    });
    // Running over the end of a stack touches the page that tells so, however much a function takes at once.
    build.flag_if_supported("-fstack-clash-protection");
    if build.get_compiler().is_like_clang() {
        // A read whose place is written next is an access too: it may be of something that was never set.
        build.flag("-mllvm").flag("-tsan-instrument-read-before-write=1");
    }
    build
}

/// Whether the host's compiler knows C++20 and the instrumentation: g++ 12, clang 14 or later.
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
            let first = text.lines().next().unwrap_or("it fails without a word");
            Err(format!("{} is no g++ 12, clang 14 or later ({first})", compiler.path().display()))
        }
        Err(e) => Err(format!("cannot run {}: {e}; install g++ 12 or later, or set CXX", compiler.path().display())),
    }
}

fn without(why: &str) {
    println!(
        "cargo:warning=built without the emulator: {why}; --device emulator and the kernels' tests need it (then: touch build.rs)"
    );
}
