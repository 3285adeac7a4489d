//! Atomic writing of files and folders, and reading of whole files with a size limit.
//!
//! A run that is killed, or a disk that fills up, must never leave half a checkpoint under its final name. Everything
//! is therefore written under a temporary name next to its destination and renamed once it is on disk. The writing
//! process holds a lock on the temporary entry, which the system releases when the process ends for any reason. The
//! next process that writes into the same folder removes temporary entries that are not locked.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bail;
use crate::error::{Error, Result};

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
///
/// If the file cannot be read, is longer, is not a regular file (reading a pipe might never end), is a Git LFS pointer,
/// or is a web page.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let facts = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if facts.is_dir() {
        bail!("cannot read {}: it is a folder, not a file; give a file in it", path.display());
    }
    if !facts.is_file() {
        bail!(
            "cannot read {}: it is a pipe or a device, not a regular file; save its content to a file",
            path.display()
        );
    }
    if facts.len() > most {
        bail!(
            "cannot read {}: it has {} bytes, but such a file has at most {most}; check that it is the right file",
            path.display(),
            facts.len()
        );
    }
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    check_fetched(path, &bytes)?;
    if is_web_page(&bytes) {
        return Err(web_page(path));
    }
    Ok(bytes)
}

/// Start of a Git LFS pointer, which stands for a large file in a repository until the file is fetched.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Checks by its first bytes that a file is not a Git LFS pointer.
///
/// # Errors
/// If it is one: the file itself has not been fetched.
pub fn check_fetched(path: &Path, first: &[u8]) -> Result<()> {
    if first.starts_with(POINTER) {
        bail!(
            "{} is a Git LFS pointer and not the file itself; fetch the file with `git lfs pull` in its repository, or \
             download it",
            path.display()
        );
    }
    Ok(())
}

/// Returns whether a file starts like an HTML page, as the result of a failed download often does.
pub fn is_web_page(first: &[u8]) -> bool {
    let first = first.trim_ascii_start();
    ["<!doctype html", "<html"]
        .iter()
        .any(|tag| first.get(..tag.len()).is_some_and(|b| b.eq_ignore_ascii_case(tag.as_bytes())))
}

/// Returns the error for a file that turned out to be an HTML page.
pub fn web_page(path: &Path) -> Error {
    Error::new(format!(
        "{} is a web page (HTML), perhaps from a failed download; download the file again",
        path.display()
    ))
}

/// Reads a text file like [`read`] and strips its byte order mark.
///
/// # Errors
///
/// As for [`read`], and if the bytes are not valid UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    let bytes = read(path, most)?;
    match str::from_utf8(strip_bom(&bytes)) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => {
            let at = e.valid_up_to() + bytes.len() - strip_bom(&bytes).len();
            bail!("cannot read {}: not UTF-8 at byte {at}; save it as UTF-8 text", path.display())
        }
    }
}

/// Strips the byte order mark that some programs put before UTF-8 text.
pub fn strip_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Quotes a path for a shell command that is printed. Paths of letters, digits and common punctuation stay unquoted.
pub fn shell_quote(path: &Path) -> String {
    let text = path.display().to_string();
    // A leading dash would be parsed as an option.
    if text.starts_with('-') { shell_quote_text(&format!("./{text}")) } else { shell_quote_text(&text) }
}

/// Quotes an arbitrary argument like [`shell_quote`].
pub fn shell_quote_text(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Writes the file `path` through `write` and replaces an existing file only once the new one is complete.
///
/// The bytes go through a buffer to a temporary file in the same folder, which is synced to disk and renamed to `path`;
/// then the folder is synced if the system supports it. Missing parent folders are created and are not removed on
/// failure. A symbolic link at `path` is replaced, not followed.
///
/// # Errors
///
/// If a system call fails or `write` returns an error. The temporary file is then removed and an existing `path` is
/// left unchanged.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    write(&mut file.out).map_err(|e| Error::io("write", path, e))?;
    file.commit()
}

/// A file that is written in several calls and appears atomically: [`write_atomic`] for writers that are not one
/// closure.
pub struct AtomicFile {
    path: PathBuf,
    folder: PathBuf,
    temporary: Temporary,
    out: BufWriter<File>,
}

impl AtomicFile {
    /// Opens a temporary file next to `path`. [`AtomicFile::commit`] renames it to `path`; dropping it before removes
    /// it.
    ///
    /// # Errors
    ///
    /// If a parent folder or the temporary file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let folder = prepare_parent(path)?;
        let (temporary, file) = Temporary::file(&folder)?;
        Ok(AtomicFile { path: path.to_owned(), folder, temporary, out: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// If the write fails, for instance on a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Overwrites the first bytes, for instance a header whose counts are known only at the end. Further writes
    /// continue right after these bytes.
    ///
    /// # Errors
    ///
    /// As for [`AtomicFile::write`].
    pub fn write_at_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.seek(io::SeekFrom::Start(0)).map_err(|e| Error::io("write", &self.path, e))?;
        self.write(bytes)
    }

    /// Syncs the file to disk and renames it to its destination.
    ///
    /// # Errors
    ///
    /// If writing, syncing or renaming fails.
    pub fn commit(self) -> Result<()> {
        let AtomicFile { path, folder, temporary, out } = self;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error);
        let file = file.and_then(|file| file.sync_all().map(|()| file)).map_err(|e| Error::io("write", &path, e))?;
        let renamed = temporary.rename_to(&path, &folder);
        // Keep the lock until the rename: another process would otherwise remove the file as abandoned.
        drop(file);
        renamed
    }
}

/// Creates the folder `dir` with the contents that `fill` writes into the folder passed to it.
///
/// `fill` works in a temporary sibling of `dir`, which is synced to disk and renamed to `dir` once `fill` succeeds.
/// Missing parent folders are created and are not removed on failure.
///
/// # Errors
///
/// If `dir` already exists as anything, a system call fails, or `fill` returns an error. The temporary folder is then
/// removed with its contents, and `dir` is not created.
pub fn write_dir_atomic(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if fs::symlink_metadata(dir).is_ok() {
        bail!("{} exists already; choose another --out or remove it", dir.display());
    }
    let folder = prepare_parent(dir)?;
    let temporary = Temporary::folder(&folder)?;
    fill(&temporary.path)?;
    sync_tree(&temporary.path).map_err(|e| Error::io("write", dir, e))?;
    temporary.rename_to(dir, &folder)
}

/// Removes temporary files and folders that killed processes left anywhere below `folder`. The caller must know that no
/// other process writes there: locks are not checked.
pub fn remove_temporaries(folder: &Path) {
    // What cannot be read or removed only takes space.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_temporary(&entry) {
            let _ = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        } else if is_folder {
            remove_temporaries(&path);
        }
    }
}

/// Prefix of temporary names.
const TEMPORARY: &str = ".vcycle-";

fn is_temporary(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    name.starts_with(TEMPORARY) && name.ends_with(".tmp")
}

/// Removes temporary files and folders that killed processes left in `folder`: those that are not locked. On a file
/// system without locks nothing is removed.
fn remove_abandoned(folder: &Path) {
    // What cannot be read or removed only takes space.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(is_temporary) {
        let path = entry.path();
        // Other kinds are not ours, and opening a pipe could block.
        let Some(kind) = entry.file_type().ok().filter(|kind| kind.is_dir() || kind.is_file()) else { continue };
        // Hold the lock while removing: a process that has created the entry but not locked it yet finds that it is
        // gone.
        let Some(_lock) = File::open(&path).ok().filter(|file| file.try_lock().is_ok()) else { continue };
        let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// Returns the parent folder of `path` and creates it if it is missing.
fn prepare_parent(path: &Path) -> Result<PathBuf> {
    if path.file_name().is_none() {
        bail!(
            "cannot write to {:?}: the path has no file name; give the path of a new file or folder",
            path.display().to_string()
        );
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&folder).map_err(|e| Error::io("create folder", &folder, e))?;
    Ok(folder)
}

/// A file or folder that is removed when dropped, unless it was renamed to its destination.
struct Temporary {
    path: PathBuf,
    renamed: bool,
    /// The lock of a folder. A file is locked through the handle that writes it.
    _lock: Option<File>,
}

/// Locks the new entry at `path`, opened as `file`, for this process.
///
/// # Errors
/// `NotFound` if another process took the entry for abandoned and is removing or has removed it.
fn claim(path: &Path, file: &File) -> io::Result<()> {
    match file.try_lock() {
        // We may have got the lock after another process removed the entry: check that it is still the same one.
        Ok(()) if identity(&fs::symlink_metadata(path)?) == identity(&file.metadata()?) => Ok(()),
        Ok(()) => Err(io::ErrorKind::NotFound.into()),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::NotFound.into()),
        // The file system has no locks, so no process removes the entry.
        Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Returns the device and inode number of a file; without Unix, 0 and its length.
fn identity(facts: &fs::Metadata) -> (u64, u64) {
    #[cfg(unix)]
    return (std::os::unix::fs::MetadataExt::dev(facts), std::os::unix::fs::MetadataExt::ino(facts));
    #[cfg(not(unix))]
    (0, facts.len())
}

impl Temporary {
    fn file(folder: &Path) -> Result<(Self, File)> {
        let create = |path: &Path| {
            let file = OpenOptions::new().write(true).create_new(true).open(path)?;
            claim(path, &file).map(|()| file)
        };
        let (path, file) = Self::create(folder, create)?;
        Ok((Temporary { path, renamed: false, _lock: None }, file))
    }

    fn folder(folder: &Path) -> Result<Self> {
        let create = |path: &Path| {
            fs::create_dir(path)?;
            // Other systems may not open folders, so their folders are not locked.
            if !cfg!(unix) {
                return Ok(None);
            }
            let lock = File::open(path)
                .and_then(|lock| claim(path, &lock).map(|()| lock))
                // For instance if there are too many open files.
                .inspect_err(|_| drop(fs::remove_dir(path)));
            lock.map(Some)
        };
        let (path, _lock) = Self::create(folder, create)?;
        Ok(Temporary { path, renamed: false, _lock })
    }

    /// Creates a new entry in `folder` by calling `create` with new names until one is free.
    fn create<T>(folder: &Path, create: impl Fn(&Path) -> io::Result<T>) -> Result<(PathBuf, T)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        remove_abandoned(folder);
        let mut gone = 0;
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            // The name does not include the destination's, which may already be as long as the file system allows.
            let path = folder.join(format!("{TEMPORARY}{}-{count}.tmp", std::process::id()));
            match create(&path) {
                Ok(made) => return Ok((path, made)),
                // A killed process with the same id left it, as happens in containers.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                // Another process removed it while cleaning up. Retries are limited because the folder itself may be
                // gone.
                Err(e) if e.kind() == io::ErrorKind::NotFound && gone < 16 => gone += 1,
                Err(e) => return Err(Error::io("create a temporary file in", folder, e)),
            }
        }
    }

    fn rename_to(mut self, destination: &Path, folder: &Path) -> Result<()> {
        fs::rename(&self.path, destination).map_err(|e| Error::io("write", destination, e))?;
        self.renamed = true;
        sync_folder(folder);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // Ignore errors here: the one that led to this drop is reported.
            let _ = match fs::symlink_metadata(&self.path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&self.path),
                _ => fs::remove_file(&self.path),
            };
        }
    }
}

/// Makes a rename in `folder` durable. Not every file system can sync a folder, and the rename has already happened, so
/// errors are ignored.
fn sync_folder(folder: &Path) {
    if cfg!(unix) {
        let _ = File::open(folder).and_then(|f| f.sync_all());
    }
}

/// Syncs every file below `folder`: `fill` may have written some of them without [`write_atomic`].
fn sync_tree(folder: &Path) -> io::Result<()> {
    // Windows syncs only files that are open for writing.
    if !cfg!(unix) {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder);
    Ok(())
}
