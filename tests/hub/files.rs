//! Hugging Face files: tensors, configurations, and atomic writing.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use vcycle::error::Error;
use vcycle::files::{write_atomic, write_dir_atomic};
use vcycle::hub::gpt2_config::Gpt2Config;
use vcycle::hub::tensors::{self, NamedTensor};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gpt2/strided").join(name)
}

/// A safetensors file with the given header text and data.
fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn read_bytes(bytes: &[u8]) -> Result<Vec<NamedTensor>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    tensors::read(&path)
}

#[track_caller]
fn assert_refused(bytes: &[u8], parts: &[&str]) {
    let message = read_bytes(bytes).unwrap_err().to_string();
    for part in parts.iter().chain(&["model.safetensors"]) {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn f32_round_trip_is_bit_identical() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/model.safetensors");
    let values = vec![0.0, -0.0, 1.0, f32::MIN_POSITIVE, f32::from_bits(1), f32::MAX, f32::MIN, 0.1];
    tensors::write(
        &path,
        &[
            ("b".to_string(), vec![2, 4], values.clone()),
            ("a".to_string(), vec![], vec![3.5]),
            ("empty \"é\"".to_string(), vec![0, 7], vec![]),
        ],
    )
    .unwrap();
    let mut read = tensors::read(&path).unwrap();
    read.sort_by(|x, y| x.name.cmp(&y.name));
    assert_eq!(read.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b", "empty \"é\""]);
    assert_eq!((read[0].shape.as_slice(), read[0].values.as_slice()), ([].as_slice(), [3.5].as_slice()));
    assert_eq!(read[1].shape, [2, 4]);
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&read[1].values), bits(&values));
    assert_eq!((read[2].shape.as_slice(), read[2].values.len()), ([0, 7].as_slice(), 0));
    assert_eq!(entries(path.parent().unwrap()), ["model.safetensors"]);

    // The reference library reads the same tensors.
    let bytes = fs::read(&path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.len(), 3);
    assert_eq!(reference.tensor("b").unwrap().data()[8..12], 1f32.to_le_bytes());
}

#[test]
fn golden_checkpoint_is_read_and_written_back_to_the_same_bytes() {
    let read = tensors::read(&golden("src.safetensors")).unwrap();
    let config = Gpt2Config::read(&golden("config.big.json")).unwrap();
    assert_eq!((config.n_embd, config.n_head, config.n_layer), (16, 4, 4));
    assert_eq!((config.vocab_size, config.n_positions, config.n_inner), (97, 32, None));
    assert_eq!((config.layer_norm_epsilon, config.resid_pdrop), (1e-5, 0.0));
    let embedding = read.iter().find(|t| t.name == "transformer.wte.weight").unwrap();
    assert_eq!(embedding.shape, [97, 16]);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let borrowed: Vec<_> = read.iter().map(|t| (t.name.as_str(), t.shape.as_slice(), t.values.as_slice())).collect();
    tensors::write(&path, &borrowed).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(golden("src.safetensors")).unwrap());
}

#[test]
fn other_floats_convert() {
    use half::{bf16, f16};
    let mut data = Vec::new();
    for value in [1.5, -0.0, 6.1e-5] {
        data.extend(f16::from_f32(value).to_le_bytes());
    }
    for value in [1.5, -3e38] {
        data.extend(bf16::from_f32(value).to_le_bytes());
    }
    for value in [0.1f64, 1e-60] {
        data.extend(value.to_le_bytes());
    }
    let header = r#"{"h":{"dtype":"F16","shape":[3],"data_offsets":[0,6]},
        "b":{"dtype":"BF16","shape":[2,1],"data_offsets":[6,10]},
        "d":{"dtype":"F64","shape":[2],"data_offsets":[10,26]}}"#;
    let read = read_bytes(&raw_file(header, &data)).unwrap();
    assert_eq!(read[0].values, [1.5, -0.0, f16::from_f32(6.1e-5).to_f32()]);
    assert!(read[0].values[1].is_sign_negative());
    assert_eq!(read[1].values, [1.5, bf16::from_f32(-3e38).to_f32()]);
    assert_eq!(read[1].shape, [2, 1]);
    assert_eq!(read[2].values, [0.1f32, 0.0]);
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let one = |dtype: &str, data: &[u8]| {
        let header = format!(r#"{{"bad.w":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{}]}}}}"#, data.len());
        assert_refused(&raw_file(&header, data), &["bad.w", "finite"]);
    };
    one("F32", &f32::NAN.to_le_bytes());
    one("F32", &f32::NEG_INFINITY.to_le_bytes());
    one("F16", &half::f16::INFINITY.to_le_bytes());
    one("BF16", &half::bf16::NAN.to_le_bytes());
    // Finite, but outside the range of f32.
    one("F64", &1e300f64.to_le_bytes());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let error = tensors::write(&path, &[("w", [2], [1.0, f32::NAN])]).unwrap_err().to_string();
    assert!(error.contains("\"w\"") && error.contains("model.safetensors"), "{error}");
    assert!(entries(folder.path()).is_empty());
}

#[test]
fn integer_tensors_are_skipped_only_as_mask_buffers() {
    let header = |name: &str, dtype: &str| {
        format!(
            r#"{{"{name}":{{"dtype":"{dtype}","shape":[1,1,2,2],"data_offsets":[0,4]}},
            "w":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}}}"#
        )
    };
    for name in ["h.0.attn.bias", "transformer.h.11.attn.masked_bias"] {
        for dtype in ["BOOL", "U8", "I8"] {
            let read = read_bytes(&raw_file(&header(name, dtype), &[0; 8])).unwrap();
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].name, "w");
        }
    }
    assert_refused(&raw_file(&header("h.0.attn.c_attn.bias", "U8"), &[0; 8]), &["h.0.attn.c_attn.bias", "U8"]);
    assert_refused(&raw_file(&header("h.0.attn.bias", "F8_E4M3"), &[0; 8]), &["h.0.attn.bias", "F8_E4M3"]);
}

#[test]
fn damaged_and_hostile_files_are_refused() {
    let tensor = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let remedy = "download or write it again";
    let good = raw_file(&format!("{{{}}}", tensor("a", "[2]", 0, 8)), &[0; 8]);
    assert_eq!(read_bytes(&good).unwrap().len(), 1);
    for length in 0..good.len() {
        assert_refused(&good[..length], &[remedy]);
    }
    assert_refused(&[good.as_slice(), &[0]].concat(), &[remedy]);
    for length in [u64::MAX, u64::MAX - 7, 1 << 62, 1 << 40, 100_000_001] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert_refused(&bytes, &["header", remedy]);
    }
    for header in ["not JSON", "[1]", "{", "\u{0}", "{\"a\":3}", &"[".repeat(100_000), "{\"__metadata__\":{\"a\":1}}"] {
        assert_refused(&raw_file(header, &[]), &["header", remedy]);
    }
    let refused_header = |tensors: &[String], data: usize, part: &str| {
        assert_refused(&raw_file(&format!("{{{}}}", tensors.join(",")), &vec![0; data]), &[part, remedy]);
    };
    refused_header(&[tensor("a", "[2]", 0, 8), tensor("b", "[2]", 4, 12)], 12, "\"b\"");
    refused_header(&[tensor("a", "[2]", 0, 8), tensor("b", "[2]", 0, 8)], 8, "\"b\"");
    refused_header(&[tensor("a", "[1]", 0, 4), tensor("b", "[1]", 8, 12)], 12, "\"b\"");
    refused_header(&[tensor("a", "[2]", 0, 8), tensor("a", "[2]", 0, 8)], 8, "\"a\" appears twice");
    refused_header(&[tensor("a", "[2]", 8, 0)], 8, "\"a\"");
    refused_header(&[tensor("a", "[3]", 0, 8)], 8, "\"a\"");
    refused_header(&[tensor("a", "[-2]", 0, 8)], 8, "\"a\"");
    refused_header(&[tensor("a", "[4294967296,4294967296]", 0, 0)], 0, "\"a\"");
    refused_header(&[tensor("a", "[2305843009213693952,8]", 0, 0)], 0, "\"a\"");
    refused_header(&[tensor("a", "[4611686018427387904]", 0, u64::MAX)], 8, "\"a\"");
    refused_header(&[tensor("a", "[2]", 0, 8)], 16, "cover 8 of 16");

    // Ranges whose lengths add up to the file length modulo 2^64.
    let step = 1u64 << 61;
    let wrapping: Vec<_> = (0..7)
        .map(|i| {
            format!(r#""t{i}":{{"dtype":"U8","shape":[{step}],"data_offsets":[{},{}]}}"#, step * i, step * (i + 1))
        })
        .collect();
    refused_header(&wrapping, 0, "\"t0\"");

    assert_refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", &["git lfs pull"]);
    let folder = tempfile::tempdir().unwrap();
    assert!(tensors::read(folder.path()).unwrap_err().to_string().contains("not a file"));
    assert!(tensors::read(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
}

#[test]
fn tensors_that_do_not_make_a_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let refused = |tensors: &[(&str, Vec<usize>, Vec<f32>)], part: &str| {
        let error = tensors::write(&path, tensors).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&[("w", vec![3], vec![0.0; 2])], "\"w\"");
    refused(&[("w", vec![usize::MAX, 2], vec![0.0; 2])], "\"w\"");
    refused(&[("w", vec![1], vec![0.0]), ("w", vec![1], vec![0.0])], "\"w\"");
    refused(&[("__metadata__", vec![1], vec![0.0])], "reserved");
    assert!(entries(folder.path()).is_empty());
}

#[derive(Clone, Debug)]
enum Mutation {
    Truncate(usize),
    Flip(usize, u8),
    Insert(usize, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Most positions are in the header, where a change does the most harm.
    let position = || prop_oneof![3 => 0usize..320, 1 => 0usize..usize::MAX];
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"0123456789{}[]\",:-".to_vec())];
    prop_oneof![
        1 => position().prop_map(Mutation::Truncate),
        4 => (position(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        4 => (position(), byte).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(mutations in prop::collection::vec(mutation(), 1..4)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        tensors::write(
            &path,
            &[("a.w", vec![3, 5], vec![0.5; 15]), ("b.bias", vec![7], vec![-2.0; 7]), ("c", vec![], vec![1.0])],
        )
        .unwrap();
        let mut bytes = fs::read(&path).unwrap();
        for mutation in mutations {
            let length = bytes.len().max(1);
            match mutation {
                Mutation::Truncate(at) => bytes.truncate(at % length),
                Mutation::Flip(at, bit) => {
                    if let Some(byte) = bytes.get_mut(at % length) {
                        *byte ^= 1 << bit;
                    }
                }
                Mutation::Insert(at, byte) => bytes.insert(at % length % (bytes.len() + 1), byte),
            }
        }
        fs::write(&path, &bytes).unwrap();
        match tensors::read(&path) {
            Err(error) => prop_assert!(error.to_string().contains("model.safetensors"), "{}", error),
            Ok(read) => {
                for tensor in &read {
                    prop_assert_eq!(tensor.shape.iter().product::<usize>(), tensor.values.len());
                    prop_assert!(tensor.values.iter().all(|v| v.is_finite()));
                }
                // The reference library accepts every file that is accepted here.
                let reference = safetensors::SafeTensors::deserialize(&bytes);
                prop_assert!(reference.is_ok_and(|r| read.iter().all(|t| r.tensor(&t.name).is_ok())));
            }
        }
    }
}

/// Reads a config like those of the public GPT-2 files, with `key` set to `value`, or removed if it is `None`.
fn config_with(key: &str, value: Option<Value>) -> Result<Gpt2Config, Error> {
    let mut config = json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
        "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 50257
    });
    match value {
        Some(value) => config[key] = value,
        None => drop(config.as_object_mut().unwrap().remove(key)),
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    Gpt2Config::read(&path)
}

#[test]
fn public_configs_are_read() {
    let gpt2 = config_with("reorder_and_upcast_attn", Some(json!(true))).unwrap();
    assert_eq!((gpt2.vocab_size, gpt2.n_embd, gpt2.n_inner, gpt2.attn_pdrop), (50257, 768, None, 0.1));
    assert_eq!((gpt2.bos_token_id, gpt2.eos_token_id), (Some(50256), Some(50256)));
    for absent in [None, Some(Value::Null)] {
        assert_eq!(
            config_with("bos_token_id", absent.clone()).unwrap(),
            Gpt2Config { bos_token_id: None, ..gpt2.clone() }
        );
        assert_eq!(config_with("eos_token_id", absent).unwrap(), Gpt2Config { eos_token_id: None, ..gpt2.clone() });
    }
    // Some checkpoints have an id outside the vocabulary, which is kept.
    assert_eq!(config_with("eos_token_id", Some(json!(60000))).unwrap().eos_token_id, Some(60000));
    // Several ids, of which the first is used, and -1 for none, as in other libraries and old files.
    assert_eq!(config_with("eos_token_id", Some(json!([7, 9]))).unwrap().eos_token_id, Some(7));
    assert_eq!(config_with("bos_token_id", Some(json!(-1))).unwrap().bos_token_id, None);
    assert_eq!(config_with("n_positions", None).unwrap(), gpt2);
    assert_eq!(config_with("n_inner", Some(Value::Null)).unwrap(), gpt2);
    assert_eq!(config_with("n_inner", Some(json!(100))).unwrap().n_inner, Some(100));
    for key in ["activation_function", "layer_norm_epsilon", "initializer_range", "resid_pdrop", "n_ctx"] {
        assert_eq!(config_with(key, None).unwrap(), gpt2);
    }
    assert_eq!(config_with("activation_function", Some(json!("gelu_pytorch_tanh"))).unwrap(), gpt2);
}

#[test]
fn config_errors_name_the_file_and_the_key() {
    let cases = [
        ("model_type", Some(json!("bert"))),
        ("model_type", None),
        ("activation_function", Some(json!("relu"))),
        ("activation_function", Some(Value::Null)),
        ("tie_word_embeddings", Some(Value::Null)),
        ("scale_attn_weights", Some(json!(false))),
        ("scale_attn_by_inverse_layer_idx", Some(json!(true))),
        ("add_cross_attention", Some(json!(true))),
        ("add_cross_attention", Some(json!("no"))),
        ("pruned_heads", Some(json!({"0": [1]}))),
        ("vocab_size", None),
        ("vocab_size", Some(json!("many"))),
        ("vocab_size", Some(json!(0))),
        ("vocab_size", Some(json!(-5))),
        ("vocab_size", Some(json!(1u64 << 33))),
        ("vocab_size", Some(json!(1u64 << 31))),
        ("n_embd", None),
        ("n_embd", Some(json!(768.5))),
        ("n_embd", Some(json!(12u64 << 24))),
        ("n_head", None),
        ("n_head", Some(json!(0))),
        ("n_head", Some(json!(7))),
        ("n_layer", Some(Value::Null)),
        ("n_layer", Some(json!(u64::MAX))),
        ("n_positions", Some(json!([1024]))),
        ("n_inner", Some(json!(0))),
        ("layer_norm_epsilon", Some(json!(0.0))),
        ("layer_norm_epsilon", Some(json!("1e-5"))),
        ("initializer_range", Some(json!(-0.02))),
        ("resid_pdrop", Some(json!(1.0))),
        ("embd_pdrop", Some(json!(-0.1))),
        ("attn_pdrop", Some(Value::Null)),
        ("bos_token_id", Some(json!(-2))),
        ("eos_token_id", Some(json!(0.5))),
        ("eos_token_id", Some(json!([1, 0.5]))),
    ];
    for (key, value) in cases {
        let shown = format!("{key} = {value:?}");
        let message = config_with(key, value).expect_err(&shown).to_string();
        assert!(message.contains(key) && message.contains("config.json"), "{shown}: {message}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    for text in ["", "[]", "{", "3", "{\"layer_norm_epsilon\": 1e999}", "\u{feff}{}"] {
        fs::write(&path, text).unwrap();
        assert!(Gpt2Config::read(&path).unwrap_err().to_string().contains("config.json"));
    }
    assert!(Gpt2Config::read(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
}

#[test]
fn config_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/config.json");
    let config = Gpt2Config {
        vocab_size: 11,
        n_positions: 5,
        n_embd: 6,
        n_head: 3,
        n_layer: 2,
        n_inner: Some(7),
        layer_norm_epsilon: 1e-6,
        initializer_range: 0.1,
        resid_pdrop: 0.0,
        embd_pdrop: 0.25,
        attn_pdrop: 0.5,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_id: Some(0),
    };
    config.write(&path).unwrap();
    assert_eq!(Gpt2Config::read(&path).unwrap(), config);
    let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(written["architectures"], json!(["GPT2LMHeadModel"]));
    assert_eq!(written["n_ctx"], 5);
    assert_eq!(written["torch_dtype"], "float32");
    // Null, not absent: `transformers` reads an absent id as 50256.
    assert_eq!(written.get("bos_token_id"), Some(&Value::Null));
    assert_eq!(written["eos_token_id"], 0);

    let bad = Gpt2Config { n_head: 4, ..config };
    assert!(bad.write(&path).unwrap_err().to_string().contains("n_head"));
    assert_eq!(entries(path.parent().unwrap()), ["config.json"]);
}

#[test]
fn write_atomic_replaces_whole_files_and_leaves_nothing_on_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/file");
    write_atomic(&path, |out| out.write_all(b"first")).unwrap();
    write_atomic(&path, |out| out.write_all(b"second")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");

    let error = write_atomic(&path, |out| {
        out.write_all(&[0; 3 << 20])?;
        Err(std::io::Error::other("disk full"))
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("disk full") && error.contains("file"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(entries(path.parent().unwrap()), ["file"]);

    // A folder in the way, a file as a parent, and no name at all.
    assert!(write_atomic(&folder.path().join("deep"), |_| Ok(())).is_err());
    assert!(write_atomic(&path.join("below"), |_| Ok(())).is_err());
    assert!(write_atomic(Path::new(".."), |_| Ok(())).is_err());
    assert_eq!(entries(folder.path()), ["deep"]);
    // The longest file name that file systems support.
    write_atomic(&folder.path().join("n".repeat(255)), |_| Ok(())).unwrap();
}

#[test]
fn write_atomic_removes_the_temporary_file_when_the_writer_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let outcome = std::panic::catch_unwind(|| write_atomic(&path, |_| panic!("on purpose")));
    assert!(outcome.is_err());
    assert!(entries(folder.path()).is_empty());
}

#[test]
fn write_dir_atomic_makes_whole_folders_and_refuses_existing_ones() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("runs/one");
    write_dir_atomic(&dir, |inside| {
        assert!(!dir.exists());
        write_atomic(&inside.join("sub/a"), |out| out.write_all(b"a"))?;
        fs::write(inside.join("b"), b"b").map_err(|e| Error::io("write", inside, e))
    })
    .unwrap();
    assert_eq!(fs::read(dir.join("sub/a")).unwrap(), b"a");
    assert_eq!(entries(&dir), ["b", "sub"]);

    let mut called = false;
    let error = write_dir_atomic(&dir, |_| {
        called = true;
        Ok(())
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("one") && error.contains("--out"), "{error}");
    assert!(!called);
    assert_eq!(entries(&dir), ["b", "sub"]);

    let failed = write_dir_atomic(&folder.path().join("runs/two"), |inside| {
        fs::write(inside.join("b"), b"b").unwrap();
        Err(Error::new("no"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "no");
    assert_eq!(entries(&folder.path().join("runs")), ["one"]);
}
