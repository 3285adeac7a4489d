//! Every operand of a case has a pitch of its own: a kernel that takes the one for the other is noticed.

use super::Harness;

/// What lies between the rows of an operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gap {
    /// Nothing: the pitch is the width, so operands of one width share it. Kernels have launch code of their own for this
    /// layout, which needs it of all operands. `tests/kernels/pitches.rs` allows it to nothing less.
    None,
    /// So many elements, or a few more.
    Elements(usize),
    /// One element or more, up to a multiple of so many: rows begin where accesses of 16 bytes may.
    UpTo(usize),
}

/// As accesses of 16 bytes want it in any type.
pub const WHOLE: Gap = Gap::UpTo(8);

impl Harness {
    /// A pitch for rows of this width that no other operand of the case has yet; 0 for rows back to back.
    pub fn pitch(&mut self, width: usize, gap: Gap) -> usize {
        let (mut pitch, step) = match gap {
            Gap::None => return 0,
            Gap::Elements(gap) => (width + gap, 1),
            Gap::UpTo(multiple) => ((width + 1).next_multiple_of(multiple), multiple),
        };
        while self.pitches.contains(&pitch) {
            pitch += step;
        }
        self.pitches.push(pitch);
        pitch
    }
}
