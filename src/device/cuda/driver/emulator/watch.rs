//! Launches as they are, for a test that looks at them, and with two parameters exchanged, for one that must notice.

use super::Emulator;
use crate::bail;
use crate::device::cuda::launch::Launch;
use crate::error::Result;
use std::sync::MutexGuard;

/// Two parameters of a kernel change places in every launch.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    pub kernel: &'static str,
    pub parameters: [usize; 2],
    pub field: Field,
}

/// What of two parameters changes places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    All,
    /// Of two matrices for TMA.
    Pitch,
}

/// What a test shares with an emulator.
#[derive(Debug, Default)]
pub struct Watch {
    /// As they were asked for.
    pub launches: Vec<Launch>,
    pub exchange: Option<Exchange>,
}

impl Emulator {
    fn watch(&self) -> Option<MutexGuard<'_, Watch>> {
        self.options.watch.as_ref().map(|watch| watch.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Remembers the memory if parameters will be exchanged: not only operands change then, but the counters in the workspace of
    /// kernels may stay above zero, which those of the next operation need at zero.
    pub(super) fn keep(&mut self) {
        if self.watch().is_some_and(|watch| watch.exchange.is_some()) {
            self.kept = Some(self.memory.copy_all());
        }
    }

    pub(super) fn put_back(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.memory.put_back(&kept);
        }
    }

    /// Shows a launch; what to launch instead.
    pub(super) fn watched(&mut self, launch: &Launch) -> Result<Option<Launch>> {
        let checks = self.options.checks;
        let Some(mut watch) = self.watch() else { return Ok(None) };
        let Some(exchange) = watch.exchange else {
            watch.launches.push(*launch);
            return Ok(None);
        };
        if !checks {
            bail!("parameters are exchanged with checks on alone");
        }
        Ok((exchange.kernel == launch.kernel).then(|| {
            let mut changed = *launch;
            changed.args.exchange(exchange.parameters, exchange.field == Field::Pitch);
            changed
        }))
    }
}
