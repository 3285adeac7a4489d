//! Deliberate errors in how a device runs operations, each of which the comparison must notice.

use super::{Harness, Memory, of_device};
use crate::device::ops::Op;
use crate::error::Result;
use crate::tensor::{Place, Tensor};

/// Mutants that a harness tries on every operation that it has compared.
pub trait Mutants {
    /// Enables the next mutant that affects `op`, the operation that ran last. Returns false, with no mutant enabled,
    /// if none is left.
    fn next(&mut self, op: &Op) -> bool;

    /// Records whether the enabled mutant was noticed.
    fn judge(&mut self, noticed: bool);
}

impl Harness {
    /// Tries these mutants on all further operations.
    pub fn mutate(&mut self, mutants: Box<dyn Mutants>) {
        self.mutants = Some(mutants);
    }

    /// Runs an operation that has just been compared again with each mutant. Restores all memory at the end.
    pub(crate) fn try_all(
        &mut self,
        mutants: &mut dyn Mutants,
        op: &Op,
        tolerance: &dyn Fn(&Tensor, f64) -> f64,
        before: &[Memory],
    ) -> Result<()> {
        if self.error.is_some() {
            return Ok(());
        }
        let (after, comparisons, worst) = (self.memories()?, self.comparisons, self.worst);
        while mutants.next(op) {
            self.overwrite(before)?;
            let done = self.run(op).and_then(|()| self.compare(op, tolerance));
            mutants.judge(done.is_err());
        }
        (self.comparisons, self.worst) = (comparisons, worst);
        self.overwrite(&after)
    }

    /// Restores what [`Harness::memories`] returned.
    fn overwrite(&mut self, memories: &[Memory]) -> Result<()> {
        let arenas = self.arenas.clone();
        for (device, memory) in self.devices().zip(memories) {
            for ((number, dtype, size), bytes) in arenas.iter().zip(memory) {
                let dtype = of_device(device, *dtype);
                device.write(&Tensor::new(Place::Arena(*number), dtype, 0, &[*size]), bytes)?;
            }
        }
        Ok(())
    }
}
