//! A run's configuration: TOML, checked before anything is written.

pub mod data;
pub mod levels;
pub mod schedule;

use crate::bail;
use crate::data::images::{AugmentConfig, PatchShape, ViewConfig};
use crate::data::prepared::corpus::DataSource;
use crate::data::tokens::masking::MaskingConfig;
use crate::error::{At, Error, Result};
use crate::files::read_text;
use crate::model::BatchShape;
use crate::multilevel::{DepthRule, Rules, Shares, WidthRule};
use crate::train::state::{OptimizerConfig, Precision};
use data::{DataConfig, ImagesConfig};
use levels::{Level, Stage};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const MOST_LEVELS: usize = 16;

/// The whole file. Every key is listed in `docs/configuration.md`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of initial weights, batches, dropout and random shares.
    #[serde(default = "one")]
    pub seed: u64,
    pub model: ModelConfig,
    pub data: DataConfig,
    pub train: TrainConfig,
    #[serde(default)]
    pub optimizer: Adam,
    #[serde(default)]
    pub rules: RulesConfig,
    /// How a masked model's text is masked.
    pub masking: Option<MaskingConfig>,
    /// How images are changed before they are trained on, and how they are seen.
    pub augment: Option<AugmentConfig>,
    pub view: Option<ViewConfig>,
    /// Level 1 first. One level: plain training.
    pub levels: Vec<Level>,
    /// The twin: level 1 trained from scratch, for comparison.
    pub scratch: Option<Stage>,
}

fn one() -> u64 {
    1
}

/// Level 1.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub family: Family,
    /// A model folder, whose weights and sizes level 1 begins with.
    pub from: Option<PathBuf>,
    /// Sizes; may be left out where `from` says them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layers: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub heads: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub head_size: usize,
    /// Tokens of a sequence.
    #[serde(default)]
    pub context: usize,
    /// Pixels of a side of an image, and of a patch.
    pub image: Option<usize>,
    pub patch: Option<usize>,
    /// A distillation token with a head of its own.
    #[serde(default)]
    pub distilled: bool,
    /// Stochastic depth of the last layer.
    #[serde(default)]
    pub drop_path: f32,
    /// Where the norms of BERT's layers stand.
    #[serde(default)]
    pub norm: NormConfig,
    /// GPT's head is its embeddings; `false`: a weight of its own.
    #[serde(default = "yes")]
    pub tied: bool,
    /// Of embeddings, attention weights and residual branches alike.
    #[serde(default)]
    pub dropout: f32,
    #[serde(default = "init_std")]
    pub init_std: f64,
}

fn is_zero(size: &usize) -> bool {
    *size == 0
}

fn init_std() -> f64 {
    0.02
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Gpt,
    Bert,
    Deit,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum NormConfig {
    #[default]
    Post,
    Pre,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Sequences of a step.
    pub batch: usize,
    /// Steps between evaluations; one more is made at the begin and at the end of every stage.
    pub eval_every: u64,
    /// Batches of an evaluation; 0: the whole held-out text.
    #[serde(default)]
    pub eval_batches: usize,
    /// Keep only the inputs of blocks and compute them again in the backward pass.
    #[serde(default)]
    pub recompute: bool,
    /// In which type steps compute.
    #[serde(default)]
    pub precision: Precision,
    /// Micro-batches that a step's batch is computed in, one after another.
    #[serde(default = "one_batch")]
    pub accumulate: usize,
    /// Of labels: this share of a target goes to all classes alike.
    #[serde(default)]
    pub label_smoothing: f64,
    /// A run's last stage ends at the first evaluation that is no worse.
    #[serde(default)]
    pub target_loss: Option<f64>,
    /// Steps between checkpoints; left out: at every evaluation. One more is written at the end of every stage.
    #[serde(default)]
    pub checkpoint_every: Option<u64>,
    /// Checkpoints that stay.
    #[serde(default = "two")]
    pub keep_last: usize,
    /// The checkpoint of level 1 with the lowest held-out loss stays as well.
    #[serde(default)]
    pub keep_best: bool,
}

fn one_batch() -> usize {
    1
}

fn two() -> usize {
    2
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adam {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub clip: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesConfig {
    pub width: WidthRule,
    pub depth: DepthRule,
    pub shares: SharesConfig,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SharesConfig {
    #[default]
    Equal,
    Random,
}

impl Config {
    /// Reads a file, applies `key=value` changes (dotted keys, `levels.0.train.steps=10`), and checks.
    ///
    /// # Errors
    /// An unreadable file; TOML or keys that are wrong, with line and column; values that do not fit, by key.
    pub fn read(path: &Path, changes: &[String]) -> Result<Self> {
        let text = read_text(path, 1 << 20)?;
        Self::parse(&text, changes).at(path.display())
    }

    /// As [`Config::read`], from text.
    ///
    /// # Errors
    /// As [`Config::read`].
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

    fn check(&self) -> Result<()> {
        let train = &self.train;
        self.model.check_sizes()?;
        self.check_family()?;
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
            bail!("train: batch and eval_every must be at least 1; give both a number");
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
            bail!("train.target_loss: {target} is no loss; leave it out to train for all steps");
        }
        let tokens = train.batch.checked_mul(self.model.context.max(1)).filter(|n| *n < 1 << 31);
        if tokens.is_none() {
            bail!(
                "train.batch: {} sequences of {} tokens are beyond reason; make it or model.context smaller",
                train.batch,
                self.model.context
            );
        }
        let adam = &self.optimizer;
        for (key, beta) in [("beta1", adam.beta1), ("beta2", adam.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                bail!("optimizer.{key}: {beta} is outside 0..1; 0.9 and 0.95 are usual");
            }
        }
        for (key, value) in [("eps", adam.eps), ("clip", adam.clip)] {
            if value.is_nan() || value <= 0.0 {
                bail!(
                    "optimizer.{key}: {value} must be above 0; {}",
                    if key == "clip" { "inf is no clipping" } else { "1e-8 is usual" }
                );
            }
        }
        if !(adam.weight_decay >= 0.0 && adam.weight_decay.is_finite()) {
            bail!("optimizer.weight_decay: {} must be finite and not negative; 0 is none", adam.weight_decay);
        }
        if self.levels.is_empty() {
            bail!("levels: none is given; level 1 is needed, as [[levels]] with a table levels.train");
        }
        // All levels are in memory at once, and no published cycle has more than three.
        if self.levels.len() > MOST_LEVELS {
            bail!("levels: {} of them are beyond reason; use at most {MOST_LEVELS}", self.levels.len());
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

    /// Every key belongs to the model's family, and what it needs is there.
    fn check_family(&self) -> Result<()> {
        let model = &self.model;
        let family = model.family;
        let keys = [
            ("model.context", model.context != 0, &[Family::Gpt, Family::Bert][..]),
            ("model.image", model.image.is_some(), &[Family::Deit]),
            ("model.patch", model.patch.is_some(), &[Family::Deit]),
            ("model.distilled", model.distilled, &[Family::Deit]),
            ("model.drop_path", model.drop_path != 0.0, &[Family::Deit]),
            ("model.norm", model.norm != NormConfig::Post, &[Family::Bert]),
            ("model.tied", !model.tied, &[Family::Gpt]),
            ("masking", self.masking.is_some(), &[Family::Bert]),
            ("data.task", self.data.task.is_some(), &[Family::Bert]),
            ("augment", self.augment.is_some(), &[Family::Deit]),
            ("view", self.view.is_some(), &[Family::Deit]),
            ("train.label_smoothing", self.train.label_smoothing != 0.0, &[Family::Deit]),
        ];
        if let Some((key, ..)) = keys.iter().find(|(_, given, families)| *given && !families.contains(&family)) {
            bail!("{key}: a model of this family has none; leave it out");
        }
        if !(0.0..1.0).contains(&model.drop_path) {
            bail!("model.drop_path: {} is outside 0..1; 0 drops nothing", model.drop_path);
        }
        if family == Family::Deit {
            if model.image.is_none_or(|n| n == 0 || n >= 1 << 15) || model.patch.is_none_or(|n| n == 0) {
                bail!("model: image and patch must be given, in pixels of a side, each at least 1 and below 32768");
            }
            return self.images().map(drop);
        }
        if model.context == 0 {
            bail!("model.context: must be at least 1; give it a size");
        }
        if self.data.task.is_some() {
            if self.masking.is_some() {
                bail!("masking: labelled texts are not masked; leave it out, or data.task");
            }
            self.data.task()?;
            return match (&self.data.tokenizer, &model.from) {
                (None, None) => bail!(
                    "data.tokenizer: missing; give char, byte, bpe:N, or the path of a tokenizer, or start from a checkpoint \
                     (model.from)"
                ),
                _ => Ok(()),
            };
        }
        self.masking.map_or(Ok(()), |masking| masking.check())?;
        self.data_source().map(drop)
    }

    /// How text is masked.
    pub fn masking(&self) -> MaskingConfig {
        self.masking.unwrap_or_default()
    }

    /// The images of a run.
    ///
    /// # Errors
    /// None are given, or other data beside them.
    pub fn images(&self) -> Result<&ImagesConfig> {
        self.data.images()
    }

    /// How images are cut into patches.
    pub fn patches(&self, channels: usize) -> PatchShape {
        let ModelConfig { image, patch, distilled, .. } = self.model;
        PatchShape {
            image: image.unwrap_or(1),
            patch: patch.unwrap_or(1),
            channels,
            specials: 1 + usize::from(distilled),
        }
    }

    /// Where the run's data comes from.
    ///
    /// # Errors
    /// Keys of `data` that do not go together; a configuration that was read has none.
    pub fn data_source(&self) -> Result<DataSource> {
        self.data.source()
    }

    /// What a step computes at a time.
    pub fn shape(&self) -> BatchShape {
        let (batch, time) = (self.train.batch / self.train.accumulate, self.model.context);
        let masked = self.model.family == Family::Bert && self.data.task.is_none();
        let scored = if masked { self.masking().slots(time) } else { 0 };
        BatchShape { batch, time, scored }
    }

    pub fn optimizer(&self) -> OptimizerConfig {
        let Adam { beta1, beta2, eps, weight_decay, clip } = self.optimizer;
        OptimizerConfig { beta1, beta2, eps, weight_decay, clip }
    }

    pub fn rules(&self) -> Rules {
        let shares = match self.rules.shares {
            SharesConfig::Equal => Shares::Equal,
            SharesConfig::Random => Shares::Random { seed: self.seed },
        };
        Rules { width: self.rules.width, depth: self.rules.depth, shares }
    }
}

/// What the parser found: line, column and a picture of the place, or the key where there is no text.
fn unusable(error: toml::de::Error) -> Error {
    let text = error.to_string();
    match error.span() {
        Some(_) => Error::new(text.trim_end()),
        None => Error::new(format!("{}; docs/configuration.md lists all keys", text.trim_end().replace('\n', " "))),
    }
}

/// Puts `value` (TOML, or a bare string) at a dotted key. `scratch=none` drops the scratch run.
fn set(root: &mut toml::Value, change: &str) -> Result<()> {
    let Some((key, text)) = change.split_once('=') else { bail!("no = in it; a change looks like train.batch=8") };
    if let (Some(table), "scratch", "false" | "none" | "\"none\"") = (root.as_table_mut(), key.trim(), text.trim()) {
        table.remove("scratch");
        return Ok(());
    }
    let parsed: Option<toml::Value> =
        toml::from_str::<toml::Table>(&format!("value = {text}")).ok().and_then(|mut t| t.remove("value"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(text.to_string()));
    let mut at = root;
    // Also as errors write it, `levels[0].train.steps`, and with quotes, as TOML does.
    let dotted = key.trim().replace('[', ".").replace(']', "");
    let parts: Vec<&str> = dotted.split('.').map(|part| part.trim().trim_matches(['"', '\''])).collect();
    // Far more than any key has; tables nested without end would overflow the stack.
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
                    None => bail!("{part:?} is no element of a list of {count}; count from 0"),
                }
            }
            _ => bail!("{part:?} lies below a value that is no table; docs/configuration.md lists all keys"),
        };
    }
    Ok(())
}
