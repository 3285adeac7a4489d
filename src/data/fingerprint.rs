//! A hash of files and settings, which identifies what was built from them.

use std::io::Read;
use std::path::Path;

use super::text::reader::open_file;
use crate::bail;
use crate::error::{Error, Result};

/// A 64-bit hash that is the same on all machines and in all versions. It detects accidental changes and is not
/// cryptographically secure.
#[derive(Default)]
pub struct Fingerprint {
    state: u64,
}

impl Fingerprint {
    /// Adds one field: its length, then its bytes. The length makes sure that moving bytes from one field to the next
    /// changes the hash.
    pub fn add(&mut self, field: &[u8]) {
        self.word(field.len() as u64);
        self.words(field);
    }

    /// Adds the bytes of a file as one field.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if its size changes while it is read.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let mut file = open_file(path)?;
        let size = file.get_ref().metadata().map_err(|e| Error::io("read", path, e))?.len();
        self.word(size);
        // Parts are multiples of a word, so that only the last part can end in a partial word.
        let mut part = Vec::with_capacity(1 << 18);
        let mut read = 0;
        loop {
            part.clear();
            let limit = part.capacity() as u64 & !7;
            file.by_ref().take(limit).read_to_end(&mut part).map_err(|e| Error::io("read", path, e))?;
            if part.is_empty() {
                break;
            }
            read += part.len() as u64;
            self.words(&part);
        }
        if read != size {
            bail!("{} changed while it was being read; try again when no other program writes to it", path.display());
        }
        Ok(())
    }

    fn words(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn word(&mut self, word: u64) {
        // Both steps are bijections of the state, so a change in one word always changes the result.
        let state = (self.state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.state = state ^ (state >> 32);
    }

    /// Returns the hash of the fields so far as 16 hexadecimal digits. More fields can be added afterwards.
    pub fn hex(&self) -> String {
        let mut last = Fingerprint { state: self.state };
        last.word(0);
        last.word(0);
        format!("{:016x}", last.state)
    }
}

/// Returns the [`Fingerprint`] of a single file, in hexadecimal.
///
/// # Errors
/// See [`Fingerprint::add_file`].
pub(super) fn sum_of(path: &Path) -> Result<String> {
    let mut print = Fingerprint::default();
    print.add_file(path)?;
    Ok(print.hex())
}
