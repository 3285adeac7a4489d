//! Gives every operand of a case a different pitch, so that a kernel that confuses two pitches fails.

use super::Harness;

/// The gap between the rows of an operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gap {
    /// No gap: the pitch is the width, so operands of the same width share it. Some kernels have separate launch code
    /// for operands that all have this layout, so it must be tested; `tests/kernels/pitches.rs` allows it only for
    /// that.
    None,
    /// This many elements, or a few more.
    Elements(usize),
    /// One element or more, up to a pitch that is a multiple of this many elements, so that rows are aligned.
    UpTo(usize),
}

/// Aligns rows for accesses of 16 bytes, in any type.
pub const ALIGNED: Gap = Gap::UpTo(8);

impl Harness {
    /// Returns a pitch for rows of this width that no other operand of the case has; 0 for rows without gaps.
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
