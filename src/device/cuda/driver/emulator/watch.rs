//! Hooks for tests: recording launches, and swapping two parameters of a kernel to see whether a test notices.

use super::Emulator;
use crate::bail;
use crate::device::cuda::launch::Launch;
use crate::error::Result;
use std::sync::MutexGuard;

/// Swaps two parameters in every launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// The `extern "C"` name of the kernel.
    pub kernel: &'static str,
    /// The numbers of the two parameters, counted from 0.
    pub parameters: [usize; 2],
    /// Whether whole parameters or only row pitches are swapped.
    pub field: Field,
}

/// The part of two parameters that is swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// The whole parameters.
    All,
    /// The row pitches of two TMA descriptors.
    Pitch,
}

/// What a test shares with an emulator.
#[derive(Debug, Default)]
pub struct Watch {
    /// Launches with their original parameters, recorded while `exchange` is `None`.
    pub launches: Vec<Launch>,
    /// The parameters to swap.
    pub exchange: Option<Exchange>,
}

impl Emulator {
    fn watch(&self) -> Option<MutexGuard<'_, Watch>> {
        self.options.watch.as_ref().map(|watch| watch.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Saves all memory if parameters will be swapped. A wrong launch may change more than its operands: it may leave
    /// counters in the workspace above zero, and the next operation needs them at zero.
    pub(super) fn save(&mut self) {
        if self.watch().is_some_and(|watch| watch.exchange.is_some()) {
            self.saved = Some(self.memory.copy_all());
        }
    }

    /// Restores the saved memory.
    pub(super) fn restore(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.memory.restore(&saved);
        }
    }

    /// Records a launch, or returns the launch with swapped parameters to run instead.
    ///
    /// # Errors
    /// Parameters are to be swapped with checks off.
    pub(super) fn watched(&mut self, launch: &Launch) -> Result<Option<Launch>> {
        let checks = self.options.checks;
        let Some(mut watch) = self.watch() else { return Ok(None) };
        let Some(exchange) = watch.exchange else {
            watch.launches.push(*launch);
            return Ok(None);
        };
        if !checks {
            bail!("parameters can be swapped only with checks on");
        }
        Ok((exchange.kernel == launch.kernel).then(|| {
            let mut changed = *launch;
            changed.args.exchange(exchange.parameters, exchange.field == Field::Pitch);
            changed
        }))
    }
}
