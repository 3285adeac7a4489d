//! The configuration that a checkpoint was trained under, compared with the one that `config.toml` holds when the run goes on.
//!
//! What decides the function or the data may not change: weights of one model would go on as another. What only says how
//! long, how fast, or how often something is done may, and is reported. `docs/runs.md` has the table.

use super::checkpoint::{self, State};
use super::plan::v_cycle;
use crate::bail;
use crate::config::Config;
use crate::data::fingerprint::Fingerprint;
use crate::data::tokenizer::{Tokenizer, spec_file};
use crate::error::{At, Error, Result};
use crate::families::dataset::Data;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Of a checkpoint: the configuration, and sums of what it only names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// TOML, with every key.
    pub config: String,
    /// `config.json` of `model.from`.
    pub from: Option<String>,
    /// The tokens of the vocabulary, by id.
    pub tokenizer: Option<String>,
    /// The tokens of both sides of a text.
    pub tokens: Option<String>,
}

/// One of the two sides of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    VCycle,
    Scratch,
}

impl Branch {
    pub const ALL: [Branch; 2] = [Branch::VCycle, Branch::Scratch];

    /// Its folder in that of the run.
    pub fn folder(self) -> &'static str {
        match self {
            Branch::VCycle => "vcycle",
            Branch::Scratch => "scratch",
        }
    }

    /// The tables of its stages, in the order in which they are trained.
    fn stages(self, levels: usize) -> Vec<String> {
        match self {
            Branch::Scratch => vec!["scratch".into()],
            Branch::VCycle => v_cycle(levels)
                .iter()
                .map(|leg| format!("levels[{}].{}", leg.level, if leg.last { "train" } else { "before" }))
                .collect(),
        }
    }
}

/// What may be done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Nothing: it decides the function or the data.
    Fixed,
    /// Anything, as long as the same content is found there.
    Place,
    /// Of a stage: anything, until the stage has ended.
    Stage,
    /// Anything.
    Free,
}

const FREE: [&str; 8] = [
    "train.eval_every",
    "train.eval_batches",
    "train.checkpoint_every",
    "train.keep_last",
    "train.keep_best",
    "train.target_loss",
    // The same numbers, computed a second time instead of kept.
    "train.recompute",
    "data.images.workers",
];
const PLACES: [&str; 7] =
    ["model.from", "data.text", "data.prepared", "data.train", "data.valid", "data.task.train", "data.task.valid"];
/// Of `data.images.train.files` and `data.images.valid.files`.
const IMAGE_PLACES: [&str; 5] = ["images", "labels", "files", "file", "folder"];
const STAGE: [&str; 7] = ["steps", "lr", "warmup", "decay", "floor", "cooldown", "schedule"];

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

/// A key that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub key: String,
    pub from: String,
    pub to: String,
    /// From when on it counts, or why it may not be.
    #[serde(skip)]
    pub remark: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Change { key, from, to, remark } = self;
        write!(f, "{key}: {from} -> {to}{remark}")
    }
}

impl Settings {
    /// Those of a run on this data.
    ///
    /// # Errors
    /// `model.from` has no readable `config.json`.
    pub fn of(config: &Config, data: &Data) -> Result<Self> {
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

    /// Compares what the configuration only names.
    ///
    /// # Errors
    /// Other content than when the checkpoint was written.
    pub fn same_content(&self, now: &Settings) -> Result<()> {
        let named = [
            ("model.from: the folder's config.json", &self.from, &now.from),
            ("data.tokenizer: the vocabulary", &self.tokenizer, &now.tokenizer),
            ("data: the tokens", &self.tokens, &now.tokens),
        ];
        if let Some((what, ..)) = named.iter().find(|(_, then, now)| then != now) {
            bail!(
                "{what} changed since the checkpoint was written; bring back what the run was started with, or start a new run"
            );
        }
        Ok(())
    }
}

/// Compares `now` with what the run's newest checkpoints were trained under, before anything else is done.
///
/// # Errors
/// Keys that decide the function or the data, with both values.
pub fn check_run(run: &Path, now: &Config) -> Result<()> {
    for half in Branch::ALL {
        let side = run.join(half.folder());
        if let Some((dir, state)) = checkpoint::newest_state(&side)? {
            changes(&dir, &state, now, half)?;
        }
    }
    Ok(())
}

/// What may be, and was, changed since the checkpoint in `dir` was written. Of a checkpoint of an earlier version nothing is
/// known.
///
/// # Errors
/// As [`check_run`].
pub fn changes(dir: &Path, state: &State, now: &Config, half: Branch) -> Result<Vec<Change>> {
    let Some(settings) = &state.settings else { return Ok(Vec::new()) };
    let then = Config::parse(&settings.config, &[]);
    let then = then.map_err(|e| {
        Error::new(format!(
            "{}: its configuration cannot be read: {e}; go on with the version of vcycle that wrote it, or remove this \
             checkpoint to go on from the one before it",
            dir.display()
        ))
    })?;
    let finished = dir.parent().and_then(Path::parent).is_some_and(|side| side.join("model").exists());
    let (allowed, refused) = compare(&then, now, half, state, finished)?;
    if !refused.is_empty() {
        let listed: String = refused.iter().map(|change| format!("  {change}\n")).collect();
        bail!(
            "config.toml was changed since the checkpoint {} was written:\n{listed}these keys decide what is trained, or \
             belong to a stage that has ended; put the old values back, or start a new run",
            dir.display()
        );
    }
    Ok(allowed)
}

/// Changes that are allowed, and those that are not.
fn compare(
    then: &Config,
    now: &Config,
    half: Branch,
    state: &State,
    finished: bool,
) -> Result<(Vec<Change>, Vec<Change>)> {
    let change =
        |key: &str, from: String, to: String, remark: &str| Change { key: key.into(), from, to, remark: remark.into() };
    let (was, is) = (then.levels.len(), now.levels.len());
    if was != is && half == Branch::VCycle {
        return Ok((Vec::new(), vec![change("levels", was.to_string(), is.to_string(), " of them")]));
    }
    if half == Branch::Scratch && then.scratch.is_some() && now.scratch.is_none() {
        let removed = change("scratch", "set".into(), "not set".into(), " (that run has begun)");
        return Ok((Vec::new(), vec![removed]));
    }
    let stages = half.stages(was);
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
        let other = match half {
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
            // A file may lie elsewhere; its vocabulary is compared.
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
                    true => refused.push(change(key, from, to, &format!(" ({done} are done; give more)"))),
                    false => allowed.push(change(key, from, to, &from_step)),
                }
            }
            (Rule::Stage, Some(_)) => allowed.push(change(key, from, to, ", when that stage begins")),
            (Rule::Fixed | Rule::Stage, _) => refused.push(change(key, from, to, "")),
        }
    }
    // Nothing of it is trained any more.
    if finished {
        allowed.clear();
    }
    Ok((allowed, refused))
}

/// TOML has signed numbers; what has no sign here may be larger.
fn unwritable(error: &dyn std::fmt::Display) -> Error {
    Error::new(format!("the configuration: {error}; numbers go up to {}", i64::MAX))
}

/// Every key with its value as TOML has it. Sections that are left out are those with nothing but defaults.
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
            format: 2,
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

    /// Other values for a leaf of a configuration.
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

    /// Calls `visit` with the configuration, changed in one leaf at a time, and the leaf's key.
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

    /// Of every key of every ready configuration: a change is seen, under its name, and of one key alone.
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
                // What is of another type or word is refused by the parser.
                let Ok(now) = changed.clone().try_into::<Config>() else { return };
                let halves = Branch::ALL.map(|half| compare(&config, &now, half, &state, false).expect("compared"));
                let [may, may_not] = [0, 1].map(|which| {
                    let lists = halves.iter().map(|(may, may_not)| if which == 0 { may } else { may_not });
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

    /// What may be changed is what the documentation says.
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
