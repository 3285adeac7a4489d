//! Compiles the kernels for the emulator with the host's C++ compiler and sanitizer instrumentation. The emulator
//! implements the sanitizers' callbacks, so no sanitizer runtime is linked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

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
    let objects_of_kernels = objects(kernels, &out);
    archive(&objects_of_kernels).link_lib_modifier("+whole-archive").compile("vcycle_kernels");
    fs::write(out.join("emulated.rs"), table(kernels, &objects_of_kernels)).expect("OUT_DIR is writable");
    // Kernels that are compiled at run time call the emulator in the executable.
    println!("cargo:rustc-link-arg=-rdynamic");
    if !defects.is_empty() {
        archive(&objects(defects, &out)).cargo_metadata(false).compile("vcycle_defects");
        // Only the binary that asks for one of its symbols links it.
        println!("cargo:rustc-link-arg-tests={}", out.join("libvcycle_defects.a").display());
    }
    println!("cargo:rustc-cfg=emulated");
}

/// Returns a build of these kernels with all flags.
fn archive(objects: &[PathBuf]) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).objects(objects);
    build
}

/// Compiles each file to an object of its own, several at once, and returns the objects. A file is compiled again only when
/// it, one of the headers it includes, or the command has changed.
///
/// # Panics
/// When the compiler fails: the build stops with its output.
fn objects(files: &[PathBuf], out: &Path) -> Vec<PathBuf> {
    let compiler = compiler();
    let next = AtomicUsize::new(0);
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let all: Vec<_> = files.iter().map(|file| object_path(file, out)).collect();
    thread::scope(|scope| {
        for _ in 0..jobs.min(files.len()) {
            scope.spawn(|| {
                while let Some((file, object)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    files.get(at).zip(all.get(at))
                } {
                    if let Err(error) = compile(&compiler, file, object) {
                        panic!("{}: {error}", file.display());
                    }
                }
            });
        }
    });
    all
}

/// `kernels/sm90/linear.cu` becomes `OUT/kernels-sm90-linear.o`.
fn object_path(file: &Path, out: &Path) -> PathBuf {
    let name = file.with_extension("o").to_string_lossy().replace(['/', '\\'], "-");
    out.join(name)
}

fn compile(compiler: &cc::Tool, file: &Path, object: &Path) -> Result<(), String> {
    let (listed, stamp) = (object.with_extension("d"), object.with_extension("stamp"));
    let mut command = compiler.to_command();
    command.arg("-MMD").arg("-MF").arg(&listed).arg("-c").arg(file).arg("-o").arg(object);
    if object.is_file() && fs::read_to_string(&stamp).ok() == fresh(&command, &listed) {
        return Ok(());
    }
    // While the files do not belong together, the stamp is absent: a build may be stopped at any point.
    let _ = fs::remove_file(&stamp);
    let done = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    let fresh = fresh(&command, &listed).ok_or("the compiler wrote no list of headers")?;
    fs::write(&stamp, fresh).map_err(|e| format!("cannot write {}: {e}", stamp.display()))
}

/// Returns a hash of the command and of all files that the compiler has read.
fn fresh(command: &Command, listed: &Path) -> Option<String> {
    let mut hash = DefaultHasher::new();
    format!("{command:?}").hash(&mut hash);
    for file in files_read(listed)? {
        fs::read(file).ok()?.hash(&mut hash);
    }
    Some(hash.finish().to_string())
}

/// Returns the files that the compiler has read, from the list that it wrote.
fn files_read(listed: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(listed).ok()?;
    let (_, files) = text.split_once(": ")?;
    Some(files.split_whitespace().filter(|word| *word != "\\").map(str::to_owned).collect())
}

/// Returns the constants of `src/device/cuda/driver/emulator/reload.rs`: the compiler's command; every file that a kernel
/// consists of, with a hash of its content; and for each `.cu` file the indices of the files that it reads.
fn table(kernels: &[PathBuf], objects: &[PathBuf]) -> String {
    let mut sources = BTreeMap::new();
    let lists: Vec<Vec<String>> =
        objects.iter().map(|object| files_read(&object.with_extension("d")).unwrap_or_default()).collect();
    for file in lists.iter().flatten().filter(|file| file.starts_with("kernels/")) {
        let mut hash = DefaultHasher::new();
        fs::read(file).unwrap_or_default().hash(&mut hash);
        sources.insert(file.clone(), hash.finish());
    }
    let mut out = String::new();
    let compiler = compiler();
    let command = std::iter::once(compiler.path().as_os_str()).chain(compiler.args().iter().map(|arg| arg.as_os_str()));
    let command: Vec<_> = command.map(|arg| arg.to_string_lossy()).collect();
    let _ = writeln!(out, "const COMPILER: &[&str] = &{command:?};");
    let listed: Vec<_> = sources.iter().collect();
    let _ = writeln!(out, "const SOURCES: &[(&str, u64)] = &{listed:?};");
    let units: Vec<(String, Vec<usize>)> = kernels
        .iter()
        .zip(&lists)
        .map(|(file, list)| {
            let read = list.iter().filter_map(|file| sources.keys().position(|source| source == file)).collect();
            (file.to_string_lossy().into_owned(), read)
        })
        .collect();
    // Slices need their `&`, which Debug does not print.
    let _ = writeln!(out, "const UNITS: &[(&str, &[usize])] = &[");
    for (file, read) in units {
        let _ = writeln!(out, "    ({file:?}, &{read:?}),");
    }
    out + "];\n"
}

fn compiler() -> cc::Tool {
    let mut build = cc::Build::new();
    // First of all flags, because the ending of the files alone would make cc look for nvcc.
    build.cpp(true).flag("-xc++").include("kernels").opt_level(2).debug(false).warnings(false);
    FLAGS.iter().for_each(|flag| {
        build.flag(flag);
    });
    // Writing beyond the end of a stack touches the guard page, however much a function takes at once.
    build.flag_if_supported("-fstack-clash-protection");
    if build.get_compiler().is_like_clang() {
        // A read whose place is written next is an access, too: the place may never have been set.
        build.flag("-mllvm").flag("-tsan-instrument-read-before-write=1");
    }
    build.get_compiler()
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
