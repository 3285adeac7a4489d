//! Hub names are those of the fixtures: what is loaded and saved in its own form keeps every name, shape and bit.

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

/// Loads a folder and saves it in its own form.
fn round_trip(dir: &Path) {
    let mut cpu = device::open("cpu", 1).expect("cpu");
    let Loaded { model, store, form, unused, .. } = checkpoint::load(dir, &mut *cpu).expect("a published model");
    assert!(unused.is_empty(), "left out: {unused:?}");
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
fn published_files_keep_every_bit() {
    for family in FAMILIES {
        let variant = Variant::open(family, "strided");
        let dir = tempfile::tempdir().expect("a folder");
        fs::copy(variant.dir.join("src.safetensors"), dir.path().join(checkpoint::WEIGHTS)).expect("copy");
        fs::copy(variant.dir.join("config.big.json"), dir.path().join(checkpoint::CONFIG)).expect("copy");
        round_trip(dir.path());
    }
}

/// The names of `transformers` for what timm names otherwise: queries, keys and values apart.
#[test]
fn vision_transformers_in_the_form_of_transformers_keep_every_bit() {
    let variant = Variant::open("deit", "strided");
    let dir = tempfile::tempdir().expect("a folder");
    let timm = tensors::read(&variant.dir.join("src.safetensors")).expect("tensors");
    let count = timm.len();
    let renamed = Names::Vit.publish(timm).expect("names");
    // Queries, keys and values of weight and bias in four layers.
    assert_eq!(renamed.len(), count + 4 * 4);
    assert!(renamed.iter().any(|t| t.name == "vit.encoder.layer.3.attention.attention.key.bias"));
    let all: Vec<_> = renamed.into_iter().map(|t| (t.name, t.shape, t.values)).collect();
    tensors::write(&dir.path().join(checkpoint::WEIGHTS), &all).expect("written");
    let Config::Vit(config, _) = config::read(&variant.dir.join("config.big.json")).expect("a configuration") else {
        panic!("a vision transformer")
    };
    vit_config::write(&config, Form::HuggingFace, &dir.path().join(checkpoint::CONFIG)).expect("written");
    round_trip(dir.path());
}
