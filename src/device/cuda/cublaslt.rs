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

/// Products of cuBLASLt, ready to be started by the device that made them.
pub struct PeerProducts {
    products: Products,
    /// That their matrices lie in.
    arenas: Vec<u32>,
}

impl PeerProducts {
    /// Of the library, as `12.8.4`.
    pub fn version(&self) -> String {
        self.products.version()
    }
}

impl Cuda<Nvidia> {
    /// Products as cuBLASLt would run them, with the algorithm that its heuristics put first.
    ///
    /// # Errors
    /// A build without the feature, no library; anything but bare products; what cuBLASLt refuses.
    pub fn cublaslt(&mut self, ops: &[Op]) -> Result<PeerProducts> {
        let products = ops.iter().map(|op| self.product(op)).collect::<Result<Vec<_>>>()?;
        Ok(PeerProducts { products: self.driver.cublaslt(&products).at("cuBLASLt")?, arenas: bounds::arenas(ops) })
    }

    /// Runs them one after another and appends the seconds of each, as the GPU measures them.
    ///
    /// # Errors
    /// Those of the device; products of another device, or of arenas that were freed.
    pub fn run_cublaslt(&mut self, prepared: &PeerProducts, into: &mut Vec<f64>) -> Result<()> {
        let PeerProducts { products, arenas } = prepared;
        if !self.driver.made(products) {
            bail!("these products of cuBLASLt were made for another device");
        }
        bounds::check_arenas(arenas, |arena| self.addresses.bytes(arena))?;
        let mut start = || -> Result<()> {
            self.driver.stamp()?;
            for number in 0..products.len() {
                // SAFETY: the matrices lie in arenas of this device (`bounds::check` in `product`), which were not freed.
                unsafe { products.start(number) }.at("cuBLASLt")?;
                self.driver.stamp()?;
            }
            Ok(())
        };
        if let Err(error) = start() {
            // So that the next list's times begin with its own.
            let _ = self.driver.stamps(&mut |_| {});
            return Err(error);
        }
        self.driver.stamps(&mut |length| into.push(length.as_secs_f64().max(1e-9)))
    }

    fn product(&self, op: &Op) -> Result<Product> {
        bounds::check(op, &[DType::F32, DType::BF16], |arena| self.addresses.bytes(arena))?;
        let bare = |l: &Linear| *l == Linear::product(l.a, l.b, l.out, (l.ta, l.tb));
        let Op::Linear(linear) = op else { bail!("cuBLASLt has no {}", op.name()) };
        if !bare(linear) {
            bail!("cuBLASLt is measured on bare products of {} alone", Linear::NAME);
        }
        let matrix = |t: &Tensor| Matrix {
            address: self.addresses.ptr(t),
            dtype: t.dtype(),
            rows: t.rows(),
            width: t.width(),
            pitch: t.pitch(),
        };
        let Linear { a, b, out, ta, tb, .. } = linear;
        Ok(Product { a: matrix(a), b: matrix(b), out: matrix(out), ta: *ta, tb: *tb })
    }
}
