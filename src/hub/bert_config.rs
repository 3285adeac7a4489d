//! The `config.json` of a BERT model in the format of `transformers`.
//!
//! Two keys are specific to this crate, and `transformers` ignores them: `norm`, which is `"pre"` for a pre-norm model,
//! and `add_pooling_layer`, which is false for a `BertModel` without its pooler (in `transformers` an argument of the
//! constructor).

use std::path::Path;

use serde_json::{Map, Value, json};

use super::classes;
use super::keys::{self, decimal, number, required_size, size, text};
use crate::bail;
use crate::error::{At, Result};
use crate::model::bert::{BertConfig, BertHead, Norm};

const MODEL: &str = "a BERT model";
const ARCHITECTURES: &str =
    "\"BertForMaskedLM\", \"BertForPreTraining\", \"BertForSequenceClassification\" and \"BertModel\"";

/// Reads a `config.json`.
///
/// `vocab_size`, `hidden_size`, `num_attention_heads`, `num_hidden_layers` and `intermediate_size` must be present;
/// other keys take the defaults of `transformers` if they are absent. Keys that do not change the function of the model
/// are ignored.
///
/// # Errors
/// The file cannot be read or is not a JSON object; a key is missing, of the wrong type or out of range; or a key
/// requires a function that is not supported. The message names the file and the key.
pub fn read(path: &Path) -> Result<BertConfig> {
    from_json(&keys::read(path, MODEL)?).at(path.display())
}

/// Converts an already parsed `config.json`, with the same rules and errors as [`read`].
pub fn from_json(value: &Value) -> Result<BertConfig> {
    let map = keys::object(value, MODEL)?;
    match map.get("model_type") {
        Some(Value::String(kind)) if kind == "bert" => {}
        Some(other) => bail!("model_type is {other}, but \"bert\" is expected; give a BERT checkpoint"),
        None => bail!("missing key model_type; add \"model_type\": \"bert\" if this is a BERT checkpoint"),
    }
    let head = head(map)?;
    refuse_other_functions(map, head)?;
    let or = |key: &str, default: usize| Ok(size(map, key)?.unwrap_or(default));
    let probability = |key: &str| -> Result<f32> {
        let value = number(map, key, 0.1)?;
        keys::check_probability(key, value)?;
        Ok(value as f32)
    };
    let config = BertConfig {
        vocab: required_size(map, "vocab_size")?,
        context: or("max_position_embeddings", 512)?,
        types: or("type_vocab_size", 2)?,
        width: required_size(map, "hidden_size")?,
        heads: required_size(map, "num_attention_heads")?,
        layers: required_size(map, "num_hidden_layers")?,
        ffn: required_size(map, "intermediate_size")?,
        eps: number(map, "layer_norm_eps", 1e-12)?,
        init_std: number(map, "initializer_range", 0.02)?,
        dropout_hidden: probability("hidden_dropout_prob")?,
        dropout_attention: probability("attention_probs_dropout_prob")?,
        // Null and -1 mean no padding token. Padding is masked, so any token will do.
        pad: match u32::try_from(if no_token(map.get("pad_token_id")) { 0 } else { or("pad_token_id", 0)? }) {
            Ok(id) => id,
            Err(_) => bail!("pad_token_id is {}; it must be a token id", map["pad_token_id"]),
        },
        norm: match text(map, "norm")? {
            None | Some("post") => Norm::Post,
            Some("pre") => Norm::Pre,
            Some(other) => bail!("norm is {other:?}; it must be \"post\" or \"pre\""),
        },
        head,
    };
    check(&config)?;
    Ok(config)
}

/// Whether a token id is null or -1, which mean no token.
fn no_token(value: Option<&Value>) -> bool {
    value.is_some_and(|value| value.is_null() || value.as_i64() == Some(-1))
}

/// Reads the head from `architectures`.
fn head(map: &Map<String, Value>) -> Result<BertHead> {
    let architecture = match map.get("architectures") {
        Some(Value::Array(all)) if all.len() == 1 => all[0].as_str().unwrap_or_default(),
        None | Some(Value::Null) => bail!("missing key architectures; set it to a list with one of {ARCHITECTURES}"),
        Some(other) => bail!("architectures is {other}; it must be a list with one name"),
    };
    Ok(match architecture {
        "BertModel" => match map.get("add_pooling_layer") {
            None | Some(Value::Bool(true)) => BertHead::Pooler,
            Some(Value::Bool(false)) => BertHead::None,
            Some(other) => bail!("add_pooling_layer is {other}; it must be true or false"),
        },
        "BertForMaskedLM" => BertHead::Masked,
        "BertForPreTraining" => BertHead::Pretraining,
        "BertForSequenceClassification" => BertHead::Classify { labels: keys::labels(map)? },
        other => bail!(
            "architectures is {other:?}, but only {ARCHITECTURES} are supported; give a checkpoint of one of them"
        ),
    })
}

/// Fails if a key requires the model to compute something that this crate does not support.
fn refuse_other_functions(map: &Map<String, Value>, head: BertHead) -> Result<()> {
    keys::only(map, "hidden_act", &keys::gelu())?;
    keys::only(map, "position_embedding_type", &[json!("absolute")])?;
    keys::only(map, "is_decoder", &[json!(false)])?;
    keys::only(map, "add_cross_attention", &[json!(false)])?;
    if matches!(head, BertHead::Masked | BertHead::Pretraining) {
        keys::only(map, "tie_word_embeddings", &[json!(true)])?;
    }
    if let BertHead::Classify { labels } = head {
        let dropout = number(map, "hidden_dropout_prob", 0.1)?;
        keys::only(map, "classifier_dropout", &[Value::Null, json!(dropout)])?;
        let problem = if labels == 1 { "regression" } else { "single_label_classification" };
        keys::only(map, "problem_type", &[Value::Null, json!(problem)])?;
    }
    keys::not_pruned(map)
}

/// Checks ranges and the relations between keys.
///
/// # Errors
/// A size is zero or above 2^31, the heads do not divide the width, the model has more than 2^40 parameters, a rate is
/// out of range, or the padding token is outside the vocabulary.
pub fn check(c: &BertConfig) -> Result<()> {
    let labels = if let BertHead::Classify { labels } = c.head { labels } else { 1 };
    keys::check_sizes(&[
        ("vocab_size", c.vocab),
        ("max_position_embeddings", c.context),
        ("type_vocab_size", c.types),
        ("hidden_size", c.width),
        ("num_attention_heads", c.heads),
        ("num_hidden_layers", c.layers),
        ("intermediate_size", c.ffn),
        ("num_labels", labels),
    ])?;
    if !c.width.is_multiple_of(c.heads) {
        bail!("num_attention_heads = {} does not divide hidden_size = {}; change one of them", c.heads, c.width);
    }
    let [rows, width, layers, ffn] = [c.vocab + c.context + c.types, c.width, c.layers, c.ffn].map(|n| n as u128);
    let layer = 4 * width * width + 4 * width + 2 * width * ffn + ffn + 5 * width;
    // An upper bound for all heads.
    let head = 2 * (width + 1) * width + c.vocab as u128 + (labels as u128 + 4) * (width + 1);
    keys::check_parameters(
        (rows + 2) * width + layers * layer + head,
        "vocab_size, max_position_embeddings, hidden_size, intermediate_size and num_hidden_layers",
    )?;
    keys::check_positive("layer_norm_eps", c.eps)?;
    keys::check_not_negative("initializer_range", c.init_std)?;
    keys::check_probability("hidden_dropout_prob", c.dropout_hidden.into())?;
    keys::check_probability("attention_probs_dropout_prob", c.dropout_attention.into())?;
    if c.pad as usize >= c.vocab {
        bail!("pad_token_id is {}; it must be below vocab_size = {}", c.pad, c.vocab);
    }
    Ok(())
}

/// Returns the content of a `config.json` from which `transformers` builds the same model (for post-norm models; it has
/// no pre-norm).
pub fn to_json(c: &BertConfig) -> Value {
    let architecture = match c.head {
        BertHead::None | BertHead::Pooler => "BertModel",
        BertHead::Masked => "BertForMaskedLM",
        BertHead::Pretraining => "BertForPreTraining",
        BertHead::Classify { .. } => "BertForSequenceClassification",
    };
    let mut json = json!({
        "architectures": [architecture],
        "model_type": "bert",
        "vocab_size": c.vocab,
        "max_position_embeddings": c.context,
        "type_vocab_size": c.types,
        "hidden_size": c.width,
        "num_attention_heads": c.heads,
        "num_hidden_layers": c.layers,
        "intermediate_size": c.ffn,
        "hidden_act": "gelu",
        "layer_norm_eps": c.eps,
        "initializer_range": c.init_std,
        "hidden_dropout_prob": decimal(c.dropout_hidden),
        "attention_probs_dropout_prob": decimal(c.dropout_attention),
        "classifier_dropout": null,
        "pad_token_id": c.pad,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
        "use_cache": true,
    });
    if c.norm == Norm::Pre {
        json["norm"] = "pre".into();
    }
    match c.head {
        BertHead::None => json["add_pooling_layer"] = false.into(),
        BertHead::Classify { labels } => {
            for (key, value) in keys::label_names(labels) {
                json[key] = value;
            }
        }
        BertHead::Pooler | BertHead::Masked | BertHead::Pretraining => {}
    }
    json
}

/// Writes [`to_json`], indented, to `path`, atomically.
///
/// # Errors
/// [`check`] fails, or the file cannot be written.
pub fn write(config: &BertConfig, path: &Path) -> Result<()> {
    write_with_class_names(config, None, path)
}

/// Writes a configuration like [`write()`], with class names if there are any and the model is a classifier.
///
/// # Errors
/// Fails like [`write()`].
pub fn write_with_class_names(config: &BertConfig, names: Option<&[String]>, path: &Path) -> Result<()> {
    check(config).at(format_args!("writing {}", path.display()))?;
    let mut json = to_json(config);
    if let (BertHead::Classify { .. }, Some(names)) = (config.head, names) {
        classes::put(&mut json, names);
    }
    keys::write(path, &json)
}
