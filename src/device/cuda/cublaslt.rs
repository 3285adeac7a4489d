//! NVIDIA's own matrix products, to measure ours against. Cargo feature `cublaslt`; the library is loaded at run time.

use super::Cuda;
use super::driver::Driver;
use super::driver::nvidia::Nvidia;
use super::driver::nvidia::cublaslt::Products;
use crate::bail;
use crate::device::bounds;
use crate::device::ops::{Linear, Op, Operation};
use crate::error::{At, Result};
use crate::tensor::{DType, Tensor};

/// A matrix in device memory, row-major: `width` elements a row, `pitch` apart.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub address: u64,
    pub dtype: DType,
    pub rows: usize,
    pub width: usize,
    pub pitch: usize,
}

/// `out = op(a) op(b)`, `op` transposing where `ta` and `tb` say so.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub a: Matrix,
    pub b: Matrix,
    pub out: Matrix,
    pub ta: bool,
    pub tb: bool,
}

impl Cuda<Nvidia> {
    /// Products as cuBLASLt would run them, with the algorithm that its heuristics put first.
    ///
    /// # Errors
    /// A build without the feature, no library; anything but bare products; what cuBLASLt refuses.
    pub fn cublaslt(&mut self, ops: &[Op]) -> Result<Products> {
        let products = ops.iter().map(|op| self.product(op)).collect::<Result<Vec<_>>>()?;
        self.driver.cublaslt(&products).at("cuBLASLt")
    }

    /// Runs them one after another and appends the seconds of each, as the GPU measures them.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run_cublaslt(&mut self, products: &Products, into: &mut Vec<f64>) -> Result<()> {
        self.driver.stamp()?;
        for number in 0..products.len() {
            products.start(number).at("cuBLASLt")?;
            self.driver.stamp()?;
        }
        self.driver.stamps(&mut |length| into.push(length.as_secs_f64().max(1e-9)))
    }

    fn product(&self, op: &Op) -> Result<Product> {
        bounds::check(op, &[DType::F32, DType::BF16], |arena| self.places.bytes(arena))?;
        let bare = |l: &Linear| *l == Linear::product(l.a, l.b, l.out, (l.ta, l.tb));
        let Op::Linear(linear) = op else { bail!("cuBLASLt has no {}", op.name()) };
        if !bare(linear) {
            bail!("cuBLASLt is measured on bare products of {} alone", Linear::NAME);
        }
        let matrix = |t: &Tensor| Matrix {
            address: self.places.ptr(t),
            dtype: t.dtype(),
            rows: t.rows(),
            width: t.width(),
            pitch: t.pitch(),
        };
        let Linear { a, b, out, ta, tb, .. } = linear;
        Ok(Product { a: matrix(a), b: matrix(b), out: matrix(out), ta: *ta, tb: *tb })
    }
}
