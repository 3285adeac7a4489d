//! Checkpoints: everything that a stopped run needs to resume as if it had never stopped.
//!
//! A checkpoint is a folder such as `vcycle/checkpoints/stage-2-step-00000150/`, written atomically. It contains
//!
//! | | |
//! |---|---|
//! | `state.json` | [`State`]: stage, step, position, lengths of the log files |
//! | `tensors.safetensors` | per level still needed: `levelN.params`, `levelN.m`, `levelN.v`, flat, in device layout |
//! | `sums.json` | a 64-bit checksum of each of the two files above |
//! | `model/` | with `train.keep_best`, at level 1: the model in the Hugging Face format |
//!
//! There is no random number generator to save: batches, dropout and initial weights are functions of the seed and of
//! the counters in [`State`].

mod state;

pub use state::{SavedLevel, State};

use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::files::{self, write_atomic, write_dir_atomic};
use crate::model::store::Store;
use crate::multilevel::Quantity;
use crate::optim;
use crate::tensor::{DType, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use state::{parse_state, state_json};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const FOLDER: &str = "checkpoints";
const STATE: &str = "state.json";
const TENSORS: &str = "tensors.safetensors";
const SUMS: &str = "sums.json";
/// Largest `state.json` in bytes. The configuration in it may list a thousand class names.
const MOST_STATE: u64 = 8 << 20;

/// The tensors of a level that go into a checkpoint.
pub struct Part<'a> {
    /// Level, counted from 1.
    pub level: usize,
    /// Its parameters.
    pub params: &'a Store,
    /// Its moments, if a later stage needs them.
    pub optimizer: Option<&'a optim::State>,
}

impl Part<'_> {
    /// Describes this level for [`State::levels`].
    pub fn saved(&self) -> SavedLevel {
        SavedLevel {
            level: self.level,
            updates: self.optimizer.map(|state| state.updates),
            layout: layout(self.params),
        }
    }

    fn stores(&self) -> impl Iterator<Item = (String, &Store)> {
        let state =
            self.optimizer.into_iter().flat_map(|state| state.tensors().map(|(tensor, store)| (tensor.name, store)));
        [("params", self.params)].into_iter().chain(state).map(|(what, store)| (key(self.level, what), store))
    }
}

fn name(stage: usize, step: u64) -> String {
    format!("stage-{stage}-step-{step:08}")
}

fn key(level: usize, what: &str) -> String {
    format!("level{level}.{what}")
}

/// Hashes the name, offset, pitch and shape of every parameter.
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

/// Writes a checkpoint below `branch_dir`, the folder of a branch, atomically. `also` may add files to it.
///
/// # Errors
/// The files cannot be written, or a value is not finite. Earlier checkpoints are left intact.
pub fn save(
    branch_dir: &Path,
    state: &State,
    parts: &[Part<'_>],
    device: &mut dyn Device,
    also: impl FnOnce(&Path, &mut dyn Device) -> Result<()>,
) -> Result<()> {
    let dir = branch_dir.join(FOLDER).join(name(state.at.stage, state.at.step));
    if dir.exists() {
        // The run was interrupted after the last step of a stage and is at that step again. Nothing has changed since.
        return Checkpoint::read(&dir).map(drop);
    }
    let mut named = Vec::new();
    for (name, store) in parts.iter().flat_map(Part::stores) {
        let (flat, bytes) = (store.flat(), read_flat(device, &store.flat())?);
        // The loss of a step is computed before its update, so this may be the first check of the updated parameters.
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
        // No need to write this file atomically: the folder is not in its final place yet.
        safetensors::serialize_to_file(views?, None, &path).map_err(|e| match e {
            SafeTensorError::IoError(e) => Error::io("write", &path, e),
            e => Error::new(format!("cannot write {}: {e}", path.display())),
        })?;
        let json = state_json(state).map_err(|e| Error::new(e.to_string()))?;
        let state = dir.join(STATE);
        write_atomic(&state, |out| out.write_all(&json))?;
        // The safetensors library creates files that only their owner can read.
        let opened = fs::metadata(&state).and_then(|facts| fs::set_permissions(&path, facts.permissions()));
        opened.map_err(|e| Error::io("set the permissions of", &path, e))?;
        let tensors = File::open(&path).and_then(sum).map_err(|e| Error::io("read", &path, e))?;
        let sums = BTreeMap::from([(STATE, sum_of(&json)), (TENSORS, tensors)]);
        let sums = serde_json::to_vec_pretty(&sums).map_err(|e| Error::new(e.to_string()))?;
        write_atomic(&dir.join(SUMS), |out| out.write_all(&sums))?;
        also(dir, device)
    })
}

/// A checkpoint that was read and whose checksums match.
pub struct Checkpoint {
    /// Its folder.
    pub dir: PathBuf,
    /// The content of `state.json`.
    pub state: State,
    /// The content of `tensors.safetensors`.
    bytes: Vec<u8>,
}

/// The bytes of both files of a checkpoint, with matching checksums.
struct Whole {
    state: Vec<u8>,
    tensors: Vec<u8>,
}

impl Whole {
    /// Reads both files and checks their checksums.
    ///
    /// # Errors
    /// A file is missing or damaged.
    fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str, most: u64| read_whole(dir, name, most);
        Ok(Whole { state: read(STATE, MOST_STATE)?, tensors: read(TENSORS, u64::MAX)? })
    }
}

/// Reads a file of a checkpoint and compares it with its checksum.
fn read_whole(dir: &Path, name: &str, most: u64) -> Result<Vec<u8>> {
    let sums = files::read(&dir.join(SUMS), 1 << 20)?;
    let sums: BTreeMap<String, String> =
        serde_json::from_slice(&sums).map_err(|e| Error::new(format!("{}: damaged: {e}", dir.join(SUMS).display())))?;
    let path = dir.join(name);
    let content = files::read(&path, most)?;
    match sums.get(name) == Some(&sum_of(&content)) {
        true => Ok(content),
        false => bail!("{}: damaged: its checksum is not the one in {SUMS}", path.display()),
    }
}

/// Returns the error for a file that is intact but not in a format this version reads.
fn strange(dir: &Path, file: &str, what: &dyn Display) -> Error {
    let path = dir.join(file);
    Error::new(format!(
        "{}: not written by this version of vcycle: {what}; resume with the version that wrote it, or remove this \
         checkpoint to resume from the previous one",
        path.display()
    ))
}

/// Returns the newest checkpoint below `branch_dir` whose state can be read: its folder and its state. `None` if there
/// is none.
///
/// # Errors
/// The folder cannot be listed, or that checkpoint is of another version.
pub fn newest_state(branch_dir: &Path) -> Result<Option<(PathBuf, State)>> {
    for dir in all(branch_dir)?.into_iter().rev() {
        if let Ok(json) = read_whole(&dir, STATE, MOST_STATE) {
            let state = parse_state(&dir, &json)?;
            return Ok(Some((dir, state)));
        }
    }
    Ok(None)
}

impl Checkpoint {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// A file is missing or damaged, or was written by another version.
    pub fn read(dir: &Path) -> Result<Self> {
        Self::parse(dir, Whole::read(dir)?)
    }

    /// Parses the files of a checkpoint.
    ///
    /// # Errors
    /// Those of [`parse_state`]; tensors that are not in the safetensors format.
    fn parse(dir: &Path, whole: Whole) -> Result<Self> {
        let state = parse_state(dir, &whole.state)?;
        SafeTensors::deserialize(&whole.tensors).map_err(|e| strange(dir, TENSORS, &e))?;
        Ok(Checkpoint { dir: dir.to_path_buf(), state, bytes: whole.tensors })
    }

    /// Writes the saved tensors of `level` (counted from 1) to `params`, and to `moments` if given.
    ///
    /// # Errors
    /// The level was not saved, was saved for another model or device, or contains values that are not finite.
    pub fn restore(
        &self,
        level: usize,
        params: &Store,
        optimizer: Option<&mut optim::State>,
        device: &mut dyn Device,
    ) -> Result<()> {
        self.fill(level, params, optimizer, device).at(self.dir.display())
    }

    fn fill(
        &self,
        level: usize,
        params: &Store,
        optimizer: Option<&mut optim::State>,
        device: &mut dyn Device,
    ) -> Result<()> {
        let Some(saved) = self.state.levels.iter().find(|l| l.level == level) else {
            bail!("level {level} is not in the checkpoint; {CHANGED}")
        };
        if saved.layout != layout(params) {
            bail!("level {level} was saved for a model of different sizes; {CHANGED}");
        }
        self.write(&key(level, "params"), params, Values::Any, device)?;
        if let Some(state) = optimizer {
            let Some(updates) = saved.updates else { bail!("level {level} was saved without moments; {CHANGED}") };
            for (tensor, store) in state.tensors() {
                let values = if tensor.quantity == Quantity::Squares { Values::Squares } else { Values::Any };
                self.write(&key(level, tensor.name), store, values, device)?;
            }
            state.updates = updates;
        }
        Ok(())
    }

    /// Checks the tensor `name` and writes it to the device.
    fn write(&self, name: &str, store: &Store, values: Values, device: &mut dyn Device) -> Result<()> {
        let flat = store.flat();
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| Error::new(e.to_string()))?;
        let Ok(tensor) = file.tensor(name) else { bail!("{name} is missing; {INSTEAD}") };
        if tensor.dtype() != dtype(flat.dtype())? {
            bail!(
                "{name} is {:?} but the device computes in {:?}; resume with the --device that the run was started on",
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

/// The reason why a checkpoint does not fit its run, and what to do.
pub const CHANGED: &str = "the configuration was changed since; restore config.toml, or start a new run";

/// What to do about a checkpoint that cannot be used.
const INSTEAD: &str = "remove this checkpoint to resume from the previous one";

/// Which values are valid in a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    /// Finite numbers.
    Any,
    /// Finite numbers that are not negative.
    Squares,
}

impl Values {
    /// Returns the index and value of the first invalid value.
    fn first_bad(self, bytes: &[u8], dtype: DType) -> Option<(usize, f64)> {
        let bad = |value: f64| !value.is_finite() || self == Values::Squares && value < 0.0;
        let size = dtype.bytes();
        // The bytes may be unaligned in the file.
        let value = |bytes: &[u8]| match size {
            8 => bytes.try_into().map_or(f64::NAN, f64::from_le_bytes),
            _ => bytes.try_into().map_or(f64::NAN, |bytes| f64::from(f32::from_le_bytes(bytes))),
        };
        bytes.chunks_exact(size).map(value).enumerate().find(|(_, value)| bad(*value))
    }
}

/// Lists the checkpoint folders below `branch_dir` by name, the newest last, without opening them.
///
/// # Errors
/// The folder exists and cannot be listed.
fn all(branch_dir: &Path) -> Result<Vec<PathBuf>> {
    let number = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_prefix("stage-")?;
        let (stage, step) = name.split_once("-step-")?;
        Some((stage.parse::<usize>().ok()?, step.parse::<u64>().ok()?))
    };
    let folder = branch_dir.join(FOLDER);
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

/// Returns the newest checkpoint below `branch_dir` that is intact and that `accept` accepts, with the result of
/// `accept`. Newer checkpoints that had to be skipped are reported to `note` and removed, since the run reaches their
/// steps again. `None` if there is no checkpoint.
///
/// # Errors
/// There are checkpoints but none is usable, or the newest intact one is of another version or fails `fits`. In these
/// cases no checkpoint is removed.
pub fn newest<T>(
    branch_dir: &Path,
    note: &mut dyn FnMut(&str),
    fits: impl Fn(&Checkpoint) -> Result<()>,
    accept: impl Fn(&Checkpoint) -> Result<T>,
) -> Result<Option<(Checkpoint, T)>> {
    let (mut passed_over, mut refused, mut damaged) = (Vec::<PathBuf>::new(), None, None);
    for dir in all(branch_dir)?.into_iter().rev() {
        let error = match Whole::read(&dir) {
            Err(error) => damaged.get_or_insert(error),
            Ok(whole) => {
                let checkpoint = Checkpoint::parse(&dir, whole)?;
                fits(&checkpoint)?;
                match accept(&checkpoint).at(dir.display()) {
                    Ok(made) => {
                        // If one cannot be removed, saving that step again reports it.
                        passed_over.iter().for_each(|dir| remove(dir));
                        return Ok(Some((checkpoint, made)));
                    }
                    Err(error) => refused.get_or_insert(error),
                }
            }
        };
        note(&format!("skipping a checkpoint: {error}"));
        passed_over.push(dir);
    }
    match refused.or(damaged) {
        Some(error) => bail!(
            "{error}\nno other checkpoint is left; restore the damaged files, or remove {} to start from the beginning",
            branch_dir.display()
        ),
        None => Ok(None),
    }
}

/// Removes a folder or a file: on a damaged disk a folder may have become a file.
fn remove(path: &Path) {
    let _ = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
}

/// Removes old checkpoints below `branch_dir`. Keeps the newest `keep_last` and, with `keep_best`, the one of level 1
/// with the lowest held-out loss.
pub fn prune(branch_dir: &Path, keep_last: usize, keep_best: bool) {
    // If the folder cannot be listed, nothing is removed; the next save reports the error.
    let found = all(branch_dir).unwrap_or_default();
    let best = keep_best.then(|| {
        let loss = |dir: &PathBuf| -> Option<f64> {
            let state = parse_state(dir, &files::read(&dir.join(STATE), MOST_STATE).ok()?).ok()?;
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

/// Reads a tensor from the device as bytes.
fn read_flat(device: &mut dyn Device, flat: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; flat.bytes()];
    device.read(flat, &mut bytes)?;
    Ok(bytes)
}

/// Returns the safetensors type of `own`.
fn dtype(own: DType) -> Result<Dtype> {
    match own {
        DType::F32 => Ok(Dtype::F32),
        DType::F64 => Ok(Dtype::F64),
        other => bail!("parameters of {other:?} cannot be saved"),
    }
}

/// Computes the checksum of `from`, read in blocks so that a large file is never in memory as a whole.
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

/// Bytes read at a time by [`sum`].
const BLOCK: usize = 1 << 20;

fn sum_of(bytes: &[u8]) -> String {
    sum(bytes).unwrap_or_default()
}
