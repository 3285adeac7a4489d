//! Options that the three operators share.

use super::DeviceArgs;
use super::say;
use crate::bail;
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::error::Result;
use crate::files::write_dir_atomic;
use crate::hub::checkpoint::{self, Form};
use crate::hub::tensors::StoreType;
use crate::model::Model;
use crate::model::store::Store;
use crate::multilevel::{DepthRule, Record, Rules, Scheme, Shares, WidthRule};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, ValueEnum)]
pub enum Width {
    Paper,
    Exact,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Depth {
    Copy,
    Split,
    Identity,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ShareKind {
    Equal,
    Random,
}

/// Rules; what is not given comes from the small model's vcycle.json, and else is paper, copy, equal.
#[derive(clap::Args)]
pub struct RuleArgs {
    /// How width is mapped: as published (default), or keeping the function
    #[arg(long, value_enum, value_name = "RULE")]
    width: Option<Width>,
    /// How depth is mapped: copies (default), split branches, or identity layers
    #[arg(long, value_enum, value_name = "RULE")]
    depth: Option<Depth>,
}

/// How copies share the weights of what consumes them.
#[derive(clap::Args)]
pub struct ShareArgs {
    /// Shares of copies in what consumes them: 1/n each, or random ones that let copies part in training
    #[arg(long, value_enum)]
    shares: Option<ShareKind>,
    /// Seed of random shares
    #[arg(long)]
    seed: Option<u64>,
}

impl RuleArgs {
    pub fn over(&self, mut rules: Rules) -> Rules {
        if let Some(width) = self.width {
            rules.width = match width {
                Width::Paper => WidthRule::Paper,
                Width::Exact => WidthRule::Exact,
            };
        }
        if let Some(depth) = self.depth {
            rules.depth = match depth {
                Depth::Copy => DepthRule::Copy,
                Depth::Split => DepthRule::Split,
                Depth::Identity => DepthRule::Identity,
            };
        }
        rules
    }
}

impl ShareArgs {
    pub fn over(&self, mut rules: Rules) -> Result<Rules> {
        rules.shares = match (self.shares, self.seed, rules.shares) {
            (None, None, shares) => shares,
            (Some(ShareKind::Random), seed, _) => Shares::Random { seed: seed.unwrap_or(1) },
            (None, Some(seed), Shares::Random { .. }) => Shares::Random { seed },
            (Some(ShareKind::Equal), None, _) => Shares::Equal,
            (_, Some(_), _) => bail!("--seed belongs to --shares random"),
        };
        Ok(rules)
    }
}

/// What the two ways up share: from a smaller model to a larger one.
#[derive(clap::Args)]
pub struct WayUp {
    /// Scheme; default: that of vcycle.json
    #[arg(long)]
    scheme: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    shares: ShareArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Folder for the result, which must not exist
    #[arg(long)]
    pub out: PathBuf,
}

impl WayUp {
    /// The small model's record, and the scheme and rules that hold: options, else the record, else the defaults.
    pub fn read(&self, small: &Path) -> Result<(Option<Record>, Scheme, Rules)> {
        let record = Record::read(small)?;
        let scheme = match (&self.scheme, &record) {
            (Some(file), _) => Scheme::read(file)?,
            (None, Some(record)) => record.scheme.clone(),
            (None, None) => Scheme::default(),
        };
        let recorded = record.as_ref().map(|r| r.rules).unwrap_or_default();
        let rules = self.shares.over(self.rules.over(recorded))?;
        Ok((record, scheme, rules))
    }
}

/// Says what a person should know about a folder, and which tensors of it were left out.
pub fn note(dir: &Path, notes: &[String], unused: &[String]) {
    notes.iter().for_each(|text| super::note(format_args!("note: {text}")));
    if !unused.is_empty() {
        super::note(format_args!("note: {}", checkpoint::left_out(dir, unused)));
    }
}

/// Says that a tokenizer was left out: the operators do not need one, and which it is nobody said.
fn note_unknown_case(vocab: &Path) {
    super::note(format_args!(
        "note: {}: left out, as nothing says whether its text is in lower case; to take it along, put do_lower_case \
         into tokenizer_config.json beside it",
        vocab.display()
    ));
}

/// Writes a model folder whole, in the form of its source, with the tokenizer that lay beside its source, but for a
/// `vocab.txt` of unknown case.
pub fn save(
    out: &Path,
    (model, store, form): (&dyn Model, &Store, Form),
    device: &mut dyn Device,
    source: &Path,
    record: Option<&Record>,
) -> Result<()> {
    write_dir_atomic(out, |dir| {
        checkpoint::save_as(dir, model, store, device, form, StoreType::F32)?;
        if Tokenizer::is_in(source) {
            match Tokenizer::of_unknown_case(source)? {
                Some(vocab) => note_unknown_case(&vocab),
                None => {
                    let notes = Tokenizer::copy(source, dir)?;
                    notes.iter().for_each(|text| super::note(format_args!("note: {text}")));
                }
            }
        }
        record.map_or(Ok(()), |record| record.write(dir))
    })?;
    let table = model.table();
    say(format_args!(
        "{}: {} layers, {} heads of {}, {} parameters",
        out.display(),
        table.layers,
        table.heads,
        table.head_size,
        table.count()
    ))
}
