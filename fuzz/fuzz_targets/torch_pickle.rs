//! The pickle in a `torch.save` file and its storages. The target puts them into an archive with correct checksums,
//! which mutation would never find. The first part of the input is the pickle, the others are storages `0`, `1` and so
//! on.
//!
//! Sources: src/hub/torch src/hub/tensors.rs
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/hub/torch_writer.rs"]
mod torch_writer;

use harness::{Memory, parts, run, same};
use vcycle::hub::torch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let parts = parts(data);
    let Some((pickle, storages)) = parts.split_first() else { return };
    run(data, Memory { mib: 8, per_byte: 2048 }, |case| {
        let keys: Vec<String> = (0..storages.len().min(8)).map(|key| key.to_string()).collect();
        let storages: Vec<(&str, &[u8])> = keys.iter().map(String::as_str).zip(storages.iter().copied()).collect();
        let path = case.file("pytorch_model.bin", &torch_writer::archive(pickle, &storages));
        let Some(found) = case.accepted(torch::read(&path), "pytorch_model.bin") else { return };
        for tensor in &found {
            same("values", &tensor.values.len(), &tensor.shape.iter().product());
            assert!(tensor.values.iter().all(|value| value.is_finite()));
        }
    });
});
