//! Checks that the state in a checkpoint is possible in this run. Checksums detect damaged files, but not a checkpoint
//! of another configuration or one that was edited.

use super::checkpoint::{CHANGED, State};
use crate::bail;
use crate::error::{Error, Result};

/// The part of a planned stage that a checkpoint must agree with.
pub struct Planned {
    /// Level, counted from 1.
    pub level: usize,
    /// Steps of the stage.
    pub steps: u64,
}

/// Upper bound of plausible counters (FLOPs, calls). It leaves headroom, as the run keeps adding to them.
const MOST: u64 = 1 << 62;

/// Checks `state` against the plan of its branch. `keeps_optimizer`: idle levels are saved with their moments.
///
/// # Errors
/// The first inconsistency, and what to do about it.
pub fn check(state: &State, plan: &[Planned], keeps_optimizer: bool) -> Result<()> {
    place(state, plan, keeps_optimizer).and_then(|()| numbers(state)).map_err(|e| Error::new(format!("{e}; {CHANGED}")))
}

/// Checks stage, level and step, and which levels were saved.
fn place(state: &State, plan: &[Planned], keeps_optimizer: bool) -> Result<()> {
    let at = &state.at;
    let number = at.stage.wrapping_sub(1);
    let (Some(earlier), Some(stage)) = (plan.get(..number), plan.get(number)) else {
        bail!("stage {} is not in 1..={}, the stages of the plan", at.stage, plan.len())
    };
    if at.level != stage.level {
        bail!("stage {} trains level {}, not level {}", at.stage, stage.level, at.level);
    }
    if !(1..=stage.steps).contains(&state.stage_step) {
        bail!("step {} is not in 1..={}, the steps of stage {}", state.stage_step, stage.steps, at.stage);
    }
    let before = earlier.iter().try_fold(0u64, |sum, stage| sum.checked_add(stage.steps));
    if before.and_then(|before| before.checked_add(state.stage_step)) != Some(at.step) {
        bail!("step {} of stage {} cannot be step {} of the run", state.stage_step, at.stage, at.step);
    }
    // On the way down and on the way up, the levels above still have a stage to come; those below are not needed any
    // more.
    let saved: Vec<usize> = state.levels.iter().map(|saved| saved.level).collect();
    if saved.len() != stage.level || (1..=stage.level).any(|level| !saved.contains(&level)) {
        bail!("levels 1 to {} are needed, but {saved:?} were saved", stage.level);
    }
    for saved in &state.levels {
        let own = saved.level == stage.level;
        match saved.updates {
            None if own || keeps_optimizer => bail!("level {} was saved without moments", saved.level),
            Some(_) if !own && !keeps_optimizer => bail!("level {} was saved with moments", saved.level),
            Some(updates) if updates > at.step => {
                bail!("level {} cannot have had {updates} updates in {} steps", saved.level, at.step)
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks that counters and times are plausible.
fn numbers(state: &State) -> Result<()> {
    let at = &state.at;
    let counts = state.operations.iter().flat_map(|o| [o.calls, o.flops]).chain([at.flops, at.hardware_flops]);
    if let Some(count) = counts.into_iter().find(|count| *count > MOST) {
        bail!("a counter is {count}, which is more than 2^62");
    }
    let times = state.operations.iter().map(|o| o.seconds).chain([at.seconds, state.waited]);
    if let Some(time) = times.into_iter().find(|time| !(0.0..=MOST as f64).contains(time)) {
        bail!("{time} is not a valid number of seconds");
    }
    Ok(())
}
