//! `vcycle.json` beside a coalesced model, and scheme files.
//!
//! Not detected: another seed of the random shares, another rule, or another scheme with the same sizes. Each is a
//! valid record of a different coalescing, and the weights do not show which one it was.

use crate::binary::vcycle;
use crate::judge::{assert_useful, folder, write};
use crate::mutate::{self, Case};
use crate::safetensors::save_model;
use serde_json::{Value, json};
use std::path::Path;
use vcycle::multilevel::scheme::ModelShape;
use vcycle::multilevel::{Record, Rules, Scheme, Shares};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("bytes")).expect("JSON")
}

#[test]
fn damaged_records() {
    let dir = folder();
    let at = dir.path();
    save_model(&at.join("small"), 1, 1);
    let scheme = Scheme { width_scheme: Some(vec![vec![0, 1]]), depth_scheme: Some(vec![vec![0, 1]]), head_size: None };
    let rules = Rules { shares: Shares::Random { seed: 7 }, ..Rules::default() };
    let record = Record::new(scheme, rules, ModelShape { layers: 2, heads: 2, head_size: 4 });
    record.write(&at.join("small")).expect("written");
    let path = at.join("small/vcycle.json");
    let valid = std::fs::read(&path).expect("bytes");
    let mut cases = mutate::bytes(&valid, &[1, valid.len() / 2, valid.len()], 1, 10);
    cases.extend(mutate::json(&read(&path), 2, 40));
    for key in ["layers", "heads", "head_size"] {
        for number in [0, 1, 3, 9_999, 10_000, i32::MAX as u64, 1 << 32, 1 << 62, u64::MAX] {
            let mut lie = read(&path);
            lie["parent"][key] = number.into();
            lie["scheme"] = json!({});
            cases.push(Case { name: format!("{key} is {number}"), bytes: lie.to_string().into() });
        }
    }
    for Case { name, bytes } in cases {
        write(&path, &bytes);
        let out = at.join("out");
        match vcycle(at, &["decoalesce", "small", "--out", "out"]) {
            Err(message) => {
                assert_useful("", &name, &message);
                assert!(message.contains("vcycle.json") || message.contains("decoalesce: "), "{name}: {message}");
                assert!(!out.exists(), "{name} left a folder behind");
            }
            Ok(_) => {
                let (taken, made) = (read(&path), read(&out.join("config.json")));
                assert_eq!(made["n_layer"], taken["parent"]["layers"], "{name}");
                assert_eq!(made["n_head"], taken["parent"]["heads"], "{name}");
                std::fs::remove_dir_all(&out).expect("removed");
            }
        }
    }
    mutate::in_place_of(&path, |name| {
        let message = vcycle(at, &["decoalesce", "small", "--out", "out"]).expect_err(name);
        assert_useful("vcycle.json", name, &message);
    });
}

#[test]
fn damaged_schemes() {
    let dir = folder();
    let at = dir.path();
    save_model(&at.join("big"), 2, 2);
    let path = at.join("scheme.json");
    let scheme = json!({"width_scheme": [[0, 1]], "depth_scheme": [[0], [1]], "head_size": 4});
    let valid = scheme.to_string().into_bytes();
    let mut cases = mutate::bytes(&valid, &[1, 20, valid.len()], 1, 10);
    cases.extend(mutate::json(&scheme, 2, 30));
    for Case { name, bytes } in cases {
        write(&path, &bytes);
        let out = at.join("out");
        match vcycle(at, &["coalesce", "big", "--scheme", "scheme.json", "--out", "out"]) {
            Err(message) => {
                assert_useful("", &name, &message);
                assert!(
                    message.contains("scheme") || message.contains("coalesce: ") || message.contains("model's own"),
                    "{name}: {message}"
                );
                assert!(!out.exists(), "{name} left a folder behind");
            }
            Ok(_) => {
                let (given, taken) = (read(&path), read(&out.join("vcycle.json"))["scheme"].clone());
                for key in ["width_scheme", "depth_scheme", "head_size"] {
                    assert_eq!(given[key], taken[key], "{name}");
                }
                std::fs::remove_dir_all(&out).expect("removed");
            }
        }
    }
    mutate::in_place_of(&path, |name| {
        let message = vcycle(at, &["coalesce", "big", "--scheme", "scheme.json", "--out", "out"]).expect_err(name);
        assert_useful("scheme.json", name, &message);
    });
}
