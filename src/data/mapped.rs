//! Memory-mapped files, with checks for changes made by other programs.
//!
//! Other programs can write to a file while it is mapped here. Their writes are visible at once, and a read beyond the
//! end of a truncated file kills the process with SIGBUS. So long-running readers call [`Mapped::check_unchanged`] from
//! time to time, and the SIGBUS handler looks up the name of the mapped file by the faulting address with [`name_at`].

use std::fs::{self, File, Metadata};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::bail;
use crate::error::{Error, Result};
use crate::files::check_fetched;

/// A read-only memory-mapped file.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    path: PathBuf,
    opened: Stamp,
    /// Index into [`SLOTS`], or `None` if the table was full.
    slot: Option<usize>,
}

/// The metadata that shows whether a file was written to or replaced.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    /// Device and inode.
    identity: (u64, u64),
}

impl Stamp {
    fn of(facts: &Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            (facts.dev(), facts.ino())
        };
        #[cfg(not(unix))]
        let identity = (0, 0);
        Stamp { bytes: facts.len(), modified: facts.modified().ok(), identity }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapped {
    /// Maps a file. `what` describes the expected kind of file in error messages ("a token file").
    ///
    /// # Errors
    /// Fails if the file cannot be read, is not a regular file, or is a placeholder for data that was not fetched (such
    /// as a Git LFS pointer).
    pub fn open(path: &Path, what: &str) -> Result<Self> {
        // Opening a pipe would block.
        let facts = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
        if !facts.is_file() {
            bail!("cannot read {}: it is not a regular file; give {what}", path.display());
        }
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let opened = Stamp::of(&file.metadata().map_err(|e| Error::io("read", path, e))?);
        // SAFETY: the map is read-only, and this program never writes to such a file in place: it renames a new file
        // over it, which leaves the mapped one unchanged. Every access is bounds-checked against the map, and any byte
        // is a valid u8. Another program may write to the file, as to any mapped file: `check_unchanged` detects that,
        // and accessing a truncated file raises SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        check_fetched(path, &map)?;
        let slot = register(&map, path);
        Ok(Mapped { map, path: path.to_owned(), opened, slot })
    }

    /// Checks that no program has written to the file since it was opened. A file that was removed or replaced by
    /// another one passes, because the old content is still mapped.
    ///
    /// # Errors
    /// Fails if the size or the modification time of the file changed.
    pub fn check_unchanged(&self) -> Result<()> {
        let Ok(now) = fs::metadata(&self.path) else { return Ok(()) };
        let now = Stamp::of(&now);
        if now == self.opened || now.identity != self.opened.identity {
            return Ok(());
        }
        let (path, then) = (self.path.display(), self.opened.bytes);
        let how = match now.bytes == then {
            true => "it was written to".to_owned(),
            false => format!("it had {then} bytes and now has {}", now.bytes),
        };
        bail!("{path} changed while it was in use: {how}; restore the file, and do not write to it during a run")
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            SLOTS[slot].start.store(FREE, Ordering::Release);
        }
    }
}

/// The address range and name of one mapped file. All fields are atomics, because a signal handler reads them and must
/// not take locks.
struct Slot {
    /// The first address of the map, [`FREE`], or [`TAKEN`] while the slot is being written.
    start: AtomicUsize,
    /// The length of the map in bytes.
    bytes: AtomicUsize,
    /// The length of the name in bytes.
    length: AtomicUsize,
    name: [AtomicU8; NAME],
}

const FREE: usize = 0;
const TAKEN: usize = 1;
/// The capacity for a file's name in bytes. Only the end of a longer name is stored.
pub const NAME: usize = 232;

static SLOTS: [Slot; 4096] = [const {
    Slot {
        start: AtomicUsize::new(FREE),
        bytes: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        name: [const { AtomicU8::new(0) }; NAME],
    }
}; 4096];
/// Set once a file was mapped while all slots were taken.
static OVERFLOWED: AtomicBool = AtomicBool::new(false);

fn register(map: &[u8], path: &Path) -> Option<usize> {
    let free = |slot: &Slot| slot.start.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let Some(number) = SLOTS.iter().position(free) else {
        OVERFLOWED.store(true, Ordering::Relaxed);
        return None;
    };
    let slot = &SLOTS[number];
    let name = path.as_os_str().as_encoded_bytes();
    let name = &name[name.len().saturating_sub(NAME)..];
    slot.name.iter().zip(name).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
    slot.length.store(name.len(), Ordering::Relaxed);
    slot.bytes.store(map.len(), Ordering::Relaxed);
    slot.start.store(map.as_ptr().addr(), Ordering::Release);
    Some(number)
}

/// What [`name_at`] found at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A mapped file, with the number of bytes of its name that were written.
    Name(usize),
    /// No known file, but some mapped files did not fit into the table.
    Perhaps,
    /// No mapped file.
    Nothing,
}

/// Finds the file that is mapped at `address` and writes its name to the front of `name`. Async-signal-safe: it neither
/// locks nor allocates.
pub fn name_at(address: usize, name: &mut [u8; NAME]) -> Found {
    let holds = |slot: &&Slot| {
        let start = slot.start.load(Ordering::Acquire);
        start > TAKEN && address.checked_sub(start).is_some_and(|at| at < slot.bytes.load(Ordering::Relaxed))
    };
    match SLOTS.iter().find(holds) {
        Some(slot) => {
            name.iter_mut().zip(&slot.name).for_each(|(to, byte)| *to = byte.load(Ordering::Relaxed));
            Found::Name(slot.length.load(Ordering::Relaxed).min(NAME))
        }
        None if OVERFLOWED.load(Ordering::Relaxed) => Found::Perhaps,
        None => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_at_any_address_of_its_file_until_the_file_is_unmapped() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokens.bin");
        fs::write(&path, vec![7; 10_000]).expect("written");
        let mapped = Mapped::open(&path, "a file").expect("mapped");
        let (start, mut name) = (mapped.as_ptr().addr(), [0; NAME]);
        let expected = path.as_os_str().as_encoded_bytes();
        for at in [start, start + 9_999] {
            assert_eq!(name_at(at, &mut name), Found::Name(expected.len()));
            assert_eq!(&name[..expected.len()], expected);
        }
        for at in [start - 1, start + 10_000] {
            let other = name_at(at, &mut name) == Found::Name(expected.len()) && &name[..expected.len()] == expected;
            assert!(!other, "{at:#x} is not in the file");
        }
        drop(mapped);
        let found = name_at(start, &mut name);
        assert!(found == Found::Nothing || &name[..expected.len()] != expected, "{found:?}");
    }

    #[test]
    fn a_change_is_an_error_and_a_replacement_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokens.bin");
        let ago = SystemTime::now() - std::time::Duration::from_secs(60);
        let written = |bytes: usize| {
            fs::write(&path, vec![7; bytes]).expect("written");
            File::options().write(true).open(&path).and_then(|file| file.set_modified(ago)).expect("a time");
        };
        written(5_000);
        let mapped = Mapped::open(&path, "a file").expect("mapped");
        mapped.check_unchanged().expect("nothing happened");
        // Written in place with the same length: only the modification time differs.
        fs::write(&path, vec![8; 5_000]).expect("written");
        let said = mapped.check_unchanged().expect_err("it was written to").to_string();
        assert!(said.contains("tokens.bin") && said.contains("written to") && said.contains("; "), "{said}");
        written(3_000);
        let said = mapped.check_unchanged().expect_err("it is shorter").to_string();
        assert!(said.contains("had 5000 bytes and now has 3000"), "{said}");
        drop(mapped);
        written(5_000);
        let mapped = Mapped::open(&path, "a file").expect("mapped");
        fs::write(dir.path().join("new"), [9; 10])
            .and_then(|()| fs::rename(dir.path().join("new"), &path))
            .expect("new");
        mapped.check_unchanged().expect("the mapped file is the old one");
        assert!(mapped.iter().all(|byte| *byte == 7));
        fs::remove_file(&path).expect("removed");
        mapped.check_unchanged().expect("it is still mapped");
    }
}
