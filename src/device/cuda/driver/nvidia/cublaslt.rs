//! cuBLASLt matmuls: their descriptors are created once, and they run on the driver's stream.
//!
//! cuBLASLt is column-major, and a row-major matrix read as column-major is its transpose. So `out = op(a) op(b)`
//! becomes `out^T = op(b)^T op(a)^T`: the operands are swapped and nothing else changes.

use super::failed;
use crate::bail;
use crate::device::cuda::cublaslt::{Matrix, Product};
use crate::error::{Error, Result};
use crate::tensor::DType;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::CudaStream;
use cudarc::driver::result as driver;
use std::ffi::c_void;
use std::ptr::{self, null_mut};
use std::sync::Arc;

/// The workspace in bytes, as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Checks that the library is installed.
///
/// # Errors
/// Fails if it cannot be loaded. The message says how to get it.
pub fn admit() -> Result<()> {
    // SAFETY: only opens the library and closes it again; its initialisers are NVIDIA's own.
    if !unsafe { sys::is_culib_present() } {
        bail!(
            "cannot find libcublasLt.so or libcublasLt.so.12. It comes with the CUDA toolkit and with \
             `pip install nvidia-cublas-cu12`; add its folder to LD_LIBRARY_PATH"
        );
    }
    Ok(())
}

/// Prepared matmuls.
pub struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    stream: Arc<CudaStream>,
    plans: Vec<Plan>,
}

/// One matmul. Its descriptors are null until they are created.
struct Plan {
    product: Product,
    desc: sys::cublasLtMatmulDesc_t,
    /// The layouts of cuBLASLt's first operand (our `b`), its second operand (our `a`) and the output.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: Option<sys::cublasLtMatmulAlgo_t>,
}

fn refused(action: &str) -> impl Fn(CublasError) -> Error {
    move |error| Error::new(format!("{action}: {error}"))
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        other => bail!("matmuls of {other:?} are not supported"),
    }
}

impl Products {
    /// Prepares matmuls on a stream.
    ///
    /// # Errors
    /// Fails if the library is missing or rejects a matmul.
    pub fn new(stream: &Arc<CudaStream>, products: &[Product]) -> Result<Self> {
        admit()?;
        let handle = result::create_handle().map_err(refused("initializing the library"))?;
        let mut this = Products { handle, workspace: 0, stream: stream.clone(), plans: Vec::new() };
        // SAFETY: plain memory, which only cuBLASLt uses.
        this.workspace = unsafe { driver::malloc_sync(WORKSPACE) }.map_err(failed("allocating the workspace"))?;
        for product in products {
            let mut plan = Plan { product: *product, desc: null_mut(), layouts: [null_mut(); 3], algorithm: None };
            plan.make(handle)?;
            this.plans.push(plan);
        }
        Ok(this)
    }

    /// Returns the version of the library, such as `12.8.4`.
    pub fn version(&self) -> String {
        // SAFETY: only returns a number; the library is present.
        let n = unsafe { sys::cublasLtGetVersion() };
        format!("{}.{}.{}", n / 10_000, n / 100 % 100, n % 100)
    }

    /// Returns the stream that the matmuls run on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Returns the number of matmuls.
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Returns whether there are no matmuls.
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Launches matmul `number` on the stream.
    ///
    /// # Safety
    /// Its matrices must lie in device memory that stays allocated until the matmul has finished.
    ///
    /// # Errors
    /// Fails if there is no such matmul or cuBLASLt rejects it.
    pub unsafe fn start(&self, number: usize) -> Result<()> {
        let Some(Plan { product: Product { a, b, out, .. }, desc, layouts, algorithm: Some(algorithm) }) =
            self.plans.get(number)
        else {
            bail!("there is no matmul {number}")
        };
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the descriptors live as long as this value, the caller guarantees the matrices, and alpha and beta
        // are read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                *desc,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                b.address as *const c_void,
                layouts[0],
                a.address as *const c_void,
                layouts[1],
                out.address as *const c_void,
                layouts[2],
                out.address as *mut c_void,
                layouts[2],
                algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(refused("launching a matmul"))
    }
}

impl Plan {
    /// Creates the descriptors and chooses the algorithm.
    fn make(&mut self, handle: sys::cublasLtHandle_t) -> Result<()> {
        let Product { a, b, out, ta, tb } = self.product;
        // No TF32, and f32 accumulation, like our kernels.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let desc = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F);
        self.desc = desc.map_err(refused("creating a matmul descriptor"))?;
        let sides = [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, tb),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, ta),
        ];
        for (attribute, transposed) in sides {
            // CUBLAS_OP_N is 0 and CUBLAS_OP_T is 1.
            let operation = i32::from(transposed);
            // SAFETY: the descriptor was just created, and the value is copied from 4 live bytes.
            unsafe {
                result::set_matmul_desc_attribute(
                    self.desc,
                    attribute,
                    ptr::from_ref(&operation).cast(),
                    size_of::<i32>(),
                )
            }
            .map_err(refused("creating a matmul descriptor"))?;
        }
        for (layout, matrix) in self.layouts.iter_mut().zip([b, a, out]) {
            let Matrix { dtype, rows, width, pitch, .. } = matrix;
            let made = result::create_matrix_layout(data_type(dtype)?, width as u64, rows as u64, pitch as i64);
            *layout = made.map_err(refused("creating a matrix layout"))?;
        }
        self.algorithm = Some(self.choose(handle)?);
        Ok(())
    }

    /// Returns the first algorithm that the heuristics propose.
    fn choose(&self, handle: sys::cublasLtHandle_t) -> Result<sys::cublasLtMatmulAlgo_t> {
        let preference = result::create_matmul_pref().map_err(refused("creating a matmul preference"))?;
        let [b, a, out] = self.layouts;
        let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: all descriptors were just created, the preference is destroyed once, and the value is copied from 8
        // live bytes.
        let found = unsafe {
            let bytes = WORKSPACE as u64;
            let set = result::set_matmul_pref_attribute(
                preference,
                attribute,
                ptr::from_ref(&bytes).cast(),
                size_of::<u64>(),
            );
            let found =
                set.and_then(|()| result::get_matmul_algo_heuristic(handle, self.desc, b, a, out, out, preference));
            let _ = result::destroy_matmul_pref(preference);
            found
        };
        found.map(|found| found.algo).map_err(refused("choosing an algorithm"))
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: descriptors that are not null were created in `make`, and only this destroys them. Errors cannot be
        // reported from here.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
            if !self.desc.is_null() {
                let _ = result::destroy_matmul_desc(self.desc);
            }
        }
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        let _ = self.stream.context().bind_to_thread();
        let _ = self.stream.synchronize();
        self.plans.clear();
        // SAFETY: both were created in `new`, and no work is in flight. An address of 0 was never allocated.
        unsafe {
            if self.workspace != 0 {
                let _ = driver::free_sync(self.workspace);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}
