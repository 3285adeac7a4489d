//! From a text file to batches of token ids.
//!
//! [`text`] reads a file and holds part of it out, [`tokenizer`] turns text into tokens, [`shard`] keeps the tokens in
//! a memory-mapped file, [`prepare`] does these three once and caches the result, and [`sampler`] cuts training and
//! validation batches out of a shard.

pub mod prepare;
pub mod sampler;
pub mod shard;
pub mod text;
pub mod tokenizer;
mod untrusted;
