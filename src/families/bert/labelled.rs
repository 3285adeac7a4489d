//! Labelled texts for fine-tuning: opens the files of `data.task` and cuts them into batches.

use crate::bail;
use crate::config::Config;
use crate::data::fingerprint::Fingerprint;
use crate::data::labelled;
use crate::data::labelled::classes;
use crate::data::labelled::classes::Checkpoint;
use crate::data::labelled::{Classification, ClassifyBatch, Labels};
use crate::data::loader::batch::{Field, Source};
use crate::data::prepared::corpus::SEEN;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokens::sampler::Sampler;
use crate::error::{At, Result};
use crate::families::{DataFacts, Dataset};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The training and held-out examples, and their tokenizer.
pub(super) struct Labelled {
    /// Examples to train on.
    pub train: Arc<Classification>,
    /// Held-out examples.
    pub valid: Arc<Classification>,
    /// The tokenizer of both.
    pub tokenizer: Tokenizer,
    /// Id of the padding token.
    pad: u32,
    /// The file to train on.
    path: PathBuf,
    /// Hash of all examples and labels.
    sum: String,
}

impl Labelled {
    /// Reads the files of `data.task` and matches their labels with the classes of `checkpoint`, if given.
    ///
    /// # Errors
    /// Those of [`Classification::open_matched`]; the tokenizer is missing or lacks the special tokens of a masked
    /// model.
    pub fn open(config: &Config, checkpoint: Option<Checkpoint<'_>>, note: &mut dyn FnMut(&str)) -> Result<Labelled> {
        let task = config.data.task()?;
        let tokenizer = match (&config.data.tokenizer, &config.model.from) {
            (Some(spec), _) => {
                let texts = labelled::texts(&task.train, &task.columns()).at("data.task")?;
                Tokenizer::from_spec(spec, &texts).at("data.tokenizer")?
            }
            (None, Some(from)) => Tokenizer::load(from).at("model.from")?,
            (None, None) => {
                bail!(
                    "data.tokenizer: missing; give char, byte, bpe:N, or the path of a tokenizer, or start from a \
                     checkpoint"
                )
            }
        };
        tokenizer.notes().iter().for_each(|text| note(text));
        let tokenizer = tokenizer.with_special_tokens().at("data.tokenizer")?;
        let (columns, context) = (task.columns(), config.model.context);
        let open = |path: &Path, known: Option<&Labels>| {
            Classification::open_matched(path, &columns, (known, checkpoint), &tokenizer, context).at("data.task")
        };
        let train = open(&task.train, None)?;
        let valid = open(&task.valid, Some(train.labels()))?;
        let labels = match (train.names(), train.labels()) {
            (Some(names), _) => format!("{} classes: {}", names.len(), classes::list(names)),
            (None, Labels::Classes(labels)) => format!("{} classes", labels.len()),
            (None, Labels::Values) => "numbers".to_owned(),
        };
        // If both files are the same, report its notes once.
        let same = task.train == task.valid;
        train.notes().iter().chain(valid.notes().iter().filter(|_| !same)).for_each(|text| note(text));
        match valid.shared_with(&train) {
            0 => {}
            _ if same => note(&format!("data.task.train and data.task.valid are the same file; {SEEN}")),
            shared => note(&format!(
                "warning: {shared} of {} held-out examples have the same text as a training example; {SEEN}",
                valid.len()
            )),
        }
        note(&format!("using {} labelled texts to train on, {} held out: {labels}", train.len(), valid.len()));
        let mut print = Fingerprint::default();
        [&train, &valid].iter().for_each(|split| split.add_to(&mut print));
        print.add(format!("{:?}", train.labels()).as_bytes());
        let sum = print.hex();
        let (pad, path) = (tokenizer.special_tokens()?.pad, task.train.clone());
        Ok(Labelled { train: Arc::new(train), valid: Arc::new(valid), tokenizer, pad, path, sum })
    }
}

impl Dataset for Labelled {
    fn facts(&self) -> DataFacts {
        let classes = match self.train.labels() {
            Labels::Classes(names) => names.len(),
            // A head with one class predicts a number.
            Labels::Values => 1,
        };
        DataFacts { pad: self.pad, classes: Some(classes), ..DataFacts::from(self.tokenizer.vocab_size()) }
    }

    fn name(&self) -> String {
        format!("{} {}, {}", self.sum, self.train.len(), self.valid.len())
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(&self.tokenizer)
    }

    fn class_names(&self) -> Option<&[String]> {
        self.train.names()
    }

    fn source(&self, config: &Config) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(Examples {
            train: Arc::clone(&self.train),
            valid: Arc::clone(&self.valid),
            sampler: Sampler { seed: config.seed, rank: 0, world: 1 },
            context: config.model.context,
            path: self.path.clone(),
        }))
    }
}

/// Batches of labelled texts. The fields are ids, token types, attention mask, and classes or numbers.
struct Examples {
    train: Arc<Classification>,
    valid: Arc<Classification>,
    sampler: Sampler,
    context: usize,
    path: PathBuf,
}

/// Returns the fields as a batch, and its number of rows.
fn batch(fields: &mut [Field], context: usize) -> Result<(ClassifyBatch<'_>, usize)> {
    let [Field::Ints(ids), Field::Ints(types), Field::Ints(mask), labels] = fields else {
        bail!("expected the 4 fields of a batch of labelled texts, got {} fields", fields.len());
    };
    let rows = ids.len() / context.max(1);
    let (classes, values): (&mut [i32], &mut [f32]) = match labels {
        Field::Ints(classes) => (classes, &mut []),
        Field::Floats(values) => (&mut [], values),
    };
    Ok((ClassifyBatch { ids, types, mask, classes, values }, rows))
}

impl Source for Examples {
    fn allocate(&self, rows: usize) -> Result<Vec<Field>> {
        let mut all = (0..3).map(|_| Field::ints(rows, self.context)).collect::<Result<Vec<_>>>()?;
        all.push(match self.train.labels() {
            Labels::Classes(_) => Field::ints(rows, 1)?,
            Labels::Values => Field::floats(rows, 1)?,
        });
        Ok(all)
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        let (mut batch, rows) = batch(fields, self.context)?;
        self.train.training_batch(&self.sampler, step, rows, &mut batch)
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        let (mut batch, rows) = batch(fields, self.context)?;
        let scored = self.valid.evaluation_batch(index, rows, &mut batch)?;
        Ok((scored > 0).then_some(scored))
    }
}
