//! Token files as one stream: what a run trains on, or validates on.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::shard::Shard;
use crate::bail;
use crate::error::{Error, Result};

/// Shards in a row, which [`Sampler`](super::sampler::Sampler) and validation read as one.
#[derive(Debug)]
pub struct Tokens {
    shards: Vec<Shard>,
}

impl From<Shard> for Tokens {
    fn from(shard: Shard) -> Self {
        Tokens { shards: vec![shard] }
    }
}

impl AsRef<[Shard]> for Tokens {
    fn as_ref(&self) -> &[Shard] {
        &self.shards
    }
}

/// The first file, and how many others there are.
impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shards[..] {
            [] => f.write_str("no file"),
            [one] => write!(f, "{}", one.path().display()),
            [first, others @ ..] => write!(f, "{} and {} others", first.path().display(), others.len()),
        }
    }
}

impl Tokens {
    /// Opens token files of any [`Format`](super::formats::Format), in this order; a folder stands for the `.bin` files
    /// in it, in the order of their names. See [`Shard::open_any`] for `vocab_size`.
    ///
    /// # Errors
    /// No file at all, or the same one twice; a folder without `.bin` files, or one that `vcycle data prepare` wrote,
    /// which holds both sides; what [`Shard::open_any`] refuses.
    pub fn open(paths: &[PathBuf], vocab_size: Option<usize>) -> Result<Tokens> {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                files.extend(files_in(path)?);
            } else {
                files.push(path.clone());
            }
        }
        if files.is_empty() {
            bail!("no token file is given; name at least one");
        }
        for (number, file) in files.iter().enumerate() {
            if files[..number].contains(file) {
                bail!("{} is named twice; name every token file once", file.display());
            }
        }
        let shards = files.iter().map(|file| Shard::open_any(file, vocab_size)).collect::<Result<_>>()?;
        Ok(Tokens { shards })
    }

    /// Tokens in all shards.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The largest vocabulary that a file's own header states; `None`: none does.
    pub fn stated_vocabulary(&self) -> Option<usize> {
        self.shards.iter().filter(|shard| shard.states_vocabulary()).map(Shard::vocab_size).max()
    }

    /// The first file whose header says nothing of the vocabulary.
    pub fn without_vocabulary(&self) -> Option<&Path> {
        self.shards.iter().find(|shard| !shard.states_vocabulary()).map(Shard::path)
    }
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.join(super::folder::FACTS).exists() {
        bail!("{} holds both sides of prepared data; name it as data.prepared, or its files one by one", dir.display());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io("read folder", dir, e))? {
        let path = entry.map_err(|e| Error::io("read folder", dir, e))?.path();
        if path.extension().is_some_and(|e| e == "bin") && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{}: no .bin file is in this folder; name one that holds token files", dir.display());
    }
    files.sort_unstable();
    Ok(files)
}
