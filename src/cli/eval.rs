use super::rules::note;
use super::{DeviceArgs, encode, load_gpt, say, tokenizer};
use crate::bail;
use crate::data::labelled::classes::Checkpoint;
use crate::data::prepared::cache::open_shard;
use crate::data::text::read_text;
use crate::data::tokens::is_token_file;
use crate::data::tokens::shard::{Shard, write_shard};
use crate::error::{At, Result};
use crate::eval::Forward;
use crate::eval::held_out::{HeldOut, held_out};
use crate::eval::lambada::{LastWords, last_words, read_passages};
use crate::eval::metrics::TaskMetrics;
use crate::eval::perplexity::{Perplexity, perplexity};
use crate::families;
use crate::hub::checkpoint::{self, Loaded};
use crate::model::bert::BertHead;
use crate::model::{Content, Family, Model};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Evaluate a model: loss and perplexity on a text or token file, or loss and metrics on a run's held-out data
#[derive(clap::Args)]
pub struct Args {
    /// Folder with config.json, model.safetensors and, for text, tokenizer.json
    model: PathBuf,
    /// Text or JSON Lines (.txt, .jsonl, also .gz and .zst), or a token file of vcycle, llm.c, nanoGPT (.bin, for
    /// instance runs/data/NAME/valid.bin) or NumPy (.npy)
    #[arg(long, required_unless_present = "run")]
    data: Option<PathBuf>,
    /// Evaluate on the held-out split of the data of a run, given its configuration (.toml). Works for all families:
    /// loss as in training; for images top-1 and top-5; for labelled texts accuracy, F1 and Matthews correlation, or
    /// Pearson and Spearman correlation
    #[arg(long, value_name = "CONFIG", conflicts_with_all = ["data", "last_word"])]
    run: Option<PathBuf>,
    /// Score the last word of each line, given the rest of the line, as in LAMBADA
    #[arg(long, conflicts_with = "batch")]
    last_word: bool,
    /// Tokens between the starts of consecutive windows, at most the model's context (the default: no overlap). Smaller
    /// strides give each token more context, and take longer
    #[arg(long, value_name = "TOKENS", conflicts_with_all = ["run", "last_word"])]
    stride: Option<NonZeroUsize>,
    /// Sequences per batch
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn run(self) -> Result<()> {
        if let Some(config) = &self.run {
            return self.score_held_out(config);
        }
        let Some(data) = &self.data else { unreachable!("clap requires --data or --run") };
        if self.last_word {
            let result = self.score_last_words(data)?;
            say(format_args!("words scored:         {} ({} tokens)", result.words, result.tokens))?;
            say(format_args!("accuracy:             {:.2} % of words", 100.0 * result.accuracy()))?;
            return say(format_args!("perplexity:           {} per word", digits(result.perplexity())));
        }
        let (result, text) = self.score(data)?;
        say(format_args!("tokens scored:        {}", result.tokens))?;
        say(format_args!("loss:                 {:.4} nats per token", result.loss))?;
        say(format_args!("perplexity:           {:.3} per token", result.perplexity()))?;
        if let Some(Size { bytes, words }) = text {
            if words > 0 {
                let per_word = digits(result.per_word(words));
                say(format_args!("perplexity:           {per_word} per word (all losses over {words} words)"))?;
            }
            let bits = result.loss * result.tokens as f64 / bytes as f64 / std::f64::consts::LN_2;
            say(format_args!("bits per byte:        {bits:.4}"))?;
        }
        Ok(())
    }

    fn score_held_out(&self, path: &Path) -> Result<()> {
        let mut config = families::read(path, &[])?;
        // Use the batch size of the command line.
        (config.train.batch, config.train.accumulate) = (usize::from(self.batch), 1);
        let mut device = self.device.open()?;
        let Loaded { model, store, form, unused, notes } = checkpoint::load(&self.model, &mut *device)?;
        note(&self.model, &notes, &unused);
        let classes = Checkpoint { names: form.classes().unwrap_or_default(), fixed: true };
        let mut note = |text: &str| super::note(format_args!("{text}"));
        let data = families::open_for(&config, Some(classes), Path::new("runs/data"), &mut note)?;
        let wanted = families::build(&config, data.facts())?.remove(0);
        // Compare only what a batch must contain: fixed inputs do not come from it, and a distillation token needs the
        // same inputs whether a head reads it or not.
        let shape = families::shape(&config)?;
        let inputs = |model: &dyn Model| {
            let all = model.inputs(shape).into_iter();
            let all = all.filter(|input| !matches!(input.content, Content::Fixed(_)));
            all.map(|input| input.labels_of(&[])).collect::<Vec<_>>()
        };
        if inputs(&*model) != inputs(&*wanted) || head(&*model) != head(&*wanted) {
            bail!(
                "{} does not match the family and sizes in {}: the model takes other inputs or has another head; give \
                 the configuration it was trained with",
                self.model.display(),
                path.display()
            );
        }
        let source = data.source(&config)?;
        let HeldOut { scored, loss, measures } = held_out(&mut *device, &*model, &store, &*source, shape)?;
        data.check_unchanged()?;
        say(format_args!("labels scored:        {scored}"))?;
        let unit =
            if let Some(TaskMetrics::Values { .. }) = measures { "(mean squared error)" } else { "nats per label" };
        say(format_args!("loss:                 {loss:.4} {unit}"))?;
        if let Some(TaskMetrics::Images { top1, top5 }) = measures {
            say(format_args!("top-1:                {:.2} %", 100.0 * top1))?;
            return say(format_args!("top-5:                {:.2} %", 100.0 * top5));
        }
        for (name, value) in measures.iter().flat_map(TaskMetrics::named) {
            say(format_args!("{:<22}{value:.4}", format!("{name}:")))?;
        }
        Ok(())
    }

    fn score_last_words(&self, data: &Path) -> Result<LastWords> {
        if is_token_file(data) {
            bail!("--last-word: {} is a token file, which has no lines; give a text", data.display());
        }
        let passages = read_passages(data)?;
        let mut device = self.device.open()?;
        let (gpt, store) = load_gpt(&self.model, &mut *device)?;
        let (_, tokenizer) = tokenizer(&self.model)?;
        let (context, vocab) = (gpt.config.context, gpt.config.vocab);
        let mut forward = Forward::new(&mut *device, &gpt, &store, (1, context))?;
        let mut padded = Vec::with_capacity(context);
        let mut logits = |ids: &[i32]| -> Result<Vec<f32>> {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
                bail!("token {id} is outside the model's vocabulary of {vocab}; use the tokenizer it was trained with");
            }
            // Pad to few distinct lengths, each of which needs a plan. A causal model does not see padding at the end.
            padded.clear();
            padded.extend_from_slice(ids);
            padded.resize(ids.len().next_multiple_of(LENGTHS).min(context), 0);
            let mut logits = forward.logits(&mut *device, &padded, [1, padded.len()])?;
            logits.truncate(ids.len() * vocab);
            Ok(logits)
        };
        last_words(&passages, &tokenizer, context, &mut logits).at(data.display())
    }

    /// Returns the score and, for a text, its size.
    fn score(&self, data: &Path) -> Result<(Perplexity, Option<Size>)> {
        let batch = usize::from(self.batch);
        let mut device = self.device.open()?;
        let (gpt, store) = load_gpt(&self.model, &mut *device)?;
        let (vocab, most) = (gpt.config.vocab, gpt.config.context);
        let stride = self.stride.map_or(most, NonZeroUsize::get);
        if stride > most {
            bail!(
                "--stride: {stride} tokens are more than the model's context of {most}, so some would be skipped; give \
                 at most {most}"
            );
        }
        // Declared before the shard, so that it is dropped after it: not every system can remove a mapped file.
        let temporary;
        let (shard, size) = if is_token_file(data) {
            (open_shard(data, Some(vocab))?, None)
        } else {
            let text = read_text(data)?;
            let (_, tokens) = encode(&self.model, vocab, &text)?;
            check_length(data, tokens.len())?;
            let folder = std::env::temp_dir();
            // Writing the file would create the folder, and nobody would look for it there.
            if !folder.is_dir() {
                bail!(
                    "the folder for temporary files, {}, does not exist; create it, or set TMPDIR to another folder",
                    folder.display()
                );
            }
            temporary = Temporary(folder.join(format!("vcycle-eval-{}.bin", std::process::id())));
            write_shard(&temporary.0, &tokens, vocab)?;
            let size = Size { bytes: text.len(), words: text.split_whitespace().count() };
            (Shard::open(&temporary.0)?, Some(size))
        };
        check_length(data, shard.len())?;
        // A text shorter than the context is scored in one window as long as the text.
        let context = most.min(shard.len() - 1);
        let mut forward = Forward::new(&mut *device, &gpt, &store, (batch, context))?;
        let stride = stride.min(context);
        let result = perplexity(&mut *device, &mut forward, &shard, (batch, context), stride)?;
        shard.check_unchanged()?;
        Ok((result, size))
    }
}

/// Returns the head of a BERT, which its inputs do not determine; `None` for other families.
fn head(model: &dyn Model) -> Option<BertHead> {
    if let Family::Bert(config) = model.family() { Some(config.head) } else { None }
}

fn check_length(data: &Path, tokens: usize) -> Result<()> {
    if tokens < 2 {
        let s = if tokens == 1 { "" } else { "s" };
        bail!("{} has {tokens} token{s}, but at least 2 are needed; give a longer text", data.display());
    }
    Ok(())
}

/// Lengths of passages are rounded up to multiples of this number of tokens.
const LENGTHS: usize = 64;

/// Formats a number with four significant digits, or all digits before the point if these are more: the perplexity of a
/// word is a product over its tokens, so further digits mean little.
fn digits(number: f64) -> String {
    format!("{number:.*}", (3.0 - number.log10().floor()).clamp(0.0, 3.0) as usize)
}

/// The size of a text.
struct Size {
    bytes: usize,
    /// Words separated by white space.
    words: usize,
}

/// A file that is removed on drop.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // A file left in the temporary folder does no harm.
        let _ = std::fs::remove_file(&self.0);
    }
}
