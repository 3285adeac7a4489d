//! Model folders: `model.safetensors` and `config.json`.
//!
//! Not detected: weights that become other finite weights, and two swapped tensors of the same shape. The format has no
//! checksums, so such a file looks like another trained model.

use crate::judge::{folder, judge, write};
use crate::mutate::{self, Case};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use vcycle::device::cpu::Cpu;
use vcycle::error::Result;
use vcycle::hub::checkpoint;
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;

/// The content of a model folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    config: GptConfig,
    weights: Vec<(String, Vec<u32>)>,
}

fn load(dir: &Path) -> Result<Found> {
    let mut device = Cpu::new(1);
    let (gpt, store) = checkpoint::load_gpt(dir, &mut device)?;
    let params = gpt.table().params.iter().enumerate();
    let bits = |values: Vec<f32>| values.iter().map(|v| v.to_bits()).collect();
    let weights = params.map(|(i, p)| Ok((p.name(), bits(store.read(&mut device, i)?)))).collect::<Result<_>>()?;
    Ok(Found { config: gpt.config, weights })
}

fn reader(dir: &Path) -> impl FnOnce() -> Result<Found> + use<> {
    let dir = dir.to_path_buf();
    move || load(&dir)
}

/// Saves a small model in `dir`.
pub fn save_model(dir: &Path, layers: usize, heads: usize) {
    let config = GptConfig {
        vocab: 11,
        context: 5,
        width: 4 * heads,
        heads,
        layers,
        ffn: 16 * heads,
        eps: 1e-5,
        init_std: 0.02,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    };
    let gpt = Gpt::new(config).expect("a model");
    let mut device = Cpu::new(1);
    let store = Store::new(gpt.table().clone(), &mut device).expect("memory");
    store.initialise(&mut device, 1).expect("values");
    std::fs::create_dir_all(dir).expect("a folder");
    checkpoint::save(dir, &gpt, &store, &mut device).expect("saved");
}

fn weights(dir: &Path) -> (PathBuf, Vec<u8>, usize) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).expect("bytes");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    (path, bytes, 8 + header)
}

fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

#[test]
fn damaged_bytes() {
    let dir = folder();
    save_model(dir.path(), 1, 1);
    let original = load(dir.path()).expect("a valid model");
    let (path, valid, data) = weights(dir.path());
    for Case { name, bytes } in mutate::bytes(&valid, &[1, 7, 8, data / 2, data], 1, 150) {
        write(&path, &bytes);
        let Ok(found) = judge("model.safetensors", &name, reader(dir.path())) else { continue };
        assert_eq!(found.config, original.config, "{name}");
        assert_eq!(bytes.len(), valid.len(), "{name}");
        if bytes[data..] == valid[data..] {
            assert_eq!(found, original, "{name}: only the header was changed");
        }
        // Up to eight contiguous changed bytes touch up to three weights; a swap touches two.
        let changed = original
            .weights
            .iter()
            .zip(&found.weights)
            .map(|(a, b)| a.1.iter().zip(&b.1).filter(|(a, b)| a != b).count());
        assert!(changed.sum::<usize>() <= 3, "{name}");
    }
    mutate::in_place_of(&path.clone(), |name| {
        judge("model.safetensors", name, reader(dir.path())).expect_err(name);
    });
}

#[test]
fn inconsistent_headers_are_refused() {
    let dir = folder();
    save_model(dir.path(), 1, 1);
    let original = load(dir.path()).expect("a valid model");
    let (path, valid, data) = weights(dir.path());
    let header: Value = serde_json::from_slice(&valid[8..data]).expect("JSON");
    for Case { name, bytes } in mutate::json(&header, 2, 120) {
        write(&path, &file(&bytes, &valid[data..]));
        if let Ok(found) = judge("model.safetensors", &name, reader(dir.path())) {
            assert_eq!(found, original, "{name}");
        }
    }
    let refused = |name: &str, header: &Value, data: &[u8]| {
        write(&path, &file(header.to_string().as_bytes(), data));
        judge("model.safetensors", name, reader(dir.path())).expect_err(name);
    };
    let with = |tensor: &str, key: &str, value: Value| {
        let mut header = header.clone();
        header[tensor][key] = value;
        header
    };
    let norm = "transformer.ln_f.bias";
    for (from, to) in [(0, 0), (0, u64::MAX), (u64::MAX, 0), (u64::MAX - 16, u64::MAX), (1 << 63, 1 << 63), (4, 20)] {
        refused("offsets", &with(norm, "data_offsets", json!([from, to])), &valid[data..]);
    }
    for shape in [
        json!([]),
        json!([0]),
        json!([u64::MAX]),
        json!([1u64 << 32, 1u64 << 32]),
        json!([2, 2]),
        json!([1, 1, 1, 1, 4]),
    ] {
        refused("shapes", &with(norm, "shape", shape), &valid[data..]);
    }
    for dtype in ["F16", "F64", "I32", "F8_E4M3", "f32", ""] {
        refused("types", &with(norm, "dtype", json!(dtype)), &valid[data..]);
    }
    let mut many = header.clone();
    for i in 0..50_000 {
        many[format!("nothing.{i}")] = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    }
    refused("tensors without elements", &many, &valid[data..]);
    let scalars = json!({"a": {"dtype": "F32", "shape": vec![1; 100_000], "data_offsets": [0, 4]}});
    refused("a hundred thousand axes", &scalars, &[0; 4]);
}

#[test]
fn damaged_configurations() {
    let dir = folder();
    save_model(dir.path(), 1, 1);
    let original = load(dir.path()).expect("a valid model");
    let path = dir.path().join("config.json");
    let valid = std::fs::read(&path).expect("bytes");
    let value: Value = serde_json::from_slice(&valid).expect("JSON");
    let mut cases = mutate::bytes(&valid, &[1, valid.len() / 2, valid.len()], 3, 40);
    cases.extend(mutate::json(&value, 4, 250));
    for key in ["vocab_size", "n_positions", "n_embd", "n_head", "n_layer", "n_inner"] {
        for number in [0, 2, 9999, i32::MAX as u64, 1 << 31, u64::from(u32::MAX), 1 << 40, u64::MAX] {
            let mut lie = value.clone();
            lie[key] = number.into();
            cases.push(Case { name: format!("{key} is {number}"), bytes: lie.to_string().into() });
        }
    }
    for Case { name, bytes } in cases {
        write(&path, &bytes);
        // The configuration is refused on its own, or because it does not fit the weights.
        let folder = dir.path().display().to_string();
        let Ok(found) = judge(&folder, &name, reader(dir.path())) else { continue };
        let c = &found.config;
        let sizes = |c: &GptConfig| (c.vocab, c.context, c.width, c.layers, c.ffn);
        assert_eq!(sizes(c), sizes(&original.config), "{name}");
        assert_eq!(found.weights, original.weights, "{name}");
        assert!(c.width.is_multiple_of(c.heads) && c.eps > 0.0 && c.eps.is_finite(), "{name}");
        let rates = [c.dropout_embedding, c.dropout_attention, c.dropout_residual];
        assert!(rates.iter().all(|p| (0.0..1.0).contains(p)), "{name}: {rates:?}");
    }
    mutate::in_place_of(&path.clone(), |name| {
        judge("config.json", name, reader(dir.path())).expect_err(name);
    });
}
