//! A `config.json` of any model family. What is accepted is built as a model without weights, and is the same after
//! being written and read back.
//!
//! Sources: src/hub/config.rs src/hub/keys.rs src/hub/classes.rs src/hub/bert_config.rs src/hub/gpt2_config.rs src/hub/vit_config.rs src/hub/timm_config.rs src/model
#![no_main]

use harness::{Memory, run, same};
use vcycle::hub::checkpoint::{class_names, load_config};
use vcycle::hub::config::{Config, read_with_class_names};
use vcycle::hub::{bert_config, vit_config};

/// Models with more layers are not built, to save time.
const MOST_LAYERS: usize = 100;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 16, per_byte: 1024 }, |case| {
        let path = case.file("config.json", data);
        let Some((config, classes)) = case.accepted(read_with_class_names(&path), "config.json") else { return };
        let layers = match &config {
            Config::Gpt2(c) => c.n_layer,
            Config::Bert(c) => c.layers,
            Config::Vit(c, _) => c.layers,
        };
        if layers <= MOST_LAYERS {
            case.accepted(load_config(&case.dir), "config.json").inspect(|m| assert!(!m.table().params.is_empty()));
            same("classes", &class_names(&case.dir).expect("as before"), &classes);
        }
        let names = classes.as_deref();
        let written = match &config {
            Config::Gpt2(config) => config.write(&path),
            Config::Bert(config) => bert_config::write_with_class_names(config, names, &path),
            Config::Vit(config, form) => vit_config::write_with_class_names(config, *form, names, &path),
        };
        written.unwrap_or_else(|e| panic!("cannot write a configuration that was accepted: {e}"));
        let (again, named) = read_with_class_names(&path).unwrap_or_else(|e| panic!("a written configuration is rejected: {e}"));
        same("the configuration", &again, &config);
        if classes.is_some() {
            same("the classes", &named, &classes);
        }
    });
});
