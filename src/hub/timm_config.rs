//! The two forms in which timm describes a vision transformer: the arguments of its class, and what it puts on the hub.

use serde_json::{Map, Value, json};

use super::keys::{self, decimal, number, size};
use super::vit_config::square;
use crate::bail;
use crate::error::{At, Result};
use crate::model::deit::{DeitConfig, Distillation};

const MODEL: &str = "a timm VisionTransformer";

/// Arguments that change the function unless they have this value, which is also what timm takes where they are absent.
/// `Null` beside another value: either will do.
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

/// Arguments that are read, and keys beside the arguments that do not change the function.
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

/// The arguments of `VisionTransformer`. Every unknown one is refused: it could change the function.
pub(super) fn from_arguments(map: &Map<String, Value>) -> Result<DeitConfig> {
    let fixed = fixed_arguments();
    for key in map.keys() {
        if !READ.contains(&key.as_str()) && fixed.iter().all(|(known, _)| known != key) {
            bail!("{key} is not an argument of {MODEL} that is implemented; give a checkpoint without it");
        }
    }
    for (key, values) in &fixed {
        keys::only(map, key, values)?;
    }
    let distilled = match (
        map.get("distilled"),
        map.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str),
    ) {
        (Some(&Value::Bool(distilled)), _) => distilled,
        (Some(other), _) => bail!("distilled is {other}; give true or false"),
        (None, None | Some("VisionTransformer")) => false,
        (None, Some("VisionTransformerDistilled")) => true,
        (None, Some(other)) => bail!(
            "architectures is {other:?}, and only \"VisionTransformer\" and \"VisionTransformerDistilled\" are implemented; \
             give a checkpoint of one of them"
        ),
    };
    let or = |key: &str, default: usize| Ok(size(map, key)?.unwrap_or(default));
    let width = or("embed_dim", 768)?;
    let ratio = number(map, "mlp_ratio", 4.0)?;
    // As timm computes it; 2^53 is where whole numbers end to be exact.
    let ffn = (width as f64 * ratio).trunc();
    if !(1.0..9e15).contains(&ffn) {
        bail!("mlp_ratio is {ratio}; give a positive number such as 4");
    }
    let probability = |key: &str| -> Result<f32> {
        let value = number(map, key, 0.0)?;
        keys::check_probability(key, value)?;
        Ok(value as f32)
    };
    let dropout = probability("proj_drop_rate")?;
    if probability("pos_drop_rate")? != dropout {
        bail!("pos_drop_rate differs from proj_drop_rate, and only one rate for both is implemented; make them equal");
    }
    Ok(DeitConfig {
        image: square(map, "img_size")?.unwrap_or(224),
        patch: square(map, "patch_size")?.unwrap_or(16),
        channels: or("in_chans", 3)?,
        // timm's 0 is a model without a head, which one with a head may start from.
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

/// What timm puts on the hub: an architecture, whose name stands for arguments, and `model_args`, which override them.
pub(super) fn from_hub(map: &Map<String, Value>) -> Result<DeitConfig> {
    let Some(architecture) = map["architecture"].as_str() else {
        bail!("architecture is {}; give a name in quotes", map["architecture"]);
    };
    let Some(mut arguments) = named(architecture) else {
        bail!(
            "architecture is {architecture:?}, and only names like vit_base_patch16_224, deit_small_patch16_224 and \
             deit_tiny_distilled_patch16_224 are implemented; give a checkpoint of one of them"
        );
    };
    let nothing = Map::new();
    let overriding = match map.get("model_args") {
        None | Some(Value::Null) => &nothing,
        Some(Value::Object(overriding)) => overriding,
        Some(other) => bail!("model_args is {other}; give an object with the arguments of {MODEL}"),
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
            "pretrained_cfg.input_size is {input}, and {architecture} with its model_args takes {wanted}; add img_size to model_args"
        );
    }
    Ok(config)
}

/// Sizes by name: width, layers, heads.
const NAMED: [(&str, [usize; 3]); 5] = [
    ("tiny", [192, 12, 3]),
    ("small", [384, 12, 6]),
    ("base", [768, 12, 12]),
    ("large", [1024, 24, 16]),
    ("huge", [1280, 32, 16]),
];

/// The arguments that `vit_base_patch16_224` and its like stand for.
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

/// A distillation token without a head is nothing that timm has: `vit_config::check` refuses it.
fn distilled(c: &DeitConfig) -> bool {
    c.distillation == Distillation::Head
}

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

pub(super) fn to_hub(c: &DeitConfig) -> Value {
    // Every size is an argument, so the name only has to be one of the right class.
    let architecture = if distilled(c) { "deit_base_distilled_patch16_224" } else { "vit_base_patch16_224" };
    let mut arguments = arguments(c);
    if c.eps != 1e-6 {
        // timm has no such argument, and better refuses it than computes something else.
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

/// The arguments that both forms have.
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

/// What `width` must be multiplied with so that it is `ffn` when cut to a whole number.
fn ratio(width: usize, ffn: usize) -> Value {
    if ffn.is_multiple_of(width) {
        return (ffn / width).into();
    }
    // The division may come out a little too small.
    let ratio = ffn as f64 / width as f64;
    let ratio = if (width as f64 * ratio).trunc() as usize == ffn { ratio } else { ratio.next_up() };
    ratio.into()
}
