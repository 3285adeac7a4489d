//! Matches the classes of a checkpoint with those of the data, by name. They are matched by order only if the
//! configuration gives the order, if the names are meaningless, or if the classes are folders that have no name in
//! common with the checkpoint.

use std::collections::HashMap;

use crate::bail;
use crate::error::Result;

/// The classes of a checkpoint, with which those of the data are matched.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// The names, in the order of the class numbers. Empty if the checkpoint does not name its classes.
    pub names: &'a [String],
    /// Whether the model is only evaluated. Otherwise it is trained, and its head may get other classes.
    pub fixed: bool,
}

/// Where the class names of the data come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Labels in a file. Their alphabetical order has no meaning.
    Labels,
    /// Folders. For ImageNet, their alphabetical order is that of the classes, and their names are codes (WordNet ids)
    /// that no checkpoint has.
    Folders,
    /// The user listed them in the order of the class numbers, under this configuration key.
    Given(&'static str),
}

/// The classes of a model for some data.
#[derive(Debug, PartialEq, Eq)]
pub struct Matched {
    /// The label of each class in the data. For a class that the data does not have, its name in the checkpoint.
    pub labels: Vec<String>,
    /// The name of each class for the checkpoint that is written, or `None` if the labels are just numbers.
    pub names: Option<Vec<String>>,
    /// A note for the user.
    pub note: Option<String>,
}

/// Returns up to eight of the names as a comma-separated list.
pub fn list(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(8).map(AsRef::as_ref).collect();
    shown.join(", ") + if names.len() > 8 { ", ..." } else { "" }
}

/// Returns a note about class numbers that do not occur in the data, which often means that they are numbered from 1.
/// `present[n]` says whether class `n` occurs. `what` is what has a label, such as "example" or "image".
pub fn gaps(present: &[bool], what: &str) -> Option<String> {
    let missing: Vec<String> = present.iter().zip(0..).filter(|(here, _)| !*here).map(|(_, n)| n.to_string()).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "no {what} has the label {}; labels are class numbers counted from 0, so there are {} classes",
            list(&missing),
            present.len()
        )
    })
}

/// Returns whether each label is the number of its class.
fn are_numbers(labels: &[String]) -> bool {
    labels.iter().enumerate().all(|(number, label)| *label == number.to_string())
}

/// Returns whether names carry no information: numbers, or the names `LABEL_0`, `LABEL_1`, ... that `transformers`
/// generates.
fn are_meaningless(names: &[String]) -> bool {
    are_numbers(names) || names.iter().enumerate().all(|(number, name)| *name == format!("LABEL_{number}"))
}

/// Returns the class number of each label, or the labels that match no class or the same class as an earlier label.
/// Case matters only where names differ in nothing else.
fn by_name(labels: &[String], names: &[String]) -> std::result::Result<Vec<usize>, Vec<String>> {
    // `None` if two classes share this name, so that it identifies neither.
    let index = |form: fn(&str) -> String| {
        let mut numbers: HashMap<String, Option<usize>> = HashMap::new();
        for (number, name) in names.iter().enumerate() {
            numbers.entry(form(name)).and_modify(|known| *known = None).or_insert(Some(number));
        }
        numbers
    };
    let lower = |text: &str| text.to_lowercase();
    let (exact, lowered) = (index(str::to_owned), index(lower));
    let find = |label: &String| exact.get(label).or_else(|| lowered.get(&lower(label))).copied().flatten();
    let found: Vec<Option<usize>> = labels.iter().map(find).collect();
    let mut taken = vec![false; names.len()];
    let mut unknown = Vec::new();
    for (label, number) in labels.iter().zip(&found) {
        if number.is_none_or(|number| std::mem::replace(&mut taken[number], true)) {
            unknown.push(label.clone());
        }
    }
    if unknown.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(unknown) }
}

/// Returns a note about the order assumed for the classes of an evaluated checkpoint that does not name them, unless
/// the user gave the order or the labels are class numbers.
fn order_taken(labels: &[String], origin: Origin) -> Option<String> {
    let what = match origin {
        Origin::Given(_) => return None,
        _ if are_numbers(labels) => return None,
        Origin::Labels => "the data's labels in alphabetical order",
        Origin::Folders => "the data's folders or names",
    };
    Some(format!(
        "the checkpoint does not name its classes; assuming the order of {what}: {}; if it is another, list the \
         classes in the configuration",
        list(labels)
    ))
}

/// Returns the classes of a model for data with these labels: those of the checkpoint, if there is one and the names
/// match.
///
/// # Errors
/// Fails if the checkpoint is only evaluated and the labels do not match the names of its classes.
pub fn matched(labels: Vec<String>, origin: Origin, checkpoint: Option<Checkpoint<'_>>) -> Result<Matched> {
    let own = |labels: Vec<String>, note| {
        let names = (!are_numbers(&labels)).then(|| labels.clone());
        Ok(Matched { labels, names, note })
    };
    let Some(Checkpoint { names, fixed }) = checkpoint else { return own(labels, None) };
    if names.is_empty() {
        let note = fixed.then(|| order_taken(&labels, origin)).flatten();
        return own(labels, note);
    }
    let given = matches!(origin, Origin::Given(_));
    let unknown = match by_name(&labels, names) {
        Ok(numbers) => {
            let reordered = numbers.iter().enumerate().any(|(at, &number)| at != number);
            let note = match origin {
                Origin::Given(key) if reordered => Some(format!(
                    "{key} lists the classes in another order than the checkpoint; using the checkpoint's order: {}",
                    list(names)
                )),
                _ if labels.len() < names.len() => Some(format!(
                    "the data has {} of the checkpoint's {} classes, which are: {}",
                    labels.len(),
                    names.len(),
                    list(names)
                )),
                _ => None,
            };
            let mut all = names.to_vec();
            for (label, number) in labels.into_iter().zip(numbers) {
                all[number] = label;
            }
            return Ok(Matched { labels: all, names: Some(names.to_vec()), note });
        }
        Err(unknown) => unknown,
    };
    // Class numbers, as in GLUE's files, match without names. When a model is only evaluated, some may be absent.
    if are_numbers(&labels) && (labels.len() == names.len() || fixed && labels.len() < names.len()) {
        let labels = (0..names.len()).map(|number| number.to_string()).collect();
        return Ok(Matched { labels, names: Some(names.to_vec()), note: None });
    }
    if are_meaningless(names) {
        let note = fixed.then(|| order_taken(&labels, origin)).flatten();
        return own(labels, note);
    }
    let differ = format!(
        "the class names differ: {} {} not among those of the checkpoint, which are: {}",
        list(&unknown),
        if unknown.len() == 1 { "is" } else { "are" },
        list(names)
    );
    let same_count = labels.len() == names.len();
    let none_matches = unknown.len() == labels.len();
    if !fixed {
        let what = match same_count {
            true => {
                "keeping the checkpoint's head and training it further for the classes of the data, in this order: "
            }
            false => "training a new head for the classes of the data: ",
        };
        let note = format!("{differ}; {what}{}", list(&labels));
        return own(labels, Some(note));
    }
    if same_count && (given || origin == Origin::Folders && none_matches) {
        let note = format!("{differ}; matching them by order: {}", list(&labels));
        return Ok(Matched { labels, names: Some(names.to_vec()), note: Some(note) });
    }
    bail!(
        "{differ}; use the same names in the data, or list the labels of the data in the order of the checkpoint's \
         classes in the configuration (data.task.classes, or names of data.images.train and valid)"
    )
}
