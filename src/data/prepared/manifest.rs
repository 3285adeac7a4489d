//! `data.json`: what a folder of prepared data contains. It is written last, so a folder that has it is complete.

use crate::bail;
use crate::error::{Error, Result};
use crate::files::{self, write_atomic};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name of the file.
pub const FACTS: &str = "data.json";
/// The name of the tokenizer beside it.
pub const TOKENIZER: &str = "tokenizer.json";
/// The names of the token files of the cache: training, held-out.
pub(super) const SHARDS: [&str; 2] = ["train.bin", "valid.bin"];
/// Largest file in bytes. A list of ten thousand shards has 2 MB.
const MOST: u64 = 64 << 20;

/// The content of `data.json`.
#[derive(Debug)]
pub enum Manifest {
    /// Of the [cache](super::cache) of `data.text`.
    Cache(CacheManifest),
    /// Of a [folder](super::folder) of `vcycle data prepare`.
    Folder(FolderManifest),
}

/// Format 1: the cache of `data.text`.
#[derive(Debug, Serialize, Deserialize)]
pub struct CacheManifest {
    /// The format version, [`CacheManifest::FORMAT`].
    pub format: u32,
    /// The path of the text.
    pub text: String,
    /// The tokenizer specification.
    pub tokenizer: String,
    /// The prefix of the first line of a document.
    pub prefix: Option<String>,
    /// Every how many documents one is held out.
    pub every: usize,
    /// The vocabulary size of the tokenizer.
    pub vocab_size: usize,
    /// Tokens of the training split.
    pub train_tokens: usize,
    /// Tokens of the held-out split.
    pub valid_tokens: usize,
    /// UTF-8 bytes of the training split.
    pub train_bytes: u64,
    /// UTF-8 bytes of the held-out split.
    pub valid_bytes: u64,
    /// The hash of `train.bin`, in hexadecimal.
    pub train_sum: String,
    /// The hash of `valid.bin`, in hexadecimal.
    pub valid_sum: String,
    /// The hash of `tokenizer.json`, in hexadecimal.
    pub tokenizer_sum: String,
}

impl CacheManifest {
    /// The format version, which is raised whenever the same inputs would give other files.
    pub const FORMAT: u32 = 1;
}

/// Format 2: a folder of `vcycle data prepare`.
#[derive(Debug, Serialize, Deserialize)]
pub struct FolderManifest {
    /// The format version.
    pub format: u32,
    /// The paths of the texts.
    pub inputs: Vec<String>,
    /// The tokenizer specification.
    pub tokenizer: String,
    /// The prefix of the first line of a document, see [`Marks::Prefix`](crate::data::text::Marks::Prefix).
    pub prefix: Option<String>,
    /// The line that separates documents, see [`Marks::Separator`](crate::data::text::Marks::Separator).
    pub separator: Option<String>,
    /// The key of the text in JSON lines.
    pub field: String,
    /// See [`TextSource::every`](crate::data::text::TextSource::every).
    pub every: usize,
    /// The vocabulary size of the tokenizer.
    pub vocab_size: usize,
    /// The training split.
    pub train: Split,
    /// The held-out split.
    pub valid: Split,
    /// The hash of `tokenizer.json`, in hexadecimal.
    pub tokenizer_sum: String,
}

/// The training or the held-out split in `data.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Split {
    /// The number of UTF-8 bytes of the text.
    pub bytes: u64,
    /// The shards, in order.
    pub files: Vec<File>,
}

/// A shard in `data.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct File {
    /// Its name, beside `data.json`.
    pub name: String,
    /// The number of tokens.
    pub tokens: u64,
    /// The number of documents that begin in this file.
    pub documents: u64,
    /// The hash of the file, in hexadecimal.
    pub sum: String,
}

impl Split {
    /// Returns the number of tokens in all files.
    pub fn tokens(&self) -> u64 {
        self.files.iter().map(|file| file.tokens).sum()
    }

    /// Returns the number of documents in all files.
    pub fn documents(&self) -> u64 {
        self.files.iter().map(|file| file.documents).sum()
    }
}

impl FolderManifest {
    /// The format version.
    pub const FORMAT: u32 = 2;
}

impl Manifest {
    /// Reads the `data.json` of a folder.
    ///
    /// # Errors
    /// Fails if it is missing, damaged or of an unknown format, or if it names files outside of the folder.
    pub fn read(dir: &Path) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let path = dir.join(FACTS);
        if dir.is_dir() && !path.exists() {
            bail!("{} has no {FACTS}; name a folder that `vcycle data prepare` wrote", dir.display());
        }
        let json = files::read(&path, MOST)?;
        let damaged = |e| Error::new(format!("{}: damaged: {e}; prepare the data again", path.display()));
        let Version { format } = serde_json::from_slice(&json).map_err(damaged)?;
        let facts: FolderManifest = match format {
            CacheManifest::FORMAT => {
                return serde_json::from_slice(&json).map(Manifest::Cache).map_err(|e| {
                    Error::new(format!(
                        "{}: damaged: {e}; remove its folder to have the data prepared again",
                        path.display()
                    ))
                });
            }
            FolderManifest::FORMAT => serde_json::from_slice(&json).map_err(damaged)?,
            _ => bail!(
                "{}: damaged or of another version: format {format}, but this program reads {} and {}; prepare the data \
                 again",
                path.display(),
                CacheManifest::FORMAT,
                FolderManifest::FORMAT
            ),
        };
        for file in facts.train.files.iter().chain(&facts.valid.files) {
            if Path::new(&file.name).file_name() != Some(file.name.as_ref()) {
                bail!(
                    "{}: damaged: {:?} is not the name of a file beside it; prepare the data again",
                    path.display(),
                    file.name
                );
            }
        }
        Ok(Manifest::Folder(facts))
    }

    /// Writes it to a folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FACTS);
        let json = match self {
            Manifest::Cache(facts) => serde_json::to_string_pretty(facts),
            Manifest::Folder(facts) => serde_json::to_string_pretty(facts),
        };
        let json = json.map_err(|e| Error::new(format!("cannot write {}: {e}", path.display())))?;
        write_atomic(&path, |out| out.write_all(json.as_bytes()))
    }

    /// Returns the manifest of a folder; `None` for that of the cache.
    pub fn folder(self) -> Option<FolderManifest> {
        match self {
            Manifest::Cache(_) => None,
            Manifest::Folder(facts) => Some(facts),
        }
    }

    /// Returns the recorded hash of a token file, in hexadecimal.
    pub(super) fn sum(&self, name: &str) -> Option<&str> {
        match self {
            Manifest::Cache(facts) => {
                let all = SHARDS.into_iter().zip([&facts.train_sum, &facts.valid_sum]);
                all.into_iter().find(|(shard, _)| *shard == name).map(|(_, sum)| sum.as_str())
            }
            Manifest::Folder(facts) => {
                let mut all = facts.train.files.iter().chain(&facts.valid.files);
                all.find(|file| file.name == name).map(|file| file.sum.as_str())
            }
        }
    }
}
