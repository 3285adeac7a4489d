//! Growth methods: which levels are trained in which order, and which layers and heads of the larger model a layer or head
//! of the smaller one becomes. One file each.
//!
//! To add a method, implement [`Method`] and add a line to [`METHODS`]: `growth.method = "..."` then selects it.

mod stack;
mod vcycle;

use super::scheme::{ModelShape, Scheme};
use crate::bail;
use crate::error::Result;
use std::fmt::Debug;

/// All methods. The first is the default.
pub const METHODS: &[&dyn Method] = &[&vcycle::VCycle, &stack::Stack];

/// Groups of units, one group per unit of the smaller model.
pub type GroupList = Vec<Vec<usize>>;

/// A growth method.
pub trait Method: Debug + Sync {
    /// Returns the name that `growth.method` selects it with.
    fn name(&self) -> &'static str;

    /// Returns the stages of a run with this number of levels.
    fn plan(&self, levels: usize) -> Vec<Visit> {
        vcycle::plan(levels)
    }

    /// Returns the layers of a model of `big` layers in `small` groups. `None`: groups of neighbours, as
    /// [`Scheme::resolve`] makes them.
    ///
    /// # Errors
    /// The method cannot map these numbers.
    fn layers(&self, big: usize, small: usize) -> Result<Option<GroupList>> {
        let _ = (big, small);
        Ok(None)
    }

    /// Returns the scheme between two levels. Groups that `given` has take precedence.
    ///
    /// # Errors
    /// Those of [`Method::layers`].
    fn scheme(&self, given: Scheme, big: ModelShape, small: ModelShape) -> Result<Scheme> {
        let depth_scheme = match given.depth_scheme {
            None if small.layers < big.layers => self.layers(big.layers, small.layers)?,
            depth_scheme => depth_scheme,
        };
        Ok(Scheme { depth_scheme, ..given })
    }
}

/// Returns the method of a name.
///
/// # Errors
/// It is unknown.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    match METHODS.iter().find(|method| method.name() == name) {
        Some(method) => Ok(*method),
        None => {
            let known: Vec<&str> = METHODS.iter().map(|method| method.name()).collect();
            bail!("{name:?} is unknown; use one of {}", known.join(", "))
        }
    }
}

/// How a stage begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// With initial weights, or those of the checkpoint that `model.from` names.
    Initialise,
    /// With weights coalesced from the level above.
    Coalesce,
    /// With the level's own earlier weights, interpolated with the de-coalesced weights of the level below.
    Interpolate,
}

/// A stage of the plan: one visit of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The level, counted from 0, which is the target model.
    pub level: usize,
    /// How the stage begins.
    pub transition: Transition,
    /// Whether this is the last visit of the level.
    pub last: bool,
}
