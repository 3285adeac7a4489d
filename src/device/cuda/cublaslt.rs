//! Matmuls by NVIDIA's cuBLASLt, as a benchmark peer for ours. Needs the cargo feature `cublaslt`. The library is
//! loaded at run time.

use super::Cuda;
use super::driver::Driver;
use super::driver::nvidia::Nvidia;
use super::driver::nvidia::cublaslt::Products;
use crate::bail;
use crate::device::bounds;
use crate::device::ops::{Linear, Op, Operation};
use crate::error::{At, Result};
use crate::tensor::{DType, Tensor};

/// A row-major matrix in device memory. Rows have `width` elements and start `pitch` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Device address of the first element.
    pub address: u64,
    /// Type of the elements: F32 or BF16.
    pub dtype: DType,
    /// Number of rows.
    pub rows: usize,
    /// Elements per row.
    pub width: usize,
    /// Elements from the start of a row to the start of the next one, at least `width`.
    pub pitch: usize,
}

/// A matmul `out = op(a) op(b)`, where `op` transposes `a` if `ta` and `b` if `tb`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Left factor, `[M, K]`, or `[K, M]` if `ta`.
    pub a: Matrix,
    /// Right factor, `[K, N]`, or `[N, K]` if `tb`.
    pub b: Matrix,
    /// Output, `[M, N]`; overwritten.
    pub out: Matrix,
    /// Whether `a` is transposed.
    pub ta: bool,
    /// Whether `b` is transposed.
    pub tb: bool,
}

/// Matmuls prepared for cuBLASLt. Only the device that prepared them can run them.
pub struct PeerProducts {
    products: Products,
    /// The arenas that hold the matrices.
    arenas: Vec<u32>,
}

impl PeerProducts {
    /// Returns the version of the library, such as `12.8.4`.
    pub fn version(&self) -> String {
        self.products.version()
    }
}

impl Cuda<Nvidia> {
    /// Prepares matmuls for cuBLASLt, each with the first algorithm that its heuristics return.
    ///
    /// # Errors
    /// Fails in a build without the feature, when the library is missing, for any operation but a plain matmul, and
    /// when cuBLASLt rejects a matmul.
    pub fn cublaslt(&mut self, ops: &[Op]) -> Result<PeerProducts> {
        let products = ops.iter().map(|op| self.product(op)).collect::<Result<Vec<_>>>()?;
        Ok(PeerProducts { products: self.driver.cublaslt(&products).at("cuBLASLt")?, arenas: bounds::arenas(ops) })
    }

    /// Runs the matmuls one after another and appends the seconds of each to `into`, measured by GPU events, at least 1
    /// ns.
    ///
    /// # Errors
    /// Fails when another device prepared the matmuls, when one of their arenas was freed, and on errors of the device.
    pub fn run_cublaslt(&mut self, prepared: &PeerProducts, into: &mut Vec<f64>) -> Result<()> {
        let PeerProducts { products, arenas } = prepared;
        if !self.driver.owns(products) {
            bail!("these cuBLASLt matmuls were prepared on another device");
        }
        bounds::check_arenas(arenas, |arena| self.addresses.bytes(arena))?;
        let mut start = || -> Result<()> {
            self.driver.stamp()?;
            for number in 0..products.len() {
                // SAFETY: the matrices lie in arenas of this device (`bounds::check` in `product`), and these were not
                // freed.
                unsafe { products.start(number) }.at("cuBLASLt")?;
                self.driver.stamp()?;
            }
            Ok(())
        };
        if let Err(error) = start() {
            // Discards the stamps taken so far, so that the next list does not see them.
            let _ = self.driver.stamps(&mut |_| {});
            return Err(error);
        }
        self.driver.stamps(&mut |length| into.push(length.as_secs_f64().max(1e-9)))
    }

    /// Describes a plain matmul for cuBLASLt.
    fn product(&self, op: &Op) -> Result<Product> {
        bounds::check(op, &[DType::F32, DType::BF16], |arena| self.addresses.bytes(arena))?;
        let bare = |l: &Linear| *l == Linear::product(l.a, l.b, l.out, (l.ta, l.tb));
        let Op::Linear(linear) = op else { bail!("cuBLASLt does not implement {}", op.name()) };
        if !bare(linear) {
            bail!("cuBLASLt only runs {} without batch, bias, epilogue, residual and accumulation", Linear::NAME);
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
