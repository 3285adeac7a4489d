//! Tests of the operations and kernels. Every operation on `cpu` is compared with `reference`: in all shapes, options
//! and strides, on several numbers of threads, and with operands that do not fit. The same holds for every kernel and
//! variant on `emulator`, in three schedules.
//!
//! `VCYCLE_TOLERANCES=1 cargo test --test kernels -- --nocapture` shows how much of each tolerance was used.

mod again;
#[cfg(emulated)]
mod attention_error;
#[cfg(emulated)]
mod captured;
#[cfg(emulated)]
mod emulated;
mod energy;
mod errors;
mod memory_safety;
#[cfg(emulated)]
mod mutants;
mod names;
mod nvcc_output;
mod pitches;
#[cfg(emulated)]
mod reload;
mod residual;
mod runs;
mod sass;
#[cfg(emulated)]
mod schedules;
#[cfg(emulated)]
mod swaps;
mod timing;
mod variants;

use std::collections::BTreeSet;
use vcycle::device::ops::NAMES;
use vcycle::parity::harness::Harness;
use vcycle::parity::{Size, Stem, stems};

macro_rules! tests {
    ($($file:ident { $($stem:ident: $op:ident),+ })+) => {
        mod equals_the_reference {
            $($(#[test] fn $stem() { super::compare(stringify!($stem)) })+)+
        }

        mod same_bits_on_any_number_of_threads {
            $($(#[test] fn $stem() { super::thread_counts(stringify!($stem)) })+)+
        }

        const TESTED: &[&str] = &[$($(stringify!($stem)),+),+];
    };
}

vcycle::operations!(tests);

fn stem(name: &str) -> &'static Stem {
    vcycle::parity::stem(name).expect("a stem of the table")
}

/// Panics if a check failed. With `VCYCLE_TOLERANCES`, prints how much of the tolerances was used.
fn report(harness: &mut Harness, name: &str) {
    if let Err(error) = harness.finish() {
        panic!("{error}");
    }
    if std::env::var_os("VCYCLE_TOLERANCES").is_some() {
        println!("{name}: {} comparisons, {:.3} of the tolerance", harness.comparisons, harness.worst);
    }
}

fn compare(name: &str) {
    let mut harness = Harness::cpu(&[1, 3], true);
    (stem(name).cases)(&mut harness);
    report(&mut harness, name);
    assert!(harness.checked.contains(name), "the cases of {name} do not check this operation");
}

fn thread_counts(name: &str) {
    let mut harness = Harness::cpu(&[1, 2, 3, 5], false);
    let op = (stem(name).sample)(&mut harness, Size::Large);
    assert_eq!(op.name(), name);
    // Without a reference, `check` compares the memory of all devices bit for bit.
    harness.check(op, |_, _| 0.0);
    report(&mut harness, name);
}

#[test]
fn every_operation_has_cases() {
    let tested: BTreeSet<_> = TESTED.iter().copied().collect();
    assert_eq!(tested, NAMES.iter().copied().collect(), "operations without tests here, or tests without an operation");
    let cases: BTreeSet<_> = stems().map(|s| s.name).collect();
    assert_eq!(tested, cases, "operations without cases, or cases without an operation");
}

#[cfg(not(emulated))]
#[test]
fn the_emulator_is_there() {
    panic!("built without the emulator: kernels were not tested; see the warnings of `cargo build`");
}
