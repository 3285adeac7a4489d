//! The configuration of a run: a TOML file, checked before anything is written.
//!
//! [`Config`] is the whole file; [`data`] has its section `data`, [`levels`] the levels and their stages, and
//! [`schedule`] the learning rate of a stage. `docs/configuration.md` lists every key.

pub mod data;
pub mod levels;
mod precision;
pub mod schedule;

pub use precision::Precision;

use crate::bail;
use crate::data::images::{AugmentConfig, PatchShape, ViewConfig};
use crate::data::prepared::corpus::DataSource;
use crate::data::tokens::masking::MaskingConfig;
use crate::error::{At, Error, Result};
use crate::files::read_text;
use crate::model::store::Store;
use crate::multilevel::methods::{self, METHODS, Method};
use crate::multilevel::scheme::ModelShape;
use crate::multilevel::{DepthRule, Rules, Scheme, Shares, WidthRule};
use crate::optim;
use data::{DataConfig, ImagesConfig};
use levels::{Level, Stage};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Largest number of levels.
const MOST_LEVELS: usize = 16;

/// A whole configuration file. `docs/configuration.md` lists every key.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seed of initial weights, batches, dropout and random shares.
    #[serde(default = "one")]
    pub seed: u64,
    /// The model at level 1.
    pub model: ModelConfig,
    /// The data to train and to evaluate on.
    pub data: DataConfig,
    /// Batches, evaluations and checkpoints.
    pub train: TrainConfig,
    /// The optimizer and its hyperparameters.
    #[serde(default)]
    pub optimizer: optim::Table,
    /// Rules of the multi-level operators.
    #[serde(default)]
    pub rules: RulesConfig,
    /// How the model grows from level to level.
    #[serde(default, skip_serializing_if = "GrowthConfig::is_default")]
    pub growth: GrowthConfig,
    /// Masking of text for masked models (BERT).
    pub masking: Option<MaskingConfig>,
    /// Augmentation of training images.
    pub augment: Option<AugmentConfig>,
    /// Cropping, resizing and normalisation of all images.
    pub view: Option<ViewConfig>,
    /// The levels, level 1 first. With one level, training is plain training.
    pub levels: Vec<Level>,
    /// The stage of the baseline, which trains level 1 from scratch for comparison. `None`: no baseline.
    pub scratch: Option<Stage>,
}

fn one() -> u64 {
    1
}

/// The section `model`: the model at level 1.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The model family.
    pub family: String,
    /// A checkpoint folder. Level 1 starts with its weights and sizes.
    pub from: Option<PathBuf>,
    /// Number of layers. May be left out (0) with `from`, like `heads` and `head_size`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layers: usize,
    /// Number of attention heads.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub heads: usize,
    /// Size of a head. The width is `heads * head_size`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub head_size: usize,
    /// Tokens of a sequence (GPT, BERT).
    #[serde(default)]
    pub context: usize,
    /// Side length of an image in pixels (DeiT).
    pub image: Option<usize>,
    /// Side length of a patch in pixels (DeiT).
    pub patch: Option<usize>,
    /// Whether there is a distillation token with its own head (DeiT).
    #[serde(default)]
    pub distilled: bool,
    /// Stochastic-depth rate of the last layer (DeiT).
    #[serde(default)]
    pub drop_path: f32,
    /// Position of the layer norms (BERT).
    #[serde(default)]
    pub norm: NormConfig,
    /// Whether the head shares the weight of the token embeddings (GPT).
    #[serde(default = "yes")]
    pub tied: bool,
    /// Dropout rate of embeddings, attention weights and residual branches.
    #[serde(default)]
    pub dropout: f32,
    /// Standard deviation of initial weights.
    #[serde(default = "init_std")]
    pub init_std: f64,
}

fn is_zero(size: &usize) -> bool {
    *size == 0
}

fn init_std() -> f64 {
    0.02
}

/// `model.norm`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum NormConfig {
    /// After each residual sum.
    #[default]
    Post,
    /// Before each branch, and once at the end.
    Pre,
}

fn yes() -> bool {
    true
}

/// The section `train`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Sequences or images per step.
    pub batch: usize,
    /// Steps between evaluations. There is one more at the beginning and at the end of every stage.
    pub eval_every: u64,
    /// Batches per evaluation. 0: all held-out data.
    #[serde(default)]
    pub eval_batches: usize,
    /// Activation recomputation: save only the inputs of blocks, and recompute the blocks in the backward pass.
    #[serde(default)]
    pub recompute: bool,
    /// The data type that steps compute in.
    #[serde(default)]
    pub precision: Precision,
    /// Gradient accumulation: number of micro-batches that the batch of a step is divided into.
    #[serde(default = "one_batch")]
    pub accumulate: usize,
    /// Label smoothing: the share of the target that is spread evenly over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// The last stage ends at the first evaluation with at most this loss.
    #[serde(default)]
    pub target_loss: Option<f64>,
    /// Steps between checkpoints; `None`: at every evaluation. One more is written at the end of every stage.
    #[serde(default)]
    pub checkpoint_every: Option<u64>,
    /// Number of most recent checkpoints to keep.
    #[serde(default = "two")]
    pub keep_last: usize,
    /// Whether to keep the checkpoint of level 1 with the lowest held-out loss as well.
    #[serde(default)]
    pub keep_best: bool,
}

fn one_batch() -> usize {
    1
}

fn two() -> usize {
    2
}

/// The section `rules`: how the multi-level operators map weights.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesConfig {
    /// How width is mapped.
    pub width: WidthRule,
    /// How depth is mapped.
    pub depth: DepthRule,
    /// How fan-in weights are divided among copies.
    pub shares: SharesConfig,
}

/// The section `growth`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrowthConfig {
    /// The name of a growth method.
    pub method: String,
}

impl GrowthConfig {
    fn is_default(&self) -> bool {
        self.method == METHODS[0].name()
    }
}

impl Default for GrowthConfig {
    fn default() -> Self {
        GrowthConfig { method: METHODS[0].name().into() }
    }
}

/// `rules.shares`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SharesConfig {
    /// Equal shares.
    #[default]
    Equal,
    /// Random shares, drawn with the seed of the run.
    Random,
}

impl Config {
    /// Reads a file, applies `key=value` changes (dotted keys, such as `levels.0.train.steps=10`), and checks the
    /// result.
    ///
    /// # Errors
    /// The file cannot be read; invalid TOML or unknown keys, reported with line and column; invalid values, reported
    /// by key.
    pub fn read(path: &Path, changes: &[String]) -> Result<Self> {
        let text = read_text(path, 1 << 20)?;
        Self::parse(&text, changes).at(path.display())
    }

    /// Like [`Config::read`], from a string.
    ///
    /// # Errors
    /// Those of [`Config::read`].
    pub fn parse(text: &str, changes: &[String]) -> Result<Self> {
        let config: Config = if changes.is_empty() {
            toml::from_str(text).map_err(unusable)?
        } else {
            let mut value: toml::Value = toml::from_str(text).map_err(unusable)?;
            for change in changes {
                set(&mut value, change).at(format_args!("--set {change}"))?;
            }
            value.try_into().map_err(unusable).at("after --set")?
        };
        config.check()?;
        Ok(config)
    }

    /// Checks all values that can be checked without the data.
    fn check(&self) -> Result<()> {
        let train = &self.train;
        if !(0.0..1.0).contains(&self.model.drop_path) {
            bail!("model.drop_path: {} is outside 0..1; 0 drops nothing", self.model.drop_path);
        }
        if !(0.0..1.0).contains(&train.label_smoothing) {
            bail!("train.label_smoothing: {} is outside 0..1; DeiT's is 0.1", train.label_smoothing);
        }
        if !(0.0..1.0).contains(&self.model.dropout) {
            bail!("model.dropout: {} is outside 0..1; 0 drops nothing", self.model.dropout);
        }
        if !(self.model.init_std > 0.0 && self.model.init_std.is_finite()) {
            bail!("model.init_std: {} must be positive; 0.02 is usual", self.model.init_std);
        }
        if train.batch == 0 || train.eval_every == 0 {
            bail!("train: batch and eval_every must be at least 1; set both");
        }
        if train.accumulate == 0 || !train.batch.is_multiple_of(train.accumulate) {
            bail!(
                "train.accumulate: {} does not divide the {} sequences of train.batch; choose a divisor",
                train.accumulate,
                train.batch
            );
        }
        if train.checkpoint_every == Some(0) || train.keep_last == 0 {
            bail!("train: checkpoint_every and keep_last must be at least 1");
        }
        if let Some(target) = train.target_loss
            && !target.is_finite()
        {
            bail!("train.target_loss: {target} is not finite; leave it out to train for all steps");
        }
        let tokens = train.batch.checked_mul(self.model.context.max(1)).filter(|n| *n < 1 << 31);
        if tokens.is_none() {
            bail!(
                "train.batch: {} sequences of {} tokens are not below 2^31 tokens; lower train.batch or model.context",
                train.batch,
                self.model.context
            );
        }
        self.optimizer.build()?;
        self.growth()?;
        if self.levels.is_empty() {
            bail!("levels: missing; give at least level 1, as [[levels]] with a table levels.train");
        }
        // All levels are in memory at once, and no published V-cycle has more than three.
        if self.levels.len() > MOST_LEVELS {
            bail!("levels: {} levels are too many; use at most {MOST_LEVELS}", self.levels.len());
        }
        let last = self.levels.len() - 1;
        for (i, level) in self.levels.iter().enumerate() {
            level.check(i, last).at(format_args!("levels[{i}]"))?;
        }
        if let Some(stage) = &self.scratch {
            stage.check_first().at("scratch")?;
        }
        Ok(())
    }

    /// Returns the masking of text.
    pub fn masking(&self) -> MaskingConfig {
        self.masking.unwrap_or_default()
    }

    /// Returns the section `data.images`.
    ///
    /// # Errors
    /// It is missing, invalid, or combined with other data.
    pub fn images(&self) -> Result<&ImagesConfig> {
        self.data.images()
    }

    /// Returns how images of this number of channels are cut into patches.
    pub fn patches(&self, channels: usize) -> PatchShape {
        let ModelConfig { image, patch, distilled, .. } = self.model;
        PatchShape {
            image: image.unwrap_or(1),
            patch: patch.unwrap_or(1),
            channels,
            specials: 1 + usize::from(distilled),
        }
    }

    /// Returns where the text of the run comes from.
    ///
    /// # Errors
    /// Keys of `data` that cannot be combined. [`Config::read`] has checked this already.
    pub fn data_source(&self) -> Result<DataSource> {
        self.data.source()
    }

    /// Builds the optimizer that `[optimizer]` describes.
    ///
    /// # Errors
    /// Keys that do not fit; a configuration that was read has none.
    pub fn optimizer(&self) -> Result<optim::Config> {
        self.optimizer.build()
    }

    /// Returns the growth method.
    ///
    /// # Errors
    /// It is unknown. [`Config::read`] has checked this already.
    pub fn growth(&self) -> Result<&'static dyn Method> {
        methods::find(&self.growth.method).at("growth.method")
    }

    /// Returns the scheme that maps the level above `level` (counted from 0) to it.
    ///
    /// # Errors
    /// The growth method cannot map these sizes.
    pub fn scheme(&self, level: usize, big: &Store, small: &Store) -> Result<Scheme> {
        let [big, small] = [big, small].map(|store| ModelShape::of(&store.table));
        self.growth()?.scheme(self.levels[level].scheme(), big, small)
    }

    /// Returns the rules of the multi-level operators, with the seed of random shares.
    pub fn rules(&self) -> Rules {
        let shares = match self.rules.shares {
            SharesConfig::Equal => Shares::Equal,
            SharesConfig::Random => Shares::Random { seed: self.seed },
        };
        Rules { width: self.rules.width, depth: self.rules.depth, shares }
    }
}

/// Converts an error of the TOML parser. The message has line, column and an excerpt, or just the key if there is no
/// text.
fn unusable(error: toml::de::Error) -> Error {
    let text = error.to_string();
    match error.span() {
        Some(_) => Error::new(text.trim_end()),
        None => Error::new(format!("{}; docs/configuration.md lists all keys", text.trim_end().replace('\n', " "))),
    }
}

/// Applies a change `key=value` to `root`, where the value is TOML or a bare string. `scratch=none` removes the
/// baseline.
fn set(root: &mut toml::Value, change: &str) -> Result<()> {
    let Some((key, text)) = change.split_once('=') else { bail!("missing `=`; a change looks like train.batch=8") };
    if let (Some(table), "scratch", "false" | "none" | "\"none\"") = (root.as_table_mut(), key.trim(), text.trim()) {
        table.remove("scratch");
        return Ok(());
    }
    let parsed: Option<toml::Value> =
        toml::from_str::<toml::Table>(&format!("value = {text}")).ok().and_then(|mut t| t.remove("value"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(text.to_string()));
    let mut at = root;
    // Also accept `levels[0].train.steps`, as in error messages, and quoted parts, as in TOML.
    let dotted = key.trim().replace('[', ".").replace(']', "");
    let parts: Vec<&str> = dotted.split('.').map(|part| part.trim().trim_matches(['"', '\''])).collect();
    // No key has this many parts. Tables that are nested too deeply would overflow the stack.
    if parts.len() > 16 {
        bail!("the key has {} parts; a change looks like levels.0.train.steps=10", parts.len());
    }
    for (i, part) in parts.iter().enumerate() {
        let is_last = i + 1 == parts.len();
        at = match at {
            toml::Value::Table(_) if part.is_empty() => {
                bail!("the key {key:?} has an empty part; a change looks like train.batch=8")
            }
            toml::Value::Table(table) if is_last => {
                table.insert((*part).to_string(), value);
                return Ok(());
            }
            toml::Value::Table(table) => {
                table.entry((*part).to_string()).or_insert_with(|| toml::Value::Table(toml::Table::new()))
            }
            toml::Value::Array(items) => {
                let count = items.len();
                match part.parse::<usize>().ok().and_then(|n| items.get_mut(n)) {
                    Some(item) if is_last => {
                        *item = value;
                        return Ok(());
                    }
                    Some(item) => item,
                    None => bail!("{part:?} is not an index into a list of {count}; indices start at 0"),
                }
            }
            _ => bail!("{part:?} is below a value that is not a table; docs/configuration.md lists all keys"),
        };
    }
    Ok(())
}
