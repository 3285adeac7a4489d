//! Schemes: which heads and which layers form a group.

use crate::bail;
use crate::error::{At, Result};
use crate::files::read_text;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A scheme, in the JSON format of the published implementation. A key that is `null` or absent means the default: of n
/// groups, group i has the heads i, i + n, i + 2n, ..., and layers are grouped with their neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// Groups of head numbers. Group g becomes head g of the smaller model.
    #[serde(default)]
    pub width_scheme: Option<Vec<Vec<usize>>>,
    /// Groups of layer numbers. Group g becomes layer g of the smaller model.
    #[serde(default)]
    pub depth_scheme: Option<Vec<Vec<usize>>>,
    /// If given, it must equal the model's head size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_size: Option<usize>,
}

/// The units (heads or layers) of the larger model in groups, one group per unit of the smaller model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    members: Vec<Vec<usize>>,
    group_of: Vec<usize>,
}

/// A scheme resolved for two model shapes. `None` means that a dimension is not mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// Groups of heads.
    pub width: Option<Groups>,
    /// Groups of layers.
    pub depth: Option<Groups>,
}

/// Heads, layers and head size of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Number of layers.
    pub layers: usize,
    /// Number of heads.
    pub heads: usize,
    /// Size of a head.
    pub head_size: usize,
}

impl Scheme {
    /// Reads a scheme from a JSON file.
    ///
    /// # Errors
    /// The file cannot be read or is not a scheme. The message has the file, line and column.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, 16 << 20)?;
        match serde_json::from_str(&text) {
            Ok(scheme) => Ok(scheme),
            Err(e) => bail!(
                "{}: {e}; a scheme looks like {{\"width_scheme\": [[0, 1], [2, 3]], \"depth_scheme\": null}}",
                path.display()
            ),
        }
    }

    /// Returns the number of layers and of heads of the smaller model, if the scheme determines them.
    pub fn small(&self) -> (Option<usize>, Option<usize>) {
        (self.depth_scheme.as_ref().map(Vec::len), self.width_scheme.as_ref().map(Vec::len))
    }

    /// Returns the groups that map model `big` to model `small`.
    ///
    /// # Errors
    /// A unit is missing, repeated or out of range; the number of groups is not that of the smaller model; the head
    /// sizes differ; the default scheme does not divide the layers evenly.
    pub fn resolve(&self, big: ModelShape, small: ModelShape) -> Result<Grouping> {
        if big.head_size != small.head_size {
            bail!(
                "the head sizes {} and {} differ; all levels must have the same head size, only the \
                 number of heads changes",
                big.head_size,
                small.head_size
            );
        }
        if let Some(size) = self.head_size
            && size != big.head_size
        {
            bail!(
                "head_size: the scheme says {size} but the model has {}; leave it out, or use the scheme of this model",
                big.head_size
            );
        }
        let default_heads = |n: usize| (0..n).map(|i| (i..big.heads).step_by(n).collect()).collect();
        let width = groups("width_scheme", "heads", &self.width_scheme, big.heads, small.heads, default_heads)?;
        let smaller = (1..big.layers).contains(&small.layers);
        if self.depth_scheme.is_none() && smaller && !big.layers.is_multiple_of(small.layers) {
            bail!(
                "depth_scheme: {} layers cannot be divided into {} equal groups; give a depth_scheme or other numbers",
                big.layers,
                small.layers
            );
        }
        let neighbours = |n: usize| (0..n).map(|t| (t * big.layers / n..(t + 1) * big.layers / n).collect()).collect();
        let depth = groups("depth_scheme", "layers", &self.depth_scheme, big.layers, small.layers, neighbours)?;
        Ok(Grouping { width, depth })
    }
}

/// Resolves one dimension. Returns `None` if both models have the same number of units.
fn groups(
    key: &str,
    what: &str,
    given: &Option<Vec<Vec<usize>>>,
    big: usize,
    small: usize,
    default: impl Fn(usize) -> Vec<Vec<usize>>,
) -> Result<Option<Groups>> {
    if small == 0 {
        bail!("{key}: the smaller model has no {what}; it needs at least one");
    }
    if small > big {
        bail!("{key}: the smaller model has {small} {what} and the larger one {big}; swap the models");
    }
    let members = match given {
        Some(members) => members.clone(),
        None if small == big => return Ok(None),
        None => default(small),
    };
    let groups = Groups::new(members, big, what).at(key)?;
    if groups.len() != small {
        bail!("{key}: {} groups, but the smaller model has {small} {what}; give one group for each", groups.len());
    }
    if small == big {
        if groups.members.iter().enumerate().any(|(i, g)| g[0] != i) {
            bail!("{key}: as many groups as {what} would only reorder them, which is not supported; leave the key out");
        }
        return Ok(None);
    }
    Ok(Some(groups))
}

impl Groups {
    /// Creates groups from their members. `what` names the units in error messages.
    ///
    /// # Errors
    /// A group is empty; a unit is missing, repeated, or not below `big`.
    pub fn new(mut members: Vec<Vec<usize>>, big: usize, what: &str) -> Result<Self> {
        let mut group_of = vec![usize::MAX; big];
        for (g, group) in members.iter_mut().enumerate() {
            if group.is_empty() {
                bail!("group {g} is empty; every group needs a member");
            }
            group.sort_unstable();
            for &unit in group.iter() {
                match group_of.get_mut(unit) {
                    None => bail!(
                        "group {g} has {unit}, but the {what} are 0 to {}; list each of these once",
                        big as i64 - 1
                    ),
                    Some(seen) if *seen != usize::MAX => {
                        bail!("{unit} is in group {seen} and in group {g}; list it once")
                    }
                    Some(seen) => *seen = g,
                }
            }
        }
        if let Some(unit) = group_of.iter().position(|&g| g == usize::MAX) {
            bail!("{unit} is in no group; all {what} from 0 to {} must be listed", big - 1);
        }
        Ok(Groups { members, group_of })
    }

    /// Returns the number of groups, that is, of units of the smaller model.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the number of units of the larger model.
    pub fn big(&self) -> usize {
        self.group_of.len()
    }

    /// Returns the members of group `g` in ascending order.
    pub fn members(&self, g: usize) -> &[usize] {
        &self.members[g]
    }

    /// Returns the group of a unit of the larger model.
    pub fn group_of(&self, unit: usize) -> usize {
        self.group_of[unit]
    }

    /// Whether all groups have the same size.
    pub fn are_even(&self) -> bool {
        self.members.iter().all(|g| g.len() == self.members[0].len())
    }
}
