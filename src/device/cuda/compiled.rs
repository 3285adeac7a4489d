//! The device code that `build.rs` made with nvcc, and what its kernels leave room for on a multiprocessor.

include!(concat!(env!("OUT_DIR"), "/compiled.rs"));

/// One file of `kernels/`, compiled for several architectures.
#[derive(Debug)]
pub struct Module {
    /// `linear.cu`.
    pub file: &'static str,
    /// Cubins and PTX; the driver picks what fits its GPU.
    pub fatbin: &'static [u8],
    /// Every kernel, once for each architecture that it has a cubin for.
    pub kernels: &'static [Kernel],
}

/// What ptxas reported. Spills and stack are not here: the build refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub name: &'static str,
    /// `sm_80`, `sm_90a`, ...
    pub arch: &'static str,
    /// Of one thread.
    pub registers: u32,
    /// Bytes of a block, without what the launch adds.
    pub shared: u32,
}

/// A kernel as compiled, once for each architecture.
pub fn kernel(name: &str) -> impl Iterator<Item = &'static Kernel> {
    COMPILED.iter().flat_map(|module| module.kernels).filter(move |k| k.name == name)
}

/// What one multiprocessor has, from the tables of the CUDA C++ programming guide.
struct Multiprocessor {
    warps: u32,
    blocks: u32,
    /// Bytes, with as much of the L1 cache as may be turned into shared memory.
    shared: u32,
}

impl Multiprocessor {
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
        Some(Multiprocessor { warps, blocks, shared: kib << 10 })
    }
}

const WARP: u32 = 32;
/// Parts of a multiprocessor, each with a quarter of the registers and of the warps.
const PARTS: u32 = 4;
const REGISTERS_OF_PART: u32 = 16_384;
/// Registers are handed to a warp in such lots.
const REGISTER_LOT: u32 = 256;
/// Shared memory is handed to a block in such lots, in bytes.
const SHARED_LOT: u32 = 128;
/// Shared memory that the system takes of each block, in bytes.
const SHARED_RESERVED: u32 = 1024;

/// Blocks that fit a multiprocessor at a time, and the fraction of its warp slots that they fill, from 0 to 1; `None`
/// for an architecture that is not in the table.
///
/// `registers` of one thread; `shared` bytes of one block, static and dynamic; `threads` of one block.
pub fn occupancy(arch: &str, registers: u32, shared: u32, threads: u32) -> Option<(u32, f64)> {
    let has = Multiprocessor::of(arch)?;
    let warps = threads.max(1).div_ceil(WARP);
    let lot = (registers.max(1) * WARP).next_multiple_of(REGISTER_LOT);
    let by_registers = REGISTERS_OF_PART / lot * PARTS / warps;
    let by_shared = has.shared / shared.saturating_add(SHARED_RESERVED).next_multiple_of(SHARED_LOT);
    let blocks = (has.warps / warps).min(has.blocks).min(by_registers).min(by_shared);
    Some((blocks, f64::from(blocks * warps) / f64::from(has.warps)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_is_bounded_by_each_resource() {
        // Warps: 2048 threads in blocks of 256.
        assert_eq!(occupancy("sm_80", 32, 0, 256), Some((8, 1.0)));
        // Blocks: 32 of one warp each, or of less.
        assert_eq!(occupancy("sm_80", 32, 0, 32), Some((32, 0.5)));
        assert_eq!(occupancy("sm_80", 32, 0, 1), Some((32, 0.5)));
        // Registers: 255 become 256 for each thread, so two warps a part, eight in all.
        assert_eq!(occupancy("sm_80", 255, 0, 256), Some((1, 0.125)));
        assert_eq!(occupancy("sm_90a", 168, 0, 384), Some((1, 12.0 / 64.0)));
        // 33 registers take the 40 of the next lot: 12 warps a part, not 15.
        assert_eq!(occupancy("sm_80", 33, 0, 128), Some((12, 0.75)));
        // Shared memory: with the reserved KiB, 48 KiB fit three times on A100 and four times on H100.
        assert_eq!(occupancy("sm_80", 32, 48 << 10, 128), Some((3, 12.0 / 64.0)));
        assert_eq!(occupancy("sm_90a", 32, 48 << 10, 128), Some((4, 0.25)));
        // The largest block of each, and one lot beyond.
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
                assert!(Multiprocessor::of(k.arch).is_some() || k.arch.starts_with("sm_"), "{}", k.arch);
            }
        }
        assert_eq!(kernel("no_such_kernel").count(), 0);
    }
}
