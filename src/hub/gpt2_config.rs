//! The `config.json` of a GPT-2 model in the format of `transformers`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::keys::{self, number, required_size, size};
use crate::bail;
use crate::error::{At, Result};

const MODEL: &str = "a GPT-2 model";

/// The names in `transformers` for the tanh approximation of GELU: five ways to compute the same function.
const ACTIVATIONS: [&str; 5] = ["gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"];

/// The sizes and rates of a GPT-2 model, named as in `transformers`.
///
/// The rest of the function is fixed: pre-norm blocks, learned positions, attention scaled by the root of the head
/// size, and GELU in its tanh approximation.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub n_positions: usize,
    /// Width of the residual stream, a multiple of `n_head`.
    pub n_embd: usize,
    /// Attention heads per layer.
    pub n_head: usize,
    /// Number of layers.
    pub n_layer: usize,
    /// Width of the feed-forward layer; `None` means `4 * n_embd`.
    pub n_inner: Option<usize>,
    /// Added to the variance in layer normalization.
    pub layer_norm_epsilon: f64,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Dropout probability after each attention and feed-forward block, in `[0, 1)`.
    pub resid_pdrop: f64,
    /// Dropout probability after the embeddings, in `[0, 1)`.
    pub embd_pdrop: f64,
    /// Dropout probability of the attention weights, in `[0, 1)`.
    pub attn_pdrop: f64,
    /// Whether the output layer shares the weights of the token embedding, as in the published models.
    pub tie_word_embeddings: bool,
    /// Token that begins a text. This crate only copies it to the checkpoints it writes, where text generators read it.
    pub bos_token_id: Option<u64>,
    /// Token that ends a text, likewise.
    pub eos_token_id: Option<u64>,
}

impl Gpt2Config {
    /// Reads a `config.json`.
    ///
    /// Keys that do not change the function of the model are ignored. The sizes must be present; the other keys take
    /// the defaults of `transformers` if they are absent.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not a JSON object; a key is missing, of the wrong type or out of range; or a key
    /// requires a function that is not supported. The message names the file and the key.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_json(&keys::read(path, MODEL)?).at(path.display())
    }

    /// Converts an already parsed `config.json`, with the same rules and errors as [`Gpt2Config::read`].
    pub fn from_json(value: &Value) -> Result<Self> {
        let map = keys::object(value, MODEL)?;
        refuse_other_functions(map)?;
        let positions = if map.contains_key("n_positions") { "n_positions" } else { "n_ctx" };
        let n_positions = match size(map, positions)? {
            Some(n) => n,
            None => bail!("missing key n_positions; set it to a positive integer"),
        };
        let config = Gpt2Config {
            vocab_size: required_size(map, "vocab_size")?,
            n_positions,
            n_embd: required_size(map, "n_embd")?,
            n_head: required_size(map, "n_head")?,
            n_layer: required_size(map, "n_layer")?,
            n_inner: if map.get("n_inner").is_some_and(Value::is_null) { None } else { size(map, "n_inner")? },
            layer_norm_epsilon: number(map, "layer_norm_epsilon", 1e-5)?,
            initializer_range: number(map, "initializer_range", 0.02)?,
            resid_pdrop: number(map, "resid_pdrop", 0.1)?,
            embd_pdrop: number(map, "embd_pdrop", 0.1)?,
            attn_pdrop: number(map, "attn_pdrop", 0.1)?,
            tie_word_embeddings: match map.get("tie_word_embeddings") {
                None => true,
                Some(&Value::Bool(tied)) => tied,
                Some(other) => bail!("tie_word_embeddings is {other}; it must be true or false"),
            },
            bos_token_id: token(map, "bos_token_id")?,
            eos_token_id: token(map, "eos_token_id")?,
        };
        config.check()?;
        Ok(config)
    }

    /// Checks ranges and the relations between keys.
    ///
    /// # Errors
    ///
    /// A size is zero or above 2^31, `n_head` does not divide `n_embd`, the model would have more than 2^40 parameters,
    /// a probability is outside `[0, 1)`, or another rate is not finite or out of range.
    pub fn check(&self) -> Result<()> {
        keys::check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_head", self.n_head),
            ("n_layer", self.n_layer),
        ])?;
        if let Some(inner) = self.n_inner {
            keys::check_sizes(&[("n_inner", inner)])?;
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            bail!("n_head = {} does not divide n_embd = {}; change one of them", self.n_head, self.n_embd);
        }
        keys::check_parameters(self.parameters(), "vocab_size, n_positions, n_embd, n_inner and n_layer")?;
        keys::check_positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        keys::check_not_negative("initializer_range", self.initializer_range)?;
        keys::check_probability("resid_pdrop", self.resid_pdrop)?;
        keys::check_probability("embd_pdrop", self.embd_pdrop)?;
        keys::check_probability("attn_pdrop", self.attn_pdrop)?;
        Ok(())
    }

    /// Returns the number of parameters.
    fn parameters(&self) -> u128 {
        let [vocab, positions, width, layers] =
            [self.vocab_size, self.n_positions, self.n_embd, self.n_layer].map(|n| n as u128);
        let inner = self.n_inner.map_or(4 * width, |n| n as u128);
        let attention = width * 3 * width + 3 * width + width * width + width;
        let feed_forward = 2 * width * inner + inner + width;
        let head = if self.tie_word_embeddings { 0 } else { vocab * width };
        head + (vocab + positions) * width + layers * (attention + feed_forward + 4 * width) + 2 * width
    }

    /// Returns the content of a `config.json` from which `transformers` builds the same model.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_positions": self.n_positions,
            "n_ctx": self.n_positions,
            "n_embd": self.n_embd,
            "n_head": self.n_head,
            "n_layer": self.n_layer,
            "n_inner": self.n_inner,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "resid_pdrop": self.resid_pdrop,
            "embd_pdrop": self.embd_pdrop,
            "attn_pdrop": self.attn_pdrop,
            "scale_attn_weights": true,
            "scale_attn_by_inverse_layer_idx": false,
            "reorder_and_upcast_attn": false,
            "add_cross_attention": false,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "torch_dtype": "float32",
            "use_cache": true,
        })
    }

    /// Writes [`Gpt2Config::to_json`], indented, to `path`, atomically.
    ///
    /// # Errors
    ///
    /// [`Gpt2Config::check`] fails, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check().at(format_args!("writing {}", path.display()))?;
        keys::write(path, &self.to_json())
    }
}

/// Fails if a key requires the model to compute something that this crate does not support.
fn refuse_other_functions(map: &Map<String, Value>) -> Result<()> {
    match map.get("model_type") {
        Some(Value::String(kind)) if kind == "gpt2" => {}
        Some(other) => bail!("model_type is {other}, but \"gpt2\" is expected; give a GPT-2 checkpoint"),
        None => bail!("missing key model_type; add \"model_type\": \"gpt2\" if this is a GPT-2 checkpoint"),
    }
    match map.get("activation_function") {
        Some(Value::String(name)) if ACTIVATIONS.contains(&name.as_str()) => {}
        Some(other) => bail!(
            "activation_function is {other}, but only {} are supported; give a checkpoint that uses one of them",
            ACTIVATIONS.join(", ")
        ),
        None => {}
    }
    let switches =
        [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false), ("add_cross_attention", false)];
    for (key, implemented) in switches {
        match map.get(key) {
            None => {}
            Some(Value::Bool(set)) if *set == implemented => {}
            Some(Value::Bool(set)) => {
                bail!(
                    "{key} is {set}, but only {implemented} is supported; use a checkpoint that does not change this \
                     setting"
                )
            }
            Some(other) => bail!("{key} is {other}; it must be true or false"),
        }
    }
    keys::not_pruned(map)
}

/// Reads a token id. Returns `None` if it is absent, null or -1. If there are several, any of which ends a text,
/// returns the first one.
fn token(map: &Map<String, Value>, key: &str) -> Result<Option<u64>> {
    let value = match map.get(key) {
        Some(Value::Array(several)) if several.iter().all(Value::is_u64) => several.first(),
        value => value,
    };
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(id) => Ok(Some(id)),
            None => bail!("{key} is {value}; it must be a non-negative integer or null"),
        },
    }
}
