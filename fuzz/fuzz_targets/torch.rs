//! A `torch.save` file in either format, used unchanged.
//!
//! Sources: src/hub/torch src/hub/tensors.rs
#![no_main]

use harness::{Memory, run, same};
use vcycle::hub::torch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 8, per_byte: 2048 }, |case| {
        let path = case.file("pytorch_model.bin", data);
        let Some(found) = case.accepted(torch::read(&path), "pytorch_model.bin") else { return };
        for tensor in &found {
            same("values", &tensor.values.len(), &tensor.shape.iter().product());
            assert!(tensor.values.iter().all(|value| value.is_finite()));
        }
    });
});
