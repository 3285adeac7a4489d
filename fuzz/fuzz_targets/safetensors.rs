//! A safetensors file. What is accepted is also accepted by the reference library, and is the same after being written
//! and read back.
//!
//! Sources: src/hub/tensors.rs src/files.rs
#![no_main]

use harness::{Memory, run, same};
use safetensors::SafeTensors;
use vcycle::hub::tensors::{self, NamedTensor, StoreType};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 2, per_byte: 256 }, |case| {
        let path = case.file("w.safetensors", data);
        let Some(found) = case.accepted(tensors::read(&path), "w.safetensors") else { return };
        for tensor in &found {
            same("values", &tensor.values.len(), &tensor.shape.iter().product());
            assert!(tensor.values.iter().all(|value| value.is_finite()));
        }
        if let Err(e) = SafeTensors::deserialize(data) {
            panic!("the reference library rejects it: {e}");
        }
        let parts: Vec<_> = found.iter().map(|t| (&t.name, &t.shape, &t.values)).collect();
        let again = case.dir.join("again.safetensors");
        tensors::write(&again, &parts).expect("tensors that were read");
        let mut copy = tensors::read(&again).expect("it was just written");
        let bits = |all: &[NamedTensor]| -> Vec<(String, Vec<usize>, Vec<u32>)> {
            let bits = |t: &NamedTensor| t.values.iter().map(|v| v.to_bits()).collect();
            all.iter().map(|t| (t.name.clone(), t.shape.clone(), bits(t))).collect()
        };
        let mut sorted = found.clone();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        copy.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(bits(&copy) == bits(&sorted), "the tensors differ after being written and read back");
        let half = case.dir.join("half.safetensors");
        if let Some(()) = case.accepted(tensors::write_as(&half, &parts, StoreType::F16), "half.safetensors") {
            tensors::read(&half).expect("it was just written");
        }
    });
});
