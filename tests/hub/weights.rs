//! Promise: the weights of a model folder are found in all published formats, including shards and torch.save files,
//! with every bit as it was saved; and the error about inconsistent files names them.

use super::torch_writer;

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use torch_writer::{Entry, Tensor, archive, dict, old, pickle, stored, text, whole, zip};
use vcycle::device::cpu::Cpu;
use vcycle::error::Result;
use vcycle::hub::tensors::{self, NamedTensor, StoreType};
use vcycle::hub::{checkpoint, folder, torch};
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn read(bytes: &[u8]) -> Result<Vec<NamedTensor>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    fs::write(&path, bytes).unwrap();
    torch::read(&path)
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let message = read(bytes).unwrap_err().to_string();
    for part in parts.iter().chain(&["pytorch_model.bin"]) {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// A matrix, its transpose, a row, a scalar and an empty tensor, all views of one storage.
const VIEWS: [Tensor<'static>; 5] = {
    type Sizes = &'static [usize];
    const fn view(name: &'static str, offset: usize, shape: Sizes, strides: Sizes) -> Tensor<'static> {
        Tensor { name, storage: ("7", "Float", 6), offset, shape, strides }
    }
    [
        view("matrix", 0, &[2, 3], &[3, 1]),
        view("transpose", 0, &[3, 2], &[1, 3]),
        view("row", 3, &[1, 3], &[99, 1]),
        view("scalar", 5, &[], &[]),
        view("nothing", 6, &[0, 4], &[4, 1]),
    ]
};

fn assert_views(read: &[NamedTensor]) {
    let expected: [(&str, &[usize], &[f32]); 5] = [
        ("matrix", &[2, 3], &[0.1, -0.0, 2.0, 3.0, 4.0, 5.0]),
        ("transpose", &[3, 2], &[0.1, 3.0, -0.0, 4.0, 2.0, 5.0]),
        ("row", &[1, 3], &[3.0, 4.0, 5.0]),
        ("scalar", &[], &[5.0]),
        ("nothing", &[0, 4], &[]),
    ];
    assert_eq!(read.len(), expected.len());
    for (tensor, (name, shape, values)) in read.iter().zip(expected) {
        assert_eq!((tensor.name.as_str(), tensor.shape.as_slice()), (name, shape));
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&tensor.values), bits(values), "{name}");
    }
}

#[test]
fn both_forms_of_torch_save_and_views_of_one_storage() {
    let content = f32s(&[0.1, -0.0, 2.0, 3.0, 4.0, 5.0]);
    let described = pickle(&dict(&VIEWS, b""));
    assert_views(&read(&archive(&described, &[("7", &content)])).unwrap());
    assert_views(&read(&old(&VIEWS, &[("7", 6, &content)])).unwrap());
    // An archive that was repacked with compression.
    let packed = zip(&[
        Entry { name: "data.pkl", content: &described, deflate: true },
        Entry { name: "data/7", content: &content, deflate: true },
    ]);
    assert_views(&read(&packed).unwrap());
}

#[test]
fn types_of_storages() {
    let kinds = [("Half", 2), ("BFloat16", 2), ("Double", 8), ("Float", 4)];
    let content = [
        [f16::from_f32(1.5), f16::from_f32(-6.1e-5)].map(f16::to_le_bytes).concat(),
        [bf16::from_f32(1.5), bf16::from_f32(-3e38)].map(bf16::to_le_bytes).concat(),
        [0.1f64, 1e-60].map(f64::to_le_bytes).concat(),
        f32s(&[0.1, f32::MIN_POSITIVE]),
    ];
    let tensors = kinds.map(|(kind, _)| Tensor { storage: (kind, kind, 2), ..whole(kind, kind, &[2], &[1]) });
    let storages: Vec<_> = kinds.iter().zip(&content).map(|((kind, _), content)| (*kind, content.as_slice())).collect();
    let read_back = read(&archive(&pickle(&dict(&tensors, b"")), &storages)).unwrap();
    assert_eq!(read_back[0].values, [1.5, f16::from_f32(-6.1e-5).to_f32()]);
    assert_eq!(read_back[1].values, [1.5, bf16::from_f32(-3e38).to_f32()]);
    assert_eq!(read_back[2].values, [0.1, 0.0]);
    assert_eq!(read_back[3].values, [0.1, f32::MIN_POSITIVE]);
    for (kind, bytes) in [("Long", 8), ("Int", 4), ("Short", 2), ("Char", 1), ("Byte", 1), ("Bool", 1)] {
        let ids = |name| Tensor { storage: ("0", kind, 1), ..whole(name, "0", &[1], &[1]) };
        let file = |name| archive(&pickle(&dict(&[ids(name)], b"")), &[("0", &vec![0; bytes])]);
        assert!(read(&file("bert.embeddings.position_ids")).unwrap().is_empty(), "{kind}");
        refused(&file("bert.embeddings.ids"), &["bert.embeddings.ids", "dtype"]);
    }
    let infinite = archive(&pickle(&dict(&[whole("w", "0", &[1], &[1])], b"")), &[("0", &f32s(&[f32::INFINITY]))]);
    refused(&infinite, &["\"w\"", "finite"]);
}

#[test]
fn weights_within_a_checkpoint_of_a_training_script() {
    let weights = dict(&[whole("w", "0", &[2], &[1])], b"");
    let content = f32s(&[1.0, 2.0]);
    let entry = |key: &str, value: &[u8]| [&text(key)[..], value].concat();
    let options = [b"cargparse\nNamespace\n)\x81}", &text("lr")[..], b"G\0\0\0\0\0\0\0\0sb"].concat();
    for wrapper in ["model", "state_dict", "model_state_dict"] {
        let entries = [entry("epoch", b"K\x03"), entry("args", &options), entry(wrapper, &weights)].concat();
        let file = archive(&pickle(&[b"}(", &entries[..], b"u"].concat()), &[("0", &content)]);
        assert_eq!(read(&file).unwrap()[0].values, [1.0, 2.0], "{wrapper}");
    }
    let beside = [entry("epoch", b"K\x03"), entry("weights", &weights)].concat();
    let file = archive(&pickle(&[b"}(", &beside[..], b"u"].concat()), &[("0", &content)]);
    refused(&file, &["epoch", "state_dict()"]);
    // A parameter instead of a tensor, as in a saved list of parameters.
    let t = torch_writer::tensor(&whole("w", "0", &[2], &[1]), b"");
    let parameter = [b"}", &text("w")[..], b"ctorch._utils\n_rebuild_parameter\n(", &t, b"\x88", b"}tRs"].concat();
    assert_eq!(read(&archive(&pickle(&parameter), &[("0", &content)])).unwrap()[0].values, [1.0, 2.0]);
}

#[test]
fn whatever_else_a_file_asks_for_is_refused_by_name() {
    let call = |module: &str, name: &str, then: &[u8]| {
        archive(&pickle(&[format!("c{module}\n{name}\n").as_bytes(), then].concat()), &[])
    };
    let command = [b"(", &text("touch /tmp/owned")[..], b"tR"].concat();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch", "ComplexFloatStorage"),
        ("functools", "partial"),
        ("", ""),
    ] {
        refused(&call(module, name, &command), &[&format!("{module}.{name}"), "refused", "state_dict()"]);
    }
    // With the newer instruction, and in the old format.
    let newer = [&text("os")[..], &text("system"), b"\x93", &command].concat();
    refused(&archive(&pickle(&newer), &[]), &["os.system"]);
    let mut file = old(&[], &[]);
    let at = file.windows(12).position(|w| w == b"ccollections").unwrap();
    file.splice(at.., b"cos\nsystem\n".iter().copied());
    refused(&file, &["os.system"]);
    refused(&zip(&[stored("model/data.pkl", b"."), stored("model/constants.pkl", b".")]), &["TorchScript"]);
    refused(&zip(&[stored("model/weights", b".")]), &["data.pkl"]);
    let big = zip(&[stored("a/data.pkl", &pickle(&dict(&[], b""))), stored("a/byteorder", b"big")]);
    refused(&big, &["byte order"]);
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", &["git lfs pull"]);
    refused(b"weights", &["torch.save"]);
}

fn save(path: &Path, names: &[&str]) {
    let tensors: Vec<_> = names.iter().enumerate().map(|(i, name)| (*name, [1], [i as f32])).collect();
    tensors::write(path, &tensors).unwrap();
}

fn names(weights: &folder::Weights) -> Vec<&str> {
    weights.tensors.iter().map(|t| t.name.as_str()).collect()
}

#[test]
fn a_folder_gives_the_first_form_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let missing = folder::read(at).unwrap_err().to_string();
    assert!(missing.contains("model.safetensors") && missing.contains("pytorch_model.bin"), "{missing}");
    let torch = |name: &str| archive(&pickle(&dict(&[whole(name, "0", &[1], &[1])], b"")), &[("0", &f32s(&[1.0]))]);
    fs::write(at.join("a.pth"), torch("pth")).unwrap();
    assert_eq!(names(&folder::read(at).unwrap()), ["pth"]);
    fs::write(at.join("b.pt"), torch("pt")).unwrap();
    let several = folder::read(at).unwrap_err().to_string();
    assert!(several.contains("a.pth") && several.contains("b.pt"), "{several}");
    fs::write(at.join("shard.bin"), torch("sharded")).unwrap();
    fs::write(at.join("pytorch_model.bin.index.json"), r#"{"weight_map": {"sharded": "shard.bin"}}"#).unwrap();
    assert_eq!(names(&folder::read(at).unwrap()), ["sharded"]);
    fs::write(at.join("pytorch_model.bin"), torch("bin")).unwrap();
    assert_eq!(names(&folder::read(at).unwrap()), ["bin"]);
    save(&at.join("one.safetensors"), &["indexed"]);
    fs::write(at.join("model.safetensors.index.json"), r#"{"weight_map": {"indexed": "one.safetensors"}}"#).unwrap();
    assert_eq!(names(&folder::read(at).unwrap()), ["indexed"]);
    save(&at.join("model.safetensors"), &["plain"]);
    let found = folder::read(at).unwrap();
    assert_eq!((names(&found), &found.path), (vec!["plain"], &at.join("model.safetensors")));
    // A single file by its name.
    assert_eq!(names(&folder::read(&at.join("b.pt")).unwrap()), ["pt"]);
}

#[test]
fn shards_are_read_as_their_index_says() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let index = at.join("model.safetensors.index.json");
    save(&at.join("1.safetensors"), &["a", "b"]);
    save(&at.join("2.safetensors"), &["c"]);
    let full = r#"{"metadata": {"total_size": 12}, "weight_map":
        {"c": "2.safetensors", "a": "1.safetensors", "b": "1.safetensors"}}"#;
    fs::write(&index, full).unwrap();
    let found = folder::read(at).unwrap();
    assert_eq!((names(&found), &found.path), (vec!["a", "b", "c"], &index));
    assert_eq!(found.tensors[1].values, [1.0]);
    let refused = |map: &str, parts: &[&str]| {
        fs::write(&index, format!(r#"{{"weight_map": {map}}}"#)).unwrap();
        let message = folder::read(at).unwrap_err().to_string();
        for part in parts.iter().chain(&["index.json"]) {
            assert!(message.contains(part), "{map}: {part:?} is not in: {message}");
        }
    };
    refused(r#"{"a": "1.safetensors", "c": "2.safetensors"}"#, &["\"b\"", "1.safetensors"]);
    refused(r#"{"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"}"#, &["\"b\"", "1.safetensors"]);
    refused(r#"{"a": "1.safetensors", "b": "1.safetensors", "d": "2.safetensors"}"#, &["\"d\"", "2.safetensors"]);
    refused(r#"{"a": "1.safetensors", "a": "2.safetensors"}"#, &["\"a\"", "twice"]);
    refused(r#"{"a": "3.safetensors"}"#, &["3.safetensors", "cannot read"]);
    for outside in ["../1.safetensors", "/etc/passwd", "a/1.safetensors", "..", ".", "", "..\\\\1.safetensors", "c:1"] {
        refused(&format!(r#"{{"a": "{outside}"}}"#), &["\"a\"", "same folder"]);
    }
    refused("{}", &["names no tensor"]);
    refused("[]", &["not an index"]);
    refused(r#"{"a": 1}"#, &["not an index"]);
    fs::write(&index, "{}").unwrap();
    assert!(folder::read(at).unwrap_err().to_string().contains("weight_map"));
}

#[test]
fn narrow_types_are_written_rounded_and_never_infinite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let values = [0.1, -0.0, 65_504.0, 1.0 + f32::EPSILON];
    for kind in [StoreType::F32, StoreType::F16, StoreType::Bf16] {
        tensors::write_as(&path, &[("w", [2, 2], values), ("v", [1, 4], values)], kind).unwrap();
        let expected = values.map(|v| match kind {
            StoreType::F32 => v,
            StoreType::F16 => f16::from_f32(v).to_f32(),
            StoreType::Bf16 => bf16::from_f32(v).to_f32(),
        });
        let read = tensors::read(&path).unwrap();
        assert_eq!(read[1].shape, [2, 2], "{kind:?}");
        for tensor in read {
            assert_eq!(tensor.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), expected.map(f32::to_bits));
        }
        // Values read from such a file are written back to the same bytes.
        let bytes = fs::read(&path).unwrap();
        tensors::write_as(&path, &[("w", [2, 2], expected), ("v", [1, 4], expected)], kind).unwrap();
        assert!(fs::read(&path).unwrap() == bytes, "{kind:?}");
    }
    let before = fs::read(&path).unwrap();
    for (kind, value) in [(StoreType::F16, 65_520.0), (StoreType::F16, -1e30), (StoreType::Bf16, f32::MAX)] {
        let message = tensors::write_as(&path, &[("big", [1], [value])], kind).unwrap_err().to_string();
        assert!(message.contains("\"big\"") && message.contains("range"), "{message}");
    }
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn a_model_loads_from_every_form() {
    let config = GptConfig {
        vocab: 11,
        context: 5,
        width: 8,
        heads: 2,
        layers: 2,
        ffn: 32,
        eps: 1e-5,
        init_std: 0.02,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    };
    let gpt = Gpt::new(config).unwrap();
    let mut device = Cpu::new(1);
    let store = Store::new(gpt.table().clone(), &mut device).unwrap();
    store.initialise(&mut device, 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    checkpoint::save(at, &gpt, &store, &mut device).unwrap();
    let values = |store: &Store, device: &mut Cpu| -> Vec<Vec<f32>> {
        (0..store.table.params.len()).map(|i| store.read(device, i).unwrap()).collect()
    };
    let original = values(&store, &mut device);
    let mut loaded = || {
        let store = checkpoint::load(at, &mut device).unwrap().store;
        values(&store, &mut device)
    };
    assert!(loaded() == original);

    let all = tensors::read(&at.join("model.safetensors")).unwrap();
    fs::remove_file(at.join("model.safetensors")).unwrap();
    let strides = |t: &NamedTensor| if t.shape.len() == 2 { vec![t.shape[1], 1] } else { vec![1] };
    let strides: Vec<Vec<usize>> = all.iter().map(strides).collect();
    let named = |t: &NamedTensor| t.name.strip_prefix("transformer.").unwrap().to_owned();
    let names: Vec<String> = all.iter().map(named).collect();
    let contents: Vec<Vec<u8>> = all.iter().map(|t| f32s(&t.values)).collect();
    let described: Vec<Tensor<'_>> =
        (0..all.len()).map(|i| whole(&names[i], &names[i], &all[i].shape, &strides[i])).collect();
    let storages: Vec<(&str, &[u8])> = names.iter().zip(&contents).map(|(n, c)| (n.as_str(), c.as_slice())).collect();
    fs::write(at.join("pytorch_model.bin"), archive(&pickle(&dict(&described, b"")), &storages)).unwrap();
    assert!(loaded() == original);

    let mut map = serde_json::Map::new();
    for (shard, part) in all.chunks(7).enumerate() {
        let file = format!("model-{shard}.safetensors");
        map.extend(part.iter().map(|t| (t.name.clone(), file.clone().into())));
        let part: Vec<_> = part.iter().map(|t| (&t.name, &t.shape, &t.values)).collect();
        tensors::write(&at.join(file), &part).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map });
    fs::write(at.join("model.safetensors.index.json"), index.to_string()).unwrap();
    // The index is preferred.
    fs::write(at.join("pytorch_model.bin"), "").unwrap();
    assert!(loaded() == original);
}
