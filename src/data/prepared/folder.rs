//! A folder of prepared data, as `vcycle data prepare` writes it: token shards with document boundaries, the tokenizer,
//! and `data.json`, which lists them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::grouped;
use crate::bail;
use crate::data::fingerprint::sum_of;
use crate::data::text::{Marks, TRAIN, TextSource};
use crate::data::tokenizer::{Tokenizer, spec_file};
use crate::data::tokens::Tokens;
use crate::data::tokens::shard_writer::ShardSeries;
use crate::error::{At, Error, Result};
use crate::files::{write_atomic, write_dir_atomic};

pub const FACTS: &str = "data.json";
pub const TOKENIZER: &str = "tokenizer.json";
/// Of `data.json`; format 1 is that of the cache of `data.text`, see [`prepare`](super::cache).
const FORMAT: u32 = 2;
/// Of the training side, what a tokenizer is trained on at most.
pub const SAMPLE_BYTES: u64 = 256 << 20;

/// What to prepare.
#[derive(Debug, Clone)]
pub struct FolderSpec {
    pub source: TextSource,
    /// See [`Tokenizer::from_spec`].
    pub tokenizer: String,
    /// Tokens of a shard; the last one of a side may have fewer.
    pub shard_tokens: u64,
}

/// The content of `data.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Facts {
    pub format: u32,
    pub inputs: Vec<String>,
    pub tokenizer: String,
    pub prefix: Option<String>,
    pub separator: Option<String>,
    pub field: String,
    pub every: usize,
    pub vocab_size: usize,
    pub train: Split,
    pub valid: Split,
    /// A hash of `tokenizer.json`, in hexadecimal.
    pub tokenizer_sum: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Split {
    /// UTF-8 bytes of the text.
    pub bytes: u64,
    pub files: Vec<File>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct File {
    pub name: String,
    pub tokens: u64,
    /// How many begin in this file.
    pub documents: u64,
    /// A hash of the file, in hexadecimal.
    pub sum: String,
}

impl Split {
    pub fn tokens(&self) -> u64 {
        self.files.iter().map(|file| file.tokens).sum()
    }

    pub fn documents(&self) -> u64 {
        self.files.iter().map(|file| file.documents).sum()
    }
}

/// Prepares texts of any size in the new folder `dir`, which appears when it is complete. Memory stays bounded: it holds
/// pieces of the text, a sample's words while a tokenizer is trained, and eight bytes for each document of a shard.
///
/// Documents are encoded one by one. A tokenizer is trained on at most [`SAMPLE_BYTES`] of the training side, always the
/// same ones: pieces of a few kilobytes from all over it.
///
/// # Errors
/// When `dir` exists, a text or the tokenizer cannot be read or used, a side would be empty, or the disk is full.
pub fn prepare_folder(spec: &FolderSpec, dir: &Path, note: &mut dyn FnMut(&str)) -> Result<Facts> {
    if spec.source.inputs.is_empty() {
        bail!("no text is given; name at least one file");
    }
    if spec.shard_tokens == 0 {
        bail!("shards of 0 tokens hold nothing; give at least 1");
    }
    if fs::symlink_metadata(dir).is_ok() {
        bail!("{} exists already; choose another --out or remove it", dir.display());
    }
    let mut facts = None;
    write_dir_atomic(dir, |work| {
        facts = Some(fill(spec, work, note)?);
        Ok(())
    })?;
    facts.ok_or_else(|| Error::new(format!("{} was not written", dir.display())))
}

fn fill(spec: &FolderSpec, dir: &Path, note: &mut dyn FnMut(&str)) -> Result<Facts> {
    let source = &spec.source;
    note("reading the text");
    let (division, survey) = source.survey()?;
    let read = (&division, &survey);
    note(&format!("{} documents, {:.1} MB", grouped(survey.documents), megabytes(survey.bytes.iter().sum())));
    match spec_file(&spec.tokenizer) {
        Some(file) => note(&format!("loading {}", file.display())),
        None => {
            let sample = if spec.tokenizer == "char" { u64::MAX } else { SAMPLE_BYTES };
            let (sample, all) = (megabytes(survey.bytes[TRAIN].min(sample)), megabytes(survey.bytes[TRAIN]));
            note(&format!("training {} on {sample:.1} of {all:.1} MB", spec.tokenizer));
        }
    }
    let tokenizer = source.tokenizer(&spec.tokenizer, read, false, SAMPLE_BYTES)?;
    tokenizer.notes().iter().for_each(|text| note(text));
    tokenizer.save(&dir.join(TOKENIZER))?;

    note("encoding");
    let vocab_size = tokenizer.vocab_size();
    let series = |name| ShardSeries::new(dir, name, vocab_size, spec.shard_tokens);
    let mut sides = [series("train"), series("valid")];
    source.encode(&tokenizer, read, false, note, &mut |ids, begins, side| sides[side].push(ids, begins))?;
    let mut written = Vec::new();
    for (side, series) in sides.iter_mut().enumerate() {
        series.close()?;
        let mut files = Vec::new();
        for (name, tokens, documents) in std::mem::take(&mut series.done) {
            let sum = sum_of(&dir.join(&name))?;
            files.push(File { name, tokens, documents, sum });
        }
        if files.is_empty() {
            let name = if side == TRAIN { "training" } else { "held-out" };
            bail!("tokenizer {} gives no tokens for the {name} side; use another tokenizer", spec.tokenizer);
        }
        written.push(Split { bytes: survey.bytes[side], files });
    }
    let (Some(valid), Some(train)) = (written.pop(), written.pop()) else { unreachable!("both sides were written") };
    let (prefix, separator) = match source.marks.clone() {
        Marks::Prefix(text) => (Some(text), None),
        Marks::Separator(text) => (None, Some(text)),
        Marks::None => (None, None),
    };
    let facts = Facts {
        format: FORMAT,
        inputs: source.inputs.iter().map(|path| path.display().to_string()).collect(),
        tokenizer: spec.tokenizer.clone(),
        prefix,
        separator,
        field: source.field.clone(),
        every: source.every,
        vocab_size,
        train,
        valid,
        tokenizer_sum: sum_of(&dir.join(TOKENIZER))?,
    };
    let path = dir.join(FACTS);
    let json = serde_json::to_string_pretty(&facts)
        .map_err(|e| Error::new(format!("cannot write {}: {e}", path.display())))?;
    write_atomic(&path, |out| out.write_all(json.as_bytes()))?;
    Ok(facts)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// What a folder's `data.json` says. `None`: it is of another format, as of the cache of `data.text`.
///
/// # Errors
/// When it is missing or damaged, or names files that do not lie in the folder.
pub fn read_facts(dir: &Path) -> Result<Option<Facts>> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let path = dir.join(FACTS);
    if dir.is_dir() && !path.exists() {
        bail!("{} has no {FACTS}: it is no folder that `vcycle data prepare` wrote; name one", dir.display());
    }
    let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let damaged = |e| Error::new(format!("{}: damaged: {e}; prepare the data again", path.display()));
    let Version { format } = serde_json::from_slice(&json).map_err(damaged)?;
    match format {
        1 => return Ok(None),
        FORMAT => {}
        _ => bail!("{}: format {format}, this program reads 1 and {FORMAT}; prepare the data again", path.display()),
    }
    let facts: Facts = serde_json::from_slice(&json).map_err(damaged)?;
    for file in facts.train.files.iter().chain(&facts.valid.files) {
        if Path::new(&file.name).file_name() != Some(file.name.as_ref()) {
            bail!(
                "{}: damaged: {:?} is no name of a file beside it; prepare the data again",
                path.display(),
                file.name
            );
        }
    }
    Ok(Some(facts))
}

/// Opens a folder's shards and tokenizer, and checks them against what `data.json` says of their sizes.
///
/// # Errors
/// When a file is missing, damaged, or not the one that was written.
pub fn open_folder(dir: &Path, facts: &Facts) -> Result<([Tokens; 2], Tokenizer)> {
    let tokenizer = Tokenizer::load(&dir.join(TOKENIZER))?;
    if sum_of(&dir.join(TOKENIZER))? != facts.tokenizer_sum {
        bail!(
            "{}: not the tokenizer that the data was made with; prepare the data again",
            dir.join(TOKENIZER).display()
        );
    }
    let open = |side: &Split| -> Result<Tokens> {
        let paths: Vec<PathBuf> = side.files.iter().map(|file| dir.join(&file.name)).collect();
        let tokens = Tokens::open(&paths, None).at(dir.join(FACTS).display())?;
        for (shard, file) in tokens.as_ref().iter().zip(&side.files) {
            let found = (shard.len() as u64, shard.documents().map(|n| n as u64), shard.vocab_size());
            if found != (file.tokens, Some(file.documents), facts.vocab_size) {
                bail!(
                    "{}: damaged: not the file that {FACTS} tells of; prepare the data again",
                    shard.path().display()
                );
            }
        }
        Ok(tokens)
    };
    Ok(([open(&facts.train)?, open(&facts.valid)?], tokenizer))
}

/// Reads all files of a folder and compares them with the hashes in `data.json`.
///
/// # Errors
/// The first file that is missing or differs.
pub fn verify(dir: &Path, facts: &Facts) -> Result<()> {
    let shards = facts.train.files.iter().chain(&facts.valid.files).map(|file| (file.name.as_str(), &file.sum));
    for (name, sum) in shards.chain([(TOKENIZER, &facts.tokenizer_sum)]) {
        let path = dir.join(name);
        if sum_of(&path)? != *sum {
            bail!("{}: damaged: its content is not what {FACTS} says; prepare the data again", path.display());
        }
    }
    Ok(())
}
