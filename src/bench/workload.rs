//! The workload of a measured training step: a model with given sizes, and random batches for it.

use super::inputs::Random;
use super::shapes::Shape;
use crate::bail;
use crate::data::loader::batch::Field;
use crate::error::Result;
use crate::memory;
use crate::model::bert::{Bert, BertConfig, BertHead, Norm};
use crate::model::deit::{Deit, DeitConfig, Distillation};
use crate::model::gpt::{Gpt, GptConfig};
use crate::model::{BatchShape, Model};

/// A model and the size of its training step.
pub struct Workload {
    /// The model.
    pub model: Box<dyn Model>,
    /// The shape of a batch.
    pub shape: BatchShape,
    /// Tokens per step. For images: the patches and the class token of each.
    pub tokens: usize,
    /// FLOPs per step by the formula of `benches/baselines/torch_step.py`: 6 for each token and parameter that the
    /// token uses, and 12 T C per token for the attention of a layer.
    pub flops: u64,
    data: Data,
}

/// The kind of its batches, named by their fields.
#[derive(Clone, Copy)]
enum Data {
    /// GPT: ids and labels, from windows of random tokens.
    Windows { vocab: usize },
    /// BERT: ids, types, mask, positions and labels. Types and mask stay constant.
    Holes { vocab: usize },
    /// DeiT: patches, labels and mixing. Only the labels change between steps. `pixels` is the number of values of a
    /// patch.
    Images { classes: usize, pixels: usize },
}

/// Percentage of BERT's tokens that the loss covers, as published. The count is rounded down.
const SCORED: usize = 15;
/// Height and width of DeiT's patches.
const PATCH: usize = 16;
/// Channels of an image.
const CHANNELS: usize = 3;
/// Largest height and width of an image, so that counts do not overflow.
const LARGEST: usize = 4096;
/// Tokens per step must be below this.
const MOST_TOKENS: usize = 1 << 28;

impl Workload {
    /// Builds the workload for the sizes `[layers, heads, width, time, batch, vocabulary]`: a GPT without dropout; with
    /// suffix `bert` a BERT with a loss at 15 % of the tokens; with suffix `deit` a vision transformer for images of
    /// `time` x `time` with `vocabulary` classes.
    ///
    /// # Errors
    /// If the sizes do not fit together or are too large.
    pub fn new(shape: &Shape) -> Result<Self> {
        let &[layers, heads, width, time, batch, vocab] = shape.sizes.as_slice() else { bail!("a step has six sizes") };
        let sizes = [layers, heads, width, time, vocab];
        let workload = match shape.mark {
            Some("bert") => of_bert(sizes, batch),
            Some("deit") => of_deit(sizes, batch),
            _ => of_gpt(sizes, batch),
        }?;
        // Tables of rows have an entry for each token.
        match workload.tokens {
            0..MOST_TOKENS => Ok(workload),
            tokens => bail!("--shape: {tokens} tokens per step are too many for any device; use smaller sizes"),
        }
    }

    /// Returns a generator of random batches for the workload.
    ///
    /// # Errors
    /// If host memory runs out.
    pub fn batches(&self) -> Result<Batches> {
        Batches::new(self.data, self.shape)
    }
}

/// Builds a GPT with the sizes `[layers, heads, width, context, vocabulary]`, without dropout.
///
/// # Errors
/// If the sizes do not fit together.
pub fn gpt([layers, heads, width, context, vocab]: [usize; 5]) -> Result<Gpt> {
    Gpt::new(GptConfig {
        vocab,
        context,
        width,
        heads,
        layers,
        ffn: 4 * width,
        eps: 1e-5,
        init_std: 0.02,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    })
}

fn of_gpt([layers, heads, width, time, vocab]: [usize; 5], batch: usize) -> Result<Workload> {
    let gpt = gpt([layers, heads, width, time, vocab])?;
    let tokens = batch * time;
    let flops = tokens as u64 * (6 * (gpt.table().count() - time * width) + 12 * layers * time * width) as u64;
    let shape = (batch, time).into();
    Ok(Workload { model: Box::new(gpt), shape, tokens, flops, data: Data::Windows { vocab } })
}

/// Returns the FLOPs of the layers: 6 for each token and parameter, and those of attention.
fn of_layers(layers: usize, width: usize, time: usize, tokens: usize) -> u64 {
    tokens as u64 * (layers * (6 * (12 * width * width + 13 * width) + 12 * time * width)) as u64
}

fn of_bert([layers, heads, width, time, vocab]: [usize; 5], batch: usize) -> Result<Workload> {
    let bert = Bert::new(BertConfig {
        vocab,
        context: time,
        types: 2,
        width,
        heads,
        layers,
        ffn: 4 * width,
        eps: 1e-12,
        init_std: 0.02,
        dropout_hidden: 0.0,
        dropout_attention: 0.0,
        pad: 0,
        norm: Norm::Post,
        head: BertHead::Masked,
    })?;
    let (tokens, scored) = (batch * time, (time * SCORED / 100).max(1));
    let head = (width * width + vocab * width) as u64;
    let flops = of_layers(layers, width, time, tokens) + 6 * head * (batch * scored) as u64;
    let shape = BatchShape { batch, time, scored };
    Ok(Workload { model: Box::new(bert), shape, tokens, flops, data: Data::Holes { vocab } })
}

fn of_deit([layers, heads, width, image, classes]: [usize; 5], batch: usize) -> Result<Workload> {
    if image > LARGEST {
        bail!("--shape: images of {image} x {image} are too large; use {LARGEST} or less");
    }
    let config = DeitConfig {
        image,
        patch: PATCH,
        channels: CHANNELS,
        classes,
        width,
        heads,
        layers,
        ffn: 4 * width,
        eps: 1e-6,
        init_std: 0.02,
        distillation: Distillation::None,
        dropout: 0.0,
        drop_path: 0.0,
    };
    let (each, pixels) = (config.tokens(), config.pixels());
    let deit = Deit::new(config)?;
    let tokens = batch * each;
    let patches = 6 * (tokens * pixels * width) as u64;
    let flops = of_layers(layers, width, each, tokens) + patches + 6 * (batch * classes * width) as u64;
    let shape = (batch, each).into();
    Ok(Workload { model: Box::new(deit), shape, tokens, flops, data: Data::Images { classes, pixels } })
}

/// A generator of random batches.
pub struct Batches {
    data: Data,
    shape: BatchShape,
    random: Random,
    /// The tokens that windows are taken from.
    tokens: Vec<i32>,
    fields: Vec<Field>,
}

/// Number of random tokens, not counting the length of a window.
const TOKENS: usize = 200_000;

impl Batches {
    fn new(data: Data, shape: BatchShape) -> Result<Self> {
        let BatchShape { batch, time, scored } = shape;
        let mut random = Random::new(1337);
        let mut tokens = Vec::new();
        let fields = match data {
            Data::Windows { vocab } => {
                tokens = memory::zeros(TOKENS + time + 1)?;
                tokens.iter_mut().for_each(|token| *token = random.below(vocab) as i32);
                vec![Field::ints(batch, time)?, Field::ints(batch, time)?]
            }
            Data::Holes { .. } => {
                let ints = |each| Field::ints(batch, each);
                let mut mask = ints(time)?;
                if let Field::Ints(mask) = &mut mask {
                    mask.fill(1);
                }
                vec![ints(time)?, ints(time)?, mask, ints(scored)?, ints(scored)?]
            }
            Data::Images { pixels, .. } => {
                let (mut patches, mut share) = (Field::floats(batch, time * pixels)?, Field::floats(batch, 1)?);
                if let (Field::Floats(patches), Field::Floats(share)) = (&mut patches, &mut share) {
                    // The row of the class token stays zero.
                    let images = patches.chunks_exact_mut(time * pixels);
                    images.for_each(|image| image[pixels..].iter_mut().for_each(|pixel| *pixel = random.float()));
                    share.fill(1.0);
                }
                vec![patches, Field::ints(batch, 1)?, Field::ints(batch, 1)?, share]
            }
        };
        Ok(Batches { data, shape, random, tokens, fields })
    }

    /// Overwrites the batch with the next one and returns it.
    pub fn renew(&mut self) -> &[Field] {
        let Batches { data, shape, random, tokens, fields } = self;
        let BatchShape { time, scored, .. } = *shape;
        match (*data, fields.as_mut_slice()) {
            (Data::Windows { .. }, [Field::Ints(ids), Field::Ints(labels)]) => {
                for (ids, labels) in ids.chunks_exact_mut(time).zip(labels.chunks_exact_mut(time)) {
                    let at = random.below(TOKENS);
                    ids.copy_from_slice(&tokens[at..at + time]);
                    labels.copy_from_slice(&tokens[at + 1..at + 1 + time]);
                }
            }
            (Data::Holes { vocab }, [Field::Ints(ids), _, _, Field::Ints(positions), Field::Ints(labels)]) => {
                ids.iter_mut().chain(labels).for_each(|id| *id = random.below(vocab) as i32);
                for (row, positions) in positions.chunks_exact_mut(scored).enumerate() {
                    // Divide the positions into `scored` ranges and draw one from each, in order.
                    for (i, position) in positions.iter_mut().enumerate() {
                        let (first, end) = (i * time / scored, (i + 1) * time / scored);
                        *position = (row * time + first + random.below(end - first)) as i32;
                    }
                }
            }
            (Data::Images { classes, .. }, [_, Field::Ints(labels), ..]) => {
                labels.iter_mut().for_each(|label| *label = random.below(classes) as i32);
            }
            _ => unreachable!("the fields are those that `new` made"),
        }
        fields
    }
}
