//! A model folder: `config.json`, `model.safetensors`, and what else its maker put beside them.

use super::gpt2_config::Gpt2Config;
use super::keys::decimal;
use super::tensors::{self, NamedTensor};
use crate::bail;
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::model::gpt::{Gpt, GptConfig};
use crate::model::store::Store;
use crate::model::{Family, Model};
use std::collections::HashMap;
use std::path::Path;

pub const CONFIG: &str = "config.json";
pub const WEIGHTS: &str = "model.safetensors";
pub const TOKENIZER: &str = "tokenizer.json";

/// Prefix of all tensors but the head in Hugging Face's `GPT2LMHeadModel`; the bare `GPT2Model` has none.
const PREFIX: &str = "transformer.";
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "transformer.wte.weight";

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
            bos_token_id: c.bos,
            eos_token_id: c.eos,
        }
    }
}

/// The model that a folder's `config.json` describes, without its weights.
///
/// # Errors
/// See [`Gpt2Config::read`].
pub fn load_config(dir: &Path) -> Result<Gpt> {
    let path = dir.join(CONFIG);
    Gpt::new(GptConfig::from(&Gpt2Config::read(&path)?)).at(path.display())
}

/// A model and its weights.
///
/// # Errors
/// Missing, unknown or misshapen tensors, all by name; what [`tensors::read`] refuses.
pub fn load(dir: &Path, device: &mut dyn Device) -> Result<(Gpt, Store)> {
    let gpt = load_config(dir)?;
    let path = dir.join(WEIGHTS);
    let tensors = tensors::read(&path)?;
    let found = by_name(tensors, &gpt).at(path.display())?;
    // Shapes are checked before memory is taken, so a config cannot ask for more than its file holds.
    let store = Store::new(gpt.table().clone(), device)?;
    for (i, tensor) in found.iter().enumerate() {
        store.write(device, i, &tensor.values)?;
    }
    Ok((gpt, store))
}

/// The tensors in the order of the table.
fn by_name(tensors: Vec<NamedTensor>, gpt: &Gpt) -> Result<Vec<NamedTensor>> {
    let mut left: HashMap<String, NamedTensor> = HashMap::new();
    for tensor in tensors.into_iter().filter(|t| !tensors::is_buffer(&t.name)) {
        let has_prefix = tensor.name.starts_with(PREFIX) || tensor.name == HEAD;
        let name = if has_prefix { tensor.name.clone() } else { format!("{PREFIX}{}", tensor.name) };
        if left.insert(name.clone(), tensor).is_some() {
            bail!("{name} is there with and without the prefix {PREFIX:?}; keep one");
        }
    }
    let head = left.remove(HEAD);
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for param in &gpt.table().params {
        match left.remove(&param.name()) {
            None => missing.push(param.name()),
            Some(tensor) if tensor.shape != param.shape() => {
                bail!(
                    "{} is {:?} but {CONFIG} asks for {:?}; is it the one that belongs to these weights?",
                    param.name(),
                    tensor.shape,
                    param.shape()
                )
            }
            Some(tensor) => found.push(tensor),
        }
    }
    if !missing.is_empty() {
        return Err(listed("missing tensors", missing));
    }
    if !left.is_empty() {
        let mut unknown: Vec<String> = left.into_keys().collect();
        unknown.sort_unstable();
        return Err(listed("tensors that this model does not have", unknown));
    }
    if let Some(head) = head
        && found.iter().zip(&gpt.table().params).any(|(t, p)| p.name() == EMBEDDING && t.values != head.values)
    {
        bail!("{HEAD} differs from {EMBEDDING}: a head of its own is not supported; tie the weights");
    }
    Ok(found)
}

fn listed(what: &str, names: Vec<String>) -> Error {
    let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
    Error::new(format!("{what}: {shown}{more}; is {CONFIG} the one that belongs to these weights?"))
}

/// Writes config and weights into a folder that exists.
///
/// # Errors
/// Values that are not finite, by tensor; files that cannot be written.
pub fn save(dir: &Path, model: &dyn Model, store: &Store, device: &mut dyn Device) -> Result<()> {
    let mut tensors = Vec::with_capacity(store.table.params.len());
    for (i, param) in store.table.params.iter().enumerate() {
        tensors.push((param.name(), param.shape(), store.read(device, i)?));
    }
    tensors::write(&dir.join(WEIGHTS), &tensors)?;
    match model.family() {
        Family::Gpt(config) => Gpt2Config::from(config).write(&dir.join(CONFIG)),
    }
}
