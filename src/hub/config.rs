//! Reads the `config.json` of any supported model. The keys of the file tell which kind of model it is.

use std::path::Path;

use serde_json::Value;

use super::gpt2_config::Gpt2Config;
use super::vit_config::Form;
use super::{bert_config, classes, keys, vit_config};
use crate::bail;
use crate::error::{At, Result};
use crate::model::bert::{BertConfig, BertHead};
use crate::model::deit::DeitConfig;

const MODEL: &str = "a GPT-2, BERT, ViT or DeiT model";

/// The configuration of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// A GPT-2 model.
    Gpt2(Gpt2Config),
    /// A BERT model.
    Bert(BertConfig),
    /// A ViT or DeiT model, and the format of the file.
    Vit(DeitConfig, Form),
}

/// Reads a `config.json`.
///
/// # Errors
/// The file cannot be read or is not a JSON object, the kind of model is not supported, or the reader of that kind
/// rejects the file. The message names the file and the key.
pub fn read(path: &Path) -> Result<Config> {
    Ok(read_with_class_names(path)?.0)
}

/// Reads a `config.json` like [`read`], and also returns the class names if the model has a classification head and the
/// file names every class.
///
/// # Errors
/// Fails like [`read`].
pub fn read_with_class_names(path: &Path) -> Result<(Config, Option<Vec<String>>)> {
    let folder = path.parent().unwrap_or(Path::new(""));
    if !path.exists() && folder.join("snapshots").is_dir() {
        bail!(
            "{}: this is a folder of the Hugging Face cache; give the folder of the model inside its snapshots folder",
            folder.display()
        );
    }
    let value = keys::read(path, MODEL)?;
    let config = from_json(&value).at(path.display())?;
    let count = match &config {
        Config::Gpt2(_) => None,
        Config::Bert(BertConfig { head: BertHead::Classify { labels }, .. }) => Some(*labels).filter(|&n| n > 1),
        Config::Bert(_) => None,
        Config::Vit(config, _) => Some(config.classes),
    };
    let names = count.and_then(|count| classes::read(value.as_object()?, count));
    Ok((config, names))
}

/// Converts an already parsed `config.json`, with the same rules and errors as [`read`].
pub fn from_json(value: &Value) -> Result<Config> {
    let map = keys::object(value, MODEL)?;
    let vit = || vit_config::from_json(value).map(|(config, form)| Config::Vit(config, form));
    // The forms of timm may have no model_type, or any value in it.
    if map.contains_key("architecture") || map.contains_key("embed_dim") {
        return vit();
    }
    match map.get("model_type").map(|kind| kind.as_str().ok_or(kind)) {
        Some(Ok("gpt2")) => Gpt2Config::from_json(value).map(Config::Gpt2),
        Some(Ok("bert")) => bert_config::from_json(value).map(Config::Bert),
        Some(Ok("vit" | "deit")) => vit(),
        Some(Ok(other)) => bail!(
            "model_type is {other:?}, but only \"gpt2\", \"bert\", \"vit\" and \"deit\" are supported; give {MODEL}"
        ),
        Some(Err(other)) => bail!("model_type is {other}; it must be a string"),
        None => {
            bail!("missing key model_type; set it to \"gpt2\", \"bert\", \"vit\" or \"deit\", according to the model")
        }
    }
}
