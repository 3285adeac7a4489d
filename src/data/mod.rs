//! From text or token files to batches of token ids, and from images to batches of patches.
//!
//! [`reader`] streams a file's text and [`documents`] divides it, [`text`] holds part of it out, [`tokenizer`] and
//! [`encoder`] turn text into tokens (`vocab_files` knows older forms of tokenizers), [`shard`] keeps the tokens in a
//! memory-mapped file ([`shard_writer`] writes it, [`formats`] knows those of others, and `foreign` what is none). [`prepare`] does all this once for a
//! configuration's text and caches the result, [`folder`] does it for `vcycle data prepare`. [`tokens`] makes one stream of
//! many shards, [`corpus`] has both sides of what a run reads, and [`sampler`] cuts training and validation batches out of
//! it. [`masking`] makes the batches of masked models, of rows that [`windows`] cuts; [`vocabulary`] knows their special
//! tokens. [`classify`] reads labelled texts to fine-tune on, and [`classes`] matches their labels with a checkpoint's classes. [`images`] does for images and their classes what the others do
//! for text. [`batch`] is what all batches have in common, [`inputs`] brings them to a device, and [`prefetch`] makes them ahead of time.

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
