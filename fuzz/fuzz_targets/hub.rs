//! A downloaded model folder: `config.json` of any family, the choice of the weight file, shard indices, tensor names. Each
//! part of the input is a file whose name its first byte selects. An accepted configuration becomes a model without
//! weights and is written and read back unchanged. So are accepted weights.
//!
//! Sources: src/hub src/model
#![no_main]

use harness::{Case, Memory, parts, run, same};
use vcycle::device::cpu::Cpu;
use vcycle::hub::checkpoint::{class_names, load_config};
use vcycle::hub::config::{Config, read_with_class_names};
use vcycle::hub::{bert_config, checkpoint, folder, vit_config};

const NAMES: [&str; 13] = [
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
    "config.json",
];

/// A model of one layer.
const CONFIG: &str = r#"{"model_type": "gpt2", "vocab_size": 3, "n_positions": 2, "n_embd": 2, "n_head": 1, "n_layer": 1,
    "n_inner": 2}"#;

/// Tables of more layers take too long.
const MOST_LAYERS: usize = 100;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 16, per_byte: 1024 }, |case| {
        case.file("config.json", CONFIG.as_bytes());
        for part in parts(data) {
            if let Some((&name, bytes)) = part.split_first() {
                case.file(NAMES[usize::from(name) % NAMES.len()], bytes);
            }
        }
        let small = config(case);
        if let Some(weights) = case.accepted(folder::read(&case.dir), "case") {
            for tensor in &weights.tensors {
                same("values", &tensor.values.len(), &tensor.shape.iter().product());
                assert!(tensor.values.iter().all(|v| v.is_finite()));
            }
        }
        if small {
            weights(case);
        }
    });
});

/// Reads `config.json`. Returns whether the model has few enough layers to build.
fn config(case: &Case) -> bool {
    let path = case.dir.join("config.json");
    let Some((config, classes)) = case.accepted(read_with_class_names(&path), "config.json") else { return false };
    let layers = match &config {
        Config::Gpt2(c) => c.n_layer,
        Config::Bert(c) => c.layers,
        Config::Vit(c, _) => c.layers,
    };
    if layers <= MOST_LAYERS {
        case.accepted(load_config(&case.dir), "config.json").inspect(|m| assert!(!m.table().params.is_empty()));
        same("classes", &class_names(&case.dir).expect("as before"), &classes);
    }
    let (names, copy) = (classes.as_deref(), case.dir.join("again.json"));
    let written = match &config {
        Config::Gpt2(config) => config.write(&copy),
        Config::Bert(config) => bert_config::write_with_class_names(config, names, &copy),
        Config::Vit(config, form) => vit_config::write_with_class_names(config, *form, names, &copy),
    };
    written.unwrap_or_else(|e| panic!("a configuration that was read is not written: {e}"));
    let (again, named) = read_with_class_names(&copy).unwrap_or_else(|e| panic!("what was written is refused: {e}"));
    same("the configuration", &again, &config);
    if classes.is_some() {
        same("the classes", &named, &classes);
    }
    layers <= MOST_LAYERS
}

/// Loads the weights into a model, saves it and loads it again.
fn weights(case: &Case) {
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
}
