//! Every kernel and variant on the emulator, in three schedules: threads run in forward, reverse or random order, and
//! asynchronous copies arrive late, at once or at random. Some of the cases also run with every memory access checked.
//!
//! The quick tier runs the small cases in all schedules and those of medium size in the random one. The exhaustive tier
//! runs all cases in all schedules.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use vcycle::device::cuda::driver::emulator::{Log, Options, kernels};
use vcycle::device::cuda::variants::{VARIANTS, variants_of};
use vcycle::parity::harness::{Choice, Harness};
use vcycle::parity::kernels::emulated;

/// Returns a harness that compares an emulator with all checks with the reference.
pub fn harness() -> Harness {
    let options = Options { checks: true, ..Options::default() };
    Harness::new(vec![Box::new(vcycle::device::cuda::emulated(options))], Choice::ALL)
}

/// Largest case in FLOPs for variants whose threads share no work and which have no tiles.
const LARGEST_NAIVE: u64 = 300_000;

/// Which cases run: (whether accesses are checked, every how many, the largest in FLOPs, schedules).
type Runs = &'static [(bool, usize, u64, std::ops::Range<usize>)];

const QUICK: Runs = &[(false, 8, 2_000_000, 0..2), (false, 1, 1_000_000, 2..3), (true, 7, 300_000, 2..3)];
/// The largest case is as large as the slowest variants allow.
const EXHAUSTIVE: Runs = &[(false, 1, 30_000_000, 0..3), (true, 7, 600_000, 0..3)];

macro_rules! tests {
    ($($file:ident { $($stem:ident: $op:ident),+ })+) => {
        $($(#[test] fn $stem() { variants(stringify!($stem), QUICK) })+)+

        mod exhaustive {
            $($(
                #[test]
                #[ignore = "exhaustive: minutes"]
                fn $stem() {
                    super::variants(stringify!($stem), super::EXHAUSTIVE)
                }
            )+)+
        }
    };
}

vcycle::operations!(tests);

/// Checks that all variants of an operation match the reference and run every kernel that they name.
fn variants(operation: &str, runs: Runs) {
    for variant in variants_of(operation) {
        let log = Arc::new(Mutex::new(Log::default()));
        for (checks, every, flops, schedules) in runs.iter().cloned() {
            let flops = if variant.name == "naive" { flops.min(LARGEST_NAIVE) } else { flops };
            let all = Options::schedules(checks).map(|o| Options { log: Some(log.clone()), threads: 1, ..o });
            let schedules = &all[schedules];
            let begin = std::time::Instant::now();
            match emulated(variant, schedules, Choice { every, flops, full: false }) {
                Ok(done) if std::env::var_os("VCYCLE_TOLERANCES").is_some() => println!(
                    "{operation} {} checks {checks}: {} comparisons, {:.3} of the tolerance, {:.1} s",
                    variant.name,
                    done.comparisons,
                    done.worst,
                    begin.elapsed().as_secs_f64()
                ),
                Ok(_) => {}
                Err(error) => panic!("{}: {error}", variant.name),
            }
        }
        let ran = log.lock().expect("a log").kernels.clone();
        let never: Vec<_> = variant.kernels.iter().filter(|k| !ran.contains(**k)).collect();
        assert!(never.is_empty(), "no case of {operation}, {} runs {never:?}", variant.name);
    }
}

#[test]
fn every_kernel_belongs_to_a_variant_and_every_variant_to_an_operation() {
    let named: BTreeSet<_> = VARIANTS.iter().flat_map(|v| v.kernels).copied().collect();
    let planted = |name: &str| name.ends_with("_good") || name.ends_with("_bad");
    let there: BTreeSet<_> = kernels().map(|k| k.name).filter(|name| !planted(name)).collect();
    assert_eq!(named, there, "kernels that variants name differ from those in kernels/");
    let operations: BTreeSet<_> = VARIANTS.iter().map(|v| v.operation).collect();
    assert_eq!(operations, vcycle::device::ops::NAMES.iter().copied().collect());
}
