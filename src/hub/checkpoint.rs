//! Loads and saves model folders: `config.json` and the weights, whose formats [`super::folder`] describes.

use super::config::{self, Config};
use super::gpt2_config::Gpt2Config;
use super::keys::decimal;
use super::names::{self, Names};
use super::tensors::{self, NamedTensor, StoreType};
use super::{bert_config, folder, vit_config};
use crate::bail;
use crate::device::Device;
use crate::error::{At, Result};
use crate::model::bert::{Bert, BertHead};
use crate::model::deit::{Deit, Distillation};
use crate::model::gpt::{Gpt, GptConfig};
use crate::model::params::Param;
use crate::model::store::Store;
use crate::model::{Family, Model};
use std::path::Path;

/// File name of the model configuration.
pub const CONFIG: &str = "config.json";
/// File name of the weights that are written.
pub const WEIGHTS: &str = "model.safetensors";
/// File name of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";

impl From<&Gpt2Config> for GptConfig {
    fn from(c: &Gpt2Config) -> Self {
        GptConfig {
            vocab: c.vocab_size,
            context: c.n_positions,
            width: c.n_embd,
            heads: c.n_head,
            layers: c.n_layer,
            ffn: c.n_inner.unwrap_or(4 * c.n_embd),
            eps: c.layer_norm_epsilon,
            init_std: c.initializer_range,
            dropout_embedding: c.embd_pdrop as f32,
            dropout_attention: c.attn_pdrop as f32,
            dropout_residual: c.resid_pdrop as f32,
            bos: c.bos_token_id,
            eos: c.eos_token_id,
            tied: c.tie_word_embeddings,
        }
    }
}

impl From<&GptConfig> for Gpt2Config {
    fn from(c: &GptConfig) -> Self {
        Gpt2Config {
            vocab_size: c.vocab,
            n_positions: c.context,
            n_embd: c.width,
            n_head: c.heads,
            n_layer: c.layers,
            n_inner: (c.ffn != 4 * c.width).then_some(c.ffn),
            layer_norm_epsilon: c.eps,
            initializer_range: c.init_std,
            resid_pdrop: decimal(c.dropout_residual),
            embd_pdrop: decimal(c.dropout_embedding),
            attn_pdrop: decimal(c.dropout_attention),
            tie_word_embeddings: c.tied,
            bos_token_id: c.bos,
            eos_token_id: c.eos,
        }
    }
}

/// The tensor names and `config.json` keys of a model folder. By default those of `transformers` for GPT-2 and BERT,
/// and those of timm for DeiT. A DeiT with a distillation token but no head for it uses those of `transformers`, since
/// timm has no such model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    names: Names,
    vit: vit_config::Form,
    /// Class names in the order of their numbers, if there are any.
    classes: Option<Vec<String>>,
}

/// A loaded model folder.
pub struct Loaded {
    /// The model that `config.json` describes.
    pub model: Box<dyn Model>,
    /// Its weights.
    pub store: Store,
    /// The form of the folder, to write another one like it.
    pub form: Form,
    /// Names of tensors that were left out, because they belong to heads that the model does not have.
    pub unused: Vec<String>,
    /// Notes about the folder for the user.
    pub notes: Vec<String>,
}

impl Form {
    /// Returns the default form of a family.
    fn of(family: Family<'_>) -> Self {
        let names = match family {
            Family::Gpt(_) => Names::Gpt2,
            Family::Bert(c) if matches!(c.head, BertHead::None | BertHead::Pooler) => Names::BertBare,
            Family::Bert(_) => Names::Bert,
            Family::Deit(c) if c.distillation == Distillation::Token => Names::Deit,
            Family::Deit(_) => Names::Timm,
        };
        let vit = if names == Names::Deit { vit_config::Form::HuggingFace } else { vit_config::Form::TimmArguments };
        Form { names, vit, classes: None }
    }

    /// Returns the class names if `config.json` names every class.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }
}

/// Builds the model that the `config.json` of a folder describes, without its weights.
///
/// # Errors
/// Fails like [`config::read`], and if the model cannot be built.
pub fn load_config(dir: &Path) -> Result<Box<dyn Model>> {
    Ok(described(dir)?.0)
}

/// Returns the class names of a folder's model if it has a classification head and its `config.json` names every class.
///
/// # Errors
/// Fails like [`config::read`].
pub fn class_names(dir: &Path) -> Result<Option<Vec<String>>> {
    Ok(config::read_with_class_names(&dir.join(CONFIG))?.1)
}

/// Reads the model and the form of a folder from its `config.json`.
fn described(dir: &Path) -> Result<(Box<dyn Model>, Form)> {
    let path = dir.join(CONFIG);
    let (config, classes) = config::read_with_class_names(&path)?;
    let (model, vit): (Box<dyn Model>, _) = match config {
        Config::Gpt2(config) => (Box::new(Gpt::new(GptConfig::from(&config)).at(path.display())?), None),
        Config::Bert(config) => (Box::new(Bert::new(config).at(path.display())?), None),
        Config::Vit(config, form) => (Box::new(Deit::new(config).at(path.display())?), Some(form)),
    };
    let form = Form::of(model.family());
    Ok((model, Form { vit: vit.unwrap_or(form.vit), classes, ..form }))
}

/// Loads a model and its weights.
///
/// # Errors
/// Fails like [`load_config`] and [`folder::read`], and if tensors are missing, unknown or of a wrong shape; the
/// message names them.
pub fn load(dir: &Path, device: &mut dyn Device) -> Result<Loaded> {
    let (model, form) = described(dir)?;
    let Read { store, names, unused, notes } = weights(dir, &*model, device)?;
    Ok(Loaded { model, store, form: Form { names, ..form }, unused, notes })
}

/// Loads a GPT-2 model and its weights.
///
/// # Errors
/// Fails like [`load`], and for models of other families.
pub fn load_gpt(dir: &Path, device: &mut dyn Device) -> Result<(Gpt, Store)> {
    load_gpt_with_notes(dir, device, &mut |_| ())
}

/// Loads a GPT-2 model like [`load_gpt`], and passes notes about the folder to `note`.
///
/// # Errors
/// Fails like [`load_gpt`].
pub fn load_gpt_with_notes(dir: &Path, device: &mut dyn Device, note: &mut dyn FnMut(&str)) -> Result<(Gpt, Store)> {
    let path = dir.join(CONFIG);
    let Config::Gpt2(config) = config::read(&path)? else {
        bail!("{}: the model is not a GPT-2; this command supports only GPT-2 models", path.display());
    };
    let gpt = Gpt::new(GptConfig::from(&config)).at(path.display())?;
    let Read { store, unused, notes, .. } = weights(dir, &gpt, device)?;
    notes.iter().for_each(|text| note(text));
    if !unused.is_empty() {
        note(&unused_heads_note(dir, &unused));
    }
    Ok((gpt, store))
}

/// Returns the family of a model and the published names and shapes of its tensors.
fn wanted(model: &dyn Model) -> (names::Family, Vec<(String, Vec<usize>)>) {
    let family = match model.family() {
        Family::Gpt(_) => names::Family::Gpt2,
        Family::Bert(_) => names::Family::Bert,
        Family::Deit(_) => names::Family::Vit,
    };
    let parts = model.table().params.iter().flat_map(Param::published);
    (family, parts.map(|part| (part.name, part.shape)).collect())
}

/// Returns a note about tensors of heads that were left out.
pub fn unused_heads_note(dir: &Path, unused: &[String]) -> String {
    format!("{}: left out, because the model has no such head: {}", dir.display(), unused.join(", "))
}

/// The result of [`begin`]: which tensors of heads were not found, and which were not used.
#[derive(Debug)]
pub struct PartialLoad {
    /// Names of tensors of the model that were not in the folder and keep their values.
    pub fresh: Vec<String>,
    /// Names of tensors in the folder that belong to heads that the model does not have, or has in another shape.
    pub unused: Vec<String>,
    /// Notes about the folder for the user.
    pub notes: Vec<String>,
}

/// Overwrites `store` with the weights of a folder. Tensors of heads keep their values if the folder has none of this
/// name and shape.
///
/// # Errors
/// Fails like [`load`], except for tensors of heads.
pub fn begin(dir: &Path, model: &dyn Model, store: &Store, device: &mut dyn Device) -> Result<PartialLoad> {
    let (family, parts) = wanted(model);
    let weights = folder::read(dir)?;
    let notes = notes(&weights);
    let found = names::begin(family, weights.tensors, &parts).at(weights.path.display())?;
    let (mut tensors, mut fresh) = (found.tensors.into_iter(), Vec::new());
    for (i, param) in store.table.params.iter().enumerate() {
        let published = param.published();
        let tensors: Vec<_> = tensors.by_ref().take(published.len()).collect();
        if tensors.iter().any(Option::is_none) {
            fresh.extend(published.into_iter().map(|part| part.name));
            continue;
        }
        let values: Vec<f32> = tensors.into_iter().flatten().flat_map(|tensor| tensor.values).collect();
        store.write(device, i, &values)?;
    }
    Ok(PartialLoad { fresh, unused: found.unused, notes })
}

/// The weights of a folder in a store.
struct Read {
    store: Store,
    names: Names,
    unused: Vec<String>,
    notes: Vec<String>,
}

/// Returns the notes of a folder, including one about wrappers in the tensor names.
fn notes(weights: &folder::Weights) -> Vec<String> {
    let (wrappers, path) = (weights.wrappers.join(" and "), weights.path.display());
    let mut notes = weights.notes.clone();
    match weights.wrappers.len() {
        0 => {}
        1 => notes.push(format!("{path}: {wrappers} was removed from the tensor names")),
        _ => notes.push(format!("{path}: {wrappers} were removed from the tensor names")),
    }
    notes
}

/// Reads the weights of a folder into a new store.
fn weights(dir: &Path, model: &dyn Model, device: &mut dyn Device) -> Result<Read> {
    let (family, parts) = wanted(model);
    let weights = folder::read(dir)?;
    let notes = notes(&weights);
    let table = model.table();
    let found = names::select(family, weights.tensors, &parts).at(weights.path.display())?;
    // Shapes are checked before memory is allocated, so a config cannot request more than its file holds.
    let store = Store::new(table.clone(), device)?;
    let mut tensors = found.tensors.into_iter();
    for (i, param) in table.params.iter().enumerate() {
        let parts = param.published().len();
        let values: Vec<f32> = tensors.by_ref().take(parts).flat_map(|tensor| tensor.values).collect();
        store.write(device, i, &values)?;
    }
    Ok(Read { store, names: found.names, unused: found.unused, notes })
}

/// Writes `config.json` and the weights, as F32, into an existing folder.
///
/// # Errors
/// A value is not finite (the message names the tensor), or a file cannot be written.
pub fn save(dir: &Path, model: &dyn Model, store: &Store, device: &mut dyn Device) -> Result<()> {
    save_with_class_names(dir, model, store, device, None)
}

/// Saves a model like [`save`], with the names of its classes.
///
/// # Errors
/// Fails like [`save`].
pub fn save_with_class_names(
    dir: &Path,
    model: &dyn Model,
    store: &Store,
    device: &mut dyn Device,
    classes: Option<&[String]>,
) -> Result<()> {
    let form = Form { classes: classes.map(<[String]>::to_vec), ..Form::of(model.family()) };
    save_as(dir, model, store, device, form, StoreType::F32)
}

/// Saves a model like [`save`], with the tensor names and keys of `form` and with values of type `kind`.
///
/// # Errors
/// Fails like [`save`], and if `form` belongs to another family or a value is out of range for the type.
pub fn save_as(
    dir: &Path,
    model: &dyn Model,
    store: &Store,
    device: &mut dyn Device,
    form: Form,
    kind: StoreType,
) -> Result<()> {
    let mut tensors = Vec::with_capacity(store.table.params.len());
    for (i, param) in store.table.params.iter().enumerate() {
        let values = store.read(device, i)?;
        for part in param.published() {
            let values = values[part.elements].to_vec();
            tensors.push(NamedTensor { name: part.name, shape: part.shape, values });
        }
    }
    let tensors = form.names.publish(tensors)?;
    let tensors: Vec<_> = tensors.into_iter().map(|t| (t.name, t.shape, t.values)).collect();
    tensors::write_as(&dir.join(WEIGHTS), &tensors, kind)?;
    let path = dir.join(CONFIG);
    match model.family() {
        Family::Gpt(config) => Gpt2Config::from(config).write(&path),
        Family::Bert(config) => bert_config::write_with_class_names(config, form.classes(), &path),
        Family::Deit(config) => vit_config::write_with_class_names(config, form.vit, form.classes(), &path),
    }
}
