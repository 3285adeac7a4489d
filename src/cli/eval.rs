use super::{DeviceArgs, encode, say};
use crate::bail;
use crate::data::prepare::open_shard;
use crate::data::shard::{Shard, write_shard};
use crate::data::text::read_text;
use crate::error::Result;
use crate::eval::Forward;
use crate::eval::perplexity::{Perplexity, perplexity};
use crate::hub::checkpoint;
use std::path::PathBuf;

/// Loss and perplexity of a model on a text or a token shard
#[derive(clap::Args)]
pub struct Args {
    /// Folder with config.json, model.safetensors and, for texts, tokenizer.json
    model: PathBuf,
    /// A text or JSON lines (.txt, .jsonl, also .gz and .zst), or a token file of vcycle, llm.c or nanoGPT (.bin, for
    /// instance runs/data/NAME/valid.bin)
    #[arg(long)]
    data: PathBuf,
    /// Sequences computed at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let (result, bytes) = self.score()?;
        say(format_args!("tokens scored:        {}", result.tokens))?;
        say(format_args!("loss:                 {:.4} nats per token", result.loss))?;
        say(format_args!("perplexity:           {:.3} per token", result.perplexity()))?;
        if let Some(bytes) = bytes {
            let bits = result.loss * result.tokens as f64 / bytes as f64 / std::f64::consts::LN_2;
            say(format_args!("bits per byte:        {bits:.4}"))?;
        }
        Ok(())
    }

    /// The score and, of a text, its bytes.
    fn score(&self) -> Result<(Perplexity, Option<usize>)> {
        let batch = usize::from(self.batch);
        let mut device = self.device.open()?;
        let (gpt, store) = checkpoint::load_gpt(&self.model, &mut *device)?;
        let vocab = gpt.config.vocab;
        // Before the shard, so that it is dropped after it: a mapped file cannot be removed everywhere.
        let temporary;
        let (shard, bytes) = if self.data.extension().is_some_and(|e| e == "bin") {
            (open_shard(&self.data, Some(vocab))?, None)
        } else {
            let text = read_text(&self.data)?;
            let (_, tokens) = encode(&self.model, vocab, &text)?;
            self.check_length(tokens.len())?;
            temporary = Temporary(std::env::temp_dir().join(format!("vcycle-eval-{}.bin", std::process::id())));
            write_shard(&temporary.0, &tokens, vocab)?;
            (Shard::open(&temporary.0)?, Some(text.len()))
        };
        self.check_length(shard.len())?;
        // A text shorter than the context is scored in one window of its own length.
        let context = gpt.config.context.min(shard.len() - 1);
        let mut forward = Forward::new(&mut *device, &gpt, &store, (batch, context))?;
        Ok((perplexity(&mut *device, &mut forward, &shard, (batch, context))?, bytes))
    }

    fn check_length(&self, tokens: usize) -> Result<()> {
        if tokens < 2 {
            let s = if tokens == 1 { "" } else { "s" };
            bail!("{} holds {tokens} token{s}; at least 2 are needed, give a longer text", self.data.display());
        }
        Ok(())
    }
}

/// A file that goes when this does, on whichever way out.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left in the temporary folder does no harm; the result counts.
        let _ = std::fs::remove_file(&self.0);
    }
}
