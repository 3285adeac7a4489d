//! Promise: launch code that takes one parameter for another of its type is noticed by the parity cases of every variant: every two
//! parameters of one type, of every launch, change places. The few of which nobody can notice that are listed here with the reason.

use vcycle::device::cuda::driver::emulator::Field;
use vcycle::device::cuda::variants::VARIANTS;
use vcycle::parity::swaps::{Swaps, swaps};

/// Operation, variant, kernel, the numbers of two of its parameters, and why nobody can notice.
const SURVIVORS: &[(&str, &str, &str, [usize; 2], &str)] = &[
    ("attention_backward", "reduce", "fill_vector_f32", [1, 3], PACKED),
    ("column_sum", "vector", "column_sum_tiled_f32", [3, 4], PACKED),
];

const PACKED: &str = "width and pitch of rows in the workspace, which lie back to back: one number";

/// What is wrong with the swaps of some variants, among them those of `SURVIVORS`, unless they are left out.
fn wrong(first: usize, every: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut variants, mut tried, mut survivors) = (0, 0, 0);
    for variant in VARIANTS.iter().skip(first).step_by(every) {
        let (operation, name) = (variant.operation, variant.name);
        let begin = std::time::Instant::now();
        let mut listed: Vec<_> = SURVIVORS.iter().filter(|(o, v, ..)| (*o, *v) == (operation, name)).collect();
        let known: Vec<_> = listed.iter().map(|(_, _, kernel, parameters, _)| (*kernel, *parameters)).collect();
        let found = swaps(variant, &known).unwrap_or_else(|e| panic!("{operation} {name}, as it is: {e}"));
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
                None => wrong.push(format!("{operation} {name}: nobody notices, and no reason is given: {swap:?}")),
            }
        }
        wrong.extend(listed.into_iter().map(|swap| format!("no longer a survivor: {swap:?}")));
    }
    println!("{variants} variants, {tried} swaps, {} noticed, {survivors} survivors", tried - survivors);
    wrong
}

#[test]
fn every_swap_is_noticed_in_even_variants() {
    assert_eq!(wrong(0, 2), [""; 0]);
}

#[test]
fn every_swap_is_noticed_in_odd_variants() {
    assert_eq!(wrong(1, 2), [""; 0]);
}
