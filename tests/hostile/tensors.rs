//! The tensors of a stopped run's newest checkpoint with valid checksums: only files that a strict reader accepts are
//! read.

use crate::checkpoint::{NEWEST, Stopped, put};
use crate::mutate::{self, Case};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The tensors of a file by name.
type Tensors = BTreeMap<String, Tensor>;
type Tensor = (Dtype, Vec<u8>);

fn tensors(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).expect("a valid file");
    file.tensors().into_iter().map(|(name, view)| (name, (view.dtype(), view.data().to_vec()))).collect()
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, (dtype, data))| {
            let count = data.len() * 8 / dtype.bitsize();
            (name.as_str(), TensorView::new(*dtype, vec![count], data).expect("a view"))
        })
        .collect();
    safetensors::serialize(views, None).expect("a file")
}

/// Checks that a file holds tensors with the names, types and sizes of `valid`, with finite values and non-negative
/// second moments. Returns `None` if not, otherwise whether all values are the same.
fn fits(bytes: &[u8], valid: &[u8]) -> Option<bool> {
    let file = SafeTensors::deserialize(bytes).ok()?;
    let mut same = true;
    for (name, (dtype, data)) in tensors(valid) {
        let found = file.tensor(&name).ok()?;
        let numbers = found.data().chunks_exact(4).map(|n| f32::from_le_bytes(n.try_into().expect("four bytes")));
        let is_sound = |n: f32| n.is_finite() && (n >= 0.0 || !name.ends_with(".v"));
        if found.dtype() != dtype || found.shape() != [data.len() / 4] || !numbers.into_iter().all(is_sound) {
            return None;
        }
        same &= found.data() == data;
    }
    Some(same)
}

#[test]
fn invalid_tensors_with_valid_checksums_are_refused() {
    let stopped = Stopped::new();
    let valid = stopped.bytes(&format!("{NEWEST}/tensors.safetensors"));
    let names: Vec<String> = tensors(&valid).into_keys().collect();
    assert_eq!(names, ["level1.m", "level1.params", "level1.v", "level2.m", "level2.params", "level2.v"]);
    let refused = |case: &str, says: &str, bytes: &[u8]| {
        for alone in [true, false] {
            let refusal =
                stopped.with(alone, "stage-2-step-00000007", case, |run| put(run, "tensors.safetensors", bytes));
            let refusal = refusal.unwrap_or_else(|| panic!("{case}: accepted"));
            assert!(refusal.contains(says) && refusal.contains("; "), "{case}: {refusal}");
        }
    };
    for name in &names {
        let changed = |change: &dyn Fn(&mut Tensor)| {
            let mut all = tensors(&valid);
            change(all.get_mut(name).expect("a tensor"));
            file(&all)
        };
        for (what, value) in [("NaN", f32::NAN), ("inf", f32::INFINITY), ("-inf", f32::NEG_INFINITY)] {
            let bytes = changed(&|(_, data)| data[20..24].copy_from_slice(&value.to_le_bytes()));
            refused(&format!("{name} holds {what}"), &format!("{name}: value 5 is {what}"), &bytes);
        }
        refused(&format!("{name} is too short"), name, &changed(&|(_, data)| data.truncate(64)));
        refused(&format!("{name} is too long"), name, &changed(&|(_, data)| data.extend([0; 4])));
        refused(&format!("{name} is empty"), name, &changed(&|(_, data)| data.clear()));
        refused(&format!("{name} is I32"), "--device", &changed(&|(dtype, _)| *dtype = Dtype::I32));
        let mut without = tensors(&valid);
        without.remove(name);
        refused(&format!("no {name}"), &format!("{name} is missing"), &file(&without));
    }
    let mut negative = tensors(&valid);
    negative.get_mut("level2.v").expect("a tensor").1[..4].copy_from_slice(&(-1.0f32).to_le_bytes());
    refused("a negative square", "level2.v: value 0 is -1", &file(&negative));
    // Random damage: if `fits` accepts the file, the run resumes, and with the same values it ends with the same
    // weights. All other files are refused.
    let header = 8 + u64::from_le_bytes(valid[..8].try_into().expect("eight bytes")) as usize;
    let (mut went_on, mut refused) = (0, 0);
    for Case { name, bytes } in mutate::bytes(&valid, &[1, 8, header], 6, 25) {
        stopped.reset(Path::new(""));
        put(&stopped.run(), "tensors.safetensors", &bytes);
        match (fits(&bytes, &valid), stopped.judge("run", &name)) {
            (Some(same), Ok(Some(weights))) => {
                assert_eq!(weights.len(), stopped.weights.len(), "{name}");
                assert!(!same || weights == stopped.weights, "{name}: different weights");
                went_on += 1;
            }
            // Any finite values are valid, but training on large ones may diverge.
            (Some(false), Err(message)) => assert!(message.contains("training diverged"), "{name}: {message}"),
            (None, Err(message)) => {
                assert!(message.contains("stage-2-step-00000007") && message.contains("; "), "{name}: {message}");
                refused += 1;
            }
            (fits, found) => panic!("{name}: fits {fits:?}, found {:?}", found.map(|_| "resumed")),
        }
    }
    assert!(went_on > 5 && refused > 5, "too few outcomes covered: {went_on} runs resumed, {refused} were refused");
}
