//! Promise: no two operands of a parity case have the same pitch, so that a kernel or its launch code that confuses two
//! pitches computes a wrong result. `tests/kernels/swaps.rs` checks this for the launch code of every variant.

use super::stem;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vcycle::device::ops::{NAMES, Op};
use vcycle::parity::harness::{Choice, Harness};
use vcycle::tensor::{DType, Tensor};

/// Operands of several rows that have no pitch of their own: the operation, the operand and the reason.
const NO_PITCH: &[(&str, &str, &str)] = &[
    ("attention", "lse", CONTIGUOUS),
    ("attention_backward", "lse", CONTIGUOUS),
    ("attention_backward", "delta", CONTIGUOUS),
    ("embedding", "ids", CONTIGUOUS),
    ("embedding_backward", "ids", CONTIGUOUS),
    ("layernorm_backward", "partials", CONTIGUOUS),
    ("multilevel", "items", CONTIGUOUS),
];

const CONTIGUOUS: &str = "the operation's check accepts only contiguous rows, and no kernel takes a pitch";

/// What was found in the cases of an operation.
#[derive(Default)]
struct Seen {
    /// Operands in `NO_PITCH` that had several rows.
    without: BTreeSet<&'static str>,
    /// Pairs of operands of several rows, and whether their pitches differ in some case.
    pairs: BTreeMap<(String, String), bool>,
    cases: usize,
    /// Messages about equal pitches.
    wrong: Vec<String>,
}

impl Seen {
    fn inspect(&mut self, case: usize, op: &Op) {
        self.cases += 1;
        let operands = self.operands(op);
        // If all operands are contiguous, equal widths imply equal pitches. Such cases are allowed.
        let packed = operands.iter().all(|(_, t)| t.is_contiguous());
        for (i, (first, a)) in operands.iter().enumerate() {
            // Operations in place: two equal operands have one pitch.
            for (second, b) in operands[i + 1..].iter().filter(|(_, b)| a != b) {
                let apart = pitch(a) != pitch(b);
                let pair = (first.min(second).clone(), first.max(second).clone());
                *self.pairs.entry(pair).or_default() |= apart;
                // Columns of the same buffer have the same pitch.
                let together = a.place() == b.place();
                if !apart && !packed && !together {
                    self.wrong.push(format!(
                        "{}, case {case}: {first} and {second} have the same pitch, {}; use Harness::pitch for both\n\
                         {op:?}",
                        op.name(),
                        pitch(a)
                    ));
                }
            }
        }
    }

    /// Returns the operands of several rows with their names.
    fn operands(&mut self, op: &Op) -> Vec<(String, Tensor)> {
        let (text, mut all) = (format!("{op:?}"), Vec::new());
        { *op }.operands(&mut |t, _| {
            let name = name(&text, t);
            let without = NO_PITCH.iter().find(|(operation, operand, _)| (*operation, *operand) == (op.name(), &name));
            if let Some((_, operand, _)) = without.filter(|_| rows(t) > 1) {
                self.without.insert(operand);
                assert!(t.is_contiguous(), "{operand} of {op:?} is listed in NO_PITCH but has a pitch");
            } else if rows(t) > 1 {
                all.push((name, *t));
            }
        });
        all
    }
}

/// Returns the number of rows, where all heads of one position form a single row.
fn rows(t: &Tensor) -> usize {
    match t.dims() {
        [batch, time, _, _] => batch * time,
        _ => t.rows(),
    }
}

/// Returns the pitch of these [`rows`].
fn pitch(t: &Tensor) -> usize {
    match t.dims() {
        [_, _, heads, size] if t.is_contiguous() => heads * size,
        _ => t.pitch(),
    }
}

/// Returns the name of an operand's field, found in the printed operation.
fn name(op: &str, t: &Tensor) -> String {
    let before = op.split(&format!("{t:?}")).next().unwrap_or_default();
    let before = before.trim_end_matches("Some(").trim_end_matches(": ");
    before.rsplit([' ', '{', ',']).next().unwrap_or_default().to_string()
}

/// Inspects all cases of an operation, including those of `kernels check --full`.
fn seen(operation: &str, float: DType) -> Seen {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let (inspected, own) = (seen.clone(), operation.to_string());
    let mut harness = Harness::walk(float, Choice { full: true, ..Choice::ALL }, move |case, op| {
        if op.name() == own {
            inspected.borrow_mut().inspect(case, op);
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
            wrong.extend(never.map(|((a, b), _)| format!("{operation}: {a} and {b} have equal pitches in every case")));
            for (_, operand, _) in NO_PITCH.iter().filter(|(of, ..)| *of == operation) {
                assert!(
                    seen.without.contains(operand),
                    "{operation}: {operand} never has several rows; remove it from NO_PITCH"
                );
            }
        }
    }
    let few: Vec<_> = wrong.iter().take(5).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} errors, the first of which are:\n{}", wrong.len(), few.join("\n"));
}
