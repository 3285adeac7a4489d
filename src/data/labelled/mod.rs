//! Labelled texts for fine-tuning and evaluation, from tab-separated files as in GLUE.
//!
//! Files may be compressed. Each line is an example; quotes have no special meaning. A row of a batch is `[CLS]
//! sentence [SEP]`, or `[CLS] sentence [SEP] second [SEP]`, padded to the context. Texts that do not fit are truncated
//! at their ends, the longer one of a pair first.

pub mod classes;
pub(crate) mod rows;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::random::{TEXT_STAGES, shuffled};
use super::text::reader::TextReader;
use super::tokenizer::Tokenizer;
use super::tokenizer::vocabulary::SpecialTokens;
use super::tokens::sampler::{IGNORED, Sampler};
use crate::bail;
use crate::error::{At, Result};
use classes::{Checkpoint, Matched, Origin};
use rows::{Row, rows};

/// The largest file that is read, in bytes of text: ten times the largest of GLUE.
const TEXT_BYTES: usize = 1 << 30;
/// The number of examples that are encoded at once.
const TEXTS: usize = 4096;
/// The largest number of classes. More are a mistake, such as the wrong column or the labels of a regression.
const MOST_CLASSES: usize = 10_000;

/// A column of a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected the number of a column, from 1, or its name in the header")]
pub enum Column {
    /// The number of the column, from 1.
    Number(usize),
    /// The name of the column in the first line.
    Name(String),
}

/// The columns of a file and the meaning of its labels.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyConfig {
    /// The column of the text.
    pub sentence: Column,
    /// The column of the second text of a pair.
    pub second: Option<Column>,
    /// The column of the label.
    pub label: Column,
    /// Whether the first line names the columns. The default is true if a column is given by its name here.
    pub header: Option<bool>,
    /// The labels in the order of the class numbers. The default are the labels in the training file: integers are
    /// class numbers, others are sorted alphabetically.
    pub classes: Option<Vec<String>>,
    /// Whether labels are numbers to regress to.
    #[serde(default)]
    pub regression: bool,
    /// Whether to skip (and count) examples without a label, rather than reject the file.
    #[serde(default)]
    pub skip_unlabelled: bool,
}

/// What labels mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// The label of each class.
    Classes(Vec<String>),
    /// Numbers to regress to.
    Values,
}

/// A batch of `B` rows of context `T`, row-major.
#[derive(Debug)]
pub struct ClassifyBatch<'a> {
    /// `[B, T]`.
    pub ids: &'a mut [i32],
    /// `[B, T]`: 1 in the second segment, else 0.
    pub types: &'a mut [i32],
    /// `[B, T]`: 1 for a token, 0 for padding.
    pub mask: &'a mut [i32],
    /// `[B]` with [`Labels::Classes`], else empty: the class number, -100 for a row without an example.
    pub classes: &'a mut [i32],
    /// `[B]` with [`Labels::Values`], else empty: the label, NaN for a row without an example.
    pub values: &'a mut [f32],
}

#[derive(Clone, Copy, Debug)]
enum Label {
    Class(i32),
    Value(f32),
}

#[derive(Debug)]
struct Example {
    /// The tokens of both texts, truncated to fit.
    ids: Vec<u32>,
    /// The number of tokens of the first text.
    first: usize,
    label: Label,
}

/// The examples of a file, encoded as tokens.
#[derive(Debug)]
pub struct Classification {
    examples: Vec<Example>,
    labels: Labels,
    pairs: bool,
    special: SpecialTokens,
    context: usize,
    names: Option<Vec<String>>,
    notes: Vec<String>,
}

impl Classification {
    /// Reads the examples of a file. For a file to evaluate on, `known` are the labels of the training file.
    ///
    /// # Errors
    /// Fails, naming the file and line, if a column does not exist or a label is missing, not among the `known` ones,
    /// or not a number. Also fails if the file cannot be read or has no example, if the tokenizer lacks special tokens,
    /// or if the context is too small for text.
    pub fn open(
        path: &Path,
        config: &ClassifyConfig,
        known: Option<&Labels>,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Classification> {
        Self::open_matched(path, config, (known, None), tokenizer, context)
    }

    /// Reads the examples of a file like [`Classification::open`]. If no labels are known, those of the file are
    /// matched with the classes of a checkpoint.
    ///
    /// # Errors
    /// See [`Classification::open`] and [`classes::matched`].
    pub fn open_matched(
        path: &Path,
        config: &ClassifyConfig,
        (known, checkpoint): (Option<&Labels>, Option<Checkpoint<'_>>),
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Classification> {
        let special = tokenizer.special_tokens()?;
        let pairs = config.second.is_some();
        let capacity = context.saturating_sub(if pairs { 3 } else { 2 });
        if capacity < 1 + usize::from(pairs) || i32::try_from(context).is_err() {
            bail!("a context of {context} is not possible; it must hold special tokens and text");
        }
        let text = read(path)?;
        let (rows, mut notes) = rows(&text, config).at(path.display())?;
        notes.iter_mut().for_each(|note| *note = format!("{}: {note}", path.display()));
        let (labels, names) = match known {
            Some(known) => (known.clone(), None),
            None => {
                let (labels, matched) = labels_of(&rows, config, checkpoint).at(path.display())?;
                notes.extend(matched.note);
                if let (Labels::Classes(labels), None) = (&labels, &config.classes)
                    && labels.iter().zip(0..).all(|(label, number): (_, usize)| *label == number.to_string())
                {
                    let found: HashSet<&str> = rows.iter().map(|row| row.label).collect();
                    let present: Vec<bool> = labels.iter().map(|label| found.contains(&**label)).collect();
                    let gaps = classes::gaps(&present, "example");
                    notes.extend(gaps.map(|text| format!("{}: warning: {text}", path.display())));
                }
                (labels, matched.names)
            }
        };
        let numbers = match &labels {
            Labels::Classes(names) => names.iter().map(String::as_str).zip(0..).collect(),
            Labels::Values => HashMap::new(),
        };
        let mut examples = Vec::with_capacity(rows.len());
        for part in rows.chunks(TEXTS) {
            let texts = part.iter().flat_map(|row| [Some(row.first), row.second]).flatten().collect();
            let mut encoded = tokenizer.encode_pieces(texts).at(path.display())?.into_iter();
            for row in part {
                let label = row.label(&numbers, &labels).at(path.display())?;
                let mut next = || encoded.next().map(|text| text.get_ids().to_vec()).unwrap_or_default();
                let (mut ids, second) = (next(), if pairs { next() } else { Vec::new() });
                let [first, rest] = fit([ids.len(), second.len()], capacity);
                ids.truncate(first);
                ids.extend_from_slice(&second[..rest]);
                examples.push(Example { ids, first, label });
            }
        }
        let tokens = || examples.iter().flat_map(|example| &example.ids);
        let unknown = tokens().filter(|&&id| Some(id) == special.unk).count() as u64;
        let note = tokenizer.unknown_note(unknown, tokens().count() as u64);
        notes.extend(note.map(|text| format!("{}: {text}", path.display())));
        Ok(Classification { examples, labels, pairs, special, context, names, notes })
    }

    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Returns whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Returns what the labels mean.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Returns the name of each class, if the labels are more than numbers or a checkpoint names its classes.
    pub fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// Returns notes for the user about the file.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns how many examples have the same tokens as one of `other`.
    pub fn shared_with(&self, other: &Classification) -> usize {
        let theirs: HashSet<(&[u32], usize)> = other.examples.iter().map(|e| (&*e.ids, e.first)).collect();
        self.examples.iter().filter(|e| theirs.contains(&(&*e.ids, e.first))).count()
    }

    /// Adds all examples to a fingerprint, in the form in which they enter batches.
    pub fn add_to(&self, print: &mut Fingerprint) {
        print.add(&[u8::from(self.pairs)]);
        print.add(&(self.context as u64).to_le_bytes());
        for Example { ids, first, label } in &self.examples {
            let label = match label {
                Label::Class(class) => class.to_le_bytes(),
                Label::Value(value) => value.to_le_bytes(),
            };
            print.add(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
            print.add(&(*first as u64).to_le_bytes());
            print.add(&label);
        }
    }

    /// Fills the training batch of `step`, which is a function of its arguments. Batches go through all examples in
    /// random order, then in another random order, and so on. Allocates nothing.
    ///
    /// # Errors
    /// Fails if a buffer has the wrong size, or if `rank` is not below `world`.
    pub fn training_batch(
        &self,
        sampler: &Sampler,
        step: u64,
        batch: usize,
        out: &mut ClassifyBatch<'_>,
    ) -> Result<()> {
        sampler.check()?;
        self.check_buffers(batch, out)?;
        let count = self.len() as u64;
        let begin =
            step.wrapping_mul(sampler.world as u64).wrapping_add(sampler.rank as u64).wrapping_mul(batch as u64);
        for row in 0..batch {
            let number = begin.wrapping_add(row as u64);
            let (round, at) = (number / count, (number % count) as usize);
            let example = shuffled(sampler.seed, round, at, self.len(), TEXT_STAGES);
            self.fill(Some(&self.examples[example]), row, out);
        }
        Ok(())
    }

    /// Fills batch `index` of the examples in file order and returns how many rows have one. A row past the last
    /// example is `[CLS] [SEP]`, without a label.
    ///
    /// # Errors
    /// Fails if a buffer has the wrong size.
    pub fn evaluation_batch(&self, index: usize, batch: usize, out: &mut ClassifyBatch<'_>) -> Result<usize> {
        self.check_buffers(batch, out)?;
        let begin = index.saturating_mul(batch);
        for row in 0..batch {
            self.fill(self.examples.get(begin.saturating_add(row)), row, out);
        }
        Ok(self.len().saturating_sub(begin).min(batch))
    }

    fn fill(&self, example: Option<&Example>, row: usize, out: &mut ClassifyBatch<'_>) {
        let (ids, first) = example.map_or((&[][..], 0), |example| (&example.ids[..], example.first));
        let tokens = row * self.context..(row + 1) * self.context;
        let (row_ids, types) = (&mut out.ids[tokens.clone()], &mut out.types[tokens.clone()]);
        let second = (self.pairs && example.is_some()).then_some(ids.len() - first);
        self.special.frame(first, second, row_ids, types, &mut out.mask[tokens]);
        let (a, b) = ids.split_at(first);
        let texts = row_ids[1..].iter_mut().zip(a);
        texts.for_each(|(to, &id)| *to = id as i32);
        row_ids[(first + 2).min(self.context)..].iter_mut().zip(b).for_each(|(to, &id)| *to = id as i32);
        match example.map(|example| example.label) {
            Some(Label::Class(class)) => out.classes[row] = class,
            Some(Label::Value(value)) => out.values[row] = value,
            None if self.labels == Labels::Values => out.values[row] = f32::NAN,
            None => out.classes[row] = IGNORED,
        }
    }

    fn check_buffers(&self, batch: usize, out: &ClassifyBatch<'_>) -> Result<()> {
        let tokens = [out.ids.len(), out.types.len(), out.mask.len()];
        let labels = [out.classes.len(), out.values.len()];
        let needed = if self.labels == Labels::Values { [0, batch] } else { [batch, 0] };
        if labels != needed || tokens.iter().any(|&size| batch.checked_mul(self.context) != Some(size)) {
            bail!(
                "a batch of {batch} x {} does not match buffers of {tokens:?} and {labels:?}; size them as batch x \
                 context and {needed:?}",
                self.context
            );
        }
        Ok(())
    }
}

/// Returns the texts of a file, one per line, to train a tokenizer on.
///
/// # Errors
/// Fails if the file cannot be read, or on the errors of [`Classification::open`] about its columns and missing labels.
pub fn texts(path: &Path, config: &ClassifyConfig) -> Result<String> {
    let content = read(path)?;
    let (rows, _) = rows(&content, config).at(path.display())?;
    let mut texts = String::with_capacity(content.len());
    for text in rows.iter().flat_map(|row| [Some(row.first), row.second]).flatten() {
        texts.push_str(text);
        texts.push('\n');
    }
    Ok(texts)
}

/// Reads a whole file.
fn read(path: &Path) -> Result<String> {
    let (mut reader, mut text) = (TextReader::open(path)?, String::new());
    while reader.read(&mut text)? {
        if text.len() > TEXT_BYTES {
            bail!("{}: more than {TEXT_BYTES} bytes of text; split it into several files", path.display());
        }
    }
    Ok(text)
}

impl Row<'_> {
    fn label(&self, numbers: &HashMap<&str, i32>, labels: &Labels) -> Result<Label> {
        let Labels::Classes(names) = labels else {
            return match self.label.parse::<f32>() {
                Ok(value) if value.is_finite() => Ok(Label::Value(value)),
                _ => {
                    Err(self.wrong(&format!("the label {:?} is not a number; correct or remove the line", self.label)))
                }
            };
        };
        let Some(&number) = numbers.get(self.label) else {
            return Err(self.wrong(&format!("the label {:?} is not one of {}", self.label, classes::list(names))));
        };
        Ok(Label::Class(number))
    }
}

/// Returns what the labels of a training file mean.
fn labels_of(
    rows: &[Row<'_>],
    config: &ClassifyConfig,
    checkpoint: Option<Checkpoint<'_>>,
) -> Result<(Labels, Matched)> {
    let (found, origin) = match (&config.classes, config.regression) {
        (Some(_), true) => {
            bail!("classes are listed, but regression = true says that labels are numbers; remove one of the two keys")
        }
        (None, true) => return Ok((Labels::Values, Matched { labels: Vec::new(), names: None, note: None })),
        (Some(names), false) => {
            let distinct: BTreeSet<&String> = names.iter().collect();
            if names.len() < 2 || distinct.len() < names.len() {
                bail!("classes: {} labels, {} of them distinct; give two or more", names.len(), distinct.len());
            }
            (names.clone(), Origin::Given("data.task.classes"))
        }
        (None, false) => (classes_in(rows, checkpoint)?, Origin::Labels),
    };
    let mut matched = classes::matched(found, origin, checkpoint)?;
    Ok((Labels::Classes(std::mem::take(&mut matched.labels)), matched))
}

/// Returns the classes of the labels: integers are class numbers, others are sorted alphabetically.
fn classes_in(rows: &[Row<'_>], checkpoint: Option<Checkpoint<'_>>) -> Result<Vec<String>> {
    let found: BTreeSet<&str> = rows.iter().map(|row| row.label).collect();
    // A checkpoint may have numbers as names, such as 1 to 5 stars.
    let all = |names: &[String]| found.iter().all(|label| names.iter().any(|name| name == label));
    let named = checkpoint.is_some_and(|checkpoint| !checkpoint.names.is_empty() && all(checkpoint.names));
    let plain = |label: &&str| label.parse::<usize>().ok().filter(|number| number.to_string() == **label);
    let numbers: Option<Vec<usize>> = found.iter().map(plain).collect();
    // A file may happen to have no example of some class number.
    let count = match numbers {
        Some(numbers) if !named => numbers.iter().max().map_or(0, |most| most.saturating_add(1)),
        _ => found.len(),
    };
    // A file to evaluate on may have examples of only one class.
    let known = |checkpoint: Checkpoint<'_>| !checkpoint.names.is_empty() && (checkpoint.fixed || named);
    let fewest = if checkpoint.is_some_and(known) { 1 } else { 2 };
    if !(fewest..=MOST_CLASSES).contains(&count) {
        bail!(
            "the labels give {count} classes, not 2 to {MOST_CLASSES}; check the column, or set regression = true to \
             regress to numbers"
        );
    }
    Ok(match !named && found.iter().all(|label| plain(label).is_some()) {
        true => (0..count).map(|number| number.to_string()).collect(),
        false => found.into_iter().map(str::to_owned).collect(),
    })
}

/// Returns the lengths to which two texts are truncated to fit into `capacity` tokens, the longer one first.
fn fit([first, second]: [usize; 2], capacity: usize) -> [usize; 2] {
    if first + second <= capacity {
        return [first, second];
    }
    // The second text gets what the first one leaves, at least half.
    let second = second.min(capacity.saturating_sub(first).max(capacity / 2));
    [capacity - second, second]
}
