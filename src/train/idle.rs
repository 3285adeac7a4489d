use crate::device::Device;
use crate::families::Levels;
use crate::model::Model;
use crate::model::store::Store;
use crate::optim;

/// A level that is not in training, between two of its stages.
pub(super) struct IdleLevel {
    pub params: Store,
    /// Its optimizer state, if a later stage needs it.
    pub optimizer: Option<optim::State>,
}

impl IdleLevel {
    /// Frees the device memory.
    pub fn free(self, device: &mut dyn Device) {
        self.params.free(device);
        self.optimizer.into_iter().for_each(|optimizer| optimizer.free(device));
    }
}

/// The levels of a run that are not in training.
pub(super) struct IdleLevels {
    /// The model of each level. `None` while the level is in training.
    models: Vec<Option<Box<dyn Model>>>,
    /// The weights of each level that a later stage needs.
    idle: Vec<Option<IdleLevel>>,
}

impl IdleLevels {
    /// All levels, without weights.
    pub fn new(levels: Levels) -> Self {
        IdleLevels { idle: levels.iter().map(|_| None).collect(), models: levels.into_iter().map(Some).collect() }
    }

    /// Returns the model of a level that is not in training.
    ///
    /// # Panics
    /// When the level is in training.
    pub fn model(&self, level: usize) -> &dyn Model {
        self.models[level].as_deref().expect("a stage returns its model when it ends")
    }

    /// Takes the model of a level for its training.
    ///
    /// # Panics
    /// When the level is in training already.
    pub fn take_model(&mut self, level: usize) -> Box<dyn Model> {
        self.models[level].take().expect("a stage returns its model when it ends")
    }

    /// Returns the weights of a level, if it has been trained.
    pub fn get(&self, level: usize) -> Option<&IdleLevel> {
        self.idle[level].as_ref()
    }

    /// Takes the weights of a level, if it has been trained.
    pub fn take(&mut self, level: usize) -> Option<IdleLevel> {
        self.idle[level].take()
    }

    /// Puts weights in the place of a level's.
    pub fn put_weights(&mut self, level: usize, weights: IdleLevel) {
        self.idle[level] = Some(weights);
    }

    /// Puts a level back after its training.
    pub fn put(&mut self, level: usize, model: Box<dyn Model>, weights: IdleLevel) {
        self.models[level] = Some(model);
        self.put_weights(level, weights);
    }

    /// Returns the levels that have weights, with their numbers from 0.
    pub fn trained(&self) -> impl Iterator<Item = (usize, &IdleLevel)> {
        self.idle.iter().enumerate().filter_map(|(level, idle)| Some((level, idle.as_ref()?)))
    }

    /// Frees the weights of all levels.
    pub fn free(&mut self, device: &mut dyn Device) {
        self.idle.iter_mut().filter_map(Option::take).for_each(|level| level.free(device));
    }
}
