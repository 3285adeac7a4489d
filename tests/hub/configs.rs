//! Promise: configurations of BERT, ViT and DeiT, in the formats of transformers and timm, are read and written as in
//! these libraries; an unsupported function is an error that names its key.

use serde_json::{Value, json};
use vcycle::error::Result;
use vcycle::hub::config::{self, Config};
use vcycle::hub::vit_config::{self, Form};
use vcycle::hub::{bert_config, gpt2_config};
use vcycle::model::bert::{BertConfig, BertHead, Norm};
use vcycle::model::deit::{DeitConfig, Distillation};

/// `json` with `key` set to `value`, or removed if it is `None`.
fn with(json: &Value, key: &str, value: Option<Value>) -> Value {
    let mut json = json.clone();
    match value {
        Some(value) => json[key] = value,
        None => drop(json.as_object_mut().unwrap().remove(key)),
    }
    json
}

/// Writes `json` to a file and reads it back.
fn read(json: &Value) -> Result<Config> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, json.to_string()).unwrap();
    config::read(&path)
}

#[track_caller]
fn refused(json: &Value, cases: &[(&str, Option<Value>)]) {
    for (key, value) in cases {
        let shown = format!("{key} = {value:?}");
        let message = read(&with(json, key, value.clone())).expect_err(&shown).to_string();
        assert!(
            message.contains(key) && message.contains("config.json") && message.contains("; "),
            "{shown}: {message}"
        );
    }
}

/// In the form of public BERT files.
fn bert_json(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": false,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.25, "hidden_size": 384, "initializer_range": 0.02,
        "intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
        "num_attention_heads": 12, "num_hidden_layers": 6, "pad_token_id": 0, "position_embedding_type": "absolute",
        "type_vocab_size": 2, "use_cache": true, "vocab_size": 30522, "pruned_heads": {}, "classifier_dropout": null
    })
}

fn bert(json: &Value) -> BertConfig {
    match read(json).unwrap() {
        Config::Bert(config) => config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bert_configurations() {
    let base = bert(&bert_json("BertForMaskedLM"));
    let expected = BertConfig {
        vocab: 30522,
        context: 512,
        types: 2,
        width: 384,
        heads: 12,
        layers: 6,
        ffn: 1536,
        eps: 1e-12,
        init_std: 0.02,
        dropout_hidden: 0.25,
        dropout_attention: 0.1,
        pad: 0,
        norm: Norm::Post,
        head: BertHead::Masked,
    };
    assert_eq!(base, expected);
    let head = |json: &Value| bert(json).head;
    assert_eq!(head(&bert_json("BertModel")), BertHead::Pooler);
    assert_eq!(head(&with(&bert_json("BertModel"), "add_pooling_layer", Some(json!(false)))), BertHead::None);
    assert_eq!(head(&bert_json("BertForPreTraining")), BertHead::Pretraining);
    let classify = bert_json("BertForSequenceClassification");
    assert_eq!(head(&classify), BertHead::Classify { labels: 2 });
    let three = json!({"0": "a", "1": "b", "2": "c"});
    assert_eq!(head(&with(&classify, "id2label", Some(three.clone()))), BertHead::Classify { labels: 3 });
    // As transformers decides where both are there.
    let both = with(&with(&classify, "id2label", Some(three)), "num_labels", Some(json!(50)));
    assert_eq!(head(&both), BertHead::Classify { labels: 50 });
    assert_eq!(head(&with(&classify, "num_labels", Some(json!(1)))), BertHead::Classify { labels: 1 });
    let regression = with(&with(&classify, "num_labels", Some(json!(1))), "problem_type", Some(json!("regression")));
    assert_eq!(head(&regression), BertHead::Classify { labels: 1 });
    // An encoder alone has no output layer to be tied.
    head(&with(&bert_json("BertModel"), "tie_word_embeddings", Some(json!(false))));
    for key in [
        "layer_norm_eps",
        "initializer_range",
        "max_position_embeddings",
        "type_vocab_size",
        "pad_token_id",
        "attention_probs_dropout_prob",
        "hidden_act",
        "position_embedding_type",
        "classifier_dropout",
    ] {
        assert_eq!(bert(&with(&bert_json("BertForMaskedLM"), key, None)), base, "{key}");
    }
}

#[test]
fn bert_configurations_that_are_refused() {
    let masked = bert_json("BertForMaskedLM");
    refused(
        &masked,
        &[
            ("model_type", Some(json!("roberta"))),
            ("model_type", Some(json!(3))),
            ("model_type", None),
            ("architectures", None),
            ("architectures", Some(json!(["BertForQuestionAnswering"]))),
            ("architectures", Some(json!([]))),
            ("hidden_act", Some(json!("gelu_new"))),
            ("hidden_act", Some(json!("relu"))),
            ("position_embedding_type", Some(json!("relative_key"))),
            ("is_decoder", Some(json!(true))),
            ("add_cross_attention", Some(json!(true))),
            ("tie_word_embeddings", Some(json!(false))),
            ("pruned_heads", Some(json!({"0": [1]}))),
            ("norm", Some(json!("sandwich"))),
            ("norm", Some(json!(1))),
            ("vocab_size", None),
            ("vocab_size", Some(json!(0))),
            ("vocab_size", Some(json!(1u64 << 33))),
            ("hidden_size", Some(json!("many"))),
            ("hidden_size", Some(json!(12u64 << 24))),
            ("num_attention_heads", Some(json!(7))),
            ("num_attention_heads", Some(json!(0))),
            ("num_hidden_layers", Some(json!(u64::MAX))),
            ("intermediate_size", Some(json!(-1))),
            ("type_vocab_size", Some(json!(0))),
            ("layer_norm_eps", Some(json!(0.0))),
            ("initializer_range", Some(json!(-0.1))),
            ("hidden_dropout_prob", Some(json!(1.0))),
            // Rounds to 1.
            ("attention_probs_dropout_prob", Some(json!(0.999_999_999_9))),
            ("pad_token_id", Some(json!(30522))),
            ("pad_token_id", Some(json!(1u64 << 33))),
        ],
    );
    refused(
        &bert_json("BertForSequenceClassification"),
        &[
            ("classifier_dropout", Some(json!(0.5))),
            ("problem_type", Some(json!("multi_label_classification"))),
            ("problem_type", Some(json!("regression"))),
            ("num_labels", Some(json!(0))),
            ("id2label", Some(json!(3))),
        ],
    );
    refused(&bert_json("BertModel"), &[("add_pooling_layer", Some(json!("no")))]);
}

#[test]
fn bert_configurations_are_written_as_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let heads = [
        BertHead::None,
        BertHead::Pooler,
        BertHead::Masked,
        BertHead::Pretraining,
        BertHead::Classify { labels: 1 },
        BertHead::Classify { labels: 5 },
    ];
    for head in heads {
        for norm in [Norm::Post, Norm::Pre] {
            let config = BertConfig { norm, head, dropout_hidden: 0.3, pad: 7, ..bert(&bert_json("BertModel")) };
            bert_config::write(&config, &path).unwrap();
            assert_eq!(config::read(&path).unwrap(), Config::Bert(config));
        }
    }
    let bad = BertConfig { heads: 7, ..bert(&bert_json("BertModel")) };
    let message = bert_config::write(&bad, &folder.path().join("bad.json")).unwrap_err().to_string();
    assert!(message.contains("num_attention_heads") && message.contains("bad.json"), "{message}");
    assert!(!folder.path().join("bad.json").exists());
}

fn vit_json() -> Value {
    json!({
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "attention_probs_dropout_prob": 0.0,
        "encoder_stride": 16, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 192, "image_size": 224,
        "initializer_range": 0.02, "intermediate_size": 768, "layer_norm_eps": 1e-12, "num_attention_heads": 3,
        "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16, "qkv_bias": true, "num_labels": 1000
    })
}

fn tiny() -> DeitConfig {
    DeitConfig {
        image: 224,
        patch: 16,
        channels: 3,
        classes: 1000,
        width: 192,
        heads: 3,
        layers: 12,
        ffn: 768,
        eps: 1e-12,
        init_std: 0.02,
        distillation: Distillation::None,
        dropout: 0.0,
        drop_path: 0.0,
    }
}

fn hub_json(architecture: &str) -> Value {
    json!({
        "architecture": architecture, "num_classes": 1000, "num_features": 192, "global_pool": "token",
        "pretrained_cfg": {"tag": "fb_in1k", "input_size": [3, 224, 224], "num_classes": 1000, "classifier": "head"}
    })
}

#[test]
fn vision_transformers() {
    let vit = |json: &Value| match read(json).unwrap() {
        Config::Vit(config, form) => (config, form),
        other => panic!("{other:?}"),
    };
    assert_eq!(vit(&vit_json()), (tiny(), Form::HuggingFace));
    let mut deit = with(&vit_json(), "model_type", Some(json!("deit")));
    for (architecture, distillation) in [
        ("DeiTForImageClassification", Distillation::Token),
        ("DeiTForImageClassificationWithTeacher", Distillation::Head),
    ] {
        deit["architectures"] = json!([architecture]);
        assert_eq!(vit(&deit), (DeitConfig { distillation, ..tiny() }, Form::HuggingFace));
    }
    assert_eq!(vit(&with(&vit_json(), "image_size", Some(json!([224, 224])))).0, tiny());

    let timm = DeitConfig { eps: 1e-6, ..tiny() };
    assert_eq!(vit(&hub_json("deit_tiny_patch16_224")), (timm.clone(), Form::TimmHub));
    assert_eq!(vit(&hub_json("vit_tiny_patch16_224")).0, timm);
    assert_eq!(
        vit(&hub_json("deit_tiny_distilled_patch16_224")).0,
        DeitConfig { distillation: Distillation::Head, ..timm.clone() }
    );
    let args = json!({"img_size": 384, "num_classes": 10, "mlp_ratio": 3.5, "drop_path_rate": 0.1});
    let mut larger = with(&hub_json("vit_tiny_patch16_224"), "model_args", Some(args));
    larger["pretrained_cfg"]["input_size"] = json!([3, 384, 384]);
    assert_eq!(vit(&larger).0, DeitConfig { image: 384, classes: 10, ffn: 672, drop_path: 0.1, ..timm });

    let arguments = json!({
        "model_type": "deit", "architectures": ["VisionTransformer"], "img_size": 32, "patch_size": 8, "in_chans": 3,
        "num_classes": 10, "embed_dim": 16, "depth": 4, "num_heads": 4, "mlp_ratio": 4, "qkv_bias": true,
        "layer_norm_eps": 1e-6, "hidden_act": "gelu", "class_token": true, "global_pool": "token", "drop_rate": 0.0
    });
    let expected =
        DeitConfig { image: 32, patch: 8, classes: 10, width: 16, heads: 4, layers: 4, ffn: 64, eps: 1e-6, ..tiny() };
    assert_eq!(vit(&arguments), (expected, Form::TimmArguments));
}

#[test]
fn vision_transformers_that_are_refused() {
    refused(
        &vit_json(),
        &[
            ("model_type", Some(json!("swin"))),
            ("architectures", None),
            ("architectures", Some(json!(["ViTForMaskedImageModeling"]))),
            ("architectures", Some(json!(["DeiTForImageClassification"]))),
            ("architectures", Some(json!(["DeiTForImageClassificationWithTeacher"]))),
            ("hidden_act", Some(json!("quick_gelu"))),
            ("hidden_act", Some(Value::Null)),
            ("qkv_bias", Some(json!(false))),
            ("attention_probs_dropout_prob", Some(json!(0.1))),
            ("problem_type", Some(json!("regression"))),
            ("image_size", Some(json!(225))),
            ("image_size", Some(json!([224, 196]))),
            ("patch_size", Some(json!(0))),
            ("num_channels", Some(json!(1u64 << 32))),
            ("num_labels", Some(json!(0))),
            ("num_attention_heads", Some(json!(5))),
            ("hidden_size", None),
            ("layer_norm_eps", Some(json!("small"))),
            ("drop_path_rate", Some(json!(1.0))),
        ],
    );
    // And the other way round.
    let deit = with(&vit_json(), "model_type", Some(json!("deit")));
    assert!(read(&deit).unwrap_err().to_string().contains("architectures"));

    let arguments = vit_config::to_json(&tiny(), Form::TimmArguments);
    refused(
        &arguments,
        &[
            ("class_token", Some(json!(false))),
            ("global_pool", Some(json!("avg"))),
            ("qkv_bias", Some(json!(false))),
            ("qk_norm", Some(json!(true))),
            ("init_values", Some(json!(1e-6))),
            ("no_embed_class", Some(json!(true))),
            ("reg_tokens", Some(json!(4))),
            ("pre_norm", Some(json!(true))),
            ("fc_norm", Some(json!(true))),
            ("pos_embed", Some(json!("none"))),
            ("drop_rate", Some(json!(0.1))),
            ("attn_drop_rate", Some(json!(0.1))),
            ("pos_drop_rate", Some(json!(0.1))),
            ("use_fused_magic", Some(json!(true))),
            ("mlp_ratio", Some(json!(0))),
            ("mlp_ratio", Some(json!(1e300))),
            ("depth", Some(json!(0))),
            ("num_classes", Some(json!(-1))),
            ("architectures", Some(json!(["Eva"]))),
            ("img_size", Some(json!(100))),
        ],
    );
    for name in [
        "vit_base_patch16_rpn_224",
        "deit3_base_patch16_224",
        "vit_tiny_distilled_patch16_224",
        "resnet50",
        "vit_base_patch16_clip_224",
        "vit_base_patch_224",
        "vit",
        "",
    ] {
        assert!(read(&hub_json(name)).unwrap_err().to_string().contains("architecture is"), "{name}");
    }
    refused(
        &hub_json("vit_tiny_patch16_224"),
        &[
            ("architecture", Some(json!(3))),
            ("model_args", Some(json!([1]))),
            ("model_args", Some(json!({"init_values": 1e-5}))),
            ("global_pool", Some(json!("avg"))),
            ("num_classes", Some(json!(-1))),
            ("pretrained_cfg", Some(json!({"input_size": [3, 384, 384]}))),
        ],
    );
}

#[test]
fn vision_transformers_are_written_as_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    for form in [Form::HuggingFace, Form::TimmArguments, Form::TimmHub] {
        for (distillation, ffn, eps) in [
            (Distillation::None, 768, 1e-6),
            (Distillation::Head, 768, 1e-12),
            (Distillation::None, 577, 1e-6),
            (Distillation::Head, 1, 1e-5),
            (Distillation::Token, 768, 1e-12),
        ] {
            let config = DeitConfig {
                distillation,
                ffn,
                eps,
                dropout: 0.1,
                drop_path: 0.3,
                channels: 1,
                init_std: 0.03,
                ..tiny()
            };
            let written = vit_config::write(&config, form, &path);
            if distillation == Distillation::Token && form != Form::HuggingFace {
                let message = written.unwrap_err().to_string();
                assert!(message.contains("distilled") && message.contains("transformers"), "{message}");
                continue;
            }
            written.unwrap();
            assert_eq!(config::read(&path).unwrap(), Config::Vit(config, form));
        }
    }
    // Every inner size comes back through timm's ratio.
    for ffn in 1..2000 {
        let config = DeitConfig { width: 189, ffn, ..tiny() };
        assert_eq!(vit_config::from_json(&vit_config::to_json(&config, Form::TimmHub)).unwrap().0.ffn, ffn);
    }
    let bad = DeitConfig { patch: 15, ..tiny() };
    assert!(vit_config::write(&bad, Form::TimmHub, &path).unwrap_err().to_string().contains("patch_size"));
}

#[test]
fn gpt2_may_have_a_head_of_its_own() {
    let json =
        json!({"model_type": "gpt2", "vocab_size": 11, "n_positions": 5, "n_embd": 4, "n_head": 2, "n_layer": 1});
    let gpt2 = |json: &Value| gpt2_config::Gpt2Config::from_json(json).unwrap();
    assert!(gpt2(&json).tie_word_embeddings);
    let untied = gpt2(&with(&json, "tie_word_embeddings", Some(json!(false))));
    assert!(!untied.tie_word_embeddings);
    assert_eq!(gpt2(&untied.to_json()), untied);
    assert_eq!(read(&untied.to_json()).unwrap(), Config::Gpt2(untied));
}
