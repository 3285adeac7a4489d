//! The backward pass, and the ownership of gradient buffers.
//!
//! The gradient of a sum is also the gradient of its summands, so along a residual stream one gradient buffer is passed
//! on instead of being copied. `shares` counts the variables that use a buffer as their gradient. A shared buffer is
//! copied before it is added to.

use super::ops::Recorded;
use super::{Tape, Var};
use crate::device::ops::{Accumulate, Fill};
use crate::tensor::{Place, Tensor};

impl Tape {
    /// Records the backward pass from `losses`. Each of them has gradient 1; weights are set by [`super::LossOptions`].
    ///
    /// # Panics
    /// When the step was not begun with [`Mode::Train`](super::Mode::Train).
    pub fn backward(&mut self, losses: &[Var]) {
        assert!(self.is_training(), "backward requires a step begun with Mode::Train");
        for loss in losses {
            self.vars[loss.0 as usize].uses += 1;
            self.keep(*loss);
        }
        self.unrecorded = false;
        let mut segment = self.segments.len();
        for i in (0..self.nodes.len()).rev() {
            if segment > 0 && self.segments[segment - 1].nodes.contains(&i) {
                segment -= 1;
                self.recompute(segment);
            }
            self.nodes[i].backward(self);
        }
        if self.mode == (super::Mode::Train { accumulate: false }) {
            self.clear_unwritten();
        }
    }

    /// Zeroes the gradients of parameters that no loss depends on, which otherwise would hold those of the previous
    /// step.
    fn clear_unwritten(&mut self) {
        for i in 0..self.vars.len() {
            let var = self.vars[i];
            if let (true, false, Some(out)) = (var.is_param, var.written, var.gradient) {
                self.push_op(Fill { out, value: 0.0 });
            }
        }
    }

    /// Returns whether a variable needs a gradient.
    pub(super) fn needs(&self, var: Var) -> bool {
        self.vars[var.0 as usize].needs_gradient
    }

    /// Returns the complete gradient of a node's result, or `None` if no loss depends on it.
    pub(super) fn gradient(&self, var: Var) -> Option<Tensor> {
        self.vars[var.0 as usize].gradient
    }

    /// Returns the tensor to which a gradient of `var` must be written, and whether it must be added to the contents.
    pub(super) fn target(&mut self, var: Var) -> (Tensor, bool) {
        let variable = self.vars[var.0 as usize];
        match variable.gradient {
            Some(gradient) if variable.is_param => {
                self.vars[var.0 as usize].written = true;
                (gradient, variable.written || self.mode == super::Mode::Train { accumulate: true })
            }
            Some(gradient) => (self.own(var, gradient), true),
            None => {
                let new = self.buffer_like(&variable.value);
                self.set(var, new);
                (new, false)
            }
        }
    }

    /// Adds a complete gradient to that of `var`. If `var` has none yet, it shares the buffer without a copy.
    pub(super) fn give(&mut self, var: Var, gradient: Tensor) {
        if !self.needs(var) {
            return;
        }
        if self.gradient(var).is_none() {
            return self.set(var, gradient);
        }
        let (out, add) = self.target(var);
        self.push_op(Accumulate { x: gradient, out, add });
    }

    /// Declares that the gradient of the result `var` is no longer needed.
    pub(super) fn done(&mut self, var: Var) {
        if let Some(Place::Buffer(b)) = self.gradient(var).map(|t| t.place()) {
            self.shares[b as usize] -= 1;
        }
    }

    /// Returns the gradient of a result in a buffer that may be overwritten, which is a copy if other variables share
    /// it.
    pub(super) fn own(&mut self, var: Var, gradient: Tensor) -> Tensor {
        let Place::Buffer(b) = gradient.place() else { return gradient };
        if self.shares[b as usize] <= 1 {
            return gradient;
        }
        let copy = self.buffer_like(&gradient);
        self.push_op(Accumulate { x: gradient, out: copy, add: false });
        self.shares[b as usize] -= 1;
        self.set(var, copy);
        copy
    }

    /// Sets the gradient of a variable and counts its share of the buffer.
    fn set(&mut self, var: Var, gradient: Tensor) {
        self.vars[var.0 as usize].gradient = Some(gradient);
        if let Place::Buffer(b) = gradient.place() {
            self.shares[b as usize] += 1;
        }
    }

    /// Adds a buffer with the shape, type and pitch of `like`.
    pub(super) fn buffer_like(&mut self, like: &Tensor) -> Tensor {
        let new = self.buffer_of(like.dtype(), like.dims(), 1);
        let Place::Buffer(b) = new.place() else { return new };
        let bytes = (like.rows() * like.pitch()).max(1) * like.dtype().bytes();
        self.buffers[b as usize].bytes = bytes.next_multiple_of(crate::device::ops::ALIGN * 4);
        like.with_place(new.place()).with_offset(0)
    }
}
