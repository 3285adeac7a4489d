//! What a training step is measured on: a model of one family by its sizes, and random batches for it.

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

/// A model and what a step of it computes.
pub struct Workload {
    pub model: Box<dyn Model>,
    pub shape: BatchShape,
    /// Of a step; of an image its patches and the class token.
    pub tokens: usize,
    /// Of a step, by the formula of `benches/baselines/torch_step.py`: 6 for each token and parameter that it meets, of a layer's
    /// attention 12 T C a token.
    pub flops: u64,
    data: Data,
}

/// What its batches are made of.
#[derive(Clone, Copy)]
enum Data {
    /// Ids, labels: windows of random tokens.
    Windows { vocab: usize },
    /// Ids, (types, mask,) positions, labels.
    Holes { vocab: usize },
    /// (Patches,) labels: random pixels are as good for one step as for the next. `pixels` of a patch.
    Images { classes: usize, pixels: usize },
}

/// Percent of BERT's tokens that are scored, as published; rounded down.
const SCORED: usize = 15;
/// Height and width of DeiT's patches.
const PATCH: usize = 16;
const CHANNELS: usize = 3;
/// A side of an image, for counts that do not overflow.
const LARGEST: usize = 4096;
const MOST_TOKENS: usize = 1 << 28;

impl Workload {
    /// Of `[layers, heads, width, time, batch, vocabulary]`: a GPT without dropout; marked `bert` a BERT that is scored at 15 % of
    /// the tokens; marked `deit` a vision transformer of images of `time` x `time` and as many classes as `vocabulary`.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn new(shape: &Shape) -> Result<Self> {
        let &[layers, heads, width, time, batch, vocab] = shape.sizes.as_slice() else { bail!("a step has six sizes") };
        let sizes = [layers, heads, width, time, vocab];
        let workload = match shape.mark {
            Some("bert") => of_bert(sizes, batch),
            Some("deit") => of_deit(sizes, batch),
            _ => of_gpt(sizes, batch),
        }?;
        // Tables of rows have one for each of them.
        match workload.tokens {
            0..MOST_TOKENS => Ok(workload),
            tokens => bail!("--shape: {tokens} tokens a step are beyond any device; use smaller sizes"),
        }
    }

    /// # Errors
    /// Out of memory.
    pub fn batches(&self) -> Result<Batches> {
        Batches::new(self.data, self.shape)
    }
}

/// A GPT of `[layers, heads, width, context, vocabulary]`, without dropout.
///
/// # Errors
/// Sizes that do not fit.
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

/// 6 for each token and parameter of the layers, and attention's.
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
        bail!("images of {image} x {image}: choose {LARGEST} or less");
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

/// Random batches, each another one.
pub struct Batches {
    data: Data,
    shape: BatchShape,
    random: Random,
    /// Of which windows are taken.
    tokens: Vec<i32>,
    fields: Vec<Field>,
}

/// Tokens there are beside a window.
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

    /// The next one, in place of the last.
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
                    // One of each run of positions, in order.
                    for (i, position) in positions.iter_mut().enumerate() {
                        let (first, end) = (i * time / scored, (i + 1) * time / scored);
                        *position = (row * time + first + random.below(end - first)) as i32;
                    }
                }
            }
            (Data::Images { classes, .. }, [_, Field::Ints(labels), ..]) => {
                labels.iter_mut().for_each(|label| *label = random.below(classes) as i32);
            }
            _ => unreachable!("fields as they were made"),
        }
        fields
    }
}
