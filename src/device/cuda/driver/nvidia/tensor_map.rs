//! TMA descriptors (tensor maps) of Hopper, encoded by the CUDA driver API.

use super::faults::describe;
use crate::device::cuda::launch::TensorMap;
use crate::error::{Error, Result};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{
    self, CUresult, CUtensorMap_st, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};
use std::ffi::c_void;

/// A descriptor that has not been encoded yet.
pub const NONE: CUtensorMap_st = CUtensorMap_st { opaque: [0; 16] };

/// Encodes `map` as a kernel parameter.
///
/// # Errors
/// Fails if the driver rejects the matrix, for instance because its address is no multiple of 16.
pub fn encoded(map: &TensorMap) -> Result<CUtensorMap_st> {
    let mut made = NONE;
    let (columns, rows) = (map.box_columns() as u32, map.box_rows as u32);
    let element = match map.element {
        4 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        _ => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    };
    let (rank, sizes, pitches, of_box) = match map.heads {
        0 => (2, [map.columns, map.rows, 0, 0], [map.pitch, 0, 0], [columns, rows, 0, 0]),
        heads => {
            let sizes = [map.columns, heads, map.rows, map.batches];
            (4, sizes, [map.head_pitch, map.pitch, map.batch_pitch], [columns, 1, rows, 1])
        }
    };
    let steps = [1u32; 4];
    // SAFETY: the driver reads `rank` sizes, `rank - 1` pitches, and `rank` box sizes and element strides, and writes
    // the descriptor. It does not dereference the address.
    let done = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut made,
            element,
            rank,
            map.address as *mut c_void,
            sizes.as_ptr(),
            pitches.as_ptr(),
            of_box.as_ptr(),
            steps.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    match done {
        CUresult::CUDA_SUCCESS => Ok(made),
        error => Err(Error::new(format!("encoding the TMA descriptor of {map:?}: {}", describe(&DriverError(error))))),
    }
}
