//! Tests of the data modules: text, tokenizers, shards, batches, the cache, streaming, foreign formats, images and
//! prefetching.

mod classify;
mod commands;
mod formats;
mod held_out;
mod images;
mod masking;
mod prefetch;
mod prepare;
mod sampler;
mod shard;
mod streaming;
mod text;
mod tokenizer;
mod vocab_files;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proptest::prelude::*;
use tempfile::TempDir;
use vcycle::data::prepared::cache::{DataSpec, Dataset, prepare};
use vcycle::data::text::{HeldOut, read_text, split};
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::sampler::{IGNORED, Sampler, check_length, overlapping_batch, validation_batch};
use vcycle::data::tokens::shard::{Shard, write_shard};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn file(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("write a test file");
    path
}

/// Returns the error message, which must contain all `parts`.
fn error_with<T>(result: vcycle::error::Result<T>, parts: &[&str]) -> String {
    let Err(error) = result else { panic!("no error; wanted one with {parts:?}") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    text
}

/// Twelve small documents with blank lines, numbers and characters of one to four bytes.
fn documents() -> String {
    (0..12)
        .map(|i| {
            format!(
                "== {i} Título {} ==\n\nThe quick brown fox number {i} jumped; it's 日本 and 🦊.\n\n{}\n",
                i * 7,
                "Fellow citizens of the Senate, the state of the union is strong.\n".repeat(3 + i)
            )
        })
        .collect()
}

fn by_prefix(prefix: &str, every: usize) -> HeldOut {
    HeldOut { prefix: Some(prefix.to_owned()), every }
}

fn by_size(every: usize) -> HeldOut {
    HeldOut { prefix: None, every }
}
