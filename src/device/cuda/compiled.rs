//! The device code that `build.rs` compiled with nvcc, and the occupancy of its kernels.

include!(concat!(env!("OUT_DIR"), "/compiled.rs"));

/// One file of `kernels/`, compiled for several architectures.
#[derive(Debug)]
pub struct Module {
    /// The file name, such as `linear.cu`.
    pub file: &'static str,
    /// Cubins and PTX. The driver picks the code for its GPU.
    pub fatbin: &'static [u8],
    /// Every kernel, once per architecture that it has a cubin for.
    pub kernels: &'static [Kernel],
}

/// The resource usage that ptxas reported for a kernel on one architecture. Spills and stack frames are missing because
/// the build refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The `extern "C"` name, such as `accumulate_f32`.
    pub name: &'static str,
    /// The architecture: `sm_80`, `sm_90a`, ...
    pub arch: &'static str,
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory per block, in bytes.
    pub shared: u32,
}

/// Returns the compiled versions of a kernel, one per architecture.
pub fn kernel(name: &str) -> impl Iterator<Item = &'static Kernel> {
    COMPILED.iter().flat_map(|module| module.kernels).filter(move |k| k.name == name)
}

/// The limits of one SM, from the tables of the CUDA C++ programming guide.
struct SmLimits {
    warps: u32,
    blocks: u32,
    /// The largest shared memory that can be carved out of the L1 cache, in bytes.
    shared: u32,
}

impl SmLimits {
    fn of(arch: &str) -> Option<Self> {
        let number = arch.strip_prefix("sm_")?.trim_end_matches(['a', 'f']);
        let (warps, blocks, kib) = match number {
            "80" => (64, 32, 164),
            "86" => (48, 16, 100),
            "87" => (48, 16, 164),
            "89" => (48, 24, 100),
            "90" | "100" | "103" => (64, 32, 228),
            "120" | "121" => (48, 24, 100),
            _ => return None,
        };
        Some(SmLimits { warps, blocks, shared: kib << 10 })
    }
}

const WARP: u32 = 32;
/// Partitions of an SM, each with a quarter of its registers and warps.
const PARTS: u32 = 4;
const REGISTERS_OF_PART: u32 = 16_384;
/// Allocation unit of registers, per warp.
const REGISTER_LOT: u32 = 256;
/// Allocation unit of shared memory, in bytes per block.
const SHARED_LOT: u32 = 128;
/// Shared memory that CUDA reserves in each block, in bytes.
const SHARED_RESERVED: u32 = 1024;

/// Returns the number of blocks that fit an SM at a time and the fraction of its warp slots that they fill, from 0 to
/// 1; `None` for an architecture that is not in the table.
///
/// `registers` counts per thread, `shared` is the static and dynamic shared memory of a block in bytes, and `threads`
/// counts per block.
pub fn occupancy(arch: &str, registers: u32, shared: u32, threads: u32) -> Option<(u32, f64)> {
    let sm = SmLimits::of(arch)?;
    let warps = threads.max(1).div_ceil(WARP);
    let lot = (registers.max(1) * WARP).next_multiple_of(REGISTER_LOT);
    let by_registers = REGISTERS_OF_PART / lot * PARTS / warps;
    let by_shared = sm.shared / shared.saturating_add(SHARED_RESERVED).next_multiple_of(SHARED_LOT);
    let blocks = (sm.warps / warps).min(sm.blocks).min(by_registers).min(by_shared);
    Some((blocks, f64::from(blocks * warps) / f64::from(sm.warps)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_is_bounded_by_each_resource() {
        // Warps: 2048 threads in blocks of 256.
        assert_eq!(occupancy("sm_80", 32, 0, 256), Some((8, 1.0)));
        // Blocks: 32 of one warp each, even of a single thread.
        assert_eq!(occupancy("sm_80", 32, 0, 32), Some((32, 0.5)));
        assert_eq!(occupancy("sm_80", 32, 0, 1), Some((32, 0.5)));
        // Registers: 255 are rounded up to 256 per thread, so two warps fit a partition, eight in all.
        assert_eq!(occupancy("sm_80", 255, 0, 256), Some((1, 0.125)));
        assert_eq!(occupancy("sm_90a", 168, 0, 384), Some((1, 12.0 / 64.0)));
        // 33 registers are rounded up to 40: 12 warps per partition, not 15.
        assert_eq!(occupancy("sm_80", 33, 0, 128), Some((12, 0.75)));
        // Shared memory: with the reserved KiB, blocks of 48 KiB fit three times on an A100 and four times on an H100.
        assert_eq!(occupancy("sm_80", 32, 48 << 10, 128), Some((3, 12.0 / 64.0)));
        assert_eq!(occupancy("sm_90a", 32, 48 << 10, 128), Some((4, 0.25)));
        // The largest block of each, and one byte more.
        assert_eq!(occupancy("sm_80", 32, 163 << 10, 256).map(|o| o.0), Some(1));
        assert_eq!(occupancy("sm_80", 32, (163 << 10) + 1, 256).map(|o| o.0), Some(0));
        assert_eq!(occupancy("sm_90a", 32, 227 << 10, 256).map(|o| o.0), Some(1));
        assert_eq!(occupancy("sm_90a", 32, (227 << 10) + 1, 256).map(|o| o.0), Some(0));
    }

    #[test]
    fn what_does_not_fit_or_is_unknown() {
        assert_eq!(occupancy("sm_80", 128, 0, 1024), Some((0, 0.0)));
        assert_eq!(occupancy("sm_80", 32, u32::MAX - 4096, 32), Some((0, 0.0)));
        assert_eq!(occupancy("sm_75", 32, 0, 256), None);
        assert_eq!(occupancy("compute_80", 32, 0, 256), None);
    }

    #[test]
    fn compiled_kernels_are_found_by_name() {
        assert_eq!(COMPILED.is_empty(), NVCC.is_none());
        for compiled in COMPILED {
            assert!(!compiled.fatbin.is_empty(), "{}", compiled.file);
            for k in compiled.kernels {
                assert!(kernel(k.name).any(|found| found == k));
                assert!(SmLimits::of(k.arch).is_some() || k.arch.starts_with("sm_"), "{}", k.arch);
            }
        }
        assert_eq!(kernel("no_such_kernel").count(), 0);
    }
}
