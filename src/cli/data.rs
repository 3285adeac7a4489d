use super::say;
use crate::bail;
use crate::data::prepared::cache::grouped;
use crate::data::prepared::folder::{FolderSpec, prepare_folder, verify};
use crate::data::prepared::manifest;
use crate::data::prepared::manifest::{FolderManifest, Manifest, Split};
use crate::data::text::documents::is_json_lines;
use crate::data::text::{FIELD, FLAGS, Marks, TextSource};
use crate::data::tokenizer::Tokenizer;
use crate::data::tokens::shard::Shard;
use crate::error::Result;
use crate::runlog::progress::Progress;
use std::path::{Path, PathBuf};

/// Prepare training data from texts of any size, and inspect token files
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Prepare(Prepare),
    Show(Show),
}

/// Tokenize texts into shards with a training and a held-out split, for `data.prepared` in a configuration
#[derive(clap::Args)]
struct Prepare {
    /// Text or JSON Lines files (by name, or by a JSON object in the first line); may be compressed (gzip, Zstandard)
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// char, byte, bpe:N (trained on at most 256 MiB of the training split), or the path of a tokenizer.json, a
    /// vocab.json with merges.txt, a vocab.txt (BERT; uncased:PATH or cased:PATH), or a folder with one of these
    /// and its added tokens
    #[arg(long, value_name = "SPEC")]
    tokenizer: String,
    /// Output folder; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Key of the text in JSON Lines, where each line is a document [default: text]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    field: Option<String>,
    /// Line that separates two documents, for instance '<|endoftext|>'
    #[arg(long, value_name = "LINE", conflicts_with = "document_prefix", allow_hyphen_values = true)]
    separator: Option<String>,
    /// Prefix of the first line of each document; without this and --separator, a text is cut into 100 pieces
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    document_prefix: Option<String>,
    /// Hold out every N-th document
    #[arg(long, value_name = "N", default_value_t = 10)]
    held_out_every: usize,
    /// Tokens per shard file
    #[arg(long, value_name = "N", default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    shard_tokens: u64,
    /// Print results only
    #[arg(long)]
    quiet: bool,
}

/// Describe a token file, or check a folder of prepared data against its hashes
#[derive(clap::Args)]
struct Show {
    /// A token file of vcycle, llm.c, nanoGPT (.bin) or NumPy (.npy), or a folder written by `vcycle data prepare`
    file: PathBuf,
    /// Number of tokens to print from the start of the file
    #[arg(long, value_name = "N", default_value_t = 16)]
    tokens: usize,
}

impl Args {
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Prepare(args) => args.run(),
            Command::Show(args) => args.run(),
        }
    }
}

impl Prepare {
    fn run(self) -> Result<()> {
        if self.field.is_some() && !self.inputs.iter().any(|path| is_json_lines(path)) {
            bail!(
                "--field is the key of JSON lines, but no input has any; leave it out, or rename the input to .jsonl"
            );
        }
        let marks = match (self.document_prefix, self.separator) {
            (Some(prefix), _) => Marks::Prefix(prefix),
            (None, Some(line)) => Marks::Separator(line),
            (None, None) => Marks::None,
        };
        let field = self.field.unwrap_or_else(|| FIELD.to_owned());
        let source = TextSource { inputs: self.inputs, marks, field, every: self.held_out_every, keys: &FLAGS };
        let spec = FolderSpec { source, tokenizer: self.tokenizer, shard_tokens: self.shard_tokens };
        let mut progress = Progress::new(self.quiet);
        let facts = prepare_folder(&spec, &self.out, &mut |text| progress.note(text))?;
        say_facts(&facts)?;
        let out = self.out.display();
        say(format_args!("written: {out} (train on it with data.prepared = {out:?})"))
    }
}

fn say_facts(facts: &FolderManifest) -> Result<()> {
    let side = |name: &str, side: &Split| {
        let (tokens, documents) = (grouped(side.tokens()), grouped(side.documents()));
        let (files, s) = (side.files.len(), if side.files.len() == 1 { "" } else { "s" });
        say(format_args!("{name} {tokens} tokens, {documents} documents, {files} file{s}"))
    };
    say(format_args!("vocabulary:   {} tokens ({})", grouped(facts.vocab_size as u64), facts.tokenizer))?;
    side("training:    ", &facts.train)?;
    side("held out:    ", &facts.valid)
}

impl Show {
    fn run(self) -> Result<()> {
        if self.file.is_dir() {
            return show_folder(&self.file);
        }
        let shard = Shard::open_any(&self.file, None)?;
        say(format_args!("format:       {}", shard.format()))?;
        say(format_args!("tokens:       {}", grouped(shard.len() as u64)))?;
        let largest = largest(&shard)?;
        match (shard.states_vocabulary(), largest) {
            (true, _) => say(format_args!("vocabulary:   {}", grouped(shard.vocab_size() as u64)))?,
            (false, Some(id)) => say(format_args!("vocabulary:   not stated; the largest id is {id}"))?,
            (false, None) => say(format_args!("vocabulary:   not stated"))?,
        }
        match shard.documents() {
            Some(count) => {
                // Read the start of every document, so that damage is reported.
                for number in 0..count {
                    shard.document_start(number)?;
                }
                let before = if shard.continues() { ", after the end of one from the previous file" } else { "" };
                say(format_args!("documents:    {}{before}", grouped(count as u64)))?;
            }
            None => say(format_args!("documents:    not stated"))?,
        }
        let first: Vec<u32> = (0..shard.len().min(self.tokens)).map(|i| shard.token(i)).collect();
        let ids: Vec<String> = first.iter().map(u32::to_string).collect();
        say(format_args!("first tokens: {}", ids.join(" ")))?;
        let beside = self.file.with_file_name(manifest::TOKENIZER);
        if shard.states_vocabulary() && beside.is_file() {
            say(format_args!("their text:   {:?}", Tokenizer::load(&beside)?.decode(&first)?))?;
        }
        Ok(())
    }
}

/// Returns the largest token id; reading checks each one against the vocabulary.
fn largest(shard: &Shard) -> Result<Option<i32>> {
    let mut part = vec![0; shard.len().min(1 << 16)];
    let mut largest = None;
    for start in (0..shard.len()).step_by(1 << 16) {
        let size = part.len().min(shard.len() - start);
        shard.read(start, &mut part[..size])?;
        largest = largest.max(part[..size].iter().copied().max());
    }
    Ok(largest)
}

fn show_folder(dir: &Path) -> Result<()> {
    let Some(facts) = Manifest::read(dir)?.folder() else {
        bail!("{} is a cache of data.text; give one of the files in it", dir.display());
    };
    verify(dir, &facts)?;
    say(format_args!("texts:        {}", facts.inputs.join(", ")))?;
    say_facts(&facts)?;
    say(format_args!("all files match their hashes"))
}
