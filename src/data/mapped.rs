//! Files that are mapped into memory: what they were when they were opened, and where they lie.
//!
//! Nothing keeps other programs from writing to a file that is mapped here. What they write is seen at once, and reading what
//! they cut off ends the process by SIGBUS. So whoever reads for long asks from time to time whether the file is as it was
//! ([`Mapped::check_unchanged`]), and the handler of that signal finds a file's name by an address ([`name_at`]).

use std::fs::{self, File, Metadata};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::bail;
use crate::error::{Error, Result};
use crate::files::check_fetched;

/// A file, mapped read-only.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    path: PathBuf,
    opened: Facts,
    /// Of [`PLACES`]; `None`: there was none left.
    place: Option<usize>,
}

/// What tells that a file was written to, or is another one.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    bytes: u64,
    modified: Option<SystemTime>,
    identity: (u64, u64),
}

impl Facts {
    fn of(facts: &Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            (facts.dev(), facts.ino())
        };
        #[cfg(not(unix))]
        let identity = (0, 0);
        Facts { bytes: facts.len(), modified: facts.modified().ok(), identity }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapped {
    /// Maps a file of data; `what` it is, for errors.
    ///
    /// # Errors
    /// When it cannot be read or is no regular file.
    pub fn open(path: &Path, what: &str) -> Result<Self> {
        // A pipe would be waited for.
        let facts = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
        if !facts.is_file() {
            bail!("cannot read {}: it is not a regular file; give {what}", path.display());
        }
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let opened = Facts::of(&file.metadata().map_err(|e| Error::io("read", path, e))?);
        // SAFETY: the map is read-only, and this program never writes to such a file in place: it renames a new one over it,
        // which leaves the mapped one alone. Every access is bounds-checked against the map, and any byte is a valid u8. Another
        // program may write to the file, as to any mapped file: `check_unchanged` tells of that, and SIGBUS of a file cut short.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        check_fetched(path, &map)?;
        let place = register(&map, path);
        Ok(Mapped { map, path: path.to_owned(), opened, place })
    }

    /// Nobody has written to the file. One that was removed or replaced by another is still mapped as it was.
    ///
    /// # Errors
    /// How it differs from what was opened, and what to do.
    pub fn check_unchanged(&self) -> Result<()> {
        let Ok(now) = fs::metadata(&self.path) else { return Ok(()) };
        let now = Facts::of(&now);
        if now == self.opened || now.identity != self.opened.identity {
            return Ok(());
        }
        let (path, then) = (self.path.display(), self.opened.bytes);
        let how = match now.bytes == then {
            true => "it was written to".to_owned(),
            false => format!("it had {then} bytes and has {}", now.bytes),
        };
        bail!("{path} changed while it was read: {how}; bring it back as it was, and let nothing write to it meanwhile")
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            PLACES[place].start.store(FREE, Ordering::Release);
        }
    }
}

/// Where a file is mapped. Made of atomics, since a signal handler reads it and can wait for nobody.
struct Place {
    /// Its first address, [`FREE`], or [`TAKEN`] while it is written.
    start: AtomicUsize,
    bytes: AtomicUsize,
    length: AtomicUsize,
    name: [AtomicU8; NAME],
}

const FREE: usize = 0;
const TAKEN: usize = 1;
/// Bytes of a name; of longer ones the end is kept.
pub const NAME: usize = 232;

static PLACES: [Place; 4096] = [const {
    Place {
        start: AtomicUsize::new(FREE),
        bytes: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        name: [const { AtomicU8::new(0) }; NAME],
    }
}; 4096];
/// Some file found no place.
static MORE: AtomicBool = AtomicBool::new(false);

fn register(map: &[u8], path: &Path) -> Option<usize> {
    let free = |place: &Place| place.start.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let Some(number) = PLACES.iter().position(free) else {
        MORE.store(true, Ordering::Relaxed);
        return None;
    };
    let place = &PLACES[number];
    let name = path.as_os_str().as_encoded_bytes();
    let name = &name[name.len().saturating_sub(NAME)..];
    place.name.iter().zip(name).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
    place.length.store(name.len(), Ordering::Relaxed);
    place.bytes.store(map.len(), Ordering::Relaxed);
    place.start.store(map.as_ptr().addr(), Ordering::Release);
    Some(number)
}

/// What is mapped at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file whose name has so many bytes.
    Name(usize),
    /// Perhaps a file: not all had a place in the table.
    Perhaps,
    Nothing,
}

/// Finds the file that is mapped at `address`, and writes its name. Takes no lock and no memory: a signal handler may call it.
pub fn name_at(address: usize, name: &mut [u8; NAME]) -> Found {
    let holds = |place: &&Place| {
        let start = place.start.load(Ordering::Acquire);
        start > TAKEN && address.checked_sub(start).is_some_and(|at| at < place.bytes.load(Ordering::Relaxed))
    };
    match PLACES.iter().find(holds) {
        Some(place) => {
            name.iter_mut().zip(&place.name).for_each(|(to, byte)| *to = byte.load(Ordering::Relaxed));
            Found::Name(place.length.load(Ordering::Relaxed).min(NAME))
        }
        None if MORE.load(Ordering::Relaxed) => Found::Perhaps,
        None => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_any_address_of_its_file_and_gone_with_it() {
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
    fn a_change_is_told_and_a_replacement_is_none() {
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
        // In place, with the same length: the time of the change is all that tells.
        fs::write(&path, vec![8; 5_000]).expect("written");
        let said = mapped.check_unchanged().expect_err("it was written to").to_string();
        assert!(said.contains("tokens.bin") && said.contains("written to") && said.contains("; "), "{said}");
        written(3_000);
        let said = mapped.check_unchanged().expect_err("it is shorter").to_string();
        assert!(said.contains("had 5000 bytes and has 3000"), "{said}");
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
