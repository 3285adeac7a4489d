//! Checkpoints as training scripts, other libraries and newer versions write them. Losses are compared with those of
//! the same weights in the standard form, which transformers reproduces (see `tests/hub/weights.rs`).

use serde_json::json;
use vcycle::device::cpu::Cpu;
use vcycle::hub::names::Names;
use vcycle::hub::tensors::{NamedTensor, StoreType};
use vcycle::hub::{checkpoint as hub, folder, tensors, torch};
use vcycle::model::Model;
use vcycle::model::deit::{Deit, DeitConfig, Distillation};
use vcycle::model::store::Store;

use super::*;
use crate::torch_writer::{Tensor, archive, dict, old, pickle, text, whole};

/// Values that training scripts save, as Python 3.11 pickles them with protocol 2: `numpy.float64(0.5)` of NumPy 2,
/// `numpy.arange(2)`, a path, `{1}`, a `timedelta`, a `defaultdict(list)`, a `Counter`, `10**20`, options with a NumPy
/// number, and a `torch.Size`.
const KEPT: [&[u8]; 10] = [
    b"cnumpy._core.multiarray\nscalar\nq\x00cnumpy\ndtype\nq\x01X\x02\x00\x00\x00f8q\x02\x89\x88\x87q\x03Rq\x04(K\x03X\x01\x00\x00\x00\
      <q\x05NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x06bc_codecs\nencode\nq\x07X\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc3\xa0?\
      q\x08X\x06\x00\x00\x00latin1q\x09\x86q\nRq\x0b\x86q\x0cRq\x0d",
    b"cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02c_codecs\nencode\nq\x03X\x01\x00\x00\x00bq\x04X\
      \x06\x00\x00\x00latin1q\x05\x86q\x06Rq\x07\x87q\x08Rq\x09(K\x01K\x02\x85q\ncnumpy\ndtype\nq\x0bX\x02\x00\x00\x00i8q\x0c\x89\x88\
      \x87q\x0dRq\x0e(K\x03X\x01\x00\x00\x00<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89h\x03X\x10\x00\x00\x00\x00\x00\
      \x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00q\x11h\x05\x86q\x12Rq\x13tq\x14b",
    b"cpathlib\nPosixPath\nq\x00X\x01\x00\x00\x00aq\x01X\x01\x00\x00\x00bq\x02\x86q\x03Rq\x04",
    b"c__builtin__\nset\nq\x00]q\x01K\x01a\x85q\x02Rq\x03",
    b"cdatetime\ntimedelta\nq\x00K\x01K\x00K\x00\x87q\x01Rq\x02",
    b"ccollections\ndefaultdict\nq\x00c__builtin__\nlist\nq\x01\x85q\x02Rq\x03X\x01\x00\x00\x00aq\x04]q\x05K\x01as",
    b"ccollections\nCounter\nq\x00}q\x01K\x03K\x02s\x85q\x02Rq\x03",
    b"\x8a\x09\x00\x00\x10\x63\x2d\x5e\xc7\x6b\x05",
    b"cargparse\nNamespace\nq\x00)\x81q\x01}q\x02(X\x02\x00\x00\x00lrq\x03cnumpy._core.multiarray\nscalar\nq\x04cnumpy\ndtype\nq\x05X\
      \x02\x00\x00\x00f8q\x06\x89\x88\x87q\x07Rq\x08(K\x03X\x01\x00\x00\x00<q\x09NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\nbc_codec\
      s\nencode\nq\x0bX\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc3\xa0?q\x0cX\x06\x00\x00\x00latin1q\x0d\x86q\x0eRq\x0f\x86q\x10Rq\
      \x11X\x03\x00\x00\x00outq\x12cpathlib\nPurePosixPath\nq\x13X\x01\x00\x00\x00aq\x14\x85q\x15Rq\x16ub",
    b"ctorch\nSize\nq\x00]q\x01K\x02a\x85q\x02Rq\x03",
];

/// Sets as protocol 4 pickles them, and the hyperparameters of Lightning, which are a dictionary subclass.
const KEPT_4: [&[u8]; 3] = [
    b"\x8f\x94(K\x01K\x02\x90",
    b"(K\x01\x91\x94",
    b"cpytorch_lightning.utilities.parsing\nAttributeDict\n)\x81(X\x02\x00\x00\x00lrG\x3f\xe0\0\0\0\0\0\0u",
];

fn entry(key: &str, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], value].concat()
}

/// Writes a file with a dictionary of these entries and a storage of two values for each key of `storages`.
fn checkpoint(dir: &Path, name: &str, entries: &[Vec<u8>], storages: &[(&str, [f32; 2])]) -> PathBuf {
    let contents: Vec<Vec<u8>> =
        storages.iter().map(|(_, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let storages: Vec<_> = storages.iter().zip(&contents).map(|((key, _), bytes)| (*key, bytes.as_slice())).collect();
    write(dir, name, archive(&pickle(&[b"}(", &entries.concat()[..], b"u"].concat()), &storages))
}

fn weights(key: &str) -> Vec<u8> {
    dict(&[whole("w", key, &[2], &[1])], b"")
}

/// PyTorch refuses these files by default since 2.6, as many issues report (open_clip 1078, nerfstudio 3702). Here, the
/// weights are read, and no objects are built from the rest.
#[test]
fn plain_data_beside_weights_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    for (number, kept) in KEPT.iter().chain(&KEPT_4).enumerate() {
        let entries = [entry("kept", kept), entry("state_dict", &weights("0")), entry("epoch", b"K\x03")];
        let path = checkpoint(dir.path(), "last.ckpt", &entries, &[("0", [1.0, 2.0])]);
        let read = torch::read(&path).unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!((read[0].name.as_str(), &read[0].values[..]), ("w", &[1.0, 2.0][..]), "{number}");
        // In place of a weight, it is refused.
        let path = checkpoint(dir.path(), "last.ckpt", &[entry("w", &weights("0")), entry("kept", kept)], &[]);
        assert!(torch::read(&path).is_err(), "{number}");
    }
    // Functions are refused everywhere.
    for name in
        ["builtins\neval", "builtins\ngetattr", "torch\nload", "numpy\nload", "pathlib\nos", "functools\npartial"]
    {
        let call = format!("c{name}\n(K\x01tR");
        let entries = [entry("kept", call.as_bytes()), entry("state_dict", &weights("0"))];
        let error =
            torch::read(&checkpoint(dir.path(), "last.ckpt", &entries, &[("0", [1.0, 2.0])])).unwrap_err().to_string();
        assert!(error.contains(&name.replace('\n', ".")), "{error}");
    }
}

/// timm (`load_state_dict(checkpoint_path, use_ema=True)`) prefers `state_dict_ema`, then `model_ema`, `state_dict` and
/// `model`.
#[test]
fn averaged_weights_are_preferred_as_in_timm_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let storages = [("0", [1.0, 2.0]), ("1", [3.0, 4.0])];
    for (averaged, plain) in [("state_dict_ema", "state_dict"), ("model_ema", "model")] {
        let entries = [entry(plain, &weights("0")), entry(averaged, &weights("1")), entry("epoch", b"K\x03")];
        let path = checkpoint(dir.path(), "model_best.pth.tar", &entries, &storages);
        let found = folder::read(dir.path()).unwrap();
        assert_eq!(found.tensors[0].values, [3.0, 4.0], "{averaged}");
        let [note] = &found.notes[..] else { panic!("{:?}", found.notes) };
        let name = path.display().to_string();
        assert!([averaged, plain, "timm", &name].iter().all(|part| note.contains(part)), "{note}");
        // None and an empty dictionary do not count as weights.
        for none in [&b"N"[..], b"}"] {
            let entries = [entry(plain, &weights("0")), entry(averaged, none), entry("epoch", b"K\x03")];
            checkpoint(dir.path(), "model_best.pth.tar", &entries, &storages[..1]);
            let found = folder::read(dir.path()).unwrap();
            assert_eq!((&found.tensors[0].values[..], found.notes.len()), (&[1.0, 2.0][..], 0));
        }
    }
    // DeepSpeed saves the weights under `module`.
    let entries = [entry("module", &weights("0")), entry("optimizer", b"N")];
    checkpoint(dir.path(), "model_best.pth.tar", &entries, &storages[..1]);
    assert_eq!(folder::read(dir.path()).unwrap().tensors[0].values, [1.0, 2.0]);
}

/// The small GPT-2 of `prefixes` without its weights file: folder, model folder, weights and loss.
fn small() -> (TempDir, PathBuf, Vec<NamedTensor>, f64) {
    let dir = place("prefixes");
    let loss = printed(&ok(dir.path(), "eval orig --data first.txt").0, "loss:");
    let model = dir.path().join("orig");
    let tensors = folder::read(&model).unwrap().tensors;
    fs::remove_file(model.join("pytorch_model.bin")).unwrap();
    (dir, model, tensors, loss)
}

fn save(path: &Path, tensors: &[NamedTensor], name: impl Fn(&str) -> String) {
    let all: Vec<_> = tensors.iter().map(|t| (name(&t.name), &t.shape, &t.values)).collect();
    tensors::write(path, &all).unwrap();
}

/// Training programs keep the model in an attribute, which Lightning modules mostly call `model`, so that all names in
/// their `.ckpt` files begin with it (transformers 9209). Other files beside the weights are ignored.
#[test]
fn attribute_prefixes_are_removed_and_other_files_are_ignored() {
    let (dir, model, all, loss) = small();
    for before in ["model.", "net.", "_forward_module.model.", "module.model._orig_mod.", "model.module."] {
        save(&model.join("model.safetensors"), &all, |name| format!("{before}{name}"));
        let (out, notes) = ok(dir.path(), "eval orig --data first.txt");
        assert_eq!(printed(&out, "loss:"), loss, "{before}");
        assert!(before.split_inclusive('.').all(|part| notes.contains(part)), "{before}: {notes}");
    }
    // A prefix that is not on all names is not an attribute's name.
    save(&model.join("model.safetensors"), &all, |name| {
        format!("{}{name}", if name.contains("wte") { "" } else { "model." })
    });
    refused(dir.path(), "eval orig --data first.txt", &["missing tensors"]);
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let contents: Vec<Vec<u8>> = all.iter().map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let names: Vec<String> = all.iter().map(|t| format!("model.{}", t.name)).collect();
    let strides: Vec<Vec<usize>> =
        all.iter().map(|t| if t.shape.len() == 2 { vec![t.shape[1], 1] } else { vec![1] }).collect();
    let described: Vec<Tensor<'_>> =
        (0..all.len()).map(|i| whole(&names[i], &names[i], &all[i].shape, &strides[i])).collect();
    let storages: Vec<(&str, &[u8])> = names.iter().zip(&contents).map(|(n, c)| (n.as_str(), c.as_slice())).collect();
    let body =
        [b"}(", &entry("state_dict", &dict(&described, b""))[..], &entry("hyper_parameters", KEPT_4[2]), b"u"].concat();
    write(&model, "last.ckpt", archive(&pickle(&body), &storages));
    let others = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "adapter_model.safetensors"];
    others.iter().for_each(|name| fs::write(model.join(name), "not weights").unwrap());
    let (out, _) = ok(dir.path(), "eval orig --data first.txt");
    assert_eq!(printed(&out, "loss:"), loss);
    fs::write(model.join("other.pt"), "weights?").unwrap();
    refused(dir.path(), "eval orig --data first.txt", &["last.ckpt", "other.pt", "rename"]);
    // For weights of another library, the error says how to convert them to PyTorch.
    ["last.ckpt", "other.pt"].iter().for_each(|name| fs::remove_file(model.join(name)).unwrap());
    for (name, how) in [("tf_model.h5", "from_tf=True"), ("flax_model.msgpack", "from_flax=True")] {
        fs::write(model.join(name), "weights").unwrap();
        refused(dir.path(), "eval orig --data first.txt", &[name, how, "save_pretrained"]);
        fs::remove_file(model.join(name)).unwrap();
    }
}

/// safetensors files hold only one of two tensors that share memory. Writers disagree about which one, and about what
/// the index lists (transformers 30202 and 41038, torchtitan 3764).
#[test]
fn an_index_may_disagree_about_shared_tensors() {
    let (dir, model, all, loss) = small();
    let at = dir.path();
    let (head, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|t| t.name == "lm_head.weight");
    let rest: Vec<NamedTensor> = rest.into_iter().filter(|t| t.name != "transformer.wte.weight").collect();
    let embedding = |name: &str| {
        let values = folder::read(&place("prefixes").path().join("orig")).unwrap().tensors;
        let found = values.into_iter().find(|t| t.name.ends_with("wte.weight")).unwrap();
        NamedTensor { name: name.to_owned(), ..found }
    };
    drop(head);
    let index = |names: &[&str], file: &str| {
        let mut map: serde_json::Map<String, Value> =
            rest.iter().map(|t| (t.name.clone(), "1.safetensors".into())).collect();
        map.extend(names.iter().map(|name| ((*name).to_owned(), file.into())));
        fs::write(model.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    };
    save(&model.join("1.safetensors"), &rest, str::to_owned);
    for (there, named) in [
        (&["transformer.wte.weight"][..], &["transformer.wte.weight", "lm_head.weight"][..]),
        (&["lm_head.weight"], &["transformer.wte.weight", "lm_head.weight"]),
        (&["transformer.wte.weight", "lm_head.weight"], &["transformer.wte.weight"]),
    ] {
        let tensors: Vec<NamedTensor> = there.iter().map(|name| embedding(name)).collect();
        save(&model.join("2.safetensors"), &tensors, str::to_owned);
        index(named, "2.safetensors");
        assert_eq!(printed(&ok(at, "eval orig --data first.txt").0, "loss:"), loss, "{there:?} {named:?}");
    }
    // If both are missing there is nothing to share, and a missing shard is named.
    save(&model.join("2.safetensors"), &[], str::to_owned);
    refused(at, "eval orig --data first.txt", &["missing tensors", "transformer.wte.weight"]);
    index(&["transformer.wte.weight"], "3.safetensors");
    refused(at, "eval orig --data first.txt", &["index.json", "3.safetensors"]);
    fs::remove_file(model.join("model.safetensors.index.json")).unwrap();
    // Shards without an index.
    refused(at, "eval orig --data first.txt", &["1.safetensors", "2.safetensors", "index"]);
}

/// The -1e9 of old attention masks is minus infinity in f16 (transformers 4098), but masks are not weights and are
/// ignored. If tensors that should be tied differ, the error says how to declare them untied.
#[test]
fn f16_masks_are_ignored_and_untied_heads_must_be_declared() {
    let (dir, model, all, loss) = small();
    let at = dir.path();
    let path = model.join("model.safetensors");
    save(&path, &all, str::to_owned);
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    for layer in 0..2 {
        let offsets = [data.len(), data.len() + 2];
        header[format!("transformer.h.{layer}.attn.masked_bias")] =
            json!({"dtype": "F16", "shape": [], "data_offsets": offsets});
        data.extend(half::f16::from_f32(-1e9).to_le_bytes());
    }
    let text = header.to_string();
    fs::write(&path, [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &data].concat()).unwrap();
    assert_eq!(printed(&ok(at, "eval orig --data first.txt").0, "loss:"), loss);
    let mut own = all.iter().find(|t| t.name.ends_with("wte.weight")).unwrap().clone();
    own.name = "lm_head.weight".to_owned();
    own.values[0] += 1.0;
    let others = all.iter().filter(|t| t.name != "lm_head.weight").cloned();
    let tensors: Vec<NamedTensor> = others.chain([own]).collect();
    save(&path, &tensors, str::to_owned);
    refused(at, "eval orig --data first.txt", &["lm_head.weight", "tie_word_embeddings", "false"]);
    let mut config = super::json(&model.join("config.json"));
    config["tie_word_embeddings"] = false.into();
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    ok(at, "eval orig --data first.txt");
}

/// Configuration values that transformers accepts and that mean the same: several names of the tanh form of GELU (the
/// same formula in its `activations.py`), a list of end-of-text tokens (text-generation-inference 2774), and -1 or null
/// for an absent token (candle 1177).
#[test]
fn equivalent_configuration_values_are_read() {
    let (dir, model, all, loss) = small();
    save(&model.join("model.safetensors"), &all, str::to_owned);
    let plain = super::json(&model.join("config.json"));
    for (key, value) in [
        ("activation_function", json!("gelu_fast")),
        ("activation_function", json!("gelu_accurate")),
        ("activation_function", json!("gelu_python_tanh")),
        ("eos_token_id", json!([0, 1])),
        ("bos_token_id", json!(-1)),
    ] {
        let mut config = plain.clone();
        config[key] = value;
        fs::write(model.join("config.json"), config.to_string()).unwrap();
        assert_eq!(printed(&ok(dir.path(), "eval orig --data first.txt").0, "loss:"), loss, "{key}");
    }
    let dir = place("nli-labels");
    let path = dir.path().join("model/config.json");
    let plain = super::json(&path);
    for (key, value) in [
        ("hidden_act", json!("gelu_python")),
        ("pad_token_id", Value::Null),
        ("pad_token_id", json!(-1)),
        ("num_labels", Value::Null),
    ] {
        let mut config = plain.clone();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        assert_eq!(printed(&ok(dir.path(), "eval model --run run.toml").0, "loss:"), 0.2367, "{key}");
    }
}

/// Saves a vision transformer of two layers in timm's format. Returns its tensors, configuration and device.
fn vision(dir: &Path) -> (Vec<NamedTensor>, DeitConfig, Cpu) {
    let config = DeitConfig {
        image: 8,
        patch: 4,
        channels: 3,
        classes: 3,
        width: 8,
        heads: 2,
        layers: 2,
        ffn: 16,
        eps: 1e-6,
        init_std: 0.2,
        distillation: Distillation::None,
        dropout: 0.0,
        drop_path: 0.0,
    };
    let mut device = Cpu::new(1);
    let model = Deit::new(config.clone()).unwrap();
    let store = Store::new(model.table().clone(), &mut device).unwrap();
    store.initialise(&mut device, 7).unwrap();
    hub::save(dir, &model, &store, &mut device).unwrap();
    (tensors::read(&dir.join("model.safetensors")).unwrap(), config, device)
}

/// The name of a tensor since transformers 5 (pull request 41693): `save_pretrained` still writes the old names, but
/// `torch.save(model.state_dict())` the new ones.
fn newer(name: &str) -> String {
    let pairs = [
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (before, after)| name.replace(before, after))
}

#[test]
fn vision_transformers_of_transformers_5_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, _, mut device) = vision(dir.path());
    let theirs = Names::Vit.publish(ours.clone()).unwrap();
    let config = json!({"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 8, "patch_size": 4,
        "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16, "num_labels": 3,
        "layer_norm_eps": 1e-6});
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let path = dir.path().join("model.safetensors");
    for wrapper in ["", "module.", "_orig_mod."] {
        save(&path, &theirs, |name| format!("{wrapper}{}", newer(name)));
        let loaded = hub::load(dir.path(), &mut device).unwrap();
        for (i, param) in loaded.model.table().params.iter().enumerate() {
            let parts = param.published().into_iter().flat_map(|part| {
                ours.iter().find(|t| t.name == part.name).unwrap_or_else(|| panic!("{}", part.name)).values.clone()
            });
            assert_eq!(loaded.store.read(&mut device, i).unwrap(), parts.collect::<Vec<f32>>(), "{wrapper}{i}");
        }
        // Saving it again gives the old names, which both versions read.
        let out = tempfile::tempdir().unwrap();
        hub::save_as(out.path(), &*loaded.model, &loaded.store, &mut device, loaded.form, StoreType::F32).unwrap();
        let mut written = tensors::read(&out.path().join("model.safetensors")).unwrap();
        let mut expected = theirs.clone();
        [&mut written, &mut expected].into_iter().for_each(|all| all.sort_by(|a, b| a.name.cmp(&b.name)));
        assert!(written == expected);
    }
    let some: Vec<NamedTensor> =
        theirs.iter().filter(|t| !t.name.contains("1.attention.attention.key.w")).cloned().collect();
    save(&path, &some, newer);
    let error = hub::load(dir.path(), &mut device).err().expect("an error").to_string();
    assert!(error.contains("vit.layers.1.attention.k_proj.weight"), "{error}");
}

/// Backbones without a head: `ViTModel`, and timm's `num_classes` of 0, as most self-supervised weights have (timm
/// 2332). A run that starts from one adds a head.
#[test]
fn a_vision_transformer_without_a_head_can_start_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, config, mut device) = vision(dir.path());
    let path = dir.path().join("model.safetensors");
    let body: Vec<NamedTensor> = ours.iter().filter(|t| !t.name.starts_with("head.")).cloned().collect();
    let theirs = Names::Vit.publish(body.clone()).unwrap();
    let mut pooled: Vec<NamedTensor> =
        theirs.iter().map(|t| NamedTensor { name: t.name.replacen("vit.", "", 1), ..t.clone() }).collect();
    pooled.push(NamedTensor { name: "pooler.dense.bias".to_owned(), shape: vec![8], values: vec![0.0; 8] });
    let timm = json!({"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": {"img_size": 8, "patch_size": 4,
        "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2}});
    let vit = json!({"model_type": "vit", "architectures": ["ViTModel"], "image_size": 8, "patch_size": 4, "hidden_size": 8,
        "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16, "layer_norm_eps": 1e-6});
    let model = Deit::new(DeitConfig { classes: 5, ..config }).unwrap();
    for (config, tensors, unused) in [(timm, &body, 0), (vit, &pooled, 1)] {
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        save(&path, tensors, str::to_owned);
        assert!(hub::load_config(dir.path()).is_ok(), "{config}");
        let store = Store::new(model.table().clone(), &mut device).unwrap();
        let begun = hub::begin(dir.path(), &model, &store, &mut device).unwrap();
        assert_eq!(
            (&begun.fresh[..], begun.unused.len()),
            (&["head.weight".to_owned(), "head.bias".to_owned()][..], unused)
        );
        let error = hub::load(dir.path(), &mut device).err().expect("an error").to_string();
        assert!(error.contains("without a head") && error.contains("model.from"), "{error}");
    }
}

/// A file may not contain what its name says, but a Git LFS pointer (transformers 22389 and 27923 show the errors of
/// other readers), a web page, or weights in the other format; and a given folder may be a parent of the model folder.
#[test]
fn misnamed_files_are_read_or_named() {
    let (dir, model, all, loss) = small();
    let at = dir.path();
    save(&model.join("pytorch_model.bin"), &all, str::to_owned);
    assert_eq!(printed(&ok(at, "eval orig --data first.txt").0, "loss:"), loss);
    fs::remove_file(model.join("pytorch_model.bin")).unwrap();
    fs::copy(place("prefixes").path().join("orig/pytorch_model.bin"), model.join("model.safetensors")).unwrap();
    assert_eq!(printed(&ok(at, "eval orig --data first.txt").0, "loss:"), loss);
    // Also in the format from before PyTorch 1.6.
    let numbers: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let before = write(at, "before.safetensors", old(&[whole("w", "0", &[2], &[1])], &[("0", 2, &numbers)]));
    assert_eq!(folder::read(&before).unwrap().tensors[0].values, [1.0, 2.0]);
    for name in ["model.safetensors", "pytorch_model.bin"] {
        for page in ["<!DOCTYPE html>\n<html><body>Not found</body></html>", "\n <html></html>"] {
            fs::write(model.join(name), page).unwrap();
            refused(at, "eval orig --data first.txt", &[name, "web page"]);
        }
        fs::remove_file(model.join(name)).unwrap();
    }
    save(&model.join("model.safetensors"), &all, str::to_owned);
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 548118077\n", "0a".repeat(32));
    for name in
        ["orig/model.safetensors", "orig/config.json", "orig/tokenizer.json", "orig/tokenizer_config.json", "first.txt"]
    {
        let content = fs::read(at.join(name)).unwrap();
        fs::write(at.join(name), &pointer).unwrap();
        refused(at, "eval orig --data first.txt", &[name, "git lfs pull"]);
        fs::write(at.join(name), content).unwrap();
    }
    fs::write(at.join("tokens.bin"), &pointer).unwrap();
    refused(at, "eval orig --data tokens.bin", &["tokens.bin", "git lfs pull"]);
    fs::create_dir_all(at.join("models--me--small/snapshots")).unwrap();
    fs::rename(&model, at.join("models--me--small/snapshots/0a1b")).unwrap();
    refused(at, "eval models--me--small --data first.txt", &["models--me--small", "snapshots"]);
    assert_eq!(printed(&ok(at, "eval models--me--small/snapshots/0a1b --data first.txt").0, "loss:"), loss);
}
