//! Promise: held-out data is never trained on, and evaluations score exactly the held-out data, each item once, for
//! every data format and model family. The seed decides the order of the training data, but not the masks of held-out
//! text.
//!
//! Held-out data contains sentinels: tokens, labels or pixel values that occur nowhere else. Each test splits its data
//! itself and compares the result with the batches.

mod elsewhere;
mod images;
mod labelled;
mod losses;
mod masked;
mod seeds;
mod support;
mod text;
mod tokenizers;
