//! The two formats in which timm describes a vision transformer: constructor arguments, and the `config.json` of the
//! Hugging Face hub.

use serde_json::{Map, Value, json};

use super::keys::{self, decimal, number, size};
use super::vit_config::square;
use crate::bail;
use crate::error::{At, Result};
use crate::model::deit::{DeitConfig, Distillation};

const MODEL: &str = "a timm VisionTransformer";

/// Returns the arguments that would change the function of the model, each with its supported values. Every argument
/// defaults to a supported value in timm.
fn fixed_arguments() -> Vec<(&'static str, Vec<Value>)> {
    let zero = || vec![json!(0.0)];
    vec![
        ("class_token", vec![json!(true)]),
        ("global_pool", vec![json!("token")]),
        ("qkv_bias", vec![json!(true)]),
        ("qk_norm", vec![json!(false)]),
        ("hidden_act", vec![json!("gelu")]),
        ("init_values", vec![Value::Null]),
        ("pos_embed", vec![json!("learn")]),
        ("no_embed_class", vec![json!(false)]),
        ("reg_tokens", zero()),
        ("pre_norm", vec![json!(false)]),
        ("fc_norm", vec![Value::Null, json!(false)]),
        ("final_norm", vec![json!(true)]),
        ("proj_bias", vec![json!(true)]),
        ("scale_attn_norm", vec![json!(false)]),
        ("scale_mlp_norm", vec![json!(false)]),
        ("dynamic_img_size", vec![json!(false)]),
        ("dynamic_img_pad", vec![json!(false)]),
        ("norm_layer", vec![Value::Null]),
        ("act_layer", vec![Value::Null]),
        ("drop_rate", zero()),
        ("patch_drop_rate", zero()),
        ("attn_drop_rate", zero()),
    ]
}

/// Arguments that are read, and other keys that do not change the function of the model.
const READ: [&str; 20] = [
    "model_type",
    "architectures",
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "label_names",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "layer_norm_eps",
    "initializer_range",
    "pos_drop_rate",
    "proj_drop_rate",
    "drop_path_rate",
    "distilled",
    "weight_init",
    "fix_init",
    "strict_img_size",
];

/// Reads the arguments of `VisionTransformer`. Unknown arguments are errors, since they could change the function of
/// the model.
pub(super) fn from_arguments(map: &Map<String, Value>) -> Result<DeitConfig> {
    let fixed = fixed_arguments();
    for key in map.keys() {
        if !READ.contains(&key.as_str()) && fixed.iter().all(|(known, _)| known != key) {
            bail!("{key} is not a supported argument of {MODEL}; use a checkpoint without it");
        }
    }
    for (key, values) in &fixed {
        keys::only(map, key, values)?;
    }
    let distilled =
        match (map.get("distilled"), map.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str)) {
            (Some(&Value::Bool(distilled)), _) => distilled,
            (Some(other), _) => bail!("distilled is {other}; it must be true or false"),
            (None, None | Some("VisionTransformer")) => false,
            (None, Some("VisionTransformerDistilled")) => true,
            (None, Some(other)) => bail!(
                "architectures is {other:?}, but only \"VisionTransformer\" and \"VisionTransformerDistilled\" are \
                 supported; give a checkpoint of one of them"
            ),
        };
    let or = |key: &str, default: usize| Ok(size(map, key)?.unwrap_or(default));
    let width = or("embed_dim", 768)?;
    let ratio = number(map, "mlp_ratio", 4.0)?;
    // Computed as in timm. The limit is below 2^53, up to which f64 represents all integers exactly.
    let ffn = (width as f64 * ratio).trunc();
    if !(1.0..9e15).contains(&ffn) {
        bail!("mlp_ratio is {ratio}; it must be a positive number, such as 4");
    }
    let probability = |key: &str| -> Result<f32> {
        let value = number(map, key, 0.0)?;
        keys::check_probability(key, value)?;
        Ok(value as f32)
    };
    let dropout = probability("proj_drop_rate")?;
    if probability("pos_drop_rate")? != dropout {
        bail!("pos_drop_rate differs from proj_drop_rate, but only one rate for both is supported; make them equal");
    }
    Ok(DeitConfig {
        image: square(map, "img_size")?.unwrap_or(224),
        patch: square(map, "patch_size")?.unwrap_or(16),
        channels: or("in_chans", 3)?,
        // In timm, 0 means a model without a head, from which one with a head may be initialised.
        classes: or("num_classes", 1000)?.max(1),
        width,
        heads: or("num_heads", 12)?,
        layers: or("depth", 12)?,
        ffn: ffn as usize,
        eps: number(map, "layer_norm_eps", 1e-6)?,
        init_std: number(map, "initializer_range", 0.02)?,
        distillation: if distilled { Distillation::Head } else { Distillation::None },
        dropout,
        drop_path: probability("drop_path_rate")?,
    })
}

/// Reads the format of the Hugging Face hub: an architecture, whose name implies arguments, and `model_args`, which
/// override them.
pub(super) fn from_hub(map: &Map<String, Value>) -> Result<DeitConfig> {
    let Some(architecture) = map["architecture"].as_str() else {
        bail!("architecture is {}; it must be a string", map["architecture"]);
    };
    let Some(mut arguments) = named(architecture) else {
        bail!(
            "architecture is {architecture:?}, but only names like vit_base_patch16_224, deit_small_patch16_224 and \
             deit_tiny_distilled_patch16_224 are supported; give a checkpoint of one of them"
        );
    };
    let nothing = Map::new();
    let overriding = match map.get("model_args") {
        None | Some(Value::Null) => &nothing,
        Some(Value::Object(overriding)) => overriding,
        Some(other) => bail!("model_args is {other}; it must be an object with the arguments of {MODEL}"),
    };
    for key in ["num_classes", "global_pool", "initializer_range"] {
        if let Some(value) = map.get(key) {
            arguments.insert(key.into(), value.clone());
        }
    }
    for (key, value) in overriding {
        if matches!(key.as_str(), "model_type" | "architectures" | "distilled") {
            bail!("model_args: {key} is not an argument of {MODEL}; remove it");
        }
        arguments.insert(key.clone(), value.clone());
    }
    let config = from_arguments(&arguments).at("model_args")?;
    let input = map.get("pretrained_cfg").and_then(|c| c.get("input_size")).filter(|size| !size.is_null());
    let wanted = json!([config.channels, config.image, config.image]);
    if let Some(input) = input.filter(|&input| *input != wanted) {
        bail!(
            "pretrained_cfg.input_size is {input}, but {architecture} with its model_args takes {wanted}; add \
             img_size to model_args"
        );
    }
    Ok(config)
}

/// `[width, layers, heads]` of the named model sizes.
const NAMED: [(&str, [usize; 3]); 5] = [
    ("tiny", [192, 12, 3]),
    ("small", [384, 12, 6]),
    ("base", [768, 12, 12]),
    ("large", [1024, 24, 16]),
    ("huge", [1280, 32, 16]),
];

/// Returns the arguments implied by an architecture name such as `vit_base_patch16_224`.
fn named(architecture: &str) -> Option<Map<String, Value>> {
    let (family, rest) = architecture.split_once('_')?;
    let (name, rest) = rest.split_once('_')?;
    let (distilled, rest) = match rest.strip_prefix("distilled_") {
        Some(rest) if family == "deit" => (true, rest),
        Some(_) => return None,
        None => (false, rest),
    };
    let (patch, image) = rest.strip_prefix("patch")?.split_once('_')?;
    let [patch, image] = [patch, image].map(|n| n.parse::<usize>().ok());
    let &(_, [width, layers, heads]) = NAMED.iter().find(|(known, _)| *known == name)?;
    if !matches!(family, "vit" | "deit") {
        return None;
    }
    let arguments = json!({
        "img_size": image?,
        "patch_size": patch?,
        "embed_dim": width,
        "depth": layers,
        "num_heads": heads,
        "distilled": distilled,
    });
    arguments.as_object().cloned()
}

/// Whether the model is distilled in the sense of timm. A distillation token without a head is rejected by
/// `vit_config::check`.
fn distilled(c: &DeitConfig) -> bool {
    c.distillation == Distillation::Head
}

/// Returns the content of a `config.json` with constructor arguments.
pub(super) fn to_arguments(c: &DeitConfig) -> Value {
    let mut json = Value::Object(arguments(c));
    json["model_type"] = "deit".into();
    json["architectures"] = json!([if distilled(c) { "VisionTransformerDistilled" } else { "VisionTransformer" }]);
    json["num_classes"] = c.classes.into();
    json["hidden_act"] = "gelu".into();
    json["global_pool"] = "token".into();
    json["layer_norm_eps"] = c.eps.into();
    json["initializer_range"] = c.init_std.into();
    json
}

/// Returns the content of a `config.json` in the format of the Hugging Face hub.
pub(super) fn to_hub(c: &DeitConfig) -> Value {
    // All sizes are given as arguments, so any architecture name of the right class will do.
    let architecture = if distilled(c) { "deit_base_distilled_patch16_224" } else { "vit_base_patch16_224" };
    let mut arguments = arguments(c);
    if c.eps != 1e-6 {
        // timm has no such argument. It should reject the model rather than compute something else.
        arguments.insert("layer_norm_eps".into(), c.eps.into());
    }
    json!({
        "architecture": architecture,
        "num_classes": c.classes,
        "num_features": c.width,
        "global_pool": "token",
        "model_args": arguments,
        "initializer_range": c.init_std,
        "pretrained_cfg": {
            "input_size": [c.channels, c.image, c.image],
            "num_classes": c.classes,
            "first_conv": "patch_embed.proj",
            "classifier": if distilled(c) { json!(["head", "head_dist"]) } else { json!("head") },
        },
    })
}

/// Returns the arguments that both formats share.
fn arguments(c: &DeitConfig) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
    put("img_size", c.image.into());
    put("patch_size", c.patch.into());
    put("in_chans", c.channels.into());
    put("embed_dim", c.width.into());
    put("depth", c.layers.into());
    put("num_heads", c.heads.into());
    put("mlp_ratio", ratio(c.width, c.ffn));
    put("qkv_bias", true.into());
    put("class_token", true.into());
    for (key, rate) in [("pos_drop_rate", c.dropout), ("proj_drop_rate", c.dropout), ("drop_path_rate", c.drop_path)] {
        put(key, decimal(rate).into());
    }
    all
}

/// Returns the ratio for which `width * ratio`, truncated to an integer, is `ffn`.
fn ratio(width: usize, ffn: usize) -> Value {
    if ffn.is_multiple_of(width) {
        return (ffn / width).into();
    }
    // Rounding may make the quotient slightly too small.
    let ratio = ffn as f64 / width as f64;
    let ratio = if (width as f64 * ratio).trunc() as usize == ffn { ratio } else { ratio.next_up() };
    ratio.into()
}
