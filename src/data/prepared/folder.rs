//! Writes and reads folders of prepared data (`vcycle data prepare`): token shards with document boundaries, the
//! tokenizer, and `data.json`, which lists them.

use std::fs;
use std::path::{Path, PathBuf};

use super::cache::grouped;
use super::manifest::{FACTS, File, FolderManifest, Manifest, Split, TOKENIZER};
use crate::bail;
use crate::data::fingerprint::sum_of;
use crate::data::text::{Marks, TRAIN, TextSource};
use crate::data::tokenizer::{Tokenizer, spec_file};
use crate::data::tokens::Tokens;
use crate::data::tokens::shard_writer::ShardSeries;
use crate::error::{At, Error, Result};
use crate::files::write_dir_atomic;

/// The largest number of bytes of the training split that a tokenizer is trained on.
pub const SAMPLE_BYTES: u64 = 256 << 20;

/// What to prepare.
#[derive(Debug, Clone)]
pub struct FolderSpec {
    /// The texts and how they are divided.
    pub source: TextSource,
    /// The tokenizer specification, see [`Tokenizer::from_spec`].
    pub tokenizer: String,
    /// The number of tokens per shard. The last shard of a split may have fewer.
    pub shard_tokens: u64,
}

/// Prepares texts of any size in the new folder `dir`, which appears once it is complete. Memory is bounded: it holds
/// pieces of the text, the words of the sample while a tokenizer is trained, and eight bytes for each document of a
/// shard.
///
/// Documents are encoded one by one. A tokenizer is trained on at most [`SAMPLE_BYTES`] of the training split:
/// deterministically chosen pieces of a few kilobytes, spread over all of it. `note` gets a progress message at each
/// stage.
///
/// # Errors
/// Fails if `dir` exists, if a text or the tokenizer cannot be read or used, if a split would be empty, or if the
/// folder cannot be written.
pub fn prepare_folder(spec: &FolderSpec, dir: &Path, note: &mut dyn FnMut(&str)) -> Result<FolderManifest> {
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

fn fill(spec: &FolderSpec, dir: &Path, note: &mut dyn FnMut(&str)) -> Result<FolderManifest> {
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
            bail!("tokenizer {} gives no tokens for the {name} split; use another tokenizer", spec.tokenizer);
        }
        written.push(Split { bytes: survey.bytes[side], files });
    }
    let (Some(valid), Some(train)) = (written.pop(), written.pop()) else { unreachable!("both splits were written") };
    let (prefix, separator) = match source.marks.clone() {
        Marks::Prefix(text) => (Some(text), None),
        Marks::Separator(text) => (None, Some(text)),
        Marks::None => (None, None),
    };
    let facts = FolderManifest {
        format: FolderManifest::FORMAT,
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
    let manifest = Manifest::Folder(facts);
    manifest.write(dir)?;
    manifest.folder().ok_or_else(|| Error::new(format!("{} was not written", dir.display())))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Opens the shards (training, held-out) and the tokenizer of a folder, and checks the sizes in `data.json` and the
/// hash of the tokenizer.
///
/// # Errors
/// Fails if a file is missing, damaged, or not the one that was written.
pub fn open_folder(dir: &Path, facts: &FolderManifest) -> Result<([Tokens; 2], Tokenizer)> {
    let tokenizer = Tokenizer::load(&dir.join(TOKENIZER))?;
    if sum_of(&dir.join(TOKENIZER))? != facts.tokenizer_sum {
        bail!(
            "{}: not the tokenizer that the data was prepared with; prepare the data again",
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
                    "{}: damaged: not the file that {FACTS} describes; prepare the data again",
                    shard.path().display()
                );
            }
        }
        Ok(tokens)
    };
    Ok(([open(&facts.train)?, open(&facts.valid)?], tokenizer))
}

/// Reads all files of a folder and compares their hashes with those in `data.json`.
///
/// # Errors
/// Fails if a file is missing or its hash differs; the message names the first such file.
pub fn verify(dir: &Path, facts: &FolderManifest) -> Result<()> {
    let shards = facts.train.files.iter().chain(&facts.valid.files).map(|file| (file.name.as_str(), &file.sum));
    for (name, sum) in shards.chain([(TOKENIZER, &facts.tokenizer_sum)]) {
        let path = dir.join(name);
        if sum_of(&path)? != *sum {
            bail!("{}: damaged: its content does not match {FACTS}; prepare the data again", path.display());
        }
    }
    Ok(())
}
