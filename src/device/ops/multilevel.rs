use super::{Access, Operation, Visit, expect_contiguous, expect_dtype, expect_floats, expect_shape};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

/// Coalescing, or de-coalescing fused with interpolation, of all parameters of a model at once (Zou, Han, Deng, arXiv
/// 2404.07999, Algorithms 2 to 4).
///
/// Every parameter of the destination is computed with the sparse maps `A` (rows), `B` (columns) and `w` (layers) of
/// its [`Item`]: `dst[i, j] = (1 - alpha) base[i, j] + alpha (fill + sum over l, a, b of w[l] A[i, a] B[j, b] src_l[a,
/// b])`. Every source element that a map selects is read once and every destination element is written once. The
/// de-coalesced model is never stored. Padding between parameters of the destination is left unchanged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multilevel {
    /// Parameter arena of the model that is mapped, `[n]`, contiguous.
    pub src: Tensor,
    /// Parameter arena of the result, `[m]`, contiguous.
    pub dst: Tensor,
    /// Parameter arena of the model that the result is interpolated with, `[m]`. May be the same view as `dst`. Without
    /// it, `alpha` must be 1.
    pub base: Option<Tensor>,
    /// Weight of the mapped parameters in the interpolation, from 0 to 1.
    pub alpha: f64,
    /// The [`Item`]s, one for each parameter of the destination, as words: `[items, Item::WORDS]`, U32, contiguous.
    pub items: Tensor,
    /// Row pointers and source indices of the maps, and source offsets of the layers: `[words]`, U32.
    pub index: Tensor,
    /// Weight of each entry of `index`, `[words]`. Entries of row pointers are not read.
    pub weight: Tensor,
}

/// Value of [`Item::row_map`] or [`Item::col_map`] for an axis that is copied without a map.
pub const IDENTITY: u32 = u32::MAX;

/// One parameter of the destination, and the maps that it is computed with. Offsets and pitches are in elements.
///
/// Maps are sparse matrices in CSR format. A map that starts at `p` has its row pointers at `index[p ..= p + n]`, where
/// `n` is the number of units (rows or columns) of the destination. Unit `i` is the weighted sum of the source units
/// `index[e]` with the weights `weight[e]`, for `e` in `index[p + i] .. index[p + i + 1]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Item {
    /// Offset of the parameter in `dst`.
    pub dst_offset: u32,
    /// Rows of the parameter in `dst`.
    pub rows: u32,
    /// Columns of the parameter in `dst`.
    pub cols: u32,
    /// Elements from one row to the next in `dst`.
    pub dst_pitch: u32,
    /// Rows of the parameter in each source layer.
    pub src_rows: u32,
    /// Columns of the parameter in each source layer.
    pub src_cols: u32,
    /// Elements from one row to the next in `src`.
    pub src_pitch: u32,
    /// Start of the row map in `index`, or [`IDENTITY`].
    pub row_map: u32,
    /// Start of the column map in `index`, or [`IDENTITY`].
    pub col_map: u32,
    /// Start of the layer entries: `index` has the offset of the parameter in `src` for each source layer, `weight` its
    /// weight.
    pub layer_start: u32,
    /// Number of source layers.
    pub layers: u32,
    /// Constant added to every mapped element, before the interpolation.
    pub fill: f32,
}

impl Item {
    /// Size of an item in 32-bit words.
    pub const WORDS: usize = size_of::<Item>() / 4;

    /// Checks that everything the items refer to lies inside `index` and inside arenas of `src` and `dst` elements, and
    /// that no two items write the same elements. Devices call this before they run the operation. It reads the maps
    /// but no parameters.
    ///
    /// # Errors
    /// When something lies outside or overlaps; the message names the item.
    pub fn check_all(items: &[Item], index: &[u32], src: usize, dst: usize) -> Result<()> {
        for (number, item) in items.iter().enumerate() {
            item.check(index, src, dst).map_err(|e| e.at(format_args!("item {number}")))?;
        }
        // All ends are inside the destination now.
        let mut order: Vec<usize> = (0..items.len()).filter(|&i| items[i].rows > 0).collect();
        order.sort_by_key(|&i| items[i].dst_offset);
        for pair in order.windows(2) {
            let (item, next) = (&items[pair[0]], &items[pair[1]]);
            if item.end() > next.dst_offset as usize {
                bail!("item {}: starts within item {} in the destination", pair[1], pair[0]);
            }
        }
        Ok(())
    }

    /// Returns the end of the parameter in the destination.
    fn end(&self) -> usize {
        end(self.dst_offset, self.rows as usize, self.cols as usize, self.dst_pitch as usize)
    }

    fn check(&self, index: &[u32], src: usize, dst: usize) -> Result<()> {
        let [rows, cols, pitch] = [self.rows, self.cols, self.dst_pitch].map(|n| n as usize);
        let [src_rows, src_cols, src_pitch] = [self.src_rows, self.src_cols, self.src_pitch].map(|n| n as usize);
        if self.end() > dst || rows > 1 && pitch < cols {
            bail!(
                "{rows} rows of {cols} elements, {pitch} apart, from element {} on do not fit a destination of {dst}",
                self.dst_offset
            );
        }
        let Some(layers) = index.get(self.layer_start as usize..).and_then(|l| l.get(..self.layers as usize)) else {
            bail!(
                "{} layers from entry {} on lie outside an index of {} entries",
                self.layers,
                self.layer_start,
                index.len()
            )
        };
        if let Some(start) = layers.iter().find(|&&start| end(start, src_rows, src_cols, src_pitch) > src) {
            bail!("{src_rows} rows of {src_cols} elements from element {start} on lie outside a source of {src}");
        }
        check_map("row", self.row_map, rows, src_rows, index)?;
        check_map("column", self.col_map, cols, src_cols, index)
    }
}

/// Returns the offset of the element after the last one of a matrix.
fn end(start: u32, rows: usize, cols: usize, pitch: usize) -> usize {
    start as usize + rows.saturating_sub(1) * pitch + if rows == 0 { 0 } else { cols }
}

/// Checks the map that starts at `map` for an axis of `units` units in the destination and `src_units` in the source.
fn check_map(axis: &str, map: u32, units: usize, src_units: usize, index: &[u32]) -> Result<()> {
    if map == IDENTITY {
        if units > src_units {
            bail!("the {axis} axis is carried over without a map but has {units} units, {src_units} in the source");
        }
        return Ok(());
    }
    let Some(pointers) = index.get(map as usize..).and_then(|p| p.get(..=units)) else {
        bail!("the {axis} map at entry {map} lies outside an index of {} entries", index.len())
    };
    for pair in pointers.windows(2) {
        let Some(group) = index.get(pair[0] as usize..pair[1] as usize) else {
            bail!("a row pointer of the {axis} map at entry {map} lies outside an index of {} entries", index.len())
        };
        if let Some(unit) = group.iter().find(|&&unit| unit as usize >= src_units) {
            bail!("the {axis} map at entry {map} names unit {unit}, but the source has {src_units}");
        }
    }
    Ok(())
}

impl Operation for Multilevel {
    const NAME: &'static str = "multilevel";

    fn named_operands(&mut self, visit: Visit) {
        visit("src", &mut self.src, Access::Read);
        if let Some(t) = &mut self.base {
            visit("base", t, Access::Read);
        }
        visit("items", &mut self.items, Access::Read);
        visit("index", &mut self.index, Access::Read);
        visit("weight", &mut self.weight, Access::Read);
        // `Update`, because padding between parameters is left unchanged.
        visit("dst", &mut self.dst, Access::Update);
    }

    fn check(&self) -> Result<()> {
        for (what, t) in [("src", &self.src), ("dst", &self.dst), ("weight", &self.weight)] {
            expect_contiguous(what, t)?;
            expect_floats(&[("src", &self.src), (what, t)])?;
        }
        for (what, t) in [("items", &self.items), ("index", &self.index)] {
            expect_contiguous(what, t)?;
            expect_dtype(what, t, DType::U32)?;
        }
        for (what, t) in [("src", &self.src), ("dst", &self.dst), ("index", &self.index), ("weight", &self.weight)] {
            expect_shape(what, t, &[t.numel()])?;
        }
        if self.items.shape().last() != Item::WORDS || self.index.numel() != self.weight.numel() {
            bail!(
                "items is {:?} but must have rows of {} words; index and weight have {} and {} elements but must \
                 have equal length",
                self.items.shape(),
                Item::WORDS,
                self.index.numel(),
                self.weight.numel()
            );
        }
        if !(0.0..=1.0).contains(&self.alpha) {
            bail!("alpha is {} but must be from 0 to 1", self.alpha);
        }
        match &self.base {
            None if self.alpha != 1.0 => {
                bail!("alpha is {} but without a base to interpolate with it must be 1", self.alpha)
            }
            Some(base) if base.dims() != self.dst.dims() => {
                bail!("base is {:?} but dst is {:?}; both must be equal", base.shape(), self.dst.shape())
            }
            Some(base) => expect_floats(&[("dst", &self.dst), ("base", base)]),
            None => Ok(()),
        }
    }

    fn flops(&self) -> u64 {
        // A multiply-add for each element of the larger of source and destination, and 3 FLOPs per element for the
        // interpolation.
        let interpolate = if self.base.is_some() { 3 * self.dst.numel() } else { 0 };
        (2 * self.src.numel().max(self.dst.numel()) + interpolate) as u64
    }

    fn overwritten(&self) -> Option<Tensor> {
        Some(self.dst)
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        self.base.map(|base| (base, self.dst))
    }
}
