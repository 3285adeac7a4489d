//! The `config.json` of a vision transformer: of `transformers` (ViT, DeiT) and of timm.
//!
//! Keys of this crate alone, which the other libraries ignore: `drop_path_rate` in the form of `transformers`, and
//! `initializer_range` in the forms of timm.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::classes;
use super::keys::{self, decimal, number, required_size, size, text};
use super::timm_config;
use crate::bail;
use crate::error::{At, Result};
use crate::model::deit::{DeitConfig, Distillation};

pub(super) const MODEL: &str = "a ViT or DeiT model";
const ARCHITECTURES: &str =
    "\"ViTForImageClassification\", \"DeiTForImageClassification\" and \"DeiTForImageClassificationWithTeacher\"";

/// Whose keys and tensor names a model folder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `ViTForImageClassification`; where there is a distillation token `DeiTForImageClassificationWithTeacher`, and
    /// without a head for it `DeiTForImageClassification`.
    HuggingFace,
    /// The arguments of timm's `VisionTransformer`.
    TimmArguments,
    /// What timm puts on the Hugging Face hub and `timm.create_model("local-dir:...")` reads: `architecture`, `model_args`.
    TimmHub,
}

/// Reads a `config.json` of any form.
///
/// # Errors
/// When the file cannot be read or is not a JSON object, when a key is missing, of the wrong type or out of range, or
/// when it asks for a function that is not implemented. The message names the file and the key.
pub fn read(path: &Path) -> Result<(DeitConfig, Form)> {
    from_json(&keys::read(path, MODEL)?).at(path.display())
}

/// The configuration in an already parsed `config.json`; same rules and errors as [`read`].
pub fn from_json(value: &Value) -> Result<(DeitConfig, Form)> {
    let map = keys::object(value, MODEL)?;
    let form = form_of(map);
    let config = match form {
        Form::HuggingFace => from_hugging_face(map)?,
        Form::TimmArguments => timm_config::from_arguments(map)?,
        Form::TimmHub => timm_config::from_hub(map)?,
    };
    check(&config, form)?;
    Ok((config, form))
}

fn form_of(map: &Map<String, Value>) -> Form {
    if map.contains_key("architecture") {
        Form::TimmHub
    } else if map.contains_key("embed_dim") {
        Form::TimmArguments
    } else {
        Form::HuggingFace
    }
}

fn from_hugging_face(map: &Map<String, Value>) -> Result<DeitConfig> {
    let kind = match text(map, "model_type")? {
        Some(kind @ ("vit" | "deit")) => kind,
        Some(other) => {
            bail!("model_type is {other:?}, and \"vit\" or \"deit\" is wanted; give a ViT or DeiT checkpoint")
        }
        None => bail!("missing key model_type; add \"model_type\": \"vit\" or \"deit\" if it is such a checkpoint"),
    };
    let distillation = match map.get("architectures").and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::String(name)]) => match (kind, name.as_str()) {
            ("vit", "ViTForImageClassification") => Distillation::None,
            ("deit", "DeiTForImageClassification") => Distillation::Token,
            ("deit", "DeiTForImageClassificationWithTeacher") => Distillation::Head,
            // Without a head: what a model with a head may start from.
            ("vit", "ViTModel") => Distillation::None,
            ("deit", "DeiTModel") => Distillation::Token,
            _ => {
                bail!(
                    "architectures is {name:?} in a model of type {kind:?}, and only {ARCHITECTURES} are implemented; give a \
                     checkpoint of one of them"
                )
            }
        },
        _ => bail!("architectures must be one name in brackets; give {ARCHITECTURES}"),
    };
    keys::only(map, "hidden_act", &keys::gelu())?;
    for (key, only) in [
        ("qkv_bias", json!(true)),
        ("attention_probs_dropout_prob", json!(0.0)),
        ("problem_type", json!("single_label_classification")),
    ] {
        if map.get(key) != Some(&Value::Null) {
            keys::only(map, key, &[only])?;
        }
    }
    keys::not_pruned(map)?;
    let or = |key: &str, default: usize| Ok(size(map, key)?.unwrap_or(default));
    let probability = |key: &str| -> Result<f32> {
        let value = number(map, key, 0.0)?;
        keys::check_probability(key, value)?;
        Ok(value as f32)
    };
    Ok(DeitConfig {
        image: square(map, "image_size")?.unwrap_or(224),
        patch: square(map, "patch_size")?.unwrap_or(16),
        channels: or("num_channels", 3)?,
        classes: keys::labels(map)?,
        width: required_size(map, "hidden_size")?,
        heads: required_size(map, "num_attention_heads")?,
        layers: required_size(map, "num_hidden_layers")?,
        ffn: required_size(map, "intermediate_size")?,
        eps: number(map, "layer_norm_eps", 1e-12)?,
        init_std: number(map, "initializer_range", 0.02)?,
        distillation,
        dropout: probability("hidden_dropout_prob")?,
        drop_path: probability("drop_path_rate")?,
    })
}

/// A side, or two equal ones.
pub(super) fn square(map: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match map.get(key) {
        Some(Value::Array(sides)) => match sides.as_slice() {
            [a, b] if a == b && a.is_u64() => Ok(a.as_u64().and_then(|n| usize::try_from(n).ok())),
            _ => bail!("{key} is {}, and only squares are implemented; give one number", map[key]),
        },
        _ => size(map, key),
    }
}

/// The key of each size, for messages.
struct Keys {
    image: &'static str,
    patch: &'static str,
    channels: &'static str,
    classes: &'static str,
    width: &'static str,
    heads: &'static str,
    layers: &'static str,
    ffn: &'static str,
}

const HUGGING_FACE: Keys = Keys {
    image: "image_size",
    patch: "patch_size",
    channels: "num_channels",
    classes: "num_labels",
    width: "hidden_size",
    heads: "num_attention_heads",
    layers: "num_hidden_layers",
    ffn: "intermediate_size",
};

const TIMM: Keys = Keys {
    image: "img_size",
    patch: "patch_size",
    channels: "in_chans",
    classes: "num_classes",
    width: "embed_dim",
    heads: "num_heads",
    layers: "depth",
    ffn: "mlp_ratio",
};

/// Checks ranges and the relations between sizes; errors name the keys of `form`.
///
/// # Errors
/// A size of zero or beyond reason, heads that do not divide the width, patches that do not divide the image, a rate that
/// is none; a distillation token without a head in a form of timm.
pub fn check(c: &DeitConfig, form: Form) -> Result<()> {
    let k = if form == Form::HuggingFace { HUGGING_FACE } else { TIMM };
    if c.distillation == Distillation::Token && form != Form::HuggingFace {
        bail!("distilled: timm has no distillation token without a head; save the model in the form of transformers");
    }
    keys::check_sizes(&[
        (k.image, c.image),
        (k.patch, c.patch),
        (k.channels, c.channels),
        (k.classes, c.classes),
        (k.width, c.width),
        (k.heads, c.heads),
        (k.layers, c.layers),
        (k.ffn, c.ffn),
    ])?;
    if !c.width.is_multiple_of(c.heads) {
        bail!("{} = {} does not divide {} = {}; change one of them", k.heads, c.heads, k.width, c.width);
    }
    if !c.image.is_multiple_of(c.patch) {
        bail!("{} = {} does not divide {} = {}; change one of them", k.patch, c.patch, k.image, c.image);
    }
    let [image, patch, channels, classes, width, layers, ffn] =
        [c.image, c.patch, c.channels, c.classes, c.width, c.layers, c.ffn].map(|n| n as u128);
    let layer = 4 * width * width + 4 * width + 2 * width * ffn + ffn + 5 * width;
    let rows = (image / patch).pow(2) + 4 + 2 * classes;
    // Each factor is at most 2^31, so four of them overflow only here.
    let Some(patches) = (patch * patch).checked_mul(channels).and_then(|n| n.checked_mul(width)) else {
        bail!("{} = {} is beyond reason; give a smaller number", k.patch, c.patch);
    };
    let all =
        (rows.saturating_mul(width)).saturating_add(layers * layer).saturating_add(patches).saturating_add(classes);
    keys::check_parameters(all, "the sizes of image, patches, width and layers")?;
    keys::check_positive("layer_norm_eps", c.eps)?;
    keys::check_not_negative("initializer_range", c.init_std)?;
    keys::check_probability("dropout", c.dropout.into())?;
    keys::check_probability("drop_path_rate", c.drop_path.into())
}

/// The contents of a `config.json` from which the library of `form` builds the same model, if [`check`] admits it.
pub fn to_json(config: &DeitConfig, form: Form) -> Value {
    match form {
        Form::HuggingFace => to_hugging_face(config),
        Form::TimmArguments => timm_config::to_arguments(config),
        Form::TimmHub => timm_config::to_hub(config),
    }
}

fn to_hugging_face(c: &DeitConfig) -> Value {
    let (kind, architecture) = match c.distillation {
        Distillation::None => ("vit", "ViTForImageClassification"),
        Distillation::Token => ("deit", "DeiTForImageClassification"),
        Distillation::Head => ("deit", "DeiTForImageClassificationWithTeacher"),
    };
    let mut json = json!({
        "architectures": [architecture],
        "model_type": kind,
        "image_size": c.image,
        "patch_size": c.patch,
        "num_channels": c.channels,
        "hidden_size": c.width,
        "num_attention_heads": c.heads,
        "num_hidden_layers": c.layers,
        "intermediate_size": c.ffn,
        "hidden_act": "gelu",
        "qkv_bias": true,
        "layer_norm_eps": c.eps,
        "initializer_range": c.init_std,
        "hidden_dropout_prob": decimal(c.dropout),
        "attention_probs_dropout_prob": 0.0,
        "torch_dtype": "float32",
    });
    if c.drop_path != 0.0 {
        json["drop_path_rate"] = decimal(c.drop_path).into();
    }
    for (key, value) in keys::label_names(c.classes) {
        json[key] = value;
    }
    json
}

/// Writes [`to_json`], indented, to `path`; the file appears whole or not at all.
///
/// # Errors
/// When [`check`] fails or the file cannot be written.
pub fn write(config: &DeitConfig, form: Form, path: &Path) -> Result<()> {
    write_named(config, form, None, path)
}

/// As [`write()`], with the names of the classes, if any.
///
/// # Errors
/// As [`write()`].
pub fn write_named(config: &DeitConfig, form: Form, names: Option<&[String]>, path: &Path) -> Result<()> {
    check(config, form).at(format_args!("writing {}", path.display()))?;
    let mut json = to_json(config, form);
    if let Some(names) = names {
        classes::put(&mut json, names);
    }
    keys::write(path, &json)
}
