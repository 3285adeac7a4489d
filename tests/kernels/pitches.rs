//! Promise: no two operands of a parity case share a pitch, so that a kernel, or its launch code, that takes the one for the other
//! gives a wrong result. `tests/kernels/swaps.rs` tries that for the launch code of every variant.

use super::stem;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vcycle::device::ops::{NAMES, Op};
use vcycle::parity::harness::{Choice, Harness};
use vcycle::tensor::{DType, Tensor};

/// Operation, operand, and why it has no pitch that could be another's, although it has several rows.
const NO_PITCH: &[(&str, &str, &str)] = &[
    ("attention", "lse", CONTIGUOUS),
    ("attention_backward", "lse", CONTIGUOUS),
    ("attention_backward", "delta", CONTIGUOUS),
    ("embedding", "ids", CONTIGUOUS),
    ("embedding_backward", "ids", CONTIGUOUS),
    ("layernorm_backward", "partials", CONTIGUOUS),
    ("multilevel", "items", CONTIGUOUS),
];

const CONTIGUOUS: &str = "the operation's check refuses all but rows back to back, and no kernel is given a pitch";

/// What the cases of an operation have.
#[derive(Default)]
struct Seen {
    /// Entries of `NO_PITCH`.
    without: BTreeSet<&'static str>,
    /// Pairs of operands of several rows, and whether some case tells their pitches apart.
    pairs: BTreeMap<(String, String), bool>,
    cases: usize,
    wrong: Vec<String>,
}

impl Seen {
    fn look(&mut self, case: usize, op: &Op) {
        self.cases += 1;
        let operands = self.operands(op);
        // Rows back to back are a layout of its own, in which equal widths are equal pitches; but then of all operands.
        let packed = operands.iter().all(|(_, t)| t.is_contiguous());
        for (i, (first, a)) in operands.iter().enumerate() {
            // Of two that are one, in place, there is one pitch.
            for (second, b) in operands[i + 1..].iter().filter(|(_, b)| a != b) {
                let apart = pitch(a) != pitch(b);
                let pair = (first.min(second).clone(), first.max(second).clone());
                *self.pairs.entry(pair).or_default() |= apart;
                // Columns of one buffer, which has one pitch.
                let together = a.place() == b.place();
                if !apart && !packed && !together {
                    self.wrong.push(format!(
                        "{}, case {case}: {first} and {second} have the same pitch, {}; take one for each from Lab::pitch\n{op:?}",
                        op.name(),
                        pitch(a)
                    ));
                }
            }
        }
    }

    /// Those of several rows, by name.
    fn operands(&mut self, op: &Op) -> Vec<(String, Tensor)> {
        let (text, mut all) = (format!("{op:?}"), Vec::new());
        { *op }.operands(&mut |t, _| {
            let name = name(&text, t);
            let without = NO_PITCH.iter().find(|(operation, operand, _)| (*operation, *operand) == (op.name(), &name));
            if let Some((_, operand, _)) = without.filter(|_| rows(t) > 1) {
                self.without.insert(operand);
                assert!(t.is_contiguous(), "{operand} of {op:?} has a pitch after all");
            } else if rows(t) > 1 {
                all.push((name, *t));
            }
        });
        all
    }
}

/// All heads of a time are one row, be they apart in the view or not.
fn rows(t: &Tensor) -> usize {
    match t.dims() {
        [batch, time, _, _] => batch * time,
        _ => t.rows(),
    }
}

/// From one of [`rows`] to the next.
fn pitch(t: &Tensor) -> usize {
    match t.dims() {
        [_, _, heads, size] if t.is_contiguous() => heads * size,
        _ => t.pitch(),
    }
}

/// The field that an operand is, by the operation as it is printed.
fn name(op: &str, t: &Tensor) -> String {
    let before = op.split(&format!("{t:?}")).next().unwrap_or_default();
    let before = before.trim_end_matches("Some(").trim_end_matches(": ");
    before.rsplit([' ', '{', ',']).next().unwrap_or_default().to_string()
}

/// All cases of an operation, also those of `kernels check --full`.
fn seen(operation: &str, float: DType) -> Seen {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let (kept, own) = (seen.clone(), operation.to_string());
    let mut harness = Harness::walk(float, Choice { full: true, ..Choice::ALL }, move |case, op| {
        if op.name() == own {
            kept.borrow_mut().look(case, op);
        }
    });
    (stem(operation).cases)(&mut harness);
    harness.finish().expect("cases");
    seen.take()
}

#[test]
fn no_two_operands_of_a_case_share_a_pitch() {
    let mut wrong = Vec::new();
    for &operation in NAMES {
        for float in [DType::F32, DType::BF16] {
            let seen = seen(operation, float);
            assert!(seen.cases > 0, "no case of {operation}");
            println!("{operation} {float:?}: {} cases, {} pairs of operands", seen.cases, seen.pairs.len());
            wrong.extend(seen.wrong);
            let never = seen.pairs.iter().filter(|(_, apart)| !**apart);
            wrong.extend(
                never.map(|((a, b), _)| format!("{operation}: no case tells the pitches of {a} and {b} apart")),
            );
            for (_, operand, _) in NO_PITCH.iter().filter(|(of, ..)| *of == operation) {
                assert!(
                    seen.without.contains(operand),
                    "{operation}: {operand} never has several rows; drop it from the list"
                );
            }
        }
    }
    let few: Vec<_> = wrong.iter().take(5).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} faults, of which the first are:\n{}", wrong.len(), few.join("\n"));
}
