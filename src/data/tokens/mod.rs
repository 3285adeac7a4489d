//! Token files, and the batches that are cut from them.
//!
//! [`Tokens`] presents the token files of one split as a stream. [`shard`] maps a single file into memory,
//! [`shard_writer`] writes one, and [`formats`] detects its format, including those of llm.c, nanoGPT and NumPy.
//! [`sampler`] cuts batches for next-token prediction; [`masking`] builds batches for masked models, from rows that
//! [`windows`] cuts.

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

/// A sequence of shards, which [`sampler::Sampler`] and validation read as one stream.
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

/// Writes the path of the first file and the number of others.
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
    /// Opens token files of any [`Format`](formats::Format), in this order. A folder stands for the `.bin` and `.npy`
    /// files in it, and `*` in a file name matches any characters; both give files sorted by name. See
    /// [`Shard::open_any`] for `vocab_size`.
    ///
    /// # Errors
    /// Fails if there is no file or a file occurs twice, if a folder has no token files or those of both splits, if no
    /// file matches a pattern, and on errors of [`Shard::open_any`].
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
                bail!("{} is named twice; name each token file once", file.display());
            }
        }
        let shards = files.iter().map(|file| Shard::open_any(file, vocab_size)).collect::<Result<_>>()?;
        Ok(Tokens { shards })
    }

    /// Returns the number of tokens in all shards.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    /// Returns whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the path of a file that `other` contains, too.
    pub fn shared_with(&self, other: &Tokens) -> Option<&Path> {
        let place = |shard: &Shard| fs::canonicalize(shard.path()).ok();
        let theirs: HashSet<PathBuf> = other.shards.iter().filter_map(place).collect();
        let shared = |shard: &&Shard| place(shard).is_some_and(|place| theirs.contains(&place));
        self.shards.iter().find(shared).map(Shard::path)
    }

    /// Returns the largest vocabulary size that the header of a file states, or `None` if no header does.
    pub fn stated_vocabulary(&self) -> Option<usize> {
        self.shards.iter().filter(|shard| shard.states_vocabulary()).map(Shard::vocab_size).max()
    }

    /// Returns the path of the first file whose header does not state a vocabulary size.
    pub fn without_vocabulary(&self) -> Option<&Path> {
        self.shards.iter().find(|shard| !shard.states_vocabulary()).map(Shard::path)
    }
}

/// Returns the token files of a folder, or those that match a pattern such as `train_*.bin`, sorted by name.
fn files_in(dir: &Path, pattern: Option<&str>) -> Result<Vec<PathBuf>> {
    if pattern.is_none() && dir.join(super::prepared::manifest::FACTS).exists() {
        bail!(
            "{} holds both splits of prepared data; name it as data.prepared, or name its files one by one",
            dir.display()
        );
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
            Some(pattern) => bail!("{}: no file in this folder matches {pattern}", dir.display()),
            None => bail!("{}: no .bin or .npy file in this folder; name one that holds token files", dir.display()),
        }
    }
    files.sort_unstable();
    if pattern.is_none() {
        check_sides(dir, &files)?;
    }
    Ok(files)
}

/// Returns whether the extension of a file is that of a token file (`.bin` or `.npy`).
pub fn is_token_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin" || extension == "npy")
}

/// Rejects a folder that holds both splits, as those of llm.c and nanoGPT do: it would be read as a single split. Only
/// the file names tell them apart.
fn check_sides(dir: &Path, files: &[PathBuf]) -> Result<()> {
    let says = |path: &&PathBuf, sides: &[&str]| {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        name.split(|c: char| !c.is_ascii_alphabetic()).any(|word| sides.contains(&word))
    };
    let train = files.iter().find(|path| says(path, &["train", "training"]));
    let held_out = files.iter().find(|path| says(path, &["val", "valid", "validation", "dev", "test"]));
    match (train, held_out) {
        (Some(train), Some(held_out)) => bail!(
            "{} seems to hold both splits (see {} and {}); name the files of each split, for example with the pattern \
             {:?}",
            dir.display(),
            train.display(),
            held_out.display(),
            dir.join("*train*.bin").display().to_string()
        ),
        _ => Ok(()),
    }
}

/// Returns whether a name matches a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(begin) else { return false };
    // Matching each part as early as possible leaves the most for the following parts. The last part must match the
    // end.
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
    fn a_star_matches_any_characters() {
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
