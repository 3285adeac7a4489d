//! A hash of files and settings, to find again what was made from them.

use std::io::Read;
use std::path::Path;

use super::text::reader::open_file;
use crate::bail;
use crate::error::{Error, Result};

/// A 64-bit hash that stays the same across machines and versions; against accidents, not against an adversary.
#[derive(Default)]
pub struct Fingerprint {
    state: u64,
}

impl Fingerprint {
    /// Adds one field. The length goes in first, so that bytes cannot move between fields unnoticed.
    pub fn add(&mut self, field: &[u8]) {
        self.word(field.len() as u64);
        self.words(field);
    }

    /// Adds the bytes of a file as one field.
    ///
    /// # Errors
    /// When the file cannot be read, or changes meanwhile.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let mut file = open_file(path)?;
        let size = file.get_ref().metadata().map_err(|e| Error::io("read", path, e))?.len();
        self.word(size);
        // A multiple of a word, so that only the last part has a word that is not full.
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
            bail!("{} changed while it was read; try again when nothing writes to it", path.display());
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

    pub fn hex(&self) -> String {
        let mut last = Fingerprint { state: self.state };
        last.word(0);
        last.word(0);
        format!("{:016x}", last.state)
    }
}

/// The [`Fingerprint`] of a file alone, in hexadecimal.
pub(super) fn sum_of(path: &Path) -> Result<String> {
    let mut print = Fingerprint::default();
    print.add_file(path)?;
    Ok(print.hex())
}
