//! Promise: every operation reports its operands by the names of their fields, so that messages can name them.

use vcycle::device::ops::Op;
use vcycle::parity::harness::Harness;
use vcycle::parity::{Size, stems};
use vcycle::tensor::Place;

/// Calls `each` for every operand, with its name and the operation with this operand in a unique buffer.
fn for_operands(op: &Op, mut each: impl FnMut(&'static str, Op)) {
    let mut count = 0;
    { *op }.operands(&mut |_, _| count += 1);
    for i in 0..count {
        let (mut marked, mut n, mut found) = (*op, 0, "");
        marked.named_operands(&mut |name, t, _| {
            if n == i {
                (*t, found) = (t.with_place(Place::Buffer(987_654)), name);
            }
            n += 1;
        });
        each(found, marked);
    }
}

#[test]
fn names_are_those_of_the_fields() {
    let mut harness = Harness::cpu(&[1], false);
    for stem in stems() {
        let op = (stem.sample)(&mut harness, Size::Small);
        let mut names = Vec::new();
        for_operands(&op, |name, marked| {
            // The format of `derive(Debug)`.
            let text = format!("{marked:?}");
            let (before, _) = text.split_once("Tensor { place: Buffer(987654)").expect("the operand in its field");
            let before = before.strip_suffix("Some(").unwrap_or(before).strip_suffix(": ").expect("a field");
            let field = before.rsplit([' ', '(']).next().expect("a word");
            assert_eq!(name.rsplit('.').next(), Some(field), "{}", stem.name);
            names.push(name);
        });
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{}: two operands have the same name", stem.name);
        harness.clear();
    }
    harness.finish().expect("samples are accepted");
}
