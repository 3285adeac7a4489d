//! A table's parameters in the memory of a device.

use super::params::{Init, ParamTable};
use crate::bail;
use crate::device::ops::philox::philox;
use crate::device::{self, Device};
use crate::error::{At, Result};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Place, Tensor};

/// Values that are made at a time.
const BLOCK: usize = 1 << 20;

/// One flat arena with all parameters.
#[derive(Clone, Debug)]
pub struct Store {
    pub table: ParamTable,
    arena: u32,
    dtype: DType,
}

impl Store {
    /// Zeros.
    pub fn new(table: ParamTable, device: &mut dyn Device) -> Result<Self> {
        let dtype = device.float();
        Self::of(dtype, table, device)
    }

    /// Zeros of this type.
    pub fn of(dtype: DType, table: ParamTable, device: &mut dyn Device) -> Result<Self> {
        let arena = device.alloc(table.elements() * dtype.bytes()).at("parameters")?;
        Ok(Store { table, arena, dtype })
    }

    /// The whole arena as a vector.
    pub fn flat(&self) -> Tensor {
        Tensor::new(Place::Arena(self.arena), self.dtype, 0, &[self.table.elements()])
    }

    /// Parameter `i`.
    pub fn tensor(&self, i: usize) -> Tensor {
        self.table.tensor(i, self.arena, self.dtype)
    }

    /// Fills in the table's initial values: element e of parameter i is a function of (seed, i, e).
    pub fn initialise(&self, device: &mut dyn Device, seed: u64) -> Result<()> {
        for (i, param) in self.table.params.iter().enumerate() {
            let (rows, columns) = param.matrix();
            let tensor = self.tensor(i);
            // A few rows at a time: embeddings may be half of all memory.
            let block = (BLOCK / columns.max(1)).max(1);
            for row in (0..rows).step_by(block) {
                let end = (row + block).min(rows);
                let elements = row * columns..end * columns;
                let values: Vec<f64> = match param.init {
                    Init::Constant(value) => vec![value; elements.len()],
                    Init::Normal(deviation) => elements.map(|e| deviation * normal(seed, i, e)).collect(),
                };
                device::write_floats(device, &tensor.row_block(row, end - row), &values)?;
            }
        }
        Ok(())
    }

    /// Writes parameter `i`, rows back to back.
    pub fn write(&self, device: &mut dyn Device, i: usize, values: &[f32]) -> Result<()> {
        let param = &self.table.params[i];
        if values.len() != param.numel() {
            bail!("{} has {} values but {} are needed", param.name(), values.len(), param.numel());
        }
        device::write_f32(device, &self.tensor(i), values)
    }

    /// Reads parameter `i`, rows back to back.
    pub fn read(&self, device: &mut dyn Device, i: usize) -> Result<Vec<f32>> {
        device::read_f32(device, &self.tensor(i))
    }

    /// Declares all parameters on a tape; `gradients` is an arena of the same layout.
    pub fn declare(&self, tape: &mut Tape, gradients: &Store, vars: &mut Vec<Var>) {
        vars.clear();
        vars.extend((0..self.table.params.len()).map(|i| tape.param(self.tensor(i), gradients.tensor(i))));
    }

    /// Declares all parameters for a forward pass alone.
    pub fn declare_frozen(&self, tape: &mut Tape, vars: &mut Vec<Var>) {
        vars.clear();
        vars.extend((0..self.table.params.len()).map(|i| tape.input(self.tensor(i))));
    }

    pub fn free(self, device: &mut dyn Device) {
        device.free(self.arena);
    }
}

/// A standard normal number by Box and Muller from 96 random bits.
fn normal(seed: u64, param: usize, element: usize) -> f64 {
    let key = [seed as u32, (seed >> 32) as u32];
    let [a, b, c, _] = philox(key, [element as u32, (element >> 32) as u32, param as u32, u32::MAX]);
    let wide = (u64::from(a) << 21 | u64::from(b) >> 11) as f64;
    let radius = (-2.0 * ((wide + 1.0) / (1u64 << 53) as f64).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * f64::from(c) / 4_294_967_296.0).cos()
}
