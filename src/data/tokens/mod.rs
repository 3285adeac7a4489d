//! Token files as one stream: what a run trains on, or validates on.

pub(crate) mod foreign;
pub mod formats;
pub mod masking;
pub mod sampler;
pub mod shard;
pub mod shard_writer;
pub mod windows;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::bail;
use crate::error::{Error, Result};
use shard::Shard;

/// Shards in a row, which [`Sampler`](super::tokens::sampler::Sampler) and validation read as one.
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
    /// Opens token files of any [`Format`](super::tokens::formats::Format), in this order; a folder stands for the `.bin` and `.npy`
    /// files in it, and `*` in the name of a file for any characters, both in the order of their names. See
    /// [`Shard::open_any`] for `vocab_size`.
    ///
    /// # Errors
    /// No file at all, or the same one twice; a folder without token files, or one that holds both sides; a pattern that no
    /// file follows; what [`Shard::open_any`] refuses.
    pub fn open(paths: &[PathBuf], vocab_size: Option<usize>) -> Result<Tokens> {
        let mut files = Vec::new();
        for path in paths {
            let pattern = path.file_name().and_then(|name| name.to_str()).filter(|name| name.contains('*'));
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match pattern {
                _ if path.is_dir() => files.extend(files_in(path, None)?),
                Some(pattern) if !path.exists() => files.extend(files_in(parent, Some(pattern))?),
                _ => files.push(path.clone()),
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

    /// A file that `other` has too.
    pub fn shared_with(&self, other: &Tokens) -> Option<&Path> {
        let place = |shard: &Shard| fs::canonicalize(shard.path()).ok();
        let theirs: HashSet<PathBuf> = other.shards.iter().filter_map(place).collect();
        let shared = |shard: &&Shard| place(shard).is_some_and(|place| theirs.contains(&place));
        self.shards.iter().find(shared).map(Shard::path)
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

/// The token files of a folder, or those that a pattern as `train_*.bin` names, by name.
fn files_in(dir: &Path, pattern: Option<&str>) -> Result<Vec<PathBuf>> {
    if pattern.is_none() && dir.join(super::prepared::folder::FACTS).exists() {
        bail!("{} holds both sides of prepared data; name it as data.prepared, or its files one by one", dir.display());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io("read folder", dir, e))? {
        let path = entry.map_err(|e| Error::io("read folder", dir, e))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let wanted = match pattern {
            Some(pattern) => matches(pattern, &name) && !name.starts_with('.'),
            None => is_token_file(&path),
        };
        if wanted && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        match pattern {
            Some(pattern) => bail!("{}: no file of it is called {pattern}", dir.display()),
            None => bail!("{}: no .bin or .npy file is in this folder; name one that holds token files", dir.display()),
        }
    }
    files.sort_unstable();
    if pattern.is_none() {
        check_sides(dir, &files)?;
    }
    Ok(files)
}

/// Whether the name says that a file holds tokens.
pub fn is_token_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin" || extension == "npy")
}

/// llm.c and nanoGPT keep both sides in one folder, and which is which only names tell: all of it would be read as one.
fn check_sides(dir: &Path, files: &[PathBuf]) -> Result<()> {
    let says = |path: &&PathBuf, sides: &[&str]| {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        name.split(|c: char| !c.is_ascii_alphabetic()).any(|word| sides.contains(&word))
    };
    let train = files.iter().find(|path| says(path, &["train", "training"]));
    let held_out = files.iter().find(|path| says(path, &["val", "valid", "validation", "dev", "test"]));
    match (train, held_out) {
        (Some(train), Some(held_out)) => bail!(
            "{} seems to hold both sides, as {} and {}; name the files of each side, for instance by a pattern as {:?}",
            dir.display(),
            train.display(),
            held_out.display(),
            dir.join("*train*.bin").display().to_string()
        ),
        _ => Ok(()),
    }
}

/// Whether a name follows a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(begin) else { return false };
    // Each part at its first place leaves the most for those that follow, and the last one is the end.
    let mut left = name;
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_is_anything() {
        for (pattern, name) in
            [("*", ""), ("a*", "a"), ("*_train_*.bin", "x_train_01.bin"), ("a*b*b", "abb"), ("é*", "éa")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a*", "b"), ("*_train_*.bin", "x_val_01.bin"), ("a*a", "a"), ("a*b*b", "ab"), ("a", "ab")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
