//! Files and folders that appear whole or not at all, and files read whole or not at all.
//!
//! A run that is killed, or a disk that fills up, must never leave half a checkpoint under the name of a whole one.
//! Everything is therefore written under a temporary name next to its destination and renamed once it is on disk. What is
//! under such a name is locked by the process that writes it; the system lets go of the lock when that ends, however it does,
//! and whoever writes into the same folder next removes what nobody holds.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bail;
use crate::error::{Error, Result};

/// The bytes of a regular file of at most `most` bytes.
///
/// # Errors
///
/// When it cannot be read, is longer, or is no regular file: reading a pipe might never end.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let facts = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if facts.is_dir() {
        bail!("cannot read {}: it is a folder, not a file; name one file in it", path.display());
    }
    if !facts.is_file() {
        bail!("cannot read {}: it is not a file but a pipe or a device; save its content to a file", path.display());
    }
    if facts.len() > most {
        bail!(
            "cannot read {}: {} bytes, and such a file has at most {most}; is it the right one?",
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

/// What stands in a repository for a large file until that is fetched.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Checks that a file is there itself, by its first bytes.
///
/// # Errors
/// It is a pointer of Git LFS, which nothing should be read from.
pub fn check_fetched(path: &Path, first: &[u8]) -> Result<()> {
    if first.starts_with(POINTER) {
        bail!(
            "{} is a pointer of Git LFS and not the file itself; fetch that with `git lfs pull` in its repository, or download it",
            path.display()
        );
    }
    Ok(())
}

/// Whether a file begins as a web page does: a download that went wrong often is one.
pub fn is_web_page(first: &[u8]) -> bool {
    let first = first.trim_ascii_start();
    ["<!doctype html", "<html"]
        .iter()
        .any(|tag| first.get(..tag.len()).is_some_and(|b| b.eq_ignore_ascii_case(tag.as_bytes())))
}

/// Of a file that is a web page where none can be meant.
pub fn web_page(path: &Path) -> Error {
    Error::new(format!(
        "{} is a web page (HTML), perhaps of a failed download; download the file again",
        path.display()
    ))
}

/// As [`read`], as text, without a byte order mark.
///
/// # Errors
///
/// As [`read`]; when the bytes are not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    let bytes = read(path, most)?;
    match str::from_utf8(without_mark(&bytes)) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => {
            let at = e.valid_up_to() + bytes.len() - without_mark(&bytes).len();
            bail!("cannot read {}: not UTF-8 at byte {at}; save it as UTF-8 text", path.display())
        }
    }
}

/// Content without the byte order mark that some programs put before UTF-8: it is never text.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// A path as a shell takes it, for commands that are printed: in quotes where it has more than letters, digits and the usual marks.
pub fn shell_quote(path: &Path) -> String {
    let text = path.display().to_string();
    // A command would take it for an option.
    if text.starts_with('-') { shell_quote_text(&format!("./{text}")) } else { shell_quote_text(&text) }
}

/// As [`shell_quote`], of a text that is no path.
pub fn shell_quote_text(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Writes the file `path` through `write`, replacing an existing file only once the new one is complete.
///
/// The bytes go, buffered, to a temporary file in the same folder, which is synced to disk and renamed to `path`; then
/// the folder is synced where the system allows it. Missing parent folders are created, and stay on failure. A symbolic
/// link at `path` is replaced, not followed.
///
/// # Errors
///
/// When the system refuses a step or `write` returns an error. The temporary file is removed and an existing `path` is
/// left as it was.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    write(&mut file.out).map_err(|e| Error::io("write", path, e))?;
    file.commit()
}

/// A file that is written bit by bit and appears whole: [`write_atomic`] for writers that cannot be one function.
pub struct AtomicFile {
    path: PathBuf,
    folder: PathBuf,
    temporary: Temporary,
    out: BufWriter<File>,
}

impl AtomicFile {
    /// Opens a temporary file beside `path`, where it appears with [`AtomicFile::commit`]; dropped before, it is removed.
    ///
    /// # Errors
    ///
    /// As [`write_atomic`].
    pub fn create(path: &Path) -> Result<Self> {
        let folder = prepare_parent(path)?;
        let (temporary, file) = Temporary::file(&folder)?;
        Ok(AtomicFile { path: path.to_owned(), folder, temporary, out: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// When the disk is full, for instance.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Replaces the first bytes, as of a header whose counts are known at the end. What is written then goes behind them.
    ///
    /// # Errors
    ///
    /// As [`AtomicFile::write`].
    pub fn write_at_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.seek(io::SeekFrom::Start(0)).map_err(|e| Error::io("write", &self.path, e))?;
        self.write(bytes)
    }

    /// Syncs the file to disk and gives it its name.
    ///
    /// # Errors
    ///
    /// As [`write_atomic`].
    pub fn commit(self) -> Result<()> {
        let AtomicFile { path, folder, temporary, out } = self;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error);
        let file = file.and_then(|file| file.sync_all().map(|()| file)).map_err(|e| Error::io("write", &path, e))?;
        let renamed = temporary.rename_to(&path, &folder);
        // Locked until it has its name: whoever cleans up in between would take it for abandoned.
        drop(file);
        renamed
    }
}

/// Makes the folder `dir` with the contents that `fill` writes into the folder it is given.
///
/// `fill` works in a temporary sibling of `dir`, which is synced to disk and renamed to `dir` once `fill` succeeds.
/// Missing parent folders are created, and stay on failure.
///
/// # Errors
///
/// When `dir` exists already, in any form, when the system refuses a step, or when `fill` returns an error. The
/// temporary folder is removed with all it holds, and `dir` does not appear.
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

/// Removes what killed processes left below `folder` under temporary names. Only for who knows that no other process
/// writes there.
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

/// How temporary names begin.
const TEMPORARY: &str = ".vcycle-";

fn is_temporary(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    name.starts_with(TEMPORARY) && name.ends_with(".tmp")
}

/// Removes what killed processes left in `folder` under temporary names: what is not locked. Where the file system knows no
/// locks all of it stays.
fn remove_abandoned(folder: &Path) {
    // What cannot be read or removed only takes space.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(is_temporary) {
        let path = entry.path();
        // Anything else is not ours, and a pipe would be waited for.
        let Some(kind) = entry.file_type().ok().filter(|kind| kind.is_dir() || kind.is_file()) else { continue };
        // The lock is held meanwhile: a process that has just made the entry and not yet locked it sees that it is gone.
        let Some(_lock) = File::open(&path).ok().filter(|file| file.try_lock().is_ok()) else { continue };
        let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// The folder that holds `path`, created if need be.
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
    /// Of a folder; a file is locked through the handle that writes it.
    _lock: Option<File>,
}

/// Whether the new entry at `path`, opened as `file`, is this process's to write.
///
/// # Errors
/// It was taken for one that a killed process left, and is gone.
fn claim(path: &Path, file: &File) -> io::Result<()> {
    match file.try_lock() {
        // Before the entry was removed, or after.
        Ok(()) if identity(&fs::symlink_metadata(path)?) == identity(&file.metadata()?) => Ok(()),
        Ok(()) => Err(io::ErrorKind::NotFound.into()),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::NotFound.into()),
        // Nobody can lock it, so nobody removes it.
        Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Device and number of a file, where the system tells.
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
            // Not every system opens a folder, and then none locks it.
            if !cfg!(unix) {
                return Ok(None);
            }
            let lock = File::open(path)
                .and_then(|lock| claim(path, &lock).map(|()| lock))
                // With no handle left, for instance.
                .inspect_err(|_| drop(fs::remove_dir(path)));
            lock.map(Some)
        };
        let (path, _lock) = Self::create(folder, create)?;
        Ok(Temporary { path, renamed: false, _lock })
    }

    /// Makes a new entry in `folder` by calling `create` with names until one is free.
    fn create<T>(folder: &Path, create: impl Fn(&Path) -> io::Result<T>) -> Result<(PathBuf, T)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        remove_abandoned(folder);
        let mut gone = 0;
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            // Not derived from the destination's name, which may already be as long as the file system allows.
            let path = folder.join(format!("{TEMPORARY}{}-{count}.tmp", std::process::id()));
            match create(&path) {
                Ok(made) => return Ok((path, made)),
                // Left by a killed process that had the same id, as happens in containers.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                // Another process was cleaning up. The folder itself may be what is gone.
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
            // The error that brought us here is the one to report.
            let _ = match fs::symlink_metadata(&self.path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&self.path),
                _ => fs::remove_file(&self.path),
            };
        }
    }
}

/// Makes a rename in `folder` durable. Not every file system can sync a folder and the rename has already taken place,
/// so a refusal is not an error.
fn sync_folder(folder: &Path) {
    if cfg!(unix) {
        let _ = File::open(folder).and_then(|f| f.sync_all());
    }
}

/// Syncs every file below `folder`: `fill` may have made some of them by other means than [`write_atomic`].
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
