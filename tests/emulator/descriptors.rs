//! The matrix descriptors that kernels pass to wgmma address the elements of a tile where TMA puts them.
//!
//! The canonical layouts of "swizzle 128B" are those of the PTX ISA (matrix descriptors) and of CUTLASS
//! (`mma_sm90_desc.hpp`).

use super::launch_on;
use vcycle::device::cuda::driver::emulator::{Emulator, Options};
use vcycle::device::cuda::driver::{Driver, Rows};
use vcycle::device::cuda::launch::Launch;

/// Returns the `count` descriptors that `kernel` builds for a tile. The tile begins at the shared address in the first
/// one.
fn descriptors(kernel: &'static str, count: usize, bytes: usize) -> Vec<u64> {
    let mut emulator = Emulator::new(Options::default());
    let width = 8 * count;
    let rows = Rows { address: emulator.alloc(width).expect("memory"), rows: 1, width, pitch: width };
    let launch = Launch::new(kernel, 1, 1).shared(bytes).ptr(rows.address);
    launch_on(&mut emulator, &launch).unwrap_or_else(|e| panic!("{kernel}: {e}"));
    let mut all = vec![0u64; count];
    emulator.read(rows, bytemuck::cast_slice_mut(&mut all)).expect("descriptors");
    all
}

/// Returns the address of a byte after swizzling, given its address before.
fn swizzled(address: usize) -> usize {
    address ^ (address / 128 % 8 * 16)
}

/// Returns the address at which the tensor cores read element (row of a or column of b, k). The layouts, in elements of
/// 2 bytes, are `((8, n), (8, 2)) : ((64, stride), (1, 8))` for K-major tiles and
/// `((8, 8, n), (8, 2)) : ((1, 8, leading), (64, stride))` for MN-major ones (`across`).
fn canonical(descriptor: u64, across: bool, row: usize, k: usize) -> usize {
    let field = |shift: u32| (descriptor >> shift & 0x3fff) as usize * 16;
    assert_eq!((descriptor >> 62, descriptor >> 49 & 7), (1, 0), "swizzle 128B, of a tile at a multiple of 1024 bytes");
    let (leading, stride) = (field(16) / 2, field(32) / 2);
    let element = match across {
        false => row % 8 * 64 + row / 8 * stride + k % 8 + k / 8 * 8,
        true => row % 8 + row / 8 % 8 * 8 + row / 64 * leading + k % 8 * 64 + k / 8 * stride,
    };
    swizzled(field(0) + 2 * element)
}

/// Returns the address at which TMA puts element (row, column), for one box of `height` rows x 64 columns for every 64
/// columns.
fn in_boxes(start: usize, height: usize, row: usize, column: usize) -> usize {
    swizzled(start + column / 64 * (128 * height) + 128 * row + 2 * (column % 64))
}

fn start(descriptors: &[u64]) -> usize {
    (descriptors[0] & 0x3fff) as usize * 16
}

#[test]
fn descriptors_of_matmul_tiles() {
    for (kernel, across) in [("operands_along", false), ("operands_across", true)] {
        let all = descriptors(kernel, 16, 256 * 128);
        for (number, descriptor) in all.iter().enumerate() {
            let (block, step) = (number / 4, number % 4);
            // All columns of op(b) from the first one of the descriptor's block of 64.
            for row in 0..256 - 64 * block {
                for k in 0..16 {
                    let place = (64 * block + row, 16 * step + k);
                    let put = match across {
                        false => in_boxes(start(&all), 256, place.0, place.1),
                        true => in_boxes(start(&all), 64, place.1, place.0),
                    };
                    assert_eq!(canonical(*descriptor, across, row, k), put, "{kernel} {block} {step}: {row} {k}");
                }
            }
        }
    }
}

#[test]
fn descriptors_of_attention_tiles() {
    for (kernel, rows) in [("steps_of_64_rows", 64), ("steps_of_128_rows", 128)] {
        let all = descriptors(kernel, 8 + rows / 16, rows * 256);
        let (columns, downs) = all.split_at(8);
        for (step, descriptor) in columns.iter().enumerate() {
            for (row, k) in (0..rows).flat_map(|row| (0..16).map(move |k| (row, k))) {
                let put = in_boxes(start(&all), rows, row, 16 * step + k);
                assert_eq!(canonical(*descriptor, false, row, k), put, "{kernel}, columns {step}: {row} {k}");
            }
        }
        for (step, descriptor) in downs.iter().enumerate() {
            for (column, k) in (0..128).flat_map(|column| (0..16).map(move |k| (column, k))) {
                let put = in_boxes(start(&all), rows, 16 * step + k, column);
                assert_eq!(canonical(*descriptor, true, column, k), put, "{kernel}, rows {step}: {column} {k}");
            }
        }
    }
}
