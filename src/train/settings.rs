//! Compares the configuration that a checkpoint was trained with and the `config.toml` that the run resumes with.
//!
//! Keys that determine the model function or the data must not change, since the weights would then continue as those
//! of another model. Keys that only determine how long, how fast or how often something happens may change, and changes
//! are reported. The table is in `docs/runs.md`.

use super::checkpoint::{self, State};
use crate::bail;
use crate::config::Config;
use crate::data::fingerprint::Fingerprint;
use crate::data::tokenizer::{Tokenizer, spec_file};
use crate::error::{At, Error, Result};
use crate::families::Dataset;
use crate::runlog::{Branch, Change};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The configuration stored in a checkpoint, with hashes of the content that it refers to by path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The configuration as TOML, with every key.
    pub config: String,
    /// Hash of the `config.json` in `model.from`.
    pub from: Option<String>,
    /// Hash of the vocabulary: its tokens in the order of their ids.
    pub tokenizer: Option<String>,
    /// Hash of the tokens of both splits of a text.
    pub tokens: Option<String>,
}

/// Returns the TOML tables of the branch's stages, in training order.
fn stages(branch: Branch, config: &Config) -> Result<Vec<String>> {
    Ok(match branch {
        Branch::Scratch => vec!["scratch".into()],
        Branch::VCycle => config
            .growth()?
            .plan(config.levels.len())
            .iter()
            .map(|visit| format!("levels[{}].{}", visit.level, if visit.last { "train" } else { "before" }))
            .collect(),
    })
}

/// How a key may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Not at all: it determines the model function or the data.
    Fixed,
    /// To any path with the same content.
    Place,
    /// Freely, until its stage has ended.
    Stage,
    /// Freely.
    Free,
}

/// Keys that may change freely.
const FREE: [&str; 8] = [
    "train.eval_every",
    "train.eval_batches",
    "train.checkpoint_every",
    "train.keep_last",
    "train.keep_best",
    "train.target_loss",
    // Recomputation gives the same numbers.
    "train.recompute",
    "data.images.workers",
];
/// Keys that hold a path.
const PLACES: [&str; 7] =
    ["model.from", "data.text", "data.prepared", "data.train", "data.valid", "data.task.train", "data.task.valid"];
/// Keys of `data.images.train.files` and `data.images.valid.files` that hold a path.
const IMAGE_PLACES: [&str; 5] = ["images", "labels", "files", "file", "folder"];
/// Keys of a stage that may change until it has ended.
const STAGE: [&str; 7] = ["steps", "lr", "warmup", "decay", "floor", "cooldown", "schedule"];

/// Returns the rule of a dotted key.
fn rule(key: &str) -> Rule {
    if FREE.contains(&key) {
        return Rule::Free;
    }
    let last = key.rsplit('.').next().unwrap_or(key);
    if PLACES.contains(&key)
        || key.starts_with("data.images.") && key.contains(".files.") && IMAGE_PLACES.contains(&last)
    {
        return Rule::Place;
    }
    match key.starts_with("levels[") || key.starts_with("scratch.") {
        true if STAGE.contains(&last) => Rule::Stage,
        _ => Rule::Fixed,
    }
}

impl Settings {
    /// Returns the settings of a run with this configuration and data.
    ///
    /// # Errors
    /// `model.from` has no readable `config.json`.
    pub fn of(config: &Config, data: &dyn Dataset) -> Result<Self> {
        let sum = |from: &PathBuf| {
            let mut print = Fingerprint::default();
            print.add_file(&from.join("config.json")).at("model.from").map(|()| print.hex())
        };
        Ok(Settings {
            config: toml::to_string(config).map_err(|e| unwritable(&e))?,
            from: config.model.from.as_ref().map(sum).transpose()?,
            tokenizer: data.tokenizer().map(Tokenizer::sum),
            tokens: data.tokens_sum(),
        })
    }

    /// Checks that the content behind the paths in the configuration is still the same.
    ///
    /// # Errors
    /// The content changed since the checkpoint was written.
    pub fn same_content(&self, now: &Settings) -> Result<()> {
        let named = [
            ("model.from: the folder's config.json", &self.from, &now.from),
            ("data.tokenizer: the vocabulary", &self.tokenizer, &now.tokenizer),
            ("data: the tokens", &self.tokens, &now.tokens),
        ];
        if let Some((what, ..)) = named.iter().find(|(_, then, now)| then != now) {
            bail!(
                "{what} changed since the checkpoint was written; restore what the run was started with, or start a \
                 new run"
            );
        }
        Ok(())
    }
}

/// Compares `now` with the configurations in the newest checkpoints of the run, before anything else is done.
///
/// # Errors
/// Keys that must not change did: lists them with both values.
pub fn check_run(run: &Path, now: &Config) -> Result<()> {
    for branch in Branch::ALL {
        let folder = run.join(branch.folder());
        if let Some((dir, state)) = checkpoint::newest_state(&folder)? {
            changes(&dir, &state, now, branch)?;
        }
    }
    Ok(())
}

/// Returns the permitted changes since the checkpoint in `dir` was written. There are none for a checkpoint of an
/// earlier version, which does not contain its configuration.
///
/// # Errors
/// Those of [`check_run`].
pub fn changes(dir: &Path, state: &State, now: &Config, branch: Branch) -> Result<Vec<Change>> {
    let Some(settings) = &state.settings else { return Ok(Vec::new()) };
    let then = Config::parse(&settings.config, &[]);
    let then = then.map_err(|e| {
        Error::new(format!(
            "{}: its configuration cannot be read: {e}; resume with the version of vcycle that wrote it, or remove \
             this checkpoint to resume from the previous one",
            dir.display()
        ))
    })?;
    let finished = dir.parent().and_then(Path::parent).is_some_and(|branch_dir| branch_dir.join("model").exists());
    let (allowed, refused) = compare(&then, now, branch, state, finished)?;
    if !refused.is_empty() {
        let listed: String = refused.iter().map(|change| format!("  {change}\n")).collect();
        bail!(
            "config.toml was changed since the checkpoint {} was written:\n{listed}these keys determine what is \
             trained, or belong to a stage that has ended; put the old values back, or start a new run",
            dir.display()
        );
    }
    Ok(allowed)
}

/// Returns the permitted changes and the refused ones.
fn compare(
    then: &Config,
    now: &Config,
    branch: Branch,
    state: &State,
    finished: bool,
) -> Result<(Vec<Change>, Vec<Change>)> {
    let change =
        |key: &str, from: String, to: String, remark: &str| Change { key: key.into(), from, to, remark: remark.into() };
    let (was, is) = (then.levels.len(), now.levels.len());
    if was != is && branch == Branch::VCycle {
        return Ok((Vec::new(), vec![change("levels", was.to_string(), is.to_string(), " (number of levels)")]));
    }
    if branch == Branch::Scratch && then.scratch.is_some() && now.scratch.is_none() {
        let removed = change("scratch", "set".into(), "not set".into(), " (that run has begun)");
        return Ok((Vec::new(), vec![removed]));
    }
    let stages = stages(branch, then)?;
    let number = state.at.stage.saturating_sub(1);
    let (old, new) = (flat(then)?, flat(now)?);
    let over = |stage: &str| {
        old.get(&format!("{stage}.steps")).and_then(|steps| steps.parse::<u64>().ok()) <= Some(state.stage_step)
    };
    let file = |config: &Config| config.data.tokenizer.as_deref().and_then(spec_file).is_some();
    let files = file(then) && file(now);
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let (mut allowed, mut refused) = (Vec::new(), Vec::new());
    for key in keys {
        let other = match branch {
            Branch::VCycle => key.starts_with("scratch."),
            Branch::Scratch => key.starts_with("levels["),
        };
        let (from, to) = (old.get(key), new.get(key));
        if other || from == to {
            continue;
        }
        let [from, to] = [from, to].map(|value| value.cloned().unwrap_or_else(|| "not set".into()));
        let place =
            stages.iter().position(|stage| key.strip_prefix(stage.as_str()).is_some_and(|k| k.starts_with('.')));
        let from_step = format!(", from step {} on", state.at.step + 1);
        match (rule(key), place) {
            // The tokenizer file may have moved; its vocabulary is compared.
            (Rule::Fixed, _) if key == "data.tokenizer" && files => {
                allowed.push(change(key, from, to, ", with the same vocabulary"));
            }
            (Rule::Place, _) if key == "model.from" => {
                allowed.push(change(key, from, to, ", with the same config.json; its weights are not compared"));
            }
            (Rule::Place, _) => allowed.push(change(key, from, to, ", with the same content")),
            (Rule::Free, _) => allowed.push(change(key, from, to, &from_step)),
            (Rule::Stage, Some(stage)) if finished || stage < number || stage == number && over(&stages[stage]) => {
                refused.push(change(key, from, to, " (that stage has ended)"));
            }
            (Rule::Stage, Some(stage)) if stage == number => {
                let done = state.stage_step;
                match key.ends_with(".steps") && to.parse::<u64>().ok() <= Some(done) {
                    true => refused.push(change(key, from, to, &format!(" ({done} steps are done; set more)"))),
                    false => allowed.push(change(key, from, to, &from_step)),
                }
            }
            (Rule::Stage, Some(_)) => allowed.push(change(key, from, to, ", when that stage begins")),
            (Rule::Fixed | Rule::Stage, _) => refused.push(change(key, from, to, "")),
        }
    }
    // A finished branch is not trained any more, so no change takes effect.
    if finished {
        allowed.clear();
    }
    Ok((allowed, refused))
}

/// Returns the error for a configuration that cannot be written as TOML. TOML integers are signed 64-bit, so an
/// unsigned value may be too large.
fn unwritable(error: &dyn std::fmt::Display) -> Error {
    Error::new(format!("the configuration: {error}; use numbers of at most {}", i64::MAX))
}

/// Returns every key with its value in TOML. Optional sections that are missing count as sections of defaults.
fn flat(config: &Config) -> Result<BTreeMap<String, String>> {
    let mut config = config.clone();
    config.masking.get_or_insert_default();
    config.augment.get_or_insert_default();
    config.view.get_or_insert_default();
    let value = toml::Value::try_from(&config).map_err(|e| unwritable(&e))?;
    let mut all = BTreeMap::new();
    flatten(&value, String::new(), &mut all);
    Ok(all)
}

/// Adds every leaf of `value` to `all` under its dotted key.
fn flatten(value: &toml::Value, key: String, all: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(value, key, all);
            }
        }
        toml::Value::Array(items) if !items.is_empty() && items.iter().all(toml::Value::is_table) => {
            for (number, item) in items.iter().enumerate() {
                flatten(item, format!("{key}[{number}]"), all);
            }
        }
        leaf => {
            all.insert(key, leaf.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runlog::Position;

    fn state(config: &Config) -> State {
        let settings =
            Settings { config: toml::to_string(config).expect("text"), from: None, tokenizer: None, tokens: None };
        State {
            settings: Some(settings),
            at: Position { stage: 1, level: 1, step: 1, ..Position::default() },
            stage_step: 1,
            passes: 1,
            valid_loss: 1.0,
            valid_here: true,
            waited: 0.0,
            metrics_bytes: 0,
            tensorboard_bytes: 0,
            data: String::new(),
            levels: Vec::new(),
            operations: Vec::new(),
        }
    }

    /// Returns different values to try for a leaf of a configuration.
    fn others(value: &toml::Value) -> Vec<toml::Value> {
        match value {
            toml::Value::Integer(n) => vec![toml::Value::Integer(n + 1)],
            toml::Value::Float(x) => vec![toml::Value::Float(x * 0.5 + 0.01)],
            toml::Value::Boolean(b) => vec![toml::Value::Boolean(!b)],
            toml::Value::String(_) => {
                let words = "elsewhere bf16 gpt bert deit pre constant linear random uniform continue rewarm documents";
                words.split(' ').map(|word| toml::Value::String(word.into())).collect()
            }
            toml::Value::Array(items) => vec![toml::Value::Array(items.iter().flat_map(others).collect())],
            _ => Vec::new(),
        }
    }

    /// Calls `visit` with the configuration changed in one leaf, and the leaf's key, once for every changed value.
    fn each_change(root: &toml::Value, visit: &mut dyn FnMut(&toml::Value, &str)) {
        fn walk(
            value: &toml::Value,
            key: &str,
            put: &dyn Fn(toml::Value) -> toml::Value,
            visit: &mut dyn FnMut(&toml::Value, &str),
        ) {
            match value {
                toml::Value::Table(table) => {
                    for (name, item) in table {
                        let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                        let put = |new| {
                            let mut table = table.clone();
                            table.insert(name.clone(), new);
                            put(toml::Value::Table(table))
                        };
                        walk(item, &key, &put, visit);
                    }
                }
                toml::Value::Array(items) if items.iter().all(toml::Value::is_table) => {
                    for (number, item) in items.iter().enumerate() {
                        let put = |new| {
                            let mut items = items.clone();
                            items[number] = new;
                            put(toml::Value::Array(items))
                        };
                        walk(item, &format!("{key}[{number}]"), &put, visit);
                    }
                }
                leaf => others(leaf).into_iter().for_each(|new| visit(&put(new), key)),
            }
        }
        walk(root, "", &|new| new, visit);
    }

    /// For every key of every configuration in `configs/`: a change is noticed, under its name, and for that key alone.
    #[test]
    fn no_key_is_overlooked() {
        let configs = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
        let (mut seen, mut allowed) = (BTreeSet::new(), BTreeSet::new());
        for entry in std::fs::read_dir(configs).expect("a folder") {
            let path = entry.expect("an entry").path();
            let mut config = Config::read(&path, &[]).expect("a configuration");
            config.masking.get_or_insert_default();
            config.augment.get_or_insert_default();
            config.view.get_or_insert_default();
            let state = state(&config);
            each_change(&toml::Value::try_from(&config).expect("TOML"), &mut |changed, key| {
                // The parser refuses values of another type and unknown words.
                let Ok(now) = changed.clone().try_into::<Config>() else { return };
                let branches =
                    Branch::ALL.map(|branch| compare(&config, &now, branch, &state, false).expect("compared"));
                let [may, may_not] = [0, 1].map(|which| {
                    let lists = branches.iter().map(|(may, may_not)| if which == 0 { may } else { may_not });
                    lists.flatten().map(|change| change.key.clone()).collect::<BTreeSet<_>>()
                });
                let all: Vec<&String> = may.iter().chain(&may_not).collect();
                if all.is_empty() {
                    let same = toml::to_string(&config).expect("text") == toml::to_string(&now).expect("text");
                    assert!(same, "{}: a change of {key} was not seen", path.display());
                    return;
                }
                assert_eq!(all, [key], "{}", path.display());
                seen.insert(key.to_string());
                allowed.extend(may);
            });
        }
        for key in [
            "seed",
            "model.norm",
            "model.drop_path",
            "masking.rate",
            "augment.padding",
            "view.mean",
            "train.label_smoothing",
            "rules.shares",
            "levels[1].alpha",
            "levels[0].train.optimizer",
        ] {
            assert!(seen.contains(key) && !allowed.contains(key), "{key}");
        }
        for key in ["train.eval_every", "levels[0].train.lr", "data.text", "scratch.lr", "data.images.train.files.file"]
        {
            assert!(allowed.contains(key), "{key}");
        }
    }

    /// The keys that may change are listed in the documentation.
    #[test]
    fn the_table_is_in_the_documentation() {
        let docs = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runs.md"));
        for key in FREE.iter().chain(&PLACES).chain(&STAGE) {
            let last = key.rsplit('.').next().expect("a key");
            assert!(
                docs.contains(&format!("`{key}`")) || docs.contains(&format!("`{last}`")),
                "{key} is not in docs/runs.md"
            );
        }
    }
}
