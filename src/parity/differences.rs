//! Describes for messages which element of which operand differs.

use crate::device::ops::Op;
use crate::tensor::{DType, Place};
use half::bf16;

/// Describes the first element in which the memory of two devices differs, with both values. `arenas` has the number,
/// type and size in elements of each arena; `one` and `other` have the bytes of each arena.
pub fn first(op: &Op, arenas: &[(u32, DType, usize)], [one, other]: [&[Vec<u8>]; 2]) -> String {
    for ((one, other), (arena, dtype, elements)) in one.iter().zip(other).zip(arenas) {
        let size = one.len() / elements.max(&1);
        let pairs = one.chunks_exact(size.max(1)).zip(other.chunks_exact(size.max(1)));
        if let Some((e, (a, b))) = pairs.enumerate().find(|(_, (a, b))| a != b) {
            return format!("{} is {}, not {}", place(op, *arena, e), number(*dtype, a), number(*dtype, b));
        }
    }
    "nothing".into()
}

/// Describes where an element of an arena lies, such as "row 3, column 5 of `out`".
pub fn place(op: &Op, arena: u32, element: usize) -> String {
    // The operand that contains the element, otherwise the nearest one.
    let mut best: Option<(usize, String)> = None;
    { *op }.named_operands(&mut |name, t, _| {
        if t.place() != Place::Arena(arena) || t.numel() == 0 {
            return;
        }
        let (offset, last) = (element.wrapping_sub(t.offset()) as isize, (t.rows() - 1) * t.pitch() + t.width());
        let (row, column) = (offset.div_euclid(t.pitch() as isize), offset.rem_euclid(t.pitch() as isize));
        let (distance, text) = match usize::try_from(offset) {
            Err(_) => {
                (offset.unsigned_abs(), format!("element {} before the start of `{name}`", offset.unsigned_abs()))
            }
            Ok(at) if at >= last => (at - last + 1, format!("element {} after the end of `{name}`", at - last + 1)),
            Ok(_) if column as usize >= t.width() => (1, format!("the gap after row {row} of `{name}`")),
            Ok(_) => (0, format!("row {row}, column {column} of `{name}`")),
        };
        if best.as_ref().is_none_or(|(least, _)| distance < *least) {
            best = Some((distance, text));
        }
    });
    best.map_or_else(|| format!("element {element} of an arena without operands"), |(_, text)| text)
}

/// Formats an element; NaN with its bits.
fn number(dtype: DType, bytes: &[u8]) -> String {
    let float = |value: f64| match value.is_nan() {
        true => format!("NaN ({})", bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>()),
        false => format!("{value:?}"),
    };
    match *bytes {
        [a, b] if dtype.is_float() => float(bf16::from_le_bytes([a, b]).to_f64()),
        [a, b, c, d] if dtype.is_float() => float(f64::from(f32::from_le_bytes([a, b, c, d]))),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).to_string(),
        _ => format!("{bytes:02x?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, first, place};
    use crate::device::ops::{ColumnSum, Op};
    use crate::tensor::{DType, Tensor};

    /// `x`: 2 rows of 3 elements, 5 apart, from element 4 of arena 7. `out`: their sum, in arena 8.
    fn op() -> Op {
        let tensor = |arena, offset, dims: &[usize]| Tensor::new(Place::Arena(arena), DType::F32, offset, dims);
        ColumnSum { x: tensor(7, 4, &[2, 3]).with_pitch(5), out: tensor(8, 0, &[3]), accumulate: false }.into()
    }

    #[test]
    fn elements_are_described_inside_and_outside_of_operands() {
        let expected = [
            (10, "row 1, column 1 of `x`"),
            (7, "the gap after row 0 of `x`"),
            (12, "element 1 after the end of `x`"),
            (1, "element 3 before the start of `x`"),
        ];
        expected.iter().for_each(|(element, text)| assert_eq!(place(&op(), 7, *element), *text));
        assert_eq!(place(&op(), 8, 2), "row 0, column 2 of `out`");
        assert_eq!(place(&op(), 9, 2), "element 2 of an arena without operands");
    }

    #[test]
    fn the_first_difference_is_shown_with_both_numbers() {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let arenas = [(7, DType::F32, 12), (8, DType::F32, 3)];
        let [one, other] = [[1.0, f32::NAN, 3.0], [1.0, 2.5, 4.0]].map(|sums| [bytes(&[0.0; 12]), bytes(&sums)]);
        assert_eq!(first(&op(), &arenas, [&one, &other]), "row 0, column 1 of `out` is NaN (7fc00000), not 2.5");
    }
}
