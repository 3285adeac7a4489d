use super::DeviceArgs;
use crate::bail;
use crate::data::shard::{Shard, write_shard};
use crate::data::text::read_text;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::eval::Forward;
use crate::eval::perplexity::perplexity;
use crate::hub::checkpoint;
use std::path::PathBuf;

/// Loss and perplexity of a model on a text or a token shard
#[derive(clap::Args)]
pub struct Args {
    /// Folder with config.json, model.safetensors and, for texts, tokenizer.json
    model: PathBuf,
    /// A text (.txt, .zst) or a token shard (.bin, for instance runs/data/NAME/valid.bin)
    #[arg(long)]
    data: PathBuf,
    /// Sequences computed at a time
    #[arg(long, default_value_t = 8)]
    batch: usize,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn run(self) -> Result<()> {
        if self.batch == 0 {
            bail!("--batch must be at least 1");
        }
        let mut device = self.device.open()?;
        let (gpt, store) = checkpoint::load(&self.model, &mut *device)?;
        let mut temporary = None;
        let (shard, bytes) = if self.data.extension().is_some_and(|e| e == "bin") {
            (Shard::open(&self.data)?, None)
        } else {
            let text = read_text(&self.data)?;
            let tokens = Tokenizer::load(&self.model.join(checkpoint::TOKENIZER))?.encode(&text)?;
            let path = std::env::temp_dir().join(format!("vcycle-eval-{}.bin", std::process::id()));
            write_shard(&path, &tokens, gpt.config.vocab)?;
            let shard = Shard::open(&path);
            temporary = Some(path);
            (shard?, Some(text.len()))
        };
        if shard.vocab_size() > gpt.config.vocab {
            bail!(
                "{} has a vocabulary of {} but the model one of {}; prepare it with the model's tokenizer",
                self.data.display(),
                shard.vocab_size(),
                gpt.config.vocab
            );
        }
        // A text shorter than the context is scored in one window of its own length.
        let context = gpt.config.context.min(shard.len().saturating_sub(1)).max(1);
        let mut forward = Forward::new(&mut *device, &gpt, &store, (self.batch, context))?;
        let result = perplexity(&mut *device, &mut forward, &shard, (self.batch, context));
        if let Some(path) = temporary {
            // What is left in the temporary folder does no harm; the result counts.
            let _ = std::fs::remove_file(path);
        }
        let result = result?;
        println!("tokens scored:        {}", result.tokens);
        println!("loss:                 {:.4} nats per token", result.loss);
        println!("perplexity:           {:.3} per token", result.perplexity());
        if let Some(bytes) = bytes {
            let bits = result.loss * result.tokens as f64 / bytes as f64 / std::f64::consts::LN_2;
            println!("bits per byte:        {bits:.4}");
        }
        Ok(())
    }
}
