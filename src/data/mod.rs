//! Everything between data files and batches in host memory: batches of token ids from text, batches of patches from
//! images.
//!
//! | folder        | contents                                                                              |
//! |---------------|---------------------------------------------------------------------------------------|
//! | [`text`]      | readers (plain, gzip, Zstandard, JSON lines), documents, the training/held-out split  |
//! | [`tokenizer`] | loading and training tokenizers, encoding text of any length, special tokens          |
//! | [`tokens`]    | token shards and foreign token files, samplers of rows, masking for masked models     |
//! | [`labelled`]  | labelled texts to fine-tune on, and matching their labels with a checkpoint's classes |
//! | [`loader`]    | what all batches have in common, and prefetching them on another thread               |
//! | [`prepared`]  | data tokenized once and kept on disk: the cache, data folders, a run's corpus         |
//! | [`images`]    | image files, image shards, augmentation, and batches of patches                       |
//!
//! Three modules serve all of them: [`mapped`] maps files into memory, [`random`] computes reproducible random numbers
//! and permutations, and [`fingerprint`] hashes files and settings. `crate::model::feed` copies batches to a device.

pub mod fingerprint;
pub mod images;
pub mod labelled;
pub mod loader;
pub mod mapped;
pub mod prepared;
pub mod random;
pub mod text;
pub mod tokenizer;
pub mod tokens;
