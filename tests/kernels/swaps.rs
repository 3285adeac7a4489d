//! Promise: the parity cases of every variant detect launch code that confuses two parameters of the same type. Every
//! two parameters of one type are swapped in every launch. The few swaps that cannot be detected are listed here with
//! the reason.

use vcycle::device::cuda::driver::emulator::Field;
use vcycle::device::cuda::variants::VARIANTS;
use vcycle::parity::swaps::{Swaps, swaps};

/// Swaps that cannot be detected: the operation, the variant, the kernel, the numbers of the two parameters, and the
/// reason.
const SURVIVORS: &[(&str, &str, &str, [usize; 2], &str)] = &[
    ("attention_backward", "fused_dq_atomic", "fill_vec16_f32", [1, 3], PACKED),
    ("column_sum", "vec16", "column_sum_tiled_f32", [3, 4], PACKED),
];

const PACKED: &str = "width and pitch of contiguous rows in the workspace, which are the same number";

/// Swaps parameters in every `every`-th variant from `first` on. Returns a message for each undetected swap that is not
/// in `SURVIVORS`, and for each swap in `SURVIVORS` that is detected.
fn wrong(first: usize, every: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut variants, mut tried, mut survivors) = (0, 0, 0);
    for variant in VARIANTS.iter().skip(first).step_by(every) {
        let (operation, name) = (variant.operation, variant.name);
        let begin = std::time::Instant::now();
        let mut listed: Vec<_> = SURVIVORS.iter().filter(|(o, v, ..)| (*o, *v) == (operation, name)).collect();
        let known: Vec<_> = listed.iter().map(|(_, _, kernel, parameters, _)| (*kernel, *parameters)).collect();
        let found = swaps(variant, &known).unwrap_or_else(|e| panic!("{operation} {name}, without a swap: {e}"));
        let Swaps { tried: of_variant, survivors: found } = found;
        println!(
            "{operation} {name}: {of_variant} swaps, {} survive, {:.1} s",
            found.len(),
            begin.elapsed().as_secs_f64()
        );
        variants += 1;
        tried += of_variant;
        survivors += found.len();
        for swap in found {
            let explained = listed.iter().position(|(_, _, kernel, parameters, _)| {
                (*kernel, *parameters, Field::All) == (swap.kernel, swap.parameters, swap.field)
            });
            match explained {
                Some(explained) => drop(listed.remove(explained)),
                None => wrong.push(format!("{operation} {name}: not detected and not listed with a reason: {swap:?}")),
            }
        }
        wrong.extend(listed.into_iter().map(|swap| format!("listed as undetected but detected: {swap:?}")));
    }
    println!("{variants} variants, {tried} swaps, {} detected, {survivors} survivors", tried - survivors);
    wrong
}

#[test]
#[ignore = "exhaustive: minutes"]
fn every_swap_is_detected_in_even_variants() {
    assert_eq!(wrong(0, 2), [""; 0]);
}

#[test]
#[ignore = "exhaustive: minutes"]
fn every_swap_is_detected_in_odd_variants() {
    assert_eq!(wrong(1, 2), [""; 0]);
}
