//! A model folder: `config.json`, the weights ([`super::folder`] has their forms), and what else its maker put beside them.

use super::gpt2_config::Gpt2Config;
use super::keys::decimal;
use super::{folder, names, tensors};
use crate::bail;
use crate::device::Device;
use crate::error::{At, Result};
use crate::model::gpt::{Gpt, GptConfig};
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
            tie_word_embeddings: true,
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
    let config = Gpt2Config::read(&path)?;
    if !config.tie_word_embeddings {
        bail!(
            "{}: tie_word_embeddings is false, and a head of its own is not supported; tie the weights",
            path.display()
        );
    }
    Gpt::new(GptConfig::from(&config)).at(path.display())
}

/// A model and its weights.
///
/// # Errors
/// Missing, unknown or misshapen tensors, all by name; what [`folder::read`] refuses.
pub fn load(dir: &Path, device: &mut dyn Device) -> Result<(Gpt, Store)> {
    let gpt = load_config(dir)?;
    let weights = folder::read(dir)?;
    let wanted: Vec<_> = gpt.table().params.iter().map(|p| (p.name(), p.shape())).collect();
    let found = names::select(names::Family::Gpt2, weights.tensors, &wanted).at(weights.path.display())?;
    // Shapes are checked before memory is taken, so a config cannot ask for more than its file holds.
    let store = Store::new(gpt.table().clone(), device)?;
    for (i, tensor) in found.tensors.iter().enumerate() {
        store.write(device, i, &tensor.values)?;
    }
    Ok((gpt, store))
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
