//! Wrong changes of how a device runs operations, each of which the comparison must notice.

use super::{Harness, Memory, of_device};
use crate::device::ops::Op;
use crate::error::Result;
use crate::tensor::{Place, Tensor};

/// What a lab tries on the operations that it has compared.
pub trait Mutants {
    /// Switches on the next mutant that changes how this operation runs, which was the last to run; false, and none is on, when
    /// there is none left.
    fn next(&mut self, op: &Op) -> bool;

    /// Whether the one that is on was noticed.
    fn judge(&mut self, noticed: bool);
}

impl Harness {
    /// From now on these are tried.
    pub fn mutate(&mut self, mutants: Box<dyn Mutants>) {
        self.mutants = Some(mutants);
    }

    /// Runs an operation that was compared just now once more with each mutant. All memory is what it was in the end.
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

    /// Puts back what [`Harness::memories`] gave.
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
