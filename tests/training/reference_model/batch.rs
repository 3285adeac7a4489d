//! The inputs of a model, and the facts about its data that its shapes depend on.

use vcycle::data::images::ImageBatch;
use vcycle::data::labelled::ClassifyBatch;
use vcycle::data::tokens::masking::MaskedBatch;

/// The inputs of a model of any family. Fields that the family does not use are empty.
#[derive(Clone)]
pub struct Batch {
    /// Ids, token types, key mask, scored rows of a micro-batch's hidden states, labels, next-sentence labels, and
    /// second labels of mixed images, at the indices [`IDS`] to [`OTHERS`].
    pub ints: [Vec<i32>; 7],
    /// Patches ([`PATCHES`]) or regression targets ([`VALUES`]), and the weights of the first labels of mixed images
    /// ([`SHARE`]).
    pub floats: [Vec<f32>; 2],
}

pub const IDS: usize = 0;
pub const TYPES: usize = 1;
pub const MASK: usize = 2;
pub const POSITIONS: usize = 3;
pub const LABELS: usize = 4;
pub const NEXT: usize = 5;
pub const OTHERS: usize = 6;
pub const PATCHES: usize = 0;
pub const VALUES: usize = 0;
pub const SHARE: usize = 1;

impl Batch {
    /// Returns micro-batch `i` of `n`.
    pub fn part(&self, i: usize, n: usize) -> Batch {
        fn cut<T: Clone>(all: &[T], i: usize, n: usize) -> Vec<T> {
            all[i * all.len() / n..(i + 1) * all.len() / n].to_vec()
        }
        Batch { ints: self.ints.each_ref().map(|v| cut(v, i, n)), floats: self.floats.each_ref().map(|v| cut(v, i, n)) }
    }

    pub fn masked(&mut self) -> MaskedBatch<'_> {
        let [ids, types, mask, positions, labels, next, _] = &mut self.ints;
        MaskedBatch { ids, types, mask, positions, labels, next }
    }

    pub fn labelled(&mut self) -> ClassifyBatch<'_> {
        let ([ids, types, mask, _, classes, ..], [values, _]) = (&mut self.ints, &mut self.floats);
        ClassifyBatch { ids, types, mask, classes, values }
    }

    pub fn images(&mut self) -> ImageBatch<'_> {
        let ([.., labels, _, others], [patches, share]) = (&mut self.ints, &mut self.floats);
        ImageBatch { patches, labels, others, share }
    }
}

/// Returns how many labels are scored, that is, are not -100.
pub fn scored(labels: &[i32]) -> usize {
    labels.iter().filter(|&&label| label != -100).count()
}

/// What a model must know about its data.
#[derive(Clone, Copy, Default)]
pub struct Facts {
    pub vocab: usize,
    pub pad: usize,
    /// The number of classes; 1 for regression.
    pub classes: usize,
    pub channels: usize,
    /// Examples per step.
    pub batch: usize,
    /// Examples per micro-batch.
    pub micro: usize,
    /// Tokens per example.
    pub context: usize,
}
