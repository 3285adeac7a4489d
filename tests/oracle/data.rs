//! Batches. Those of next tokens are cut here, by the rule in `docs/data.md`; the others are `vcycle::data`'s, which has tests of its own.

use super::config::Config;
use super::random::choice;
use std::path::Path;
use vcycle::data::classify::{Classification, ClassifyBatch, ClassifyConfig, Labels, texts};
use vcycle::data::corpus::{Corpus, DataSource};
use vcycle::data::images::{
    AugmentConfig, ImageBatch, ImageFiles, ImageSampler, ImageSpec, Images, PatchShape, ViewConfig, prepare,
};
use vcycle::data::masking::{MaskedBatch, Masking, MaskingConfig};
use vcycle::data::prepare::DataSpec;
use vcycle::data::sampler::Sampler;
use vcycle::data::text::HeldOut;
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::windows::Window;

/// The label of what is not scored.
const IGNORED: i32 = -100;

/// What enters a model; what its family has no use for is empty.
#[derive(Clone, Default)]
pub struct Batch {
    pub ids: Vec<i32>,
    pub types: Vec<i32>,
    pub mask: Vec<i32>,
    /// Rows of a micro-batch's hidden states that are scored.
    pub positions: Vec<i32>,
    pub labels: Vec<i32>,
    pub next: Vec<i32>,
    pub values: Vec<f32>,
    pub patches: Vec<f32>,
    pub others: Vec<i32>,
    pub share: Vec<f32>,
}

impl Batch {
    /// Micro-batch `i` of `n`.
    pub fn part(&self, i: usize, n: usize) -> Batch {
        fn cut<T: Clone>(all: &[T], i: usize, n: usize) -> Vec<T> {
            all[i * (all.len() / n)..(i + 1) * (all.len() / n)].to_vec()
        }
        Batch {
            ids: cut(&self.ids, i, n),
            types: cut(&self.types, i, n),
            mask: cut(&self.mask, i, n),
            positions: cut(&self.positions, i, n),
            labels: cut(&self.labels, i, n),
            next: cut(&self.next, i, n),
            values: cut(&self.values, i, n),
            patches: cut(&self.patches, i, n),
            others: cut(&self.others, i, n),
            share: cut(&self.share, i, n),
        }
    }
}

/// How many are scored.
pub fn scored(labels: &[i32]) -> usize {
    labels.iter().filter(|&&label| label != IGNORED).count()
}

/// What a model must know of its data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    pub vocab: usize,
    pub pad: usize,
    /// 1: labels are numbers.
    pub classes: usize,
    pub channels: usize,
    /// Sequences or images that are computed at a time, and of a step.
    pub micro: usize,
    pub batch: usize,
    pub context: usize,
    /// Scored positions of a masked sequence.
    pub slots: usize,
}

enum Kind {
    Next { train: Vec<i32>, valid: Vec<i32> },
    Masked { corpus: Box<Corpus>, masking: Masking, windows: Vec<Window>, pairs: bool },
    Labelled { train: Classification, valid: Classification },
    Images { train: Images, valid: Images, sampler: ImageSampler },
}

pub struct Data {
    kind: Kind,
    seed: u64,
    pub facts: Facts,
}

impl Data {
    /// Of a run in `dir`.
    pub fn open(c: &Config, dir: &Path) -> Data {
        let cache = dir.join("oracle");
        let path = |key: &str| dir.join(c.text(key).expect(key));
        let (batch, context) = (c.count("train.batch", 0), c.count("model.context", 0));
        let micro = batch / c.count("train.accumulate", 1);
        let mut facts = Facts { batch, micro, context, classes: 1, ..Facts::default() };
        let spec = || c.text("data.tokenizer").expect("a tokenizer").to_owned();
        let kind = if c.is("model.family", "gpt") {
            facts.vocab = c.count("data.vocab", 0);
            let tokens = |key: &str| {
                let bytes = std::fs::read(path(key)).expect("token files");
                bytes.chunks(2).map(|pair| i32::from(u16::from_le_bytes([pair[0], pair[1]]))).collect()
            };
            Kind::Next { train: tokens("data.train.0"), valid: tokens("data.valid.0") }
        } else if c.is("model.family", "deit") {
            let file = path("data.images.train.files.file");
            let files = ImageSpec::new(ImageFiles::Csv { file, maximum: None });
            let every = c.count("data.images.held_out_every", 10);
            let open = || prepare(&files, &cache, &mut |_| ()).expect("images");
            let (train, valid) = (open().without_every(every).expect("some"), open().every(every).expect("some"));
            (facts.classes, facts.channels) = (train.classes(), train.channels());
            let specials = 1 + usize::from(c.flag("model.distilled", false));
            let [image, patch] = ["model.image", "model.patch"].map(|key| c.count(key, 0));
            let shape = PatchShape { image, patch, channels: train.channels(), specials };
            let augment: AugmentConfig = c.read("augment").unwrap_or_default();
            let view: ViewConfig = c.read("view").unwrap_or_default();
            let sampler = ImageSampler::new(c.count("seed", 1) as u64, [0, 1], shape, &augment, &view);
            Kind::Images { train, valid, sampler: sampler.expect("an augmentation") }
        } else if let Some(mut columns) = c.read::<toml::Table>("data.task") {
            let files = ["data.task.train", "data.task.valid"].map(path);
            ["train", "valid"].iter().for_each(|key| drop(columns.remove(*key)));
            let columns: ClassifyConfig = columns.try_into().expect("columns");
            let all = texts(&files[0], &columns).expect("texts");
            let tokenizer =
                Tokenizer::from_spec(&spec(), &all).and_then(Tokenizer::with_special_tokens).expect("tokens");
            let open = |file, known: Option<&Labels>| {
                Classification::open(file, &columns, known, &tokenizer, context).expect("examples")
            };
            let train = open(&files[0], None);
            let valid = open(&files[1], Some(train.labels()));
            facts.vocab = tokenizer.vocab_size();
            facts.pad = tokenizer.special_tokens().expect("tokens").pad as usize;
            if let Labels::Classes(names) = train.labels() {
                facts.classes = names.len();
            }
            Kind::Labelled { train, valid }
        } else {
            let prefix = c.text("data.document_prefix").map(str::to_owned);
            let held_out = HeldOut { prefix, every: c.count("data.held_out_every", 10) };
            let spec = DataSpec { text: path("data.text"), tokenizer: spec(), held_out, field: "text".to_owned() };
            let corpus =
                Corpus::open(&DataSource::Text(spec), &cache, &mut |_| ()).and_then(Corpus::with_special_tokens);
            let corpus = Box::new(corpus.expect("text"));
            let tokenizer = corpus.tokenizer.as_ref().expect("a tokenizer");
            let config: MaskingConfig = c.read("masking").unwrap_or_default();
            let masking = Masking::new(config, tokenizer, context).expect("a context");
            facts.vocab = corpus.vocab_size;
            facts.pad = tokenizer.special_tokens().expect("tokens").pad as usize;
            facts.slots = masking.slots();
            let windows = masking.held_out(&*corpus.valid).expect("windows");
            Kind::Masked { corpus, masking, windows, pairs: config.next_sentence }
        };
        Data { kind, seed: c.count("seed", 1) as u64, facts }
    }

    /// Zeros.
    fn room(&self, rows: usize) -> Batch {
        let Facts { context, slots, classes, .. } = self.facts;
        let [tokens, positions] = [context, slots].map(|each| vec![0; rows * each]);
        let text = Batch { ids: tokens.clone(), types: tokens.clone(), mask: tokens.clone(), ..Batch::default() };
        match &self.kind {
            Kind::Next { .. } => Batch { labels: vec![IGNORED; rows * context], ids: tokens, ..Batch::default() },
            Kind::Masked { pairs, .. } => Batch {
                positions: positions.clone(),
                labels: positions,
                next: vec![0; rows * usize::from(*pairs)],
                ..text
            },
            Kind::Labelled { .. } if classes == 1 => Batch { values: vec![0.0; rows], ..text },
            Kind::Labelled { .. } => Batch { labels: vec![0; rows], ..text },
            Kind::Images { sampler, .. } => Batch {
                patches: vec![0.0; rows * sampler.shape().elements()],
                labels: vec![0; rows],
                others: vec![0; rows],
                share: vec![0.0; rows],
                ..Batch::default()
            },
        }
    }

    /// The whole batch of a step of the run, from 0.
    pub fn training(&mut self, step: u64) -> Batch {
        let Facts { batch, micro, context, .. } = self.facts;
        let mut out = self.room(batch);
        let sampler = Sampler { seed: self.seed, rank: 0, world: 1 };
        let done = match &mut self.kind {
            Kind::Next { train, .. } => {
                for row in 0..batch {
                    let start = choice(self.seed, [step, row as u64, 1], train.len() - context);
                    out.ids[row * context..][..context].copy_from_slice(&train[start..][..context]);
                    out.labels[row * context..][..context].copy_from_slice(&train[start + 1..][..context]);
                }
                Ok(())
            }
            Kind::Masked { corpus, masking, .. } => {
                masking.training_batch(&sampler, &*corpus.train, step, (batch, micro), &mut masked(&mut out))
            }
            Kind::Labelled { train, .. } => train.training_batch(&sampler, step, batch, &mut labelled(&mut out)),
            Kind::Images { train, sampler, .. } => sampler.training_batch(train, step, images(&mut out)),
        };
        done.expect("a batch");
        out
    }

    /// A held-out batch, as large as a micro-batch, and how many labels of it are scored.
    pub fn held_out(&mut self, index: usize) -> Option<(Batch, usize)> {
        let Facts { micro, context, .. } = self.facts;
        let mut out = self.room(micro);
        let count = match &mut self.kind {
            Kind::Next { valid, .. } => {
                for row in 0..micro {
                    let window = valid.iter().skip((index * micro + row) * context);
                    window.clone().take(context).enumerate().for_each(|(i, id)| out.ids[row * context + i] = *id);
                    window.skip(1).take(context).enumerate().for_each(|(i, id)| out.labels[row * context + i] = *id);
                }
                Ok(scored(&out.labels))
            }
            Kind::Masked { windows, .. } if index * micro >= windows.len() => return None,
            Kind::Masked { corpus, masking, windows, .. } => {
                masking.held_out_batch(&*corpus.valid, windows, index, (micro, micro), &mut masked(&mut out))
            }
            Kind::Labelled { valid, .. } => valid.evaluation_batch(index, micro, &mut labelled(&mut out)),
            Kind::Images { valid, sampler, .. } => sampler.validation_batch(valid, index, images(&mut out)),
        };
        let count = count.expect("a batch");
        (count > 0).then_some((out, count))
    }
}

fn masked(b: &mut Batch) -> MaskedBatch<'_> {
    let Batch { ids, types, mask, positions, labels, next, .. } = b;
    MaskedBatch { ids, types, mask, positions, labels, next }
}

fn labelled(b: &mut Batch) -> ClassifyBatch<'_> {
    let Batch { ids, types, mask, labels, values, .. } = b;
    ClassifyBatch { ids, types, mask, classes: labels, values }
}

fn images(b: &mut Batch) -> ImageBatch<'_> {
    let Batch { patches, labels, others, share, .. } = b;
    ImageBatch { patches, labels, others, share }
}
