//! Reads and writes checkpoints of `transformers`, timm and PyTorch: `config.json` ([`config`]), weights in any
//! published format ([`folder`]), and the tensor names of each library ([`names`]).
//!
//! Everything read here comes from outside and may be truncated, damaged or hostile. The readers check it in full,
//! never panic, and allocate in proportion to the size of the file, not to what the file claims.

pub mod bert_config;
pub mod checkpoint;
mod classes;
pub mod config;
pub mod folder;
pub mod gpt2_config;
mod keys;
pub mod names;
pub mod tensors;
mod timm_config;
pub mod torch;
pub mod vit_config;
