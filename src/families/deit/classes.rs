//! How the labels of images map to the classes of a model.

use crate::bail;
use crate::config::data::ImagesConfig;
use crate::data::images::Images;
use crate::data::labelled::classes::{Checkpoint, Matched, Origin, list, matched};
use crate::error::Result;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// How the labels of images map to the classes of a model.
#[derive(Debug)]
pub struct ImageClasses {
    /// Number of classes.
    count: usize,
    /// Name of each class. `None`: classes only have numbers.
    names: Option<Vec<String>>,
    /// The class of each label. `None`: the label is the class.
    by_label: Option<Arc<[i32]>>,
    /// The class of each label of the held-out images, if these are labelled differently.
    held_out: Option<Arc<[i32]>>,
}

impl ImageClasses {
    /// Returns the classes of `images` themselves: each label is its own class.
    pub fn of(images: &Images) -> Self {
        ImageClasses { count: images.classes(), names: None, by_label: None, held_out: None }
    }

    /// Matches the classes of `images` with those of `checkpoint`, if given. Returns a note for the user as well.
    pub(super) fn new(
        spec: &ImagesConfig,
        images: &Images,
        checkpoint: Option<Checkpoint<'_>>,
    ) -> Result<(Self, Option<String>)> {
        let named = images.names().to_vec();
        let origin = match spec.train.names {
            Some(_) => Origin::Given("data.images.train.names"),
            None => Origin::Folders,
        };
        let Matched { labels, names, note } = matched(named, origin, checkpoint)?;
        let mut places = HashMap::new();
        for (label, at) in labels.iter().zip(0..) {
            places.entry(label).or_insert(at);
        }
        let place = |name| places.get(name).copied();
        let by_label: Vec<i32> = images.names().iter().filter_map(place).collect();
        // Names that occur twice cannot be matched.
        let same = by_label.len() != images.classes() || by_label.iter().zip(0..).all(|(&to, from)| to == from);
        let distinct: BTreeSet<i32> = by_label.iter().copied().collect();
        let by_label = (!same && distinct.len() == by_label.len()).then(|| by_label.into());
        Ok((ImageClasses { count: labels.len(), names, by_label, held_out: None }, note))
    }

    /// Maps the labels of the held-out images to the classes of the training images, by name. Some classes may be
    /// missing there. Returns a note if the names differ.
    pub(super) fn match_held_out(&mut self, train: &Images, valid: &Images) -> Result<Option<String>> {
        if train.names() == valid.names() {
            return Ok(None);
        }
        let place = |name: &String| train.names().iter().position(|known| known == name);
        let unknown: Vec<&String> = valid.names().iter().filter(|name| place(name).is_none()).collect();
        if !unknown.is_empty() {
            bail!(
                "valid has classes that train does not have: {}; train has: {}; give both the same names, or \
                 leave these out",
                list(&unknown),
                list(train.names())
            );
        }
        let class = |label: usize| self.by_label.as_ref().map_or(label as i32, |classes| classes[label]);
        self.held_out = Some(valid.names().iter().filter_map(place).map(class).collect());
        Ok(Some(format!("the held-out images have {} of {} classes", valid.classes(), train.classes())))
    }

    /// Returns the number of classes.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the names of the classes, if they have any.
    pub fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// Returns the maps from labels to classes, those of training images first. `None`: the label is the class.
    pub(super) fn of_splits(&self) -> [Option<Arc<[i32]>>; 2] {
        [self.by_label.clone(), self.held_out.clone().or_else(|| self.by_label.clone())]
    }

    /// Returns the maps that are not the identity.
    pub(super) fn maps(&self) -> impl Iterator<Item = &Arc<[i32]>> {
        [&self.by_label, &self.held_out].into_iter().flatten()
    }
}
