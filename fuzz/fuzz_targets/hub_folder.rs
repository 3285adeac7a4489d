//! A model folder: which file contains the weights, indices of shards, tensor names. Each part of the input is a file;
//! its first byte selects the name.
//!
//! Sources: src/hub
#![no_main]

use harness::{Memory, parts, run};
use vcycle::device::cpu::Cpu;
use vcycle::hub::{checkpoint, folder};

const NAMES: [&str; 12] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "1.safetensors",
    "2.safetensors",
    "1.bin",
    "model_best.pth.tar",
    "last.pth.tar",
    "weights.pt",
    "tokenizer.json",
    "vcycle.json",
];

/// The configuration of a GPT-2 with one layer.
const CONFIG: &str = r#"{"model_type": "gpt2", "vocab_size": 3, "n_positions": 2, "n_embd": 2, "n_head": 1, "n_layer": 1,
    "n_inner": 2}"#;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 4, per_byte: 1024 }, |case| {
        for part in parts(data) {
            if let Some((&name, bytes)) = part.split_first() {
                case.file(NAMES[usize::from(name) % NAMES.len()], bytes);
            }
        }
        case.file("config.json", CONFIG.as_bytes());
        if let Some(weights) = case.accepted(folder::read(&case.dir), "case") {
            for tensor in &weights.tensors {
                assert!(
                    tensor.values.len() == tensor.shape.iter().product::<usize>()
                        && tensor.values.iter().all(|v| v.is_finite())
                );
            }
        }
        let mut device = Cpu::new(1);
        let Some(loaded) = case.accepted(checkpoint::load(&case.dir, &mut device), "case") else { return };
        let again = case.dir.join("again");
        std::fs::create_dir(&again).expect("a folder in memory");
        checkpoint::save(&again, &*loaded.model, &loaded.store, &mut device).expect("a model that was read");
        let copy = checkpoint::load(&again, &mut device).expect("it was just written");
        for i in 0..loaded.model.table().params.len() {
            let [a, b] = [&loaded.store, &copy.store].map(|store| store.read(&mut device, i).expect("values"));
            assert!(a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())), "parameter {i}");
        }
    });
});
