use super::{DeviceArgs, encode, load_gpt, print};
use crate::error::Result;
use crate::eval::Forward;
use crate::eval::generate::{Sampling, generate};
use std::path::PathBuf;

/// Generate text: continue a prompt
#[derive(clap::Args)]
pub struct Args {
    /// Folder with config.json, model.safetensors and tokenizer.json
    model: PathBuf,
    /// Text to continue
    // A text may start with a dash.
    #[arg(long, allow_hyphen_values = true)]
    prompt: String,
    /// Number of tokens to generate
    #[arg(long, default_value_t = 120)]
    tokens: usize,
    /// Sampling temperature; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f64,
    /// Sample only from the K most likely tokens; 0 samples from all
    #[arg(long, default_value_t = 40, value_name = "K")]
    top_k: usize,
    /// Seed of the sampling
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let mut device = self.device.open()?;
        let (gpt, store) = load_gpt(&self.model, &mut *device)?;
        let (tokenizer, mut tokens) = encode(&self.model, gpt.config.vocab, &self.prompt)?;
        let mut forward = Forward::new(&mut *device, &gpt, &store, (1, gpt.config.context))?;
        // Vocabularies of models are often padded to a round number; the tokenizer has no text for the padding.
        let vocabulary = gpt.config.vocab.min(tokenizer.vocab_size());
        let sampling = Sampling { temperature: self.temperature, top_k: self.top_k, seed: self.seed, vocabulary };
        // Check before anything is printed.
        sampling.check()?;
        let prompt = tokens.clone();
        // A character may span several tokens, so decode the whole text each time and print what is new.
        let mut shown = String::new();
        let mut grow = |text: String| -> Result<()> {
            let complete = text.trim_end_matches('\u{FFFD}');
            if let Some(new) = complete.strip_prefix(shown.as_str()) {
                print(format_args!("{new}"))?;
                shown = complete.to_string();
            }
            Ok(())
        };
        grow(tokenizer.decode(&tokens)?)?;
        generate(&mut *device, &mut forward, &prompt, self.tokens, sampling, |token| {
            // A vocabulary may have gaps; ids without a token add no text.
            if !tokenizer.has(token) {
                return Ok(());
            }
            tokens.push(token);
            grow(tokenizer.decode(&tokens)?)
        })?;
        print(format_args!("\n"))
    }
}
