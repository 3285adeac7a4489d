use super::{DeviceArgs, encode, load_gpt, print};
use crate::error::Result;
use crate::eval::Forward;
use crate::eval::generate::{Sampling, generate};
use std::path::PathBuf;

/// Continue a text
#[derive(clap::Args)]
pub struct Args {
    /// Folder with config.json, model.safetensors and tokenizer.json
    model: PathBuf,
    /// Text to continue
    // A text may begin with a dash.
    #[arg(long, allow_hyphen_values = true)]
    prompt: String,
    /// Tokens to add
    #[arg(long, default_value_t = 120)]
    tokens: usize,
    /// 0: always the likeliest token
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw among the K likeliest tokens only; 0: all
    #[arg(long, default_value_t = 40, value_name = "K")]
    top_k: usize,
    /// Seed of the draws
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
        // Models are often padded to a round number of tokens, and the tokenizer has no text for the rest.
        let vocabulary = gpt.config.vocab.min(tokenizer.vocab_size());
        let sampling = Sampling { temperature: self.temperature, top_k: self.top_k, seed: self.seed, vocabulary };
        // Before something is printed.
        sampling.check()?;
        let prompt = tokens.clone();
        // Characters may span tokens, so what is printed is the growth of the decoded whole.
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
            // A vocabulary may skip ids, and what stands for no token adds no text.
            if !tokenizer.has(token) {
                return Ok(());
            }
            tokens.push(token);
            grow(tokenizer.decode(&tokens)?)
        })?;
        print(format_args!("\n"))
    }
}
