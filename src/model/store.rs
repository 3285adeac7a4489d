//! The parameters of a table in device memory.

use super::params::{Init, ParamTable};
use crate::bail;
use crate::device::ops::philox::philox;
use crate::device::{self, Device};
use crate::error::{At, Result};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Place, Tensor};

/// Number of initial values computed at a time.
const BLOCK: usize = 1 << 20;

/// One flat arena with all parameters of a table.
#[derive(Clone, Debug)]
pub struct Store {
    /// Names, shapes and offsets of the parameters.
    pub table: ParamTable,
    arena: u32,
    dtype: DType,
}

impl Store {
    /// Allocates zeros in the device's own float type.
    ///
    /// # Errors
    /// Out of device memory.
    pub fn new(table: ParamTable, device: &mut dyn Device) -> Result<Self> {
        let dtype = device.float();
        Self::of(dtype, table, device)
    }

    /// Allocates zeros of type `dtype`.
    ///
    /// # Errors
    /// Out of device memory.
    pub fn of(dtype: DType, table: ParamTable, device: &mut dyn Device) -> Result<Self> {
        let arena = device.alloc(table.elements() * dtype.bytes()).at("parameters")?;
        Ok(Store { table, arena, dtype })
    }

    /// Returns the whole arena, padding included, as a vector.
    pub fn flat(&self) -> Tensor {
        Tensor::new(Place::Arena(self.arena), self.dtype, 0, &[self.table.elements()])
    }

    /// Returns parameter `i`: a vector or a matrix.
    pub fn tensor(&self, i: usize) -> Tensor {
        self.table.tensor(i, self.arena, self.dtype)
    }

    /// Writes the initial values. Element e of parameter i is a function of (seed, i, e).
    ///
    /// # Errors
    /// Errors of the device.
    pub fn initialise(&self, device: &mut dyn Device, seed: u64) -> Result<()> {
        for (i, param) in self.table.params.iter().enumerate() {
            let (rows, columns) = param.matrix();
            let tensor = self.tensor(i);
            // A few rows at a time: an embedding table may take half of the memory.
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

    /// Writes parameter `i`. `values` are row-major without padding.
    ///
    /// # Errors
    /// The number of values is wrong; errors of the device.
    pub fn write(&self, device: &mut dyn Device, i: usize, values: &[f32]) -> Result<()> {
        let param = &self.table.params[i];
        if values.len() != param.numel() {
            bail!("{} has {} values but {} are needed", param.name(), values.len(), param.numel());
        }
        device::write_f32(device, &self.tensor(i), values)
    }

    /// Reads parameter `i`, row-major without padding.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn read(&self, device: &mut dyn Device, i: usize) -> Result<Vec<f32>> {
        device::read_f32(device, &self.tensor(i))
    }

    /// Declares all parameters on a tape, with their gradients in `gradients`, a store of the same layout.
    pub fn declare(&self, tape: &mut Tape, gradients: &Store, vars: &mut Vec<Var>) {
        vars.clear();
        vars.extend((0..self.table.params.len()).map(|i| tape.param(self.tensor(i), gradients.tensor(i))));
    }

    /// Declares all parameters on a tape without gradients, for a forward pass.
    pub fn declare_frozen(&self, tape: &mut Tape, vars: &mut Vec<Var>) {
        vars.clear();
        vars.extend((0..self.table.params.len()).map(|i| tape.input(self.tensor(i))));
    }

    /// Frees the arena.
    pub fn free(self, device: &mut dyn Device) {
        device.free(self.arena);
    }
}

/// Returns a standard normal number, by the Box-Muller transform of 96 random bits.
fn normal(seed: u64, param: usize, element: usize) -> f64 {
    let key = [seed as u32, (seed >> 32) as u32];
    let [a, b, c, _] = philox(key, [element as u32, (element >> 32) as u32, param as u32, u32::MAX]);
    let bits = (u64::from(a) << 21 | u64::from(b) >> 11) as f64;
    let radius = (-2.0 * ((bits + 1.0) / (1u64 << 53) as f64).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * f64::from(c) / 4_294_967_296.0).cos()
}
