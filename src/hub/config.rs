//! The `config.json` of any model that this crate has, told apart by its keys.

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
    Gpt2(Gpt2Config),
    Bert(BertConfig),
    Vit(DeitConfig, Form),
}

/// Reads a `config.json`.
///
/// # Errors
/// A file that cannot be read or is no JSON object, a kind of model that is not implemented, and what the reader of its
/// kind refuses. The message names the file and the key.
pub fn read(path: &Path) -> Result<Config> {
    Ok(read_named(path)?.0)
}

/// As [`read`], with the names of the classes, where the model has a head for classes and the file names each of them.
///
/// # Errors
/// As [`read`].
pub fn read_named(path: &Path) -> Result<(Config, Option<Vec<String>>)> {
    let folder = path.parent().unwrap_or(Path::new(""));
    if !path.exists() && folder.join("snapshots").is_dir() {
        bail!(
            "{}: this folder of the Hugging Face cache has the model in a folder of its snapshots; give that one",
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

/// The configuration in an already parsed `config.json`; same rules and errors as [`read`].
pub fn from_json(value: &Value) -> Result<Config> {
    let map = keys::object(value, MODEL)?;
    let vit = || vit_config::from_json(value).map(|(config, form)| Config::Vit(config, form));
    // timm's forms have no model_type, or any.
    if map.contains_key("architecture") || map.contains_key("embed_dim") {
        return vit();
    }
    match map.get("model_type").map(|kind| kind.as_str().ok_or(kind)) {
        Some(Ok("gpt2")) => Gpt2Config::from_json(value).map(Config::Gpt2),
        Some(Ok("bert")) => bert_config::from_json(value).map(Config::Bert),
        Some(Ok("vit" | "deit")) => vit(),
        Some(Ok(other)) => bail!(
            "model_type is {other:?}, and only \"gpt2\", \"bert\", \"vit\" and \"deit\" are implemented; give {MODEL}"
        ),
        Some(Err(other)) => bail!("model_type is {other}; give a text in quotes"),
        None => {
            bail!("missing key model_type; add it as \"gpt2\", \"bert\", \"vit\" or \"deit\", whichever the model is")
        }
    }
}
