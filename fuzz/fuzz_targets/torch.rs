//! `torch.save` files. The first byte selects whether the input is a file in either format, or a pickle (the first part)
//! and storages `0`, `1` and so on (the other parts) that become an archive with correct checksums, which mutation would
//! never find.
//!
//! Sources: src/hub/torch src/hub/tensors.rs
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/hub/torch_writer.rs"]
mod torch_writer;

use harness::{Memory, choice, parts, run, same};
use vcycle::hub::torch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((form, data)) = choice(data) else { return };
    let archive = if form % 2 == 0 { None } else { Some(archive(data)) };
    run(data, Memory { mib: 8, per_byte: 2048 }, |case| {
        let path = case.file("pytorch_model.bin", archive.as_deref().unwrap_or(data));
        let Some(found) = case.accepted(torch::read(&path), "pytorch_model.bin") else { return };
        for tensor in &found {
            same("values", &tensor.values.len(), &tensor.shape.iter().product());
            assert!(tensor.values.iter().all(|value| value.is_finite()));
        }
    });
});

fn archive(data: &[u8]) -> Vec<u8> {
    let parts = parts(data);
    let (pickle, storages) = parts.split_first().map_or((&[][..], &[][..]), |(&pickle, rest)| (pickle, rest));
    let keys: Vec<String> = (0..storages.len().min(8)).map(|key| key.to_string()).collect();
    let storages: Vec<(&str, &[u8])> = keys.iter().map(String::as_str).zip(storages.iter().copied()).collect();
    torch_writer::archive(pickle, &storages)
}
