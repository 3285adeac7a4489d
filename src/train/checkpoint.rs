//! Checkpoints: everything a stopped run needs to go on as if it had never stopped.
//!
//! `SIDE/checkpoints/stage-2-step-00000150/` appears whole or not at all and holds
//!
//! | | |
//! |---|---|
//! | `state.json` | [`State`]: stage, step, position, what belongs to it in other files |
//! | `tensors.safetensors` | per level that is still needed: `levelN.params`, `levelN.m`, `levelN.v`, flat, as on the device |
//! | `sums.json` | a 64-bit sum of each of the two |
//! | `model/` | with `train.keep_best`, at level 1: the model in Hugging Face form |
//!
//! Random numbers need no state: batches, dropout and initial weights are functions of the seed and of these counters.

use super::settings::Settings;
use super::state::Moments;
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::files::{self, write_atomic, write_dir_atomic};
use crate::model::store::Store;
use crate::runlog::Position;
use crate::tensor::{DType, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const FOLDER: &str = "checkpoints";
const STATE: &str = "state.json";
const TENSORS: &str = "tensors.safetensors";
const SUMS: &str = "sums.json";
/// Format 1, which has no [`Settings`], is read as well.
const FORMAT: u32 = 2;
/// The configuration in it may list a thousand names of classes.
const MOST_STATE: u64 = 8 << 20;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// 2.
    pub format: u32,
    /// What it was trained under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    pub at: Position,
    /// Steps of the stage that are done.
    pub stage_step: u64,
    /// Micro-batches of the stage, which dropout counts by.
    pub passes: u32,
    /// The last evaluation of the stage, and whether it was made at this very step.
    pub valid_loss: f64,
    pub valid_here: bool,
    /// Seconds in which the next batch was waited for.
    pub waited: f64,
    /// Lengths of `metrics.jsonl` and of the TensorBoard file.
    pub metrics_bytes: u64,
    pub tensorboard_bytes: u64,
    /// What the data was prepared from, as its folder is named.
    pub data: String,
    /// What is in the other file.
    pub levels: Vec<SavedLevel>,
    /// Time by operation so far.
    pub operations: Vec<crate::runlog::OperationTime>,
}

/// A level whose weights are still needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedLevel {
    /// From 1.
    pub level: usize,
    /// With moments, after so many updates.
    pub updates: Option<u64>,
    /// Names and shapes of the parameters, as a sum: another layout would put weights in wrong places.
    pub layout: String,
}

/// What of a level goes into a checkpoint.
pub struct Part<'a> {
    /// From 1.
    pub level: usize,
    pub params: &'a Store,
    pub moments: Option<&'a Moments>,
}

impl Part<'_> {
    pub fn saved(&self) -> SavedLevel {
        SavedLevel { level: self.level, updates: self.moments.map(|m| m.updates), layout: layout(self.params) }
    }

    fn stores(&self) -> impl Iterator<Item = (String, &Store)> {
        let moments = self.moments.into_iter().flat_map(|m| [("m", &m.m), ("v", &m.v)]);
        [("params", self.params)].into_iter().chain(moments).map(|(what, store)| (key(self.level, what), store))
    }
}

fn name(stage: usize, step: u64) -> String {
    format!("stage-{stage}-step-{step:08}")
}

fn key(level: usize, what: &str) -> String {
    format!("level{level}.{what}")
}

/// Name, shape and place of every parameter, as a sum.
fn layout(store: &Store) -> String {
    let mut print = Fingerprint::default();
    for (i, param) in store.table.params.iter().enumerate() {
        print.add(param.name().as_bytes());
        for number in [store.table.offset(i), store.table.pitch(i)].into_iter().chain(param.shape()) {
            print.add(&(number as u64).to_le_bytes());
        }
    }
    print.hex()
}

/// Writes a checkpoint below `side`, whole or not at all. `also` may add files.
///
/// # Errors
/// The disk is full or gone, or a value is not finite: what was saved before is as it was.
pub fn save(
    side: &Path,
    state: &State,
    parts: &[Part<'_>],
    device: &mut dyn Device,
    also: impl FnOnce(&Path, &mut dyn Device) -> Result<()>,
) -> Result<()> {
    let dir = side.join(FOLDER).join(name(state.at.stage, state.at.step));
    if dir.exists() {
        // The same step again, after an interruption in the stage's last one: nothing has changed since.
        return Checkpoint::read(&dir).map(drop);
    }
    let mut named = Vec::new();
    for (name, store) in parts.iter().flat_map(Part::stores) {
        let (flat, bytes) = (store.flat(), read_flat(device, &store.flat())?);
        // The loss of a step is that before its update, so that this may be the first to see what the update made.
        if let Some((at, value)) = Values::Any.first_bad(&bytes, flat.dtype()) {
            bail!(
                "training diverged: value {at} of {name} is {value}; lower the learning rate or lengthen the warm-up"
            );
        }
        named.push((name, bytes, flat));
    }
    write_dir_atomic(&dir, |dir| {
        let path = dir.join(TENSORS);
        let views: Result<Vec<(&str, TensorView<'_>)>> = named
            .iter()
            .map(|(name, bytes, flat)| {
                let view = TensorView::new(dtype(flat.dtype())?, vec![flat.numel()], bytes);
                Ok((name.as_str(), view.map_err(|e| Error::new(format!("{name}: {e}")))?))
            })
            .collect();
        // The folder is not yet in its place, so that the file may grow in its own.
        safetensors::serialize_to_file(views?, None, &path).map_err(|e| match e {
            SafeTensorError::IoError(e) => Error::io("write", &path, e),
            e => Error::new(format!("cannot write {}: {e}", path.display())),
        })?;
        let json = serde_json::to_vec_pretty(state).map_err(|e| Error::new(e.to_string()))?;
        let state = dir.join(STATE);
        write_atomic(&state, |out| out.write_all(&json))?;
        // The safetensors library makes files for their owner alone.
        let opened = fs::metadata(&state).and_then(|facts| fs::set_permissions(&path, facts.permissions()));
        opened.map_err(|e| Error::io("set the permissions of", &path, e))?;
        let tensors = File::open(&path).and_then(sum).map_err(|e| Error::io("read", &path, e))?;
        let sums = BTreeMap::from([(STATE, sum_of(&json)), (TENSORS, tensors)]);
        let sums = serde_json::to_vec_pretty(&sums).map_err(|e| Error::new(e.to_string()))?;
        write_atomic(&dir.join(SUMS), |out| out.write_all(&sums))?;
        also(dir, device)
    })
}

/// A checkpoint that was read and found whole.
pub struct Checkpoint {
    pub dir: PathBuf,
    pub state: State,
    bytes: Vec<u8>,
}

/// The bytes of both files of a checkpoint, which are what was written.
struct Whole {
    state: Vec<u8>,
    tensors: Vec<u8>,
}

impl Whole {
    /// # Errors
    /// A file that is missing or damaged.
    fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str, most: u64| read_whole(dir, name, most);
        Ok(Whole { state: read(STATE, MOST_STATE)?, tensors: read(TENSORS, u64::MAX)? })
    }
}

/// A file of a checkpoint, with the sum that it was written with.
fn read_whole(dir: &Path, name: &str, most: u64) -> Result<Vec<u8>> {
    let sums = files::read(&dir.join(SUMS), 1 << 20)?;
    let sums: BTreeMap<String, String> =
        serde_json::from_slice(&sums).map_err(|e| Error::new(format!("{}: damaged: {e}", dir.join(SUMS).display())))?;
    let path = dir.join(name);
    let content = files::read(&path, most)?;
    match sums.get(name) == Some(&sum_of(&content)) {
        true => Ok(content),
        false => bail!("{}: damaged: its content is not what {SUMS} says", path.display()),
    }
}

fn strange(dir: &Path, file: &str, what: &dyn Display) -> Error {
    let path = dir.join(file);
    Error::new(format!(
        "{}: not written by this version of vcycle: {what}; go on with the version that wrote it, or remove this \
         checkpoint to go on from the one before it",
        path.display()
    ))
}

/// # Errors
/// What was not written by this version or the one before, or not under this name.
fn parse_state(dir: &Path, json: &[u8]) -> Result<State> {
    let state: State = serde_json::from_slice(json).map_err(|e| strange(dir, STATE, &e))?;
    if !matches!((state.format, &state.settings), (1, None) | (FORMAT, Some(_))) {
        return Err(match state.format {
            1 => strange(dir, STATE, &"format 1 with settings"),
            FORMAT => strange(dir, STATE, &"its settings are missing"),
            other => strange(dir, STATE, &format_args!("format {other}, not {FORMAT}")),
        });
    }
    let own = name(state.at.stage, state.at.step);
    if !dir.ends_with(&own) {
        bail!("{}: holds {own}; give it that name again, or remove it", dir.display());
    }
    Ok(state)
}

/// The state of the newest checkpoint below `side` that can be read, and its folder. `None`: there is none.
///
/// # Errors
/// What is there cannot be listed, or is of another version.
pub fn newest_state(side: &Path) -> Result<Option<(PathBuf, State)>> {
    for dir in all(side)?.into_iter().rev() {
        if let Ok(json) = read_whole(&dir, STATE, MOST_STATE) {
            let state = parse_state(&dir, &json)?;
            return Ok(Some((dir, state)));
        }
    }
    Ok(None)
}

impl Checkpoint {
    /// # Errors
    /// A file that is missing or damaged, or written by another version.
    pub fn read(dir: &Path) -> Result<Self> {
        Self::parse(dir, Whole::read(dir)?)
    }

    /// # Errors
    /// As [`parse_state`].
    fn parse(dir: &Path, whole: Whole) -> Result<Self> {
        let state = parse_state(dir, &whole.state)?;
        SafeTensors::deserialize(&whole.tensors).map_err(|e| strange(dir, TENSORS, &e))?;
        Ok(Checkpoint { dir: dir.to_path_buf(), state, bytes: whole.tensors })
    }

    /// Fills what belongs to a level; `None` for moments that are not wanted.
    ///
    /// # Errors
    /// A level that was not saved, or saved for another model or device.
    pub fn restore(
        &self,
        level: usize,
        params: &Store,
        moments: Option<&mut Moments>,
        device: &mut dyn Device,
    ) -> Result<()> {
        self.fill(level, params, moments, device).at(self.dir.display())
    }

    fn fill(&self, level: usize, params: &Store, moments: Option<&mut Moments>, device: &mut dyn Device) -> Result<()> {
        let Some(saved) = self.state.levels.iter().find(|l| l.level == level) else {
            bail!("level {level} is not in the checkpoint; {CHANGED}")
        };
        if saved.layout != layout(params) {
            bail!("level {level} was saved for a model of other sizes; {CHANGED}");
        }
        self.write(&key(level, "params"), params, Values::Any, device)?;
        if let Some(moments) = moments {
            let Some(updates) = saved.updates else { bail!("level {level} was saved without moments; {CHANGED}") };
            self.write(&key(level, "m"), &moments.m, Values::Any, device)?;
            self.write(&key(level, "v"), &moments.v, Values::Squares, device)?;
            moments.updates = updates;
        }
        Ok(())
    }

    /// Brings a tensor to the device.
    fn write(&self, name: &str, store: &Store, values: Values, device: &mut dyn Device) -> Result<()> {
        let flat = store.flat();
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| Error::new(e.to_string()))?;
        let Ok(tensor) = file.tensor(name) else { bail!("{name} is missing; {INSTEAD}") };
        if tensor.dtype() != dtype(flat.dtype())? {
            bail!(
                "{name} is {:?} but the device computes in {:?}; go on with the --device that the run was started on",
                tensor.dtype(),
                flat.dtype()
            );
        }
        if tensor.shape() != [flat.numel()] {
            bail!("{name} has shape {:?}, but {} values are needed; {INSTEAD}", tensor.shape(), flat.numel());
        }
        if let Some((at, value)) = values.first_bad(tensor.data(), flat.dtype()) {
            bail!("{name}: value {at} is {value}: training had diverged, or the file was changed; {INSTEAD}");
        }
        device.write(&flat, tensor.data())
    }
}

/// Why a checkpoint does not fit into its run.
pub const CHANGED: &str = "the configuration was changed since; put config.toml back as it was, or start a new run";

/// What to do about a checkpoint that is of no use.
const INSTEAD: &str = "remove this checkpoint to go on from the one before it";

/// What a tensor may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    /// Finite numbers.
    Any,
    /// Finite numbers that are not negative.
    Squares,
}

impl Values {
    /// The first value that it may not hold.
    fn first_bad(self, bytes: &[u8], dtype: DType) -> Option<(usize, f64)> {
        let bad = |value: f64| !value.is_finite() || self == Values::Squares && value < 0.0;
        let size = dtype.bytes();
        // Bytes need not be aligned in the file.
        let value = |bytes: &[u8]| match size {
            8 => bytes.try_into().map_or(f64::NAN, f64::from_le_bytes),
            _ => bytes.try_into().map_or(f64::NAN, |bytes| f64::from(f32::from_le_bytes(bytes))),
        };
        bytes.chunks_exact(size).map(value).enumerate().find(|(_, value)| bad(*value))
    }
}

/// The checkpoints below `side`, the newest last, by folder name alone.
///
/// # Errors
/// What is there cannot be listed: that is not the same as none.
fn all(side: &Path) -> Result<Vec<PathBuf>> {
    let number = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_prefix("stage-")?;
        let (stage, step) = name.split_once("-step-")?;
        Some((stage.parse::<usize>().ok()?, step.parse::<u64>().ok()?))
    };
    let folder = side.join(FOLDER);
    let entries: Vec<PathBuf> = match fs::read_dir(&folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
    .map_err(|e| Error::io("list", &folder, e))?;
    let mut found: Vec<_> = entries.into_iter().filter_map(|path| Some((number(&path)?, path))).collect();
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The newest checkpoint below `side` that is whole and that `accept` accepts, with what `accept` made of it. Later ones
/// are told to `note` and removed: the run comes to their steps again. `None`: there is no checkpoint.
///
/// # Errors
/// There are checkpoints, but none to go on from, or the newest whole one is of another version or does not pass `fits`: then
/// all stay.
pub fn newest<T>(
    side: &Path,
    note: &mut dyn FnMut(&str),
    fits: impl Fn(&Checkpoint) -> Result<()>,
    accept: impl Fn(&Checkpoint) -> Result<T>,
) -> Result<Option<(Checkpoint, T)>> {
    let (mut passed_over, mut refused, mut damaged) = (Vec::<PathBuf>::new(), None, None);
    for dir in all(side)?.into_iter().rev() {
        let error = match Whole::read(&dir) {
            Err(error) => damaged.get_or_insert(error),
            Ok(whole) => {
                let checkpoint = Checkpoint::parse(&dir, whole)?;
                fits(&checkpoint)?;
                match accept(&checkpoint).at(dir.display()) {
                    Ok(made) => {
                        // What cannot be removed is told about once more when it is in the way.
                        passed_over.iter().for_each(|dir| remove(dir));
                        return Ok(Some((checkpoint, made)));
                    }
                    Err(error) => refused.get_or_insert(error),
                }
            }
        };
        note(&format!("passing over a checkpoint: {error}"));
        passed_over.push(dir);
    }
    match refused.or(damaged) {
        Some(error) => bail!(
            "{error}\nno other checkpoint is left; restore what is damaged, or remove {} to begin at the beginning",
            side.display()
        ),
        None => Ok(None),
    }
}

/// Whatever it is: a damaged disk makes files of folders.
fn remove(path: &Path) {
    let _ = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
}

/// Removes all but the newest `keep_last`, and with `keep_best` the one of level 1 with the lowest held-out loss.
pub fn prune(side: &Path, keep_last: usize, keep_best: bool) {
    // What cannot be listed cannot be removed either; the next save says so.
    let found = all(side).unwrap_or_default();
    let best = keep_best.then(|| {
        let loss = |dir: &PathBuf| -> Option<f64> {
            let state: State = serde_json::from_slice(&files::read(&dir.join(STATE), MOST_STATE).ok()?).ok()?;
            (state.at.level == 1 && state.valid_here).then_some(state.valid_loss)
        };
        let losses = found.iter().filter_map(|dir| Some((loss(dir)?, dir)));
        losses.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, dir)| dir.clone())
    });
    let best = best.flatten();
    for dir in found.iter().rev().skip(keep_last).filter(|dir| Some(*dir) != best.as_ref()) {
        let _ = fs::remove_dir_all(dir);
    }
}

fn read_flat(device: &mut dyn Device, flat: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; flat.bytes()];
    device.read(flat, &mut bytes)?;
    Ok(bytes)
}

fn dtype(own: DType) -> Result<Dtype> {
    match own {
        DType::F32 => Ok(Dtype::F32),
        DType::F64 => Ok(Dtype::F64),
        other => bail!("parameters of {other:?} cannot be saved"),
    }
}

/// In blocks, so that a large file need not be in memory.
fn sum(mut from: impl Read) -> io::Result<String> {
    let mut print = Fingerprint::default();
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        block.clear();
        (&mut from).take(BLOCK as u64).read_to_end(&mut block)?;
        print.add(&block);
        if block.len() < BLOCK {
            return Ok(print.hex());
        }
    }
}

const BLOCK: usize = 1 << 20;

fn sum_of(bytes: &[u8]) -> String {
    sum(bytes).unwrap_or_default()
}
