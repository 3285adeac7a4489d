//! Tensor names match those of the fixtures: a model that is loaded and saved in the same form keeps every name, shape
//! and bit.

use super::support::{FAMILIES, Variant};
use std::fs;
use std::path::Path;
use vcycle::device;
use vcycle::hub::config::{self, Config};
use vcycle::hub::names::Names;
use vcycle::hub::tensors::{self, NamedTensor, StoreType};
use vcycle::hub::vit_config::{self, Form};
use vcycle::hub::{checkpoint, checkpoint::Loaded};

fn read(dir: &Path) -> Vec<NamedTensor> {
    let mut all = tensors::read(&dir.join(checkpoint::WEIGHTS)).expect("tensors");
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Loads a folder, saves it in the same form, and compares.
fn round_trip(dir: &Path) {
    let mut cpu = device::open("cpu", 1).expect("cpu");
    let Loaded { model, store, form, unused, .. } = checkpoint::load(dir, &mut *cpu).expect("a published model");
    assert!(unused.is_empty(), "unused tensors: {unused:?}");
    let out = tempfile::tempdir().expect("a folder");
    checkpoint::save_as(out.path(), &*model, &store, &mut *cpu, form, StoreType::F32).expect("saved");
    let (before, after) = (read(dir), read(out.path()));
    assert_eq!(before.len(), after.len());
    for (a, b) in before.iter().zip(&after) {
        assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
        assert!(a.values.iter().zip(&b.values).all(|(x, y)| x.to_bits() == y.to_bits()), "{} changed", a.name);
    }
    let config = |dir: &Path| config::read(&dir.join(checkpoint::CONFIG)).expect("a configuration");
    assert_eq!(config(dir), config(out.path()));
}

#[test]
fn published_files_round_trip_bit_for_bit() {
    for family in FAMILIES {
        let variant = Variant::open(family, "strided");
        let dir = tempfile::tempdir().expect("a folder");
        fs::copy(variant.dir.join("src.safetensors"), dir.path().join(checkpoint::WEIGHTS)).expect("copy");
        fs::copy(variant.dir.join("config.big.json"), dir.path().join(checkpoint::CONFIG)).expect("copy");
        round_trip(dir.path());
    }
}

/// The names in `transformers` differ from those in timm, and queries, keys and values are separate.
#[test]
fn vision_transformers_with_transformers_names_round_trip_bit_for_bit() {
    let variant = Variant::open("deit", "strided");
    let dir = tempfile::tempdir().expect("a folder");
    let timm = tensors::read(&variant.dir.join("src.safetensors")).expect("tensors");
    let count = timm.len();
    let renamed = Names::Vit.publish(timm).expect("names");
    // In each of four layers, the weight and the bias of the queries, keys and values are split into three: 4 more
    // tensors.
    assert_eq!(renamed.len(), count + 4 * 4);
    assert!(renamed.iter().any(|t| t.name == "vit.encoder.layer.3.attention.attention.key.bias"));
    let all: Vec<_> = renamed.into_iter().map(|t| (t.name, t.shape, t.values)).collect();
    tensors::write(&dir.path().join(checkpoint::WEIGHTS), &all).expect("written");
    let Config::Vit(config, _) = config::read(&variant.dir.join("config.big.json")).expect("a configuration") else {
        panic!("expected a vision transformer")
    };
    vit_config::write(&config, Form::HuggingFace, &dir.path().join(checkpoint::CONFIG)).expect("written");
    round_trip(dir.path());
}
