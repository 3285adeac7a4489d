//! Promise: no file, however damaged or malicious, makes the program panic, hang, allocate without bounds, or silently
//! read wrong content. It is refused with a message that names the file and says what to do.
//!
//! One module for each kind of file. Each makes valid files, mutates them with the seeded generators of `mutate.rs`,
//! passes them to the real entry points, and checks the result with `judge.rs`.
//!
//! Some damage cannot be detected from a file alone, and the modules say where: changed weights are still weights, and
//! a changed tokenizer is still a tokenizer. Token shards have checksums beside them, so damage to those is detected.

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
