//! The operators coalesce, de-coalesce and interpolate, derived from the parameter tables of two models.
//!
//! All parameters are mapped by one device operation ([`Multilevel`]). `Maps` computes its index and weight tables on
//! the host.

use super::rules::Rules;
use super::scheme::{Grouping, Groups, ModelShape, Scheme};
use crate::bail;
use crate::device::ops::{Cost, IDENTITY, Item, Multilevel, Op};
use crate::device::{self, Device};
use crate::error::Result;
use crate::model::params::{Axis, Init, Kind, Param, ParamTable};
use crate::model::store::Store;
use crate::tensor::{DType, Tensor};

impl ModelShape {
    /// Returns the shape of the model with this parameter table.
    pub fn of(table: &ParamTable) -> Self {
        ModelShape { layers: table.layers, heads: table.heads, head_size: table.head_size }
    }
}

/// The quantity that is mapped, which determines the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Weights, mapped by the rules.
    Weights,
    /// Gradients and averages of them, mapped by the chain rule through the opposite operator. If `big = D(small)`, the
    /// gradient of small is the transpose of D (with equal shares) applied to the gradient of big. If `small = C(big)`,
    /// the gradient of big is the transpose of C applied to the gradient of small.
    Gradients,
    /// Squares of gradients and averages of them, mapped with the squared weights of gradients, as for independent
    /// gradients.
    Squares,
}

/// Coalesces: `small = C(big)`. Returns the cost of the operation.
///
/// # Errors
/// The tables are of different model families; the scheme does not fit the models or is not supported by the rules.
pub fn coalesce(device: &mut dyn Device, big: &Store, small: &Store, scheme: &Scheme, rules: &Rules) -> Result<Cost> {
    coalesce_as(Quantity::Weights, device, big, small, scheme, rules)
}

/// Like [`coalesce`], for a quantity that belongs to the weights, such as a moment.
///
/// # Errors
/// Those of [`coalesce`].
pub fn coalesce_as(
    quantity: Quantity,
    device: &mut dyn Device,
    big: &Store,
    small: &Store,
    scheme: &Scheme,
    rules: &Rules,
) -> Result<Cost> {
    let maps = Maps::new(Direction::Coalesce, quantity, &big.table, &small.table, scheme, rules)?;
    maps.run(device, big, small, None)
}

/// De-coalesces: `big = D(small)`. Returns the cost of the operation.
///
/// # Errors
/// Those of [`coalesce`].
pub fn decoalesce(device: &mut dyn Device, small: &Store, big: &Store, scheme: &Scheme, rules: &Rules) -> Result<Cost> {
    let maps = Maps::new(Direction::Decoalesce, Quantity::Weights, &big.table, &small.table, scheme, rules)?;
    maps.run(device, small, big, None)
}

/// Interpolates: `big = (1 - alpha) big + alpha D(small)`, in one pass. Returns the cost of the operation.
///
/// # Errors
/// Those of [`coalesce`]; `alpha` is outside 0..=1.
pub fn interpolate(
    device: &mut dyn Device,
    big: &Store,
    small: &Store,
    alpha: f64,
    scheme: &Scheme,
    rules: &Rules,
) -> Result<Cost> {
    interpolate_as(Quantity::Weights, device, big, small, alpha, scheme, rules)
}

/// Like [`interpolate`], for a quantity that belongs to the weights, such as a moment.
///
/// # Errors
/// Those of [`interpolate`].
pub fn interpolate_as(
    quantity: Quantity,
    device: &mut dyn Device,
    big: &Store,
    small: &Store,
    alpha: f64,
    scheme: &Scheme,
    rules: &Rules,
) -> Result<Cost> {
    let maps = Maps::new(Direction::Decoalesce, quantity, &big.table, &small.table, scheme, rules)?;
    maps.run(device, small, big, Some(alpha))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Coalesce,
    Decoalesce,
}

/// The tables of [`Multilevel`], built on the host.
struct Maps<'a> {
    direction: Direction,
    quantity: Quantity,
    rules: &'a Rules,
    grouping: Grouping,
    /// Layer lists and axis maps; see [`Multilevel`].
    index: Vec<u32>,
    /// The weight of each entry of `index`.
    weight: Vec<f64>,
    /// One item per parameter of the destination.
    items: Vec<Item>,
    /// Axis maps that several parameters share, with their start in `index`.
    known: Vec<(Axis, Kind, u32)>,
}

impl<'a> Maps<'a> {
    /// Builds the tables of an operator in this direction between models with tables `big` and `small`.
    fn new(
        direction: Direction,
        quantity: Quantity,
        big: &ParamTable,
        small: &ParamTable,
        scheme: &Scheme,
        rules: &'a Rules,
    ) -> Result<Self> {
        let grouping = scheme.resolve(ModelShape::of(big), ModelShape::of(small))?;
        rules.admit(&grouping, big)?;
        let (index, weight, items, known) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut maps = Maps { direction, quantity, rules, grouping, index, weight, items, known };
        let (src, dst) = if direction == Direction::Coalesce { (big, small) } else { (small, big) };
        for i in 0..dst.params.len() {
            maps.add(i, src, dst)?;
        }
        Ok(maps)
    }

    /// Adds parameter `i` of the destination.
    fn add(&mut self, i: usize, src: &ParamTable, dst: &ParamTable) -> Result<()> {
        let param = &dst.params[i];
        let (layers, fill) = self.source_layers(param);
        let layer_start = self.index.len() as u32;
        let mut first = None;
        for &(layer, weight) in &layers {
            let Some(source) = src.find(&param.stem, layer) else {
                bail!(
                    "the source has no parameter {} in layer {layer:?}; are both models of the same family?",
                    param.stem
                )
            };
            self.push(src.offset(source) as u32, weight);
            first = first.or(Some(source));
        }
        let Some(first) = first else { bail!("no layer of the source maps to {}", param.name()) };
        let source = &src.params[first];
        let mut maps = [IDENTITY; 2];
        for (axis, (to, from)) in param.axes.iter().zip(&source.axes).enumerate() {
            // A vector is a matrix with one row, so its only axis is the column axis.
            let slot = if param.axes.len() == 1 { 1 } else { axis };
            maps[slot] = self.axis(i as u32, param.kind, to, from).map_err(|e| e.at(param.name()))?;
        }
        if param.axes.len() != source.axes.len() {
            bail!("{} has {} axes in one model and {} in the other", param.name(), source.axes.len(), param.axes.len());
        }
        let ((rows, cols), (src_rows, src_cols)) = (param.matrix(), source.matrix());
        self.items.push(Item {
            dst_offset: dst.offset(i) as u32,
            rows: rows as u32,
            cols: cols as u32,
            dst_pitch: dst.pitch(i) as u32,
            src_rows: src_rows as u32,
            src_cols: src_cols as u32,
            src_pitch: src.pitch(first) as u32,
            row_map: maps[0],
            col_map: maps[1],
            layer_start,
            layers: layers.len() as u32,
            fill,
        });
        Ok(())
    }

    /// Returns the source layers of this parameter with their weights, and a constant that is added to the weighted
    /// sum.
    fn source_layers(&self, param: &Param) -> (Vec<(Option<usize>, f64)>, f32) {
        let (Some(layer), Some(groups)) = (param.layer, &self.grouping.depth) else {
            return (vec![(param.layer, 1.0)], 0.0);
        };
        if self.rules.moves_norm(param.kind) {
            return self.moved_norm(param, groups, layer);
        }
        let layers = match self.direction {
            Direction::Coalesce => {
                let members = groups.members(layer);
                let down = self.rules.coalesce_depth(param.kind, members.len());
                let up = |l| self.rules.decoalesce_depth(param.kind, groups, l);
                members.iter().map(|&l| (Some(l), self.weight(down, up(l)))).collect()
            }
            Direction::Decoalesce => {
                let group = groups.group_of(layer);
                let down = self.rules.coalesce_depth(param.kind, groups.members(group).len());
                let up = self.rules.decoalesce_depth(param.kind, groups, layer);
                vec![(Some(group), self.weight(down, up))]
            }
        };
        (layers, 0.0)
    }

    /// Like `source_layers`, for post-LN norms under the rule `identity`. C takes them from the layers that D moves
    /// them to.
    fn moved_norm(&self, param: &Param, groups: &Groups, layer: usize) -> (Vec<(Option<usize>, f64)>, f32) {
        let home = |group| Rules::norm_home(param.kind, groups, group);
        if self.direction == Direction::Coalesce {
            return (vec![(Some(home(layer)), 1.0)], 0.0);
        }
        match (0..groups.len()).find(|&group| home(group) == layer) {
            Some(group) => (vec![(Some(group), 1.0)], 0.0),
            // No source: weight 1 and bias 0, which leave an input unchanged that has just been normalised.
            None => {
                let fill = match (self.quantity, param.init) {
                    (Quantity::Weights, Init::Constant(value)) => value as f32,
                    _ => 0.0,
                };
                (vec![(Some(groups.group_of(layer)), 0.0)], fill)
            }
        }
    }

    /// Returns the weight between a small unit and a member of its group, given its weights `down` in C and `up` in D.
    fn weight(&self, down: f64, up: f64) -> f64 {
        let (own, opposite) = match self.direction {
            Direction::Coalesce => (down, up),
            Direction::Decoalesce => (up, down),
        };
        match self.quantity {
            Quantity::Weights => own,
            Quantity::Gradients => opposite,
            Quantity::Squares => opposite * opposite,
        }
    }

    /// Builds the map of one axis of parameter `number`. Returns its start in `index`, or [`IDENTITY`].
    fn axis(&mut self, number: u32, kind: Kind, to: &Axis, from: &Axis) -> Result<u32> {
        if to.parts.iter().map(|p| p.0).ne(from.parts.iter().map(|p| p.0)) || to.side != from.side {
            bail!("the axes differ in role: {to:?} and {from:?}");
        }
        let width = self.grouping.width.clone();
        let groups = match &width {
            Some(groups) if to.parts.iter().any(|p| p.0.has_heads()) => groups,
            _ if to != from => bail!("the sizes differ on an axis that is not mapped: {to:?} and {from:?}"),
            _ => return Ok(IDENTITY),
        };
        let own = self.direction == Direction::Decoalesce
            && self.quantity == Quantity::Weights
            && self.rules.has_shares(kind, to.side)
            && self.rules.shares != super::Shares::Equal;
        if let Some((.., start)) = self.known.iter().find(|(axis, k, _)| !own && axis == to && *k == kind) {
            return Ok(*start);
        }
        let mut units: Vec<Vec<(usize, f64)>> = Vec::with_capacity(to.size());
        let mut origin = 0;
        for (&(role, size), &(_, from_size)) in to.parts.iter().zip(&from.parts) {
            let (big, small) =
                if self.direction == Direction::Coalesce { (from_size, size) } else { (size, from_size) };
            if !role.has_heads() {
                units.extend((0..size).map(|u| vec![(origin + u, 1.0)]));
            } else if !big.is_multiple_of(groups.big()) || big / groups.big() * groups.len() != small {
                bail!(
                    "{role:?} axes of {big} and {small} cannot be divided into {} and {} heads",
                    groups.big(),
                    groups.len()
                );
            } else {
                let block = big / groups.big();
                units.extend((0..size).map(|u| self.unit(number, kind, to, groups, block, origin, u)));
            }
            origin += from_size;
        }
        let start = self.index.len() as u32;
        let mut entry = start + to.size() as u32 + 1;
        for unit in &units {
            self.push(entry, 0.0);
            entry += unit.len() as u32;
        }
        self.push(entry, 0.0);
        units.iter().flatten().for_each(|&(source, weight)| self.push(source as u32, weight));
        if !own {
            self.known.push((to.clone(), kind, start));
        }
        Ok(start)
    }

    /// Returns the source units, with weights, of unit `u` of a part of an axis. The part begins at `origin` in the
    /// source and has `block` elements per head.
    #[allow(clippy::too_many_arguments)] // These are the loop variables of `axis`.
    fn unit(
        &self,
        number: u32,
        kind: Kind,
        axis: &Axis,
        groups: &Groups,
        block: usize,
        origin: usize,
        u: usize,
    ) -> Vec<(usize, f64)> {
        let (head, within) = (u / block, u % block);
        let group = if self.direction == Direction::Coalesce { head } else { groups.group_of(head) };
        let members = groups.members(group);
        let down = self.rules.coalesce_width(kind, axis.side, members.len());
        match self.direction {
            Direction::Coalesce => {
                // Random shares are not used here: they differ between layers, and `big` was not produced by them.
                let up = self.rules.decoalesce_width(kind, axis.side, 1.0 / members.len() as f64);
                let weight = self.weight(down, up);
                members.iter().map(|m| (origin + m * block + within, weight)).collect()
            }
            Direction::Decoalesce => {
                let source = origin + group * block + within;
                let position = members.iter().position(|&m| m == head).unwrap_or(0);
                let share = self.rules.shares(number, source as u32, members.len())[position];
                vec![(source, self.weight(down, self.rules.decoalesce_width(kind, axis.side, share)))]
            }
        }
    }

    /// Appends an entry to `index` and `weight`.
    fn push(&mut self, index: u32, weight: f64) {
        self.index.push(index);
        self.weight.push(weight);
    }

    /// Copies the tables to the device, runs the operation and waits for it.
    fn run(&self, device: &mut dyn Device, from: &Store, to: &Store, alpha: Option<f64>) -> Result<Cost> {
        let placed = self.place(device, from, to, alpha)?;
        let done = device.run(&placed.op).and_then(|()| device.sync());
        let cost = placed.op.cost();
        placed.free(device);
        done.map(|()| cost)
    }

    /// Copies the tables to the device.
    fn place(&self, device: &mut dyn Device, from: &Store, to: &Store, alpha: Option<f64>) -> Result<Placed> {
        let items = device::alloc_tensor(device, DType::U32, &[self.items.len(), Item::WORDS])?;
        let index = device::alloc_tensor(device, DType::U32, &[self.index.len()])?;
        let float = device.float();
        let weight = device::alloc_tensor(device, float, &[self.weight.len()])?;
        device.write(&items, bytemuck::cast_slice(&self.items))?;
        device.write(&index, bytemuck::cast_slice(&self.index))?;
        device::write_floats(device, &weight, &self.weight)?;
        let (src, dst) = (from.flat(), to.flat());
        let base = alpha.map(|_| dst);
        let op = Op::from(Multilevel { src, dst, base, alpha: alpha.unwrap_or(1.0), items, index, weight });
        Ok(Placed { op, tables: [items, index, weight] })
    }
}

/// An operator whose tables are in device memory, so that it can be run repeatedly.
pub struct Placed {
    /// The operation to run.
    pub op: Op,
    tables: [Tensor; 3],
}

impl Placed {
    /// Prepares [`coalesce`] or, with `alpha`, [`interpolate`], without running it.
    ///
    /// # Errors
    /// Those of [`coalesce`].
    pub fn new(
        device: &mut dyn Device,
        (big, small): (&Store, &Store),
        alpha: Option<f64>,
        scheme: &Scheme,
        rules: &Rules,
    ) -> Result<Self> {
        let (direction, from, to) = match alpha {
            None => (Direction::Coalesce, big, small),
            Some(_) => (Direction::Decoalesce, small, big),
        };
        Maps::new(direction, Quantity::Weights, &big.table, &small.table, scheme, rules)?.place(device, from, to, alpha)
    }

    /// Returns the tables. Each has its own arena.
    pub fn tables(&self) -> impl Iterator<Item = Tensor> {
        self.tables.into_iter()
    }

    /// Frees the device memory of the tables.
    pub fn free(self, device: &mut dyn Device) {
        for table in self.tables() {
            if let crate::tensor::Place::Arena(arena) = table.place() {
                device.free(arena);
            }
        }
    }
}
