//! Promise: no file, however damaged or malicious, makes the program panic, hang, take memory without bounds, or take the
//! file for another one without a word. It is refused in a sentence that names the file and says what to do.
//!
//! One module for each family of files. Each makes valid files itself, mutates them with the seeded generators of
//! `mutate.rs`, and has `judge.rs` watch what the real entry points make of them.
//!
//! Some damage cannot be seen in a file alone, and the modules say where: other weights are weights, and another tokenizer
//! is a tokenizer. Token shards have sums beside them, so theirs is seen.

mod binary;
mod cases;
mod checkpoint;
mod config;
mod images;
mod judge;
mod mutate;
mod records;
mod safetensors;
mod shards;
mod tensors;
mod text;
mod tokenizer;
mod torch;
#[path = "../hub/torch_writer.rs"]
mod torch_writer;
