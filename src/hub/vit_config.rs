//! The `config.json` of a vision transformer, in the formats of `transformers` (ViT, DeiT) and of timm.
//!
//! Two keys are specific to this crate, and the other libraries ignore them: `drop_path_rate` in the format of
//! `transformers`, and `initializer_range` in the formats of timm.

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

/// The format of a `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The format of `transformers`: `ViTForImageClassification`, `DeiTForImageClassificationWithTeacher` with a
    /// distillation token and a head for it, or `DeiTForImageClassification` with a distillation token but no head for
    /// it.
    HuggingFace,
    /// The constructor arguments of timm's `VisionTransformer`.
    TimmArguments,
    /// The format of timm models on the Hugging Face hub, with the keys `architecture` and `model_args`.
    /// `timm.create_model("local-dir:...")` reads it.
    TimmHub,
}

/// Reads a `config.json` of any format.
///
/// # Errors
/// The file cannot be read or is not a JSON object; a key is missing, of the wrong type or out of range; or a key
/// requires a function that is not supported. The message names the file and the key.
pub fn read(path: &Path) -> Result<(DeitConfig, Form)> {
    from_json(&keys::read(path, MODEL)?).at(path.display())
}

/// Converts an already parsed `config.json`, with the same rules and errors as [`read`].
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

/// Detects the format from the keys of a file.
fn form_of(map: &Map<String, Value>) -> Form {
    if map.contains_key("architecture") {
        Form::TimmHub
    } else if map.contains_key("embed_dim") {
        Form::TimmArguments
    } else {
        Form::HuggingFace
    }
}

/// Reads the format of `transformers`.
fn from_hugging_face(map: &Map<String, Value>) -> Result<DeitConfig> {
    let kind = match text(map, "model_type")? {
        Some(kind @ ("vit" | "deit")) => kind,
        Some(other) => {
            bail!("model_type is {other:?}, but \"vit\" or \"deit\" is expected; give a ViT or DeiT checkpoint")
        }
        None => bail!("missing key model_type; add \"model_type\": \"vit\" or \"deit\" if it is such a checkpoint"),
    };
    let distillation = match map.get("architectures").and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::String(name)]) => match (kind, name.as_str()) {
            ("vit", "ViTForImageClassification") => Distillation::None,
            ("deit", "DeiTForImageClassification") => Distillation::Token,
            ("deit", "DeiTForImageClassificationWithTeacher") => Distillation::Head,
            // Models without a head, from which one with a head may be initialised.
            ("vit", "ViTModel") => Distillation::None,
            ("deit", "DeiTModel") => Distillation::Token,
            _ => {
                bail!(
                    "architectures is {name:?} in a model of type {kind:?}, but only {ARCHITECTURES} are supported; \
                     give a checkpoint of one of them"
                )
            }
        },
        _ => bail!("architectures must be a list with one name; give one of {ARCHITECTURES}"),
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

/// Reads a side length, which may be given as a list of two equal numbers.
pub(super) fn square(map: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match map.get(key) {
        Some(Value::Array(sides)) => match sides.as_slice() {
            [a, b] if a == b && a.is_u64() => Ok(a.as_u64().and_then(|n| usize::try_from(n).ok())),
            _ => bail!("{key} is {}, but only squares are supported; give one number", map[key]),
        },
        _ => size(map, key),
    }
}

/// The key of each size in a format, for error messages.
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

/// Checks ranges and the relations between sizes. Error messages use the keys of `form`.
///
/// # Errors
/// A size is zero or above 2^31, the heads do not divide the width, the patch size does not divide the image size, the
/// model has more than 2^40 parameters, a rate is out of range, or a format of timm is used for a distillation token
/// without a head.
pub fn check(c: &DeitConfig, form: Form) -> Result<()> {
    let k = if form == Form::HuggingFace { HUGGING_FACE } else { TIMM };
    if c.distillation == Distillation::Token && form != Form::HuggingFace {
        bail!(
            "distilled: timm does not support a distillation token without a head; save the model in the \
             transformers format"
        );
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
    // Each factor is at most 2^31, so only this product of four can overflow.
    let Some(patches) = (patch * patch).checked_mul(channels).and_then(|n| n.checked_mul(width)) else {
        bail!("{} = {} is too large; use a smaller number", k.patch, c.patch);
    };
    let all =
        (rows.saturating_mul(width)).saturating_add(layers * layer).saturating_add(patches).saturating_add(classes);
    keys::check_parameters(all, "the sizes of image, patches, width and layers")?;
    keys::check_positive("layer_norm_eps", c.eps)?;
    keys::check_not_negative("initializer_range", c.init_std)?;
    keys::check_probability("dropout", c.dropout.into())?;
    keys::check_probability("drop_path_rate", c.drop_path.into())
}

/// Returns the content of a `config.json` from which the library of `form` builds the same model, if [`check`] accepts
/// it.
pub fn to_json(config: &DeitConfig, form: Form) -> Value {
    match form {
        Form::HuggingFace => to_hugging_face(config),
        Form::TimmArguments => timm_config::to_arguments(config),
        Form::TimmHub => timm_config::to_hub(config),
    }
}

/// Returns the content in the format of `transformers`.
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

/// Writes [`to_json`], indented, to `path`, atomically.
///
/// # Errors
/// [`check`] fails, or the file cannot be written.
pub fn write(config: &DeitConfig, form: Form, path: &Path) -> Result<()> {
    write_with_class_names(config, form, None, path)
}

/// Writes a configuration like [`write()`], with class names if there are any.
///
/// # Errors
/// Fails like [`write()`].
pub fn write_with_class_names(config: &DeitConfig, form: Form, names: Option<&[String]>, path: &Path) -> Result<()> {
    check(config, form).at(format_args!("writing {}", path.display()))?;
    let mut json = to_json(config, form);
    if let Some(names) = names {
        classes::put(&mut json, names);
    }
    keys::write(path, &json)
}
