//! Tensor names and file names of wrappers and training scripts.

use vcycle::hub::folder;
use vcycle::hub::tensors;

use super::*;

/// Prefixes of `torch.compile`, `DistributedDataParallel`, both in either order, and of a wrapped part of the model do
/// not change the loss.
#[test]
fn wrapper_prefixes_are_removed_from_names() {
    let dir = place("prefixes");
    let (out, notes) = ok(dir.path(), "eval orig --data first.txt");
    assert!(notes.contains("orig/pytorch_model.bin: _orig_mod. was removed from the tensor names"), "{notes}");
    let loss = printed(&out, "loss:");
    let tensors = folder::read(&dir.path().join("orig")).unwrap().tensors;
    assert!(
        tensors.iter().all(|tensor| ["transformer.", "lm_head."].iter().any(|begin| tensor.name.starts_with(begin)))
    );
    let (mut plain, model) = (Vec::new(), dir.path().join("model"));
    copy(&dir.path().join("orig"), &model);
    fs::remove_file(model.join("pytorch_model.bin")).unwrap();
    for (before, within, note) in [
        ("", "", ""),
        ("module.", "", "module. was"),
        ("module._orig_mod.", "", "_orig_mod. and module. were"),
        ("_orig_mod.module.", "", "_orig_mod. and module. were"),
        ("", "_orig_mod.", "_orig_mod. was"),
        ("module.", "_fsdp_wrapped_module.", "_fsdp_wrapped_module. and module. were"),
    ] {
        let named = tensors.iter().map(|tensor| {
            let name = format!("{before}{}", tensor.name.replace(".h.0.", &format!(".h.0.{within}")));
            (name, tensor.shape.clone(), tensor.values.clone())
        });
        tensors::write(&model.join("model.safetensors"), &named.collect::<Vec<_>>()).unwrap();
        let (out, notes) = ok(dir.path(), "eval model --data first.txt");
        assert_eq!(printed(&out, "loss:"), loss, "{before}{within}");
        assert!(notes.contains(note) && notes.is_empty() == note.is_empty(), "{before}{within}: {notes}");
        plain.push(out);
    }
    assert!(plain.iter().all(|out| *out == plain[0]));
}

/// A classification head on GPT-2 is left out with a note, and the rest is used as a language model.
#[test]
fn a_gpt2_classification_head_is_left_out() {
    let dir = place("prefixes");
    let model = dir.path().join("orig");
    let loss = printed(&ok(dir.path(), "eval orig --data first.txt").0, "loss:");
    let mut tensors: Vec<_> =
        folder::read(&model).unwrap().tensors.into_iter().map(|t| (t.name, t.shape, t.values)).collect();
    tensors.push(("score.weight".to_owned(), vec![2, 32], vec![0.5; 64]));
    tensors::write(&model.join("model.safetensors"), &tensors).unwrap();
    let mut config = json(&model.join("config.json"));
    config["architectures"] = serde_json::json!(["GPT2ForSequenceClassification"]);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let (out, notes) = ok(dir.path(), "eval orig --data first.txt");
    assert_eq!(printed(&out, "loss:"), loss);
    assert!(notes.contains("left out") && notes.contains("score.weight"), "{notes}");
}

/// timm's training scripts save `model_best.pth.tar` and `last.pth.tar`; the best one is used.
#[test]
fn checkpoints_of_timm_scripts_are_found() {
    let dir = place("prefixes");
    let model = dir.path().join("orig");
    let whole = ok(dir.path(), "eval orig --data first.txt").0;
    for name in ["checkpoint.pth.tar", "last.pth.tar", "model_best.pth.tar", "checkpoint-7.pth.tar"] {
        fs::rename(model.join("pytorch_model.bin"), model.join(name)).unwrap();
        fs::write(model.join("log.tar"), "not weights").unwrap();
        assert_eq!(ok(dir.path(), "eval orig --data first.txt").0, whole, "{name}");
        fs::rename(model.join(name), model.join("pytorch_model.bin")).unwrap();
    }
    fs::write(model.join("last.pth.tar"), "damaged").unwrap();
    fs::rename(model.join("pytorch_model.bin"), model.join("model_best.pth.tar")).unwrap();
    assert_eq!(ok(dir.path(), "eval orig --data first.txt").0, whole);
}
