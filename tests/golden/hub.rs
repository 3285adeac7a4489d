//! Hub names are those of the fixtures: what is loaded and saved keeps every bit.

use super::support::Variant;
use vcycle::device;
use vcycle::hub::{checkpoint, tensors};

#[test]
fn published_files_load_as_they_are() {
    let mut cpu = device::open("cpu", 1).expect("cpu");
    let variant = Variant::open("gpt2", "strided");
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(variant.dir.join("src.safetensors"), dir.path().join(checkpoint::WEIGHTS)).expect("copy");
    std::fs::copy(variant.dir.join("config.big.json"), dir.path().join(checkpoint::CONFIG)).expect("copy");
    let (model, store) = checkpoint::load_gpt(dir.path(), &mut *cpu).expect("a published model");
    let out = tempfile::tempdir().expect("a folder");
    checkpoint::save(out.path(), &model, &store, &mut *cpu).expect("saved");
    let read = |path: &std::path::Path| tensors::read(&path.join(checkpoint::WEIGHTS)).expect("tensors");
    let (mut before, mut after) = (read(dir.path()), read(out.path()));
    before.sort_by(|a, b| a.name.cmp(&b.name));
    after.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(before.len(), after.len());
    for (a, b) in before.iter().zip(&after) {
        assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
        assert!(a.values.iter().zip(&b.values).all(|(x, y)| x.to_bits() == y.to_bits()), "{} changed", a.name);
    }
}
