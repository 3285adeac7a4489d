//! Labelled texts, to fine-tune on and to measure: tab-separated files, as GLUE has them.
//!
//! Files may be compressed, as texts are. A line is an example; quotes are characters like any other. A row of a batch is `[CLS] sentence [SEP]`, or `[CLS]
//! sentence [SEP] second [SEP]`, padded to the context. Of what does not fit the end is cut off, of a pair that of the
//! longer one.

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

/// The longest text that is read: ten times the largest of GLUE.
const TEXT_BYTES: usize = 1 << 30;
/// Texts that are encoded at once.
const TEXTS: usize = 4096;
/// More classes are a mistake: another column, or labels that are to be approximated.
const MOST_CLASSES: usize = 10_000;

/// A column of a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected the number of a column, from 1, or its name in the header")]
pub enum Column {
    /// From 1 on.
    Number(usize),
    /// As the first line has it.
    Name(String),
}

/// What is where in a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyConfig {
    pub sentence: Column,
    /// Of pairs.
    pub second: Option<Column>,
    pub label: Column,
    /// Whether the first line names the columns. Left out: it does if one is given by its name here.
    pub header: Option<bool>,
    /// The labels in the order of the classes' numbers. Left out: what the training file has, whole numbers as they are and
    /// others in alphabetical order.
    pub classes: Option<Vec<String>>,
    /// Labels are numbers to be approximated.
    #[serde(default)]
    pub regression: bool,
    /// Pass over examples without a label, and count them, where otherwise the file is refused.
    #[serde(default)]
    pub skip_unlabelled: bool,
}

/// What labels mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// The label of each class.
    Classes(Vec<String>),
    /// Numbers to be approximated.
    Values,
}

/// A batch `B` of rows of context `T`, row-major.
#[derive(Debug)]
pub struct ClassifyBatch<'a> {
    /// `[B, T]`.
    pub ids: &'a mut [i32],
    /// `[B, T]`: 1 in the second segment, else 0.
    pub types: &'a mut [i32],
    /// `[B, T]`: 1 for a token, 0 for padding.
    pub mask: &'a mut [i32],
    /// `[B]` with [`Labels::Classes`], else empty: -100 for a row without an example.
    pub classes: &'a mut [i32],
    /// `[B]` with [`Labels::Values`], else empty: NaN for a row without an example.
    pub values: &'a mut [f32],
}

#[derive(Clone, Copy, Debug)]
enum Label {
    Class(i32),
    Value(f32),
}

#[derive(Debug)]
struct Example {
    /// What fits of the tokens of both texts.
    ids: Vec<u32>,
    /// How many of them are those of the first.
    first: usize,
    label: Label,
}

/// The examples of a file. See the module.
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
    /// Reads the examples of a file. `known`: the labels of the file that was trained on, where this one is measured on.
    ///
    /// # Errors
    /// By file and line: a column that is not there, a label that is missing, none of the `known` ones or no number. A file
    /// that cannot be read, or has no example; a tokenizer without the special tokens; a context without room for text.
    pub fn open(
        path: &Path,
        config: &ClassifyConfig,
        known: Option<&Labels>,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Classification> {
        Self::open_matched(path, config, (known, None), tokenizer, context)
    }

    /// As [`Classification::open`]; where no labels are known, the file's are matched with the classes of a checkpoint.
    ///
    /// # Errors
    /// As [`Classification::open`]; what [`classes::matched`] refuses.
    pub fn open_matched(
        path: &Path,
        config: &ClassifyConfig,
        (known, checkpoint): (Option<&Labels>, Option<Checkpoint<'_>>),
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Classification> {
        let special = tokenizer.special_tokens()?;
        let pairs = config.second.is_some();
        let room = context.saturating_sub(if pairs { 3 } else { 2 });
        if room < 1 + usize::from(pairs) || i32::try_from(context).is_err() {
            bail!("a context of {context} is not possible; special tokens and text must fit");
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
                let [first, rest] = fit([ids.len(), second.len()], room);
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

    /// Examples of the file.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The name of each class, where labels are more than numbers, or a checkpoint has names for these.
    pub fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// What a person should know about the file, each in a sentence.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many examples have the same tokens as one of `other`.
    pub fn shared_with(&self, other: &Classification) -> usize {
        let theirs: HashSet<(&[u32], usize)> = other.examples.iter().map(|e| (&*e.ids, e.first)).collect();
        self.examples.iter().filter(|e| theirs.contains(&(&*e.ids, e.first))).count()
    }

    /// Adds all examples, as they enter batches.
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

    /// Fills the training batch of `step`, a function of its numbers alone: all examples in random order, then all of them in
    /// another one, and so on. Allocates nothing.
    ///
    /// # Errors
    /// When a buffer has another size, or `rank` is not below `world`.
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

    /// Fills batch `index` of the examples in their order and returns how many rows have one. A row past the last example is
    /// `[CLS] [SEP]`, without a label.
    ///
    /// # Errors
    /// When a buffer has another size.
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
                "a batch of {batch} x {} does not fit buffers of {tokens:?} and {labels:?}; size them as batch x context and \
                 {needed:?}",
                self.context
            );
        }
        Ok(())
    }
}

/// The texts of a file, one a line: what a tokenizer may be trained on.
///
/// # Errors
/// As [`Classification::open`], of the file and its columns.
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

/// A whole file.
fn read(path: &Path) -> Result<String> {
    let (mut reader, mut text) = (TextReader::open(path)?, String::new());
    while reader.read(&mut text)? {
        if text.len() > TEXT_BYTES {
            bail!("{}: more than {TEXT_BYTES} bytes of text; cut it into parts", path.display());
        }
    }
    Ok(text)
}

impl Row<'_> {
    fn label(&self, numbers: &HashMap<&str, i32>, labels: &Labels) -> Result<Label> {
        let Labels::Classes(names) = labels else {
            return match self.label.parse::<f32>() {
                Ok(value) if value.is_finite() => Ok(Label::Value(value)),
                _ => Err(self.wrong(&format!("the label {:?} is no number; correct or remove the line", self.label))),
            };
        };
        let Some(&number) = numbers.get(self.label) else {
            return Err(self.wrong(&format!("the label {:?} is none of {}", self.label, classes::list(names))));
        };
        Ok(Label::Class(number))
    }
}

/// What the labels of the file that is trained on mean.
fn labels_of(
    rows: &[Row<'_>],
    config: &ClassifyConfig,
    checkpoint: Option<Checkpoint<'_>>,
) -> Result<(Labels, Matched)> {
    let (found, origin) = match (&config.classes, config.regression) {
        (Some(_), true) => {
            bail!("classes are named, but regression = true says that labels are numbers; keep one of them")
        }
        (None, true) => return Ok((Labels::Values, Matched { labels: Vec::new(), names: None, note: None })),
        (Some(names), false) => {
            let distinct: BTreeSet<&String> = names.iter().collect();
            if names.len() < 2 || distinct.len() < names.len() {
                bail!("classes: {} labels, {} of them different; give two or more", names.len(), distinct.len());
            }
            (names.clone(), Origin::Given("data.task.classes"))
        }
        (None, false) => (classes_in(rows, checkpoint)?, Origin::Labels),
    };
    let mut matched = classes::matched(found, origin, checkpoint)?;
    Ok((Labels::Classes(std::mem::take(&mut matched.labels)), matched))
}

/// The classes that labels make: whole numbers as they are, others in alphabetical order.
fn classes_in(rows: &[Row<'_>], checkpoint: Option<Checkpoint<'_>>) -> Result<Vec<String>> {
    let found: BTreeSet<&str> = rows.iter().map(|row| row.label).collect();
    // A checkpoint may have numbers for names, as of stars from 1 to 5.
    let all = |names: &[String]| found.iter().all(|label| names.iter().any(|name| name == label));
    let named = checkpoint.is_some_and(|checkpoint| !checkpoint.names.is_empty() && all(checkpoint.names));
    let plain = |label: &&str| label.parse::<usize>().ok().filter(|number| number.to_string() == **label);
    let numbers: Option<Vec<usize>> = found.iter().map(plain).collect();
    // Whole numbers may leave one out that the file happens not to have.
    let count = match numbers {
        Some(numbers) if !named => numbers.iter().max().map_or(0, |most| most.saturating_add(1)),
        _ => found.len(),
    };
    // What is measured may have examples of one class only.
    let known = |checkpoint: Checkpoint<'_>| !checkpoint.names.is_empty() && (checkpoint.fixed || named);
    let fewest = if checkpoint.is_some_and(known) { 1 } else { 2 };
    if !(fewest..=MOST_CLASSES).contains(&count) {
        bail!(
            "the labels make {count} classes, not 2 to {MOST_CLASSES}; check the column, or set regression = true for numbers \
             to be approximated"
        );
    }
    Ok(match !named && found.iter().all(|label| plain(label).is_some()) {
        true => (0..count).map(|number| number.to_string()).collect(),
        false => found.into_iter().map(str::to_owned).collect(),
    })
}

/// How much of two texts fits into `room` when the longer one is cut first.
fn fit([first, second]: [usize; 2], room: usize) -> [usize; 2] {
    if first + second <= room {
        return [first, second];
    }
    // What the shorter one leaves, or half each.
    let second = second.min(room.saturating_sub(first).max(room / 2));
    [room - second, second]
}
