//! `state.json` of a checkpoint.

use super::{STATE, name, strange};
use crate::bail;
use crate::error::Result;
use crate::runlog::{OperationTime, Position, ResumePoint};
use crate::train::settings::Settings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The format that is written. Format 1, which has no [`Settings`], can be read as well.
const FORMAT: u32 = 2;

/// The content of `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The configuration that the run was trained with. `None` in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// Position in the run.
    pub at: Position,
    /// Completed steps of the current stage.
    pub stage_step: u64,
    /// Completed micro-batches of the current stage, a counter that dropout masks depend on.
    pub passes: u32,
    /// Held-out loss of the last evaluation.
    pub valid_loss: f64,
    /// Whether that evaluation was at this very step.
    pub valid_here: bool,
    /// Seconds spent waiting for batches so far.
    pub waited: f64,
    /// Length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Length of the TensorBoard file.
    pub tensorboard_bytes: u64,
    /// Name of the data; other data has another name.
    pub data: String,
    /// The levels in `tensors.safetensors`.
    pub levels: Vec<SavedLevel>,
    /// Time per operation so far.
    pub operations: Vec<OperationTime>,
}

impl State {
    /// Returns where the metrics continue after this checkpoint.
    pub fn resume_point(&self) -> ResumePoint {
        let State { at, valid_loss, valid_here, metrics_bytes, tensorboard_bytes, .. } = *self;
        ResumePoint { at, valid_loss, valid_here, metrics_bytes, tensorboard_bytes }
    }
}

/// A level whose weights are still needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedLevel {
    /// Level, counted from 1.
    pub level: usize,
    /// Number of AdamW updates so far. `None` if the level was saved without moments.
    pub updates: Option<u64>,
    /// Hash of the names, shapes and offsets of the parameters. In another layout, weights would end up in the wrong
    /// parameters.
    pub layout: String,
}

/// The state with the format version, as it is written.
#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    #[serde(flatten)]
    state: &'a State,
}

/// Returns the content of `state.json`. States without settings are those of format 1.
///
/// # Errors
/// A number cannot be written as JSON.
pub(super) fn state_json(state: &State) -> serde_json::Result<Vec<u8>> {
    let format = if state.settings.is_some() { FORMAT } else { 1 };
    serde_json::to_vec_pretty(&Written { format, state })
}

/// Parses `state.json`.
///
/// # Errors
/// It has another format, or the folder was renamed.
pub(super) fn parse_state(dir: &Path, json: &[u8]) -> Result<State> {
    // Fields that a format does not have are errors, but only once the format is known to be one of ours.
    let mut fields: Map<String, Value> = serde_json::from_slice(json).map_err(|e| strange(dir, STATE, &e))?;
    let format = fields.remove("format").ok_or_else(|| strange(dir, STATE, &"missing field `format`"))?;
    let format: u32 = serde_json::from_value(format).map_err(|e| strange(dir, STATE, &e))?;
    let state: State = serde_json::from_value(Value::Object(fields)).map_err(|e| strange(dir, STATE, &e))?;
    if !matches!((format, &state.settings), (1, None) | (FORMAT, Some(_))) {
        return Err(match format {
            1 => strange(dir, STATE, &"format 1 cannot have settings"),
            FORMAT => strange(dir, STATE, &"its settings are missing"),
            other => strange(dir, STATE, &format_args!("format {other}, not {FORMAT}")),
        });
    }
    let own = name(state.at.stage, state.at.step);
    if !dir.ends_with(&own) {
        bail!("{}: this folder contains {own}; rename it back, or remove it", dir.display());
    }
    Ok(state)
}
