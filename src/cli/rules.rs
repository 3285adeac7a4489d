//! Options shared by the operators coalesce, decoalesce and interpolate.

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

/// The options for the mapping rules. Defaults are those in the small model's vcycle.json, or else paper, copy and
/// equal.
#[derive(clap::Args)]
pub struct RuleArgs {
    /// Mapping of width: paper as published, or exact to preserve the function of the model [default: as in
    /// SMALL/vcycle.json, else paper]
    #[arg(long, value_enum, value_name = "RULE")]
    width: Option<Width>,
    /// Mapping of depth: copied layers, split residual branches, or identity layers [default: as in SMALL/vcycle.json,
    /// else copy]
    #[arg(long, value_enum, value_name = "RULE")]
    depth: Option<Depth>,
}

/// The options for how copies share the weights of the layers that consume them.
#[derive(clap::Args)]
pub struct ShareArgs {
    /// How n copies share the weights that consume them: 1/n each, or random shares, so that copies can diverge in
    /// training [default: as in SMALL/vcycle.json, else equal]
    #[arg(long, value_enum)]
    shares: Option<ShareKind>,
    /// Seed of the random shares [default: 1]
    #[arg(long)]
    seed: Option<u64>,
}

impl RuleArgs {
    /// Returns `rules` with the options applied.
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
    /// Returns `rules` with the options applied.
    ///
    /// # Errors
    /// If --seed is given without random shares.
    pub fn over(&self, mut rules: Rules) -> Result<Rules> {
        rules.shares = match (self.shares, self.seed, rules.shares) {
            (None, None, shares) => shares,
            (Some(ShareKind::Random), seed, _) => Shares::Random { seed: seed.unwrap_or(1) },
            (None, Some(seed), Shares::Random { .. }) => Shares::Random { seed },
            (Some(ShareKind::Equal), None, _) => Shares::Equal,
            (_, Some(_), _) => bail!("--seed needs --shares random"),
        };
        Ok(rules)
    }
}

/// Options shared by decoalesce and interpolate, which go from a smaller model to a larger one.
#[derive(clap::Args)]
pub struct WayUp {
    /// Scheme file [default: the scheme in SMALL/vcycle.json]
    #[arg(long)]
    scheme: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    shares: ShareArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Folder for the result; must not exist
    #[arg(long)]
    pub out: PathBuf,
}

impl WayUp {
    /// Returns the record of the small model, and the scheme and rules to use: those of the options, else of the
    /// record, else the defaults.
    ///
    /// # Errors
    /// If the record or scheme cannot be read, or --seed is given without random shares.
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

/// Prints notes about a model folder and its tensors that were not used.
pub fn note(dir: &Path, notes: &[String], unused: &[String]) {
    notes.iter().for_each(|text| super::note(format_args!("note: {text}")));
    if !unused.is_empty() {
        super::note(format_args!("note: {}", checkpoint::unused_heads_note(dir, unused)));
    }
}

/// Notes that a tokenizer of unknown case is not copied.
fn note_unknown_case(vocab: &Path) {
    super::note(format_args!(
        "note: {}: not copied, because it is unknown whether its text is lower case; to copy it, set do_lower_case in \
         a tokenizer_config.json next to it",
        vocab.display()
    ));
}

/// Writes a model folder atomically, in the format of its source, with a copy of the source's tokenizer unless that is
/// a `vocab.txt` of unknown case.
///
/// # Errors
/// If `out` exists or cannot be written, or the tokenizer cannot be read.
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
