//! Compiles kernels that have changed since the build, when the emulator first runs one.
//!
//! Rebuilding the crate for one edited line of a kernel takes minutes; compiling the kernel takes a second. So a build
//! without nvcc does not depend on `kernels/`. Instead, the emulator compares the sources with what the build has seen.
//! It compiles changed and new files with the build's compiler and options into a shared object, which it loads. The
//! shared object stays in the build folder for the next process. Installed binaries, whose sources are elsewhere, run the
//! kernels of their build. `VCYCLE_ROOT` names another folder with the sources.

use super::registry;
use crate::error::{Error, Result};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsString, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process, thread};

// COMPILER: the command with its arguments. SOURCES: every file that the kernels consist of and a hash of its content.
// UNITS: every `.cu` file and the indices of the sources that it reads.
include!(concat!(env!("OUT_DIR"), "/emulated.rs"));

/// The kernels that were loaded.
pub struct Reloaded {
    /// Their files, as `__FILE__` names them.
    pub files: Vec<String>,
    /// The head of the list of kernels before they were loaded, as an address.
    pub before: usize,
}

/// The memory of the shared object.
static LOADED: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Returns whether an address lies in a shared object that was loaded.
pub fn contains(address: usize) -> bool {
    let [begin, end] = [0, 1].map(|i| LOADED[i].load(Ordering::Relaxed));
    (begin..end).contains(&address)
}

/// Loads the kernels that have changed, on the first call, and returns them: `None` if none has changed.
///
/// # Errors
/// A changed kernel does not compile. The message is the compiler's. Every later call fails, too.
pub fn changed() -> Result<Option<&'static Reloaded>> {
    static DONE: OnceLock<Result<Option<Reloaded>, String>> = OnceLock::new();
    let root = || env::var_os("VCYCLE_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let done = DONE.get_or_init(|| load(&root()).map_err(|e| e.to_string()));
    done.as_ref().map(Option::as_ref).map_err(|e| Error::new(e.clone()))
}

fn load(root: &Path) -> Result<Option<Reloaded>> {
    let files = changed_files(root);
    if files.is_empty() {
        return Ok(None);
    }
    eprintln!("note: the emulator runs kernels that have changed since the build: {}", files.join(", "));
    let shared = compile(root, &files)?;
    let before = registry::head() as usize;
    // SAFETY: its constructors register kernels and do nothing else.
    let library = unsafe { Library::open(Some(&shared), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| {
        Error::new(format!("cannot load {}: {e}; rebuild with: touch build.rs && cargo build", shared.display()))
    })?;
    // It stays loaded: the list of kernels points into it.
    std::mem::forget(library);
    note_memory(registry::head() as usize);
    Ok(Some(Reloaded { files, before }))
}

/// Returns the `.cu` files that differ from those of the build, or that read a header that differs; and new ones.
fn changed_files(root: &Path) -> Vec<String> {
    let same: Vec<bool> = SOURCES
        .iter()
        .map(|(file, hash)| match fs::read(root.join(file)) {
            Ok(content) => content_hash(&content) == *hash,
            // There are no sources here.
            Err(_) => true,
        })
        .collect();
    let known: BTreeMap<&str, &[usize]> = UNITS.iter().copied().collect();
    let mut files: Vec<String> =
        known.iter().filter(|(_, read)| !read.iter().all(|&i| same[i])).map(|(file, _)| (*file).to_owned()).collect();
    let folders: BTreeSet<&Path> = known.keys().filter_map(|file| Path::new(file).parent()).collect();
    for folder in folders {
        for entry in fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
            let file = folder.join(entry.file_name()).to_string_lossy().into_owned();
            if file.ends_with(".cu") && !known.contains_key(file.as_str()) {
                files.push(file);
            }
        }
    }
    files
}

/// Returns the files in a folder and its folders, sorted.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(all_files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn content_hash(content: &Vec<u8>) -> u64 {
    let mut hash = DefaultHasher::new();
    content.hash(&mut hash);
    hash.finish()
}

/// Compiles the files, several at once, and links them to a shared object, whose path it returns. If an earlier process
/// has done so, it does nothing.
fn compile(root: &Path, files: &[String]) -> Result<PathBuf> {
    let folder = Path::new(env!("OUT_DIR")).join("reloaded");
    let mut hash = DefaultHasher::new();
    // With all files of the folder: a changed kernel may include headers that the build has not seen.
    (COMPILER, files).hash(&mut hash);
    for file in all_files(&root.join("kernels")) {
        (&file, fs::read(&file).unwrap_or_default()).hash(&mut hash);
    }
    let shared = folder.join(format!("{:016x}.so", hash.finish()));
    if shared.is_file() {
        return Ok(shared);
    }
    fs::create_dir_all(&folder).map_err(|e| Error::new(format!("cannot create {}: {e}", folder.display())))?;
    let object = |i: usize| folder.join(format!("{}-{i}.o", process::id()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(i) else { return Ok(()) };
            run(root, &[&["-c".into(), file.into(), "-o".into(), object(i).into()]], true)?;
        }
    };
    let compiled = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(files.len())).map(|_| scope.spawn(worker)).collect();
        let all =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(Error::new("a thread panicked"))));
        all.fold(Ok(()), Result::and)
    });
    let objects: Vec<OsString> = (0..files.len()).map(|i| object(i).into()).collect();
    let temporary = folder.join(format!("{}.so", process::id()));
    let linked = compiled.and_then(|()| {
        // Definitions in headers are those of this object, not the executable's.
        run(root, &[&["-shared".into(), "-Wl,-Bsymbolic".into(), "-o".into(), (&temporary).into()], &objects], false)?;
        fs::rename(&temporary, &shared).map_err(|e| Error::new(format!("cannot write {}: {e}", shared.display())))
    });
    for file in objects.iter().map(Path::new).chain([temporary.as_path()]) {
        let _ = fs::remove_file(file);
    }
    linked.map(|()| shared)
}

/// Runs the build's compiler in the root of the sources. `options`: with those of the build.
fn run(root: &Path, args: &[&[OsString]], options: bool) -> Result<()> {
    let mut command = Command::new(COMPILER[0]);
    command.current_dir(root).args(&COMPILER[1..if options { COMPILER.len() } else { 1 }]).args(args.concat());
    let done = command.output().map_err(|e| Error::new(format!("cannot run {}: {e}", COMPILER[0])))?;
    if !done.status.success() {
        let message = String::from_utf8_lossy(&done.stderr);
        return Err(Error::new(format!(
            "a kernel has changed since the build and does not compile:\n{}",
            message.trim_end()
        )));
    }
    Ok(())
}

/// Sets [`LOADED`] to the memory of the object that contains an address.
fn note_memory(address: usize) {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: libc passes a valid description; `data` is the address below.
        let (info, address) = unsafe { (&*info, *data.cast::<usize>()) };
        // SAFETY: the object has this number of headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let loads = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let end = loads.map(|header| (info.dlpi_addr + header.p_vaddr + header.p_memsz) as usize).max().unwrap_or(0);
        let begin = info.dlpi_addr as usize;
        if (begin..end).contains(&address) {
            LOADED[0].store(begin, Ordering::Relaxed);
            LOADED[1].store(end, Ordering::Relaxed);
            return 1;
        }
        0
    }
    let mut address = address;
    // SAFETY: `visit` has the type that libc expects and is called during this call only.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut address).cast()) };
}
