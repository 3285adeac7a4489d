//! The oracle's batches. Batches for next-token prediction are built here; all others come from `vcycle::data`, which
//! has tests of its own.

use super::reference::batch::{Batch, Facts, IDS, LABELS, scored};
use super::reference::config::Config;
use super::reference::random::choice;
use std::path::Path;
use vcycle::data::images::formats::Csv;
use vcycle::data::images::{ImageFiles, ImageSampler, ImageSpec, Images, LabelColumn, PatchShape, prepare};
use vcycle::data::labelled::{Classification, ClassifyConfig, Labels, texts};
use vcycle::data::prepared::cache::DataSpec;
use vcycle::data::prepared::corpus::{Corpus, DataSource};
use vcycle::data::text::HeldOut;
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::masking::{Masking, MaskingConfig};
use vcycle::data::tokens::sampler::Sampler;
use vcycle::data::tokens::windows::Window;

enum Kind {
    Next { train: Vec<i32>, valid: Vec<i32> },
    Masked { corpus: Box<Corpus>, masking: Masking, windows: Vec<Window> },
    Labelled { train: Classification, valid: Classification },
    Images { train: Images, valid: Images, sampler: Box<ImageSampler> },
}

pub struct Data {
    kind: Kind,
    seed: u64,
    pub facts: Facts,
    /// How many numbers one example has in each field of a [`Batch`].
    sizes: ([usize; 7], [usize; 2]),
}

impl Data {
    /// Opens the data of a run whose files are in `dir`.
    pub fn open(c: &Config, dir: &Path) -> Data {
        let (cache, seed) = (dir.join("oracle"), c.count("seed", 1) as u64);
        let path = |key: &str| dir.join(c.text(key));
        let (batch, context) = (c.count("train.batch", 0), c.count("model.context", 0));
        let mut facts = Facts { batch, context, micro: batch / c.count("train.accumulate", 1), ..Facts::default() };
        let (t, spec) = (context, c.text("data.tokenizer"));
        let special = |facts: &mut Facts, tokenizer: &Tokenizer| {
            facts.vocab = tokenizer.vocab_size();
            facts.pad = tokenizer.special_tokens().expect("tokens").pad as usize;
        };
        let (kind, sizes) = if c.is("model.family", "gpt") {
            facts.vocab = c.count("data.vocab", 0);
            let tokens = |key: &str| {
                let bytes = std::fs::read(path(key)).expect("token files");
                bytes.chunks(2).map(|pair| i32::from(u16::from_le_bytes([pair[0], pair[1]]))).collect()
            };
            let kind = Kind::Next { train: tokens("data.train.0"), valid: tokens("data.valid.0") };
            (kind, ([t, 0, 0, 0, t, 0, 0], [0, 0]))
        } else if c.is("model.family", "deit") {
            let file = path("data.images.train.files.file");
            let spec = ImageSpec::new(ImageFiles::Csv(Csv { file, maximum: None, label: LabelColumn::Last }));
            let open = || prepare(&spec, &cache, &mut |_| ()).expect("images");
            let every = c.count("data.images.held_out_every", 10);
            let (train, valid) = (open().training_split(every).expect("some"), open().every(every).expect("some"));
            (facts.classes, facts.channels) = (train.classes(), train.channels());
            let specials = 1 + usize::from(c.flag("model.distilled", false));
            let [image, patch] = ["model.image", "model.patch"].map(|key| c.count(key, 0));
            let shape = PatchShape { image, patch, channels: train.channels(), specials };
            let (augment, view) = (c.read("augment").unwrap_or_default(), c.read("view").unwrap_or_default());
            let sampler = ImageSampler::new(seed, [0, 1], shape, &augment, &view).expect("an augmentation");
            (Kind::Images { train, valid, sampler: Box::new(sampler) }, ([0, 0, 0, 0, 1, 0, 1], [shape.elements(), 1]))
        } else if let Some(mut columns) = c.read::<toml::Table>("data.task") {
            ["train", "valid"].iter().for_each(|key| drop(columns.remove(*key)));
            let columns: ClassifyConfig = columns.try_into().expect("columns");
            let all = texts(&path("data.task.train"), &columns).expect("texts");
            let tokenizer = Tokenizer::from_spec(spec, &all).and_then(Tokenizer::with_special_tokens).expect("tokens");
            special(&mut facts, &tokenizer);
            let open = |key, known: Option<&Labels>| {
                Classification::open(&path(key), &columns, known, &tokenizer, context).expect("examples")
            };
            let train = open("data.task.train", None);
            let valid = open("data.task.valid", Some(train.labels()));
            let (classes, sizes) = match train.labels() {
                Labels::Classes(names) => (names.len(), [1, 0]),
                Labels::Values => (1, [0, 1]),
            };
            facts.classes = classes;
            (Kind::Labelled { train, valid }, ([t, t, t, 0, sizes[0], 0, 0], [sizes[1], 0]))
        } else {
            let prefix = c.find("data.document_prefix").and_then(toml::Value::as_str).map(str::to_owned);
            let held_out = HeldOut { prefix, every: c.count("data.held_out_every", 10) };
            let (text, tokenizer, field) = (path("data.text"), spec.to_owned(), "text".to_owned());
            let source = DataSource::Text(DataSpec { text, tokenizer, held_out, field });
            let corpus = Corpus::open(&source, &cache, &mut |_| ()).and_then(Corpus::with_special_tokens);
            let corpus = Box::new(corpus.expect("text"));
            let tokenizer = corpus.tokenizer.as_ref().expect("a tokenizer");
            special(&mut facts, tokenizer);
            let config: MaskingConfig = c.read("masking").unwrap_or_default();
            let masking = Masking::new(config, tokenizer, context).expect("a context");
            let windows = masking.held_out(&*corpus.valid).expect("windows");
            let sizes = [t, t, t, masking.slots(), masking.slots(), usize::from(config.next_sentence), 0];
            (Kind::Masked { corpus, masking, windows }, (sizes, [0, 0]))
        };
        Data { kind, seed, facts, sizes }
    }

    /// Returns a batch of `rows` examples filled with zeros.
    fn empty_batch(&self, rows: usize) -> Batch {
        Batch {
            ints: self.sizes.0.map(|each| vec![0; rows * each]),
            floats: self.sizes.1.map(|each| vec![0.0; rows * each]),
        }
    }

    /// Returns the whole batch of a step of the run, counted from 0.
    pub fn training(&mut self, step: u64) -> Batch {
        let (Facts { batch, micro, context, .. }, seed) = (self.facts, self.seed);
        let (mut out, sampler) = (self.empty_batch(batch), Sampler { seed, rank: 0, world: 1 });
        let done = match &mut self.kind {
            Kind::Next { train, .. } => {
                for row in 0..batch {
                    let start = choice(seed, [step, row as u64, 1], train.len() - context);
                    for (which, start) in [(IDS, start), (LABELS, start + 1)] {
                        out.ints[which][row * context..][..context].copy_from_slice(&train[start..][..context]);
                    }
                }
                Ok(())
            }
            Kind::Masked { corpus, masking, .. } => {
                masking.training_batch(&sampler, &*corpus.train, step, (batch, micro), &mut out.masked())
            }
            Kind::Labelled { train, .. } => train.training_batch(&sampler, step, batch, &mut out.labelled()),
            Kind::Images { train, sampler, .. } => sampler.training_batch(train, step, out.images()),
        };
        done.expect("a batch");
        out
    }

    /// Returns a held-out batch of the size of a micro-batch, and how many of its labels are scored.
    pub fn held_out(&mut self, index: usize) -> Option<(Batch, usize)> {
        let (Facts { micro, context, .. }, mut out) = (self.facts, self.empty_batch(self.facts.micro));
        let count = match &mut self.kind {
            Kind::Next { valid, .. } => {
                // Consecutive windows; each token except the first is scored once.
                let first = index * micro * context;
                for at in 0..micro * context {
                    out.ints[IDS][at] = *valid.get(first + at).unwrap_or(&0);
                    out.ints[LABELS][at] = *valid.get(first + at + 1).unwrap_or(&-100);
                }
                Ok(scored(&out.ints[LABELS]))
            }
            Kind::Masked { windows, .. } if index * micro >= windows.len() => return None,
            Kind::Masked { corpus, masking, windows } => {
                masking.held_out_batch(&*corpus.valid, windows, index, (micro, micro), &mut out.masked())
            }
            Kind::Labelled { valid, .. } => valid.evaluation_batch(index, micro, &mut out.labelled()),
            Kind::Images { valid, sampler, .. } => sampler.validation_batch(valid, index, out.images()),
        };
        let count = count.expect("a batch");
        (count > 0).then_some((out, count))
    }
}
