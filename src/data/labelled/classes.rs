//! The classes of a checkpoint and those of data, matched by name. Order decides only where the configuration gives it, where names
//! say nothing, or for folders with no name in common.

use std::collections::HashMap;

use crate::bail;
use crate::error::Result;

/// The names of a checkpoint's classes, with which data is to be matched.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// In the order of the classes' numbers. None, where it does not name them.
    pub names: &'a [String],
    /// The model is measured as it is. Otherwise it is trained, and its head may get other classes.
    pub fixed: bool,
}

/// Where the names of data come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Labels in a file: their alphabetical order has no meaning.
    Labels,
    /// Folders, whose alphabetical order is that of the classes in ImageNet: their names are codes that no checkpoint has.
    Folders,
    /// A person gave them in the order of the classes' numbers, under this key.
    Given(&'static str),
}

/// The classes of a model for data.
#[derive(Debug, PartialEq, Eq)]
pub struct Matched {
    /// The label of each class as the data has it; of a class that the data does not have, its name.
    pub labels: Vec<String>,
    /// The name of each class, for the checkpoint that is written; `None`: the labels are only numbers.
    pub names: Option<Vec<String>>,
    /// What a person should know.
    pub note: Option<String>,
}

/// Up to eight of the names.
pub fn list(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(8).map(AsRef::as_ref).collect();
    shown.join(", ") + if names.len() > 8 { ", ..." } else { "" }
}

/// What is to say about class numbers that none of the data has: often these are numbered from 1. `what`: an example, an image.
pub fn gaps(present: &[bool], what: &str) -> Option<String> {
    let missing: Vec<String> = present.iter().zip(0..).filter(|(here, _)| !*here).map(|(_, n)| n.to_string()).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "no {what} has the label {}; labels are class numbers from 0, so there are {} classes",
            list(&missing),
            present.len()
        )
    })
}

/// Whether labels are the numbers of their classes.
fn are_numbers(labels: &[String]) -> bool {
    labels.iter().enumerate().all(|(number, label)| *label == number.to_string())
}

/// Whether names say no more than numbers do: those that `transformers` makes up, or numbers.
fn say_nothing(names: &[String]) -> bool {
    are_numbers(names) || names.iter().enumerate().all(|(number, name)| *name == format!("LABEL_{number}"))
}

/// The number of the class of each label, or which labels are no class's name. Upper and lower case are told apart only
/// where names differ in nothing else.
fn by_name(labels: &[String], names: &[String]) -> std::result::Result<Vec<usize>, Vec<String>> {
    // `None`: two classes share this name, so it identifies neither.
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

/// Says which order is taken where a checkpoint that is measured does not name its classes, if a person did not give it.
fn order_taken(labels: &[String], origin: Origin) -> Option<String> {
    let what = match origin {
        Origin::Given(_) => return None,
        _ if are_numbers(labels) => return None,
        Origin::Labels => "the data's labels in alphabetical order",
        Origin::Folders => "the data's folders or names",
    };
    Some(format!(
        "the checkpoint does not name its classes; their order is taken to be that of {what}: {}; if it is another, name the \
         classes in the configuration",
        list(labels)
    ))
}

/// The classes of a model for data with these labels: those of the checkpoint, if there is one and they have the same names.
///
/// # Errors
/// Labels that are none of the names of a checkpoint that is measured.
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
                    "{key} names the classes in another order than the checkpoint; its order is taken: {}",
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
    // Class numbers, as GLUE's files have them, need no names; of a model that is measured, some may be left out.
    if are_numbers(&labels) && (labels.len() == names.len() || fixed && labels.len() < names.len()) {
        let labels = (0..names.len()).map(|number| number.to_string()).collect();
        return Ok(Matched { labels, names: Some(names.to_vec()), note: None });
    }
    if say_nothing(names) {
        let note = fixed.then(|| order_taken(&labels, origin)).flatten();
        return own(labels, note);
    }
    let differ = format!(
        "the names of the classes differ: {} {} none of the checkpoint's, which are: {}",
        list(&unknown),
        if unknown.len() == 1 { "is" } else { "are" },
        list(names)
    );
    let same_count = labels.len() == names.len();
    let none_matches = unknown.len() == labels.len();
    if !fixed {
        let what = match same_count {
            true => "the checkpoint's head is kept and trained further for the data's classes, in this order: ",
            false => "a new head is trained for the data's classes: ",
        };
        let note = format!("{differ}; {what}{}", list(&labels));
        return own(labels, Some(note));
    }
    if same_count && (given || origin == Origin::Folders && none_matches) {
        let note = format!("{differ}; they are matched by their order: {}", list(&labels));
        return Ok(Matched { labels, names: Some(names.to_vec()), note: Some(note) });
    }
    bail!(
        "{differ}; give the data the same names, or list the data's labels in the order of the checkpoint's classes in the \
         configuration (data.task.classes, or names of data.images.train and valid)"
    )
}
