//! Every operation on `cpu` against `reference`: all of its shapes, options and strides, on any number of threads, and with
//! operands that do not fit. `VCYCLE_TOLERANCES=1 cargo test --test kernels -- --nocapture` shows how much of each tolerance
//! was used.

mod accumulate;
mod activation;
mod adamw;
mod attention;
mod column_sum;
mod cross_entropy;
mod dropout;
mod embedding;
mod errors;
mod fill;
mod global_norm;
mod lab;
mod layernorm;
mod linear;
mod multilevel;
mod support;

use lab::Lab;
use std::collections::BTreeSet;
use vcycle::device::ops::{NAMES, Op};

/// How large an operation's sample is.
#[derive(Clone, Copy, PartialEq)]
pub enum Size {
    /// For tests of what is refused.
    Small,
    /// Enough for many chunks on `cpu`.
    Large,
}

/// The tests of one operation.
struct Stem {
    name: &'static str,
    /// Compares many shapes and options with the reference.
    cases: fn(&mut Lab),
    /// One operation with as many optional operands as go together.
    sample: fn(&mut Lab, Size) -> Op,
}

/// The table, and for each line of it the test against the reference and the one on several numbers of threads.
macro_rules! stems {
    ($($stem:ident: $cases:path, $sample:path;)*) => {
        const STEMS: &[Stem] = &[$(Stem { name: stringify!($stem), cases: $cases, sample: $sample }),*];

        mod equals_the_reference {
            $(#[test] fn $stem() { super::compare(stringify!($stem)) })*
        }

        mod same_bits_on_any_number_of_threads {
            $(#[test] fn $stem() { super::thread_counts(stringify!($stem)) })*
        }
    };
}

stems! {
    accumulate: accumulate::cases, accumulate::sample;
    activation: activation::cases, activation::sample;
    adamw: adamw::cases, adamw::sample;
    attention: attention::cases, attention::sample;
    attention_backward: attention::cases, attention::sample_backward;
    column_sum: column_sum::cases, column_sum::sample;
    cross_entropy: cross_entropy::cases, cross_entropy::sample;
    dropout: dropout::cases, dropout::sample;
    embedding: embedding::cases, embedding::sample;
    embedding_backward: embedding::cases_backward, embedding::sample_backward;
    fill: fill::cases, fill::sample;
    global_norm: global_norm::cases, global_norm::sample;
    layernorm: layernorm::cases, layernorm::sample;
    layernorm_backward: layernorm::cases_backward, layernorm::sample_backward;
    linear: linear::cases, linear::sample;
    multilevel: multilevel::cases, multilevel::sample;
}

fn stem(name: &str) -> &'static Stem {
    STEMS.iter().find(|s| s.name == name).expect("a stem of the table")
}

fn compare(name: &str) {
    let mut lab = Lab::new(&[1, 3], true);
    (stem(name).cases)(&mut lab);
    assert!(lab.checked.contains(name), "the cases of {name} compare no such operation");
    if std::env::var_os("VCYCLE_TOLERANCES").is_some() {
        println!("{name}: {:.3} of the tolerance", lab.worst);
    }
}

fn thread_counts(name: &str) {
    let mut lab = Lab::new(&[1, 2, 3, 5], false);
    let op = (stem(name).sample)(&mut lab, Size::Large);
    assert_eq!(op.name(), name);
    // Without a reference, `check` compares all memory of all devices bit for bit.
    lab.check(op, |_, _| 0.0);
}

#[test]
fn every_operation_has_cases() {
    let tested: BTreeSet<_> = STEMS.iter().map(|s| s.name).collect();
    assert_eq!(tested, NAMES.iter().copied().collect(), "operations without cases here, or cases without operation");
}
