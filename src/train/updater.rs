//! The optimizer update of a step. It is a captured list of its own, separate from the backward pass: between both,
//! all gradients of the step are complete in one arena, where several devices can reduce them.

use crate::device::ops::{ALIGN, GlobalNorm, Op};
use crate::device::{self, Device, Graph};
use crate::error::Result;
use crate::model::params::ParamTable;
use crate::model::store::Store;
use crate::optim::{Arena, Config, State};
use crate::tensor::{DType, Place, Tensor};

/// An optimizer with its state for one model.
pub struct Updater {
    config: Config,
    /// The optimizer's state tensors and its number of updates.
    pub state: State,
    decay_mask: Tensor,
    /// Partial sums of the gradient norm.
    partials: Tensor,
    /// `[instructions, 2]`: the table of the optimizer's program.
    program: Tensor,
    /// The captured list, and the operations in it.
    captured: Option<(Graph, [Op; 2])>,
}

/// The tensors of a step that an update works on.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// The parameters, in the device's own float type; updated.
    pub params: &'a Store,
    /// The gradients of the whole step, in the layout and type of `params`.
    pub grads: &'a Store,
    /// Receives the new parameters in the type that passes compute in, if that is another one.
    pub compute: Option<&'a Store>,
    /// `[1]`: receives the global norm of the gradients.
    pub norm: Tensor,
    /// The step's [`StepState`](crate::device::ops::StepState).
    pub state: Tensor,
}

impl Updater {
    /// Allocates the state of an optimizer. It is zero at first.
    ///
    /// # Errors
    /// Out of device memory; an update that the devices cannot run.
    pub fn new(device: &mut dyn Device, config: Config, table: &ParamTable) -> Result<Self> {
        let n = table.elements();
        let state = State::new(&*config.optimizer, table, device)?;
        let decay_mask = device::alloc_tensor(device, DType::U8, &[n / ALIGN])?;
        device.write(&decay_mask, &mask(table))?;
        let float = device.float();
        let partials = device::alloc_tensor(device, float, &[GlobalNorm::partials(n)])?;
        let code = config.optimizer.program()?.map(|program| program.table()).unwrap_or_default();
        let program = device::alloc_tensor(device, DType::U32, &[code.len() / 2, 2])?;
        device.write(&program, bytemuck::cast_slice(&code))?;
        Ok(Updater { config, state, decay_mask, partials, program, captured: None })
    }

    /// Counts an update and returns its bias corrections.
    pub fn next_update(&mut self) -> [f32; 2] {
        self.state.updates += 1;
        self.config.optimizer.bias_corrections(self.state.updates)
    }

    /// Computes the gradient norm and updates parameters and state. Returns the FLOPs.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn run(&mut self, device: &mut dyn Device, step: Step<'_>) -> Result<u64> {
        let Step { params, grads, compute, norm, state } = step;
        let arena = Arena {
            params: params.flat(),
            grads: grads.flat(),
            states: self.state.flat(),
            copy: compute.map(Store::flat),
            decay_mask: self.decay_mask,
            norm,
            state,
            program: self.program,
            max_norm: self.config.clip,
        };
        let norm = GlobalNorm { x: arena.grads, partials: self.partials, norm };
        let ops = [norm.into(), self.config.optimizer.operation(&arena)];
        let graph = match &self.captured {
            Some((graph, before)) if *before == ops => *graph,
            _ => {
                self.release(device);
                let graph = device.capture(&ops)?;
                self.captured = Some((graph, ops));
                graph
            }
        };
        device.replay(graph)?;
        Ok(ops.iter().map(|op| op.cost().flops).sum())
    }

    fn release(&mut self, device: &mut dyn Device) {
        if let Some((graph, _)) = self.captured.take() {
            device.release(graph);
        }
    }

    /// Frees all device memory but the state, and returns the state.
    pub fn finish(mut self, device: &mut dyn Device) -> State {
        self.release(device);
        for tensor in [self.decay_mask, self.partials, self.program] {
            if let Place::Arena(arena) = tensor.place() {
                device.free(arena);
            }
        }
        self.state
    }
}

/// Returns one byte per [`ALIGN`] elements of the arena: 1 if weight decay applies to them, else 0.
fn mask(table: &ParamTable) -> Vec<u8> {
    let mut mask = vec![0; table.elements() / ALIGN];
    for (i, param) in table.params.iter().enumerate() {
        let end = if i + 1 < table.params.len() { table.offset(i + 1) } else { table.elements() };
        mask[table.offset(i) / ALIGN..end / ALIGN].fill(u8::from(param.decay));
    }
    mask
}
