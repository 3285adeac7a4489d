//! Promise: what is held out is never trained on, and it alone is scored, each of it once, whatever the data's form and the
//! model's family; and the seed decides the order of the training data, but not the masks of held-out text.
//!
//! Held-out data carry sentinels: tokens, labels or pixel values that occur nowhere else. Each test splits its data itself and
//! compares that with what batches bring.

mod elsewhere;
mod images;
mod labelled;
mod losses;
mod masked;
mod seeds;
mod support;
mod text;
mod tokenizers;
