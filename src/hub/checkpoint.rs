//! A model folder: `config.json`, the weights ([`super::folder`] has their forms), and what else its maker put beside them.

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

pub const CONFIG: &str = "config.json";
pub const WEIGHTS: &str = "model.safetensors";
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

/// Whose names and keys a model folder has. By default those of `transformers` for GPT-2 and BERT, and timm's for DeiT, but
/// for a distillation token without a head, which timm does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    names: Names,
    vit: vit_config::Form,
    /// The names of the classes, where they have any, in the order of their numbers.
    classes: Option<Vec<String>>,
}

/// What a model folder holds.
pub struct Loaded {
    pub model: Box<dyn Model>,
    pub store: Store,
    /// To write a folder of the same form.
    pub form: Form,
    /// Tensors of heads that the architecture in `config.json` does not have, by name: they were left out.
    pub unused: Vec<String>,
    /// What else a person should know about the folder, each in a sentence.
    pub notes: Vec<String>,
}

impl Form {
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

    /// The names of the classes, where `config.json` names each of them.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }
}

/// The model that a folder's `config.json` describes, without its weights.
///
/// # Errors
/// See [`config::read`].
pub fn load_config(dir: &Path) -> Result<Box<dyn Model>> {
    Ok(described(dir)?.0)
}

/// The names of the classes of a folder's model, where it has a head for classes and its `config.json` names each of them.
///
/// # Errors
/// See [`config::read`].
pub fn class_names(dir: &Path) -> Result<Option<Vec<String>>> {
    Ok(config::read_named(&dir.join(CONFIG))?.1)
}

fn described(dir: &Path) -> Result<(Box<dyn Model>, Form)> {
    let path = dir.join(CONFIG);
    let (config, classes) = config::read_named(&path)?;
    let (model, vit): (Box<dyn Model>, _) = match config {
        Config::Gpt2(config) => (Box::new(Gpt::new(GptConfig::from(&config)).at(path.display())?), None),
        Config::Bert(config) => (Box::new(Bert::new(config).at(path.display())?), None),
        Config::Vit(config, form) => (Box::new(Deit::new(config).at(path.display())?), Some(form)),
    };
    let form = Form::of(model.family());
    Ok((model, Form { vit: vit.unwrap_or(form.vit), classes, ..form }))
}

/// A model and its weights.
///
/// # Errors
/// Missing, unknown or misshapen tensors, all by name; what [`folder::read`] refuses.
pub fn load(dir: &Path, device: &mut dyn Device) -> Result<Loaded> {
    let (model, form) = described(dir)?;
    let Read { store, names, unused, notes } = weights(dir, &*model, device)?;
    Ok(Loaded { model, store, form: Form { names, ..form }, unused, notes })
}

/// [`load`] of a model that goes on with a text.
///
/// # Errors
/// As [`load`]; a model of another family.
pub fn load_gpt(dir: &Path, device: &mut dyn Device) -> Result<(Gpt, Store)> {
    load_gpt_noting(dir, device, &mut |_| ())
}

/// As [`load_gpt`]; `note` gets what a person should know about the folder, each in a sentence.
///
/// # Errors
/// As [`load_gpt`].
pub fn load_gpt_noting(dir: &Path, device: &mut dyn Device, note: &mut dyn FnMut(&str)) -> Result<(Gpt, Store)> {
    let path = dir.join(CONFIG);
    let Config::Gpt2(config) = config::read(&path)? else {
        bail!("{}: the model is not a GPT-2, and only these go on with a text; give another one", path.display());
    };
    let gpt = Gpt::new(GptConfig::from(&config)).at(path.display())?;
    let Read { store, unused, notes, .. } = weights(dir, &gpt, device)?;
    notes.iter().for_each(|text| note(text));
    if !unused.is_empty() {
        note(&left_out(dir, &unused));
    }
    Ok((gpt, store))
}

/// Whose names the tensors of a model have, and these names with shapes.
fn wanted(model: &dyn Model) -> (names::Family, Vec<(String, Vec<usize>)>) {
    let family = match model.family() {
        Family::Gpt(_) => names::Family::Gpt2,
        Family::Bert(_) => names::Family::Bert,
        Family::Deit(_) => names::Family::Vit,
    };
    let parts = model.table().params.iter().flat_map(Param::published);
    (family, parts.map(|part| (part.name, part.shape)).collect())
}

/// Says which tensors of heads were left out.
pub fn left_out(dir: &Path, unused: &[String]) -> String {
    format!("{}: left out, because the model has no such head: {}", dir.display(), unused.join(", "))
}

/// What a model with another head than its checkpoint's did not find there, and what it left.
#[derive(Debug)]
pub struct Begun {
    /// Tensors that keep the values they had, by name.
    pub fresh: Vec<String>,
    /// Tensors of the file's heads that the model does not have, by name.
    pub unused: Vec<String>,
    /// As [`Loaded::notes`].
    pub notes: Vec<String>,
}

/// Writes the weights of a folder over those of `store`. Tensors of heads stay as they are where the folder has none of this
/// name and shape.
///
/// # Errors
/// As [`load`], of all tensors but those of heads.
pub fn begin(dir: &Path, model: &dyn Model, store: &Store, device: &mut dyn Device) -> Result<Begun> {
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
    Ok(Begun { fresh, unused: found.unused, notes })
}

/// What was read of a folder's weights.
struct Read {
    store: Store,
    names: Names,
    unused: Vec<String>,
    notes: Vec<String>,
}

fn notes(weights: &folder::Weights) -> Vec<String> {
    let (wrappers, path) = (weights.wrappers.join(" and "), weights.path.display());
    let mut notes = weights.notes.clone();
    match weights.wrappers.len() {
        0 => {}
        1 => notes.push(format!("{path}: {wrappers} was taken out of the tensors' names")),
        _ => notes.push(format!("{path}: {wrappers} were taken out of the tensors' names")),
    }
    notes
}

fn weights(dir: &Path, model: &dyn Model, device: &mut dyn Device) -> Result<Read> {
    let (family, parts) = wanted(model);
    let weights = folder::read(dir)?;
    let notes = notes(&weights);
    let table = model.table();
    let found = names::select(family, weights.tensors, &parts).at(weights.path.display())?;
    // Shapes are checked before memory is taken, so a config cannot ask for more than its file holds.
    let store = Store::new(table.clone(), device)?;
    let mut tensors = found.tensors.into_iter();
    for (i, param) in table.params.iter().enumerate() {
        let parts = param.published().len();
        let values: Vec<f32> = tensors.by_ref().take(parts).flat_map(|tensor| tensor.values).collect();
        store.write(device, i, &values)?;
    }
    Ok(Read { store, names: found.names, unused: found.unused, notes })
}

/// Writes config and weights into a folder that exists.
///
/// # Errors
/// Values that are not finite, by tensor; files that cannot be written.
pub fn save(dir: &Path, model: &dyn Model, store: &Store, device: &mut dyn Device) -> Result<()> {
    save_named(dir, model, store, device, None)
}

/// As [`save`], with the names of the model's classes.
///
/// # Errors
/// As [`save`].
pub fn save_named(
    dir: &Path,
    model: &dyn Model,
    store: &Store,
    device: &mut dyn Device,
    classes: Option<&[String]>,
) -> Result<()> {
    let form = Form { classes: classes.map(<[String]>::to_vec), ..Form::of(model.family()) };
    save_as(dir, model, store, device, form, StoreType::F32)
}

/// As [`save`], with these names and keys, and numbers of this type.
///
/// # Errors
/// As [`save`]; a form of another family; values that the type does not hold.
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
        Family::Bert(config) => bert_config::write_named(config, form.classes(), &path),
        Family::Deit(config) => vit_config::write_named(config, form.vit, form.classes(), &path),
    }
}
