//! Compiles device code: finds nvcc, compiles every kernel file to a fatbin, and writes a table of them.
//!
//! This needs no GPU. Without nvcc the table is empty, the crate still builds, and `--device cuda` says why it cannot
//! run.

#[path = "ptxas.rs"]
mod ptxas;

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Flags of every compilation. nvcc itself reads NVCC_CCBIN (the host compiler) and the other NVCC_ variables in
/// [`VARIABLES`].
const FLAGS: [&str; 6] = ["-std=c++17", "--fatbin", "-lineinfo", "-Werror", "all-warnings", "--resource-usage"];

/// The folder of the kernels, in which their `#include`s start.
const ROOT: &str = "kernels";

/// Environment variables that change the output of nvcc.
const VARIABLES: [&str; 4] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "VCYCLE_CUDA_ARCHS"];

/// Compiles `kernels` (`.cu` files) and writes `out_dir/compiled.rs`, which `src/device/cuda/compiled.rs`
/// includes. Unchanged files are not recompiled.
///
/// Fails the build if nvcc is too old or fails, if an architecture is unknown, or if a kernel spills, needs a stack
/// frame or has serialized wgmmas. The message names the kernel and says what to do. If there is no nvcc at all, it
/// only warns.
pub fn build(kernels: &[PathBuf], out_dir: &Path) {
    if let Err(message) = try_build(kernels, out_dir) {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn try_build(kernels: &[PathBuf], out_dir: &Path) -> Result<(), String> {
    for name in VARIABLES {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let Some(nvcc) = find()? else {
        println!(
            "cargo::warning=no nvcc found, so no device code: everything but --device cuda works. To get nvcc: \
             python3 -m venv .cuda-venv && .cuda-venv/bin/pip install {} && touch build.rs (or set NVCC or CUDA_HOME)",
            ptxas::PIP_PACKAGES
        );
        return write_table(out_dir, None, &[]);
    };
    // Without nvcc, a changed kernel needs no build: the emulator compiles it when it runs (`emulator/reload.rs`).
    println!("cargo::rerun-if-changed=kernels");
    let version = version(&nvcc)?;
    let known = ptxas::known(&output(Command::new(&nvcc).arg("--list-gpu-code"))?);
    let wanted = env::var("VCYCLE_CUDA_ARCHS").ok();
    let folder = out_dir.join("kernels");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let mut jobs = Vec::new();
    for source in kernels {
        // `sm90/linear` of `kernels/sm90/linear.cu`.
        let stem = source.strip_prefix(ROOT).unwrap_or(source).with_extension("").to_string_lossy().into_owned();
        let gencode = ptxas::gencode(&stem, &known, wanted.as_deref())?;
        if !gencode.is_empty() {
            jobs.push(Job { source, folder: &folder, stem, gencode });
        }
    }
    let headers = headers()?;
    let modules = in_parallel(&jobs, |job| job.compiled(&nvcc, &version, &headers))?;
    unique(&modules)?;
    if let Some(cuobjdump) = cuobjdump(&nvcc).filter(|_| !modules.is_empty()) {
        // For tests/kernels/sass.rs.
        println!("cargo::rustc-env=VCYCLE_CUOBJDUMP={}", cuobjdump.display());
    }
    write_table(out_dir, Some(&version), &modules)
}

/// Finds cuobjdump, which disassembles device code: `CUOBJDUMP`, next to nvcc, or on `PATH`.
fn cuobjdump(nvcc: &Path) -> Option<PathBuf> {
    println!("cargo::rerun-if-env-changed=CUOBJDUMP");
    let name = format!("cuobjdump{}", env::consts::EXE_SUFFIX);
    let named = env::var_os("CUOBJDUMP").map(PathBuf::from).filter(|file| file.is_file());
    let beside = || Some(nvcc.with_file_name(&name)).filter(|file| file.is_file());
    let usual = || {
        println!("cargo::rerun-if-env-changed=PATH");
        on_path(&env::var_os("PATH").unwrap_or_default(), Path::new(&name))
    };
    let found = named.or_else(beside).or_else(usual)?;
    // A relative NVCC gives a relative path. It is resolved here, where the current folder is the project's.
    found.canonicalize().ok()
}

/// Finds nvcc: `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`, `/usr/local/cuda`, the pip packages of `VIRTUAL_ENV`, those of
/// `.cuda-venv`. Cargo watches only the variables that were read, so that a changed `PATH`, for instance, does not
/// cause a rebuild when `NVCC` is set.
fn find() -> Result<Option<PathBuf>, String> {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let looked_at = |variable: &str| {
        println!("cargo::rerun-if-env-changed={variable}");
        env::var_os(variable).filter(|value| !value.is_empty())
    };
    if let Some(named) = looked_at("NVCC").map(PathBuf::from) {
        let bare = named.components().count() == 1;
        let found = if bare { on_path(&looked_at("PATH").unwrap_or_default(), &named) } else { Some(named.clone()) };
        return match found.filter(|file| file.is_file()) {
            Some(file) => Ok(Some(file)),
            None => Err(format!("NVCC is {}, but there is no such file; correct or unset it", named.display())),
        };
    }
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        let file = looked_at(variable).map(|home| Path::new(&home).join("bin").join(&name));
        if let Some(file) = file.filter(|file| file.is_file()) {
            return Ok(Some(file));
        }
    }
    let fixed = Path::new("/usr/local/cuda/bin").join(&name);
    let usual = on_path(&looked_at("PATH").unwrap_or_default(), Path::new(&name));
    if let Some(file) = usual.or_else(|| fixed.is_file().then_some(fixed)) {
        return Ok(Some(file));
    }
    let beside = env::var_os("CARGO_MANIFEST_DIR").map(|root| Path::new(&root).join(".cuda-venv"));
    let environments = looked_at("VIRTUAL_ENV").map(PathBuf::from).into_iter().chain(beside);
    Ok(environments.flat_map(|venv| in_environment(&venv, &name)).find(|file| file.is_file()))
}

/// Searches a list of folders for a file.
fn on_path(path: &OsStr, name: &Path) -> Option<PathBuf> {
    env::split_paths(path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Returns the paths where the pip packages install a program, one for each Python of a virtual environment.
fn in_environment(venv: &Path, name: &str) -> Vec<PathBuf> {
    let pythons = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    pythons.map(|python| python.path().join("site-packages/nvidia/cu13/bin").join(name)).collect()
}

/// Returns the version of nvcc.
///
/// # Errors
/// Fails if it is not nvcc or too old.
fn version(nvcc: &Path) -> Result<String, String> {
    let text = output(Command::new(nvcc).arg("--version"))?;
    let version = ptxas::version(&text)
        .ok_or_else(|| format!("{} --version prints no version; is it nvcc? It prints:\n{text}", nvcc.display()))?;
    if ptxas::major(&version) < ptxas::OLDEST_NVCC {
        return Err(format!(
            "{} is version {version}, but the kernels need {}.0 or newer; install one and set NVCC to it",
            nvcc.display(),
            ptxas::OLDEST_NVCC
        ));
    }
    Ok(version)
}

/// Runs a command and returns its output from both streams.
///
/// # Errors
/// If the command fails, the error has its output.
fn output(command: &mut Command) -> Result<String, String> {
    // Untranslated messages, since `ptxas::read` parses them.
    let done = command.env("LC_ALL", "C").output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    match done.status.success() {
        true => Ok(text.into_owned()),
        false => Err(format!("{}\ncommand: {command:?}", ptxas::complaints(&text))),
    }
}

/// Returns the paths and contents of all headers that kernels may include, sorted. Skips `emulator/`, which nvcc never
/// reads.
fn headers() -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let mut folders = vec![PathBuf::from(ROOT)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).and_then(|all| all.collect::<io::Result<Vec<_>>>());
        for entry in entries.map_err(|e| format!("cannot list {}: {e}", folder.display()))? {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("emulator") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "cuh" || e == "h") {
                let bytes = read(&path)?;
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn write(path: &Path, content: &str) -> Result<(), String> {
    fs::write(path, content).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// One source file to compile.
struct Job<'a> {
    source: &'a Path,
    /// The folder for the fatbin, the stamp (a hash of all inputs) and the output of ptxas.
    folder: &'a Path,
    stem: String,
    /// The values of `-gencode`.
    gencode: Vec<String>,
}

/// One compiled source file.
struct Module {
    file: String,
    stem: String,
    usages: Vec<ptxas::Usage>,
}

impl Job<'_> {
    /// Compiles the file, unless the stamp shows that nothing has changed, and checks the report of ptxas.
    fn compiled(&self, nvcc: &Path, version: &str, headers: &[(PathBuf, Vec<u8>)]) -> Result<Module, String> {
        let at = |extension: &str| self.folder.join(format!("{}.{extension}", self.stem.replace('/', "-")));
        let (fatbin, stamp, said) = (at("fatbin"), at("stamp"), at("ptxas"));
        let mut command = Command::new(nvcc);
        command.args(FLAGS).arg("-I").arg(ROOT);
        for code in &self.gencode {
            command.args(["-gencode", code]);
        }
        command.arg(self.source).arg("-o").arg(at("fatbin.tmp"));

        let mut hash = DefaultHasher::new();
        (format!("{command:?}"), version, headers, read(self.source)?).hash(&mut hash);
        VARIABLES.map(env::var_os).hash(&mut hash);
        let fresh = hash.finish().to_string();
        if !fatbin.is_file() || fs::read_to_string(&stamp).ok().as_ref() != Some(&fresh) || !said.is_file() {
            // The build may be killed at any point, so the fatbin is removed first and written last: it exists only
            // together with a matching stamp and report.
            match fs::remove_file(&fatbin) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("cannot remove {}: {e}", fatbin.display()));
                }
                _ => {}
            }
            let text = output(&mut command).map_err(|error| {
                let remedy = ptxas::remedy(&error).map(|remedy| format!("\n{remedy}")).unwrap_or_default();
                format!("{}: nvcc failed:\n{error}{remedy}", self.source.display())
            })?;
            write(&said, &text)?;
            write(&stamp, &fresh)?;
            fs::rename(at("fatbin.tmp"), &fatbin).map_err(|e| format!("cannot write {}: {e}", fatbin.display()))?;
        }
        let report = ptxas::read(&String::from_utf8_lossy(&read(&said)?));
        if !report.faults.is_empty() {
            return Err(format!("{}: rejected device code:\n  {}", self.source.display(), report.faults.join("\n  ")));
        }
        let file = format!("{}.cu", self.stem);
        Ok(Module { file, stem: self.stem.clone(), usages: report.usages })
    }
}

/// Runs the jobs on as many threads as cargo allows. Returns the results in the order of the jobs, or all errors.
fn in_parallel<'a, J: Sync, T: Send>(
    jobs: &'a [J],
    run: impl Fn(&'a J) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let allowed = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(cores);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let (at, Some(job)) = next_job(&next, jobs) {
            done.push((at, run(job)));
        }
        done
    };
    let mut all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..allowed.clamp(1, cores)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for (_, result) in all {
        match result {
            Ok(result) => results.push(result),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(results) } else { Err(errors.join("\n")) }
}

/// Returns the next job and its index, `None` when all jobs have been taken.
fn next_job<'a, J>(next: &AtomicUsize, jobs: &'a [J]) -> (usize, Option<&'a J>) {
    let at = next.fetch_add(1, Ordering::Relaxed);
    (at, jobs.get(at))
}

/// Checks that no kernel name occurs in two files, since kernels are found by name alone.
fn unique(modules: &[Module]) -> Result<(), String> {
    let mut files = HashMap::new();
    for module in modules {
        for usage in &module.usages {
            let earlier = *files.entry(&usage.kernel).or_insert(&module.file);
            if *earlier != module.file {
                return Err(format!("kernel {} is in both {earlier} and {}; rename one", usage.kernel, module.file));
            }
        }
    }
    Ok(())
}

/// Writes the table of modules and the nvcc version; without nvcc, an empty table and `None`.
fn write_table(out_dir: &Path, version: Option<&str>, modules: &[Module]) -> Result<(), String> {
    let mut text =
        format!("/// The nvcc that compiled the device code.\npub const NVCC: Option<&str> = {version:?};\n\n");
    text += "/// The device code of this build, one module per kernel file.\npub const COMPILED: &[Module] = &[\n";
    for Module { file, stem, usages } in modules {
        let at = stem.replace('/', "-");
        let fatbin = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/kernels/{at}.fatbin\"))");
        let _ = writeln!(text, "    Module {{ file: {file:?}, fatbin: {fatbin}, kernels: &[");
        for ptxas::Usage { kernel, arch, registers, shared } in usages {
            let numbers = format!("registers: {registers}, shared: {shared}");
            let _ = writeln!(text, "        Kernel {{ name: {kernel:?}, arch: {arch:?}, {numbers} }},");
        }
        text += "    ] },\n";
    }
    text += "];\n";
    write(&out_dir.join("compiled.rs"), &text)
}
