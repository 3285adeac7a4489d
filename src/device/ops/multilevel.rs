use super::{Access, Operation, Visit, expect_contiguous, expect_dtype, expect_floats, expect_shape};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use bytemuck::{Pod, Zeroable};

/// Coalesce, or de-coalesce fused with interpolation, for all parameters at once.
///
/// For every parameter p of the destination, with the sparse maps A (rows), B (columns) and w (layers) of its [`Item`]:
/// `dst[i, j] = (1 - alpha) base[i, j] + alpha (fill + sum over l, a, b of w[l] A[i, a] B[j, b] src_l[a, b])`.
/// Every element of the source that a map names is read once and every element of the destination written once; the
/// de-coalesced model never exists in memory. Source: Zou, Han, Deng, arXiv 2404.07999, Algorithms 2 to 4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multilevel {
    /// `[n]`: the parameter arena of the model that is mapped.
    pub src: Tensor,
    /// `[m]`: the parameter arena of the result.
    pub dst: Tensor,
    /// `[m]`: what is interpolated with; may be `dst` itself. Without it alpha is 1.
    pub base: Option<Tensor>,
    pub alpha: f64,
    /// `[items, Item::WORDS]`.
    pub items: Tensor,
    /// `[words]`: row pointers and source indices of the maps, source offsets of the layers.
    pub index: Tensor,
    /// `[words]`: the weight beside each entry of `index`.
    pub weight: Tensor,
}

/// In place of a map's start: this axis is carried over as it is.
pub const IDENTITY: u32 = u32::MAX;

/// One parameter of the destination. Offsets and pitches count elements.
///
/// A map that starts at `p` has its row pointers at `index[p ..= p + n]`, n units of the destination; unit i sums the entries
/// `index[e]`, `weight[e]` for e in `index[p + i] .. index[p + i + 1]`. Layers: `layers` entries from `layer_start` on, each the
/// offset in `src` of this parameter in one source layer, and its weight.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Item {
    pub dst_offset: u32,
    pub rows: u32,
    pub cols: u32,
    pub dst_pitch: u32,
    pub src_rows: u32,
    pub src_cols: u32,
    pub src_pitch: u32,
    pub row_map: u32,
    pub col_map: u32,
    pub layer_start: u32,
    pub layers: u32,
    pub fill: f32,
}

impl Item {
    pub const WORDS: usize = size_of::<Item>() / 4;

    /// Everything that items name lies within the index and within arenas of `src` and `dst` elements, and no two write the
    /// same. Devices call it before they run; it looks at maps, not at parameters.
    ///
    /// # Errors
    /// Names the item, and what lies outside or overlaps.
    pub fn check_all(items: &[Item], index: &[u32], src: usize, dst: usize) -> Result<()> {
        for (number, item) in items.iter().enumerate() {
            item.check(index, src, dst).map_err(|e| e.at(format_args!("item {number}")))?;
        }
        // From here on ends are within the destination.
        let mut order: Vec<usize> = (0..items.len()).filter(|&i| items[i].rows > 0).collect();
        order.sort_by_key(|&i| items[i].dst_offset);
        for pair in order.windows(2) {
            let (item, next) = (&items[pair[0]], &items[pair[1]]);
            if item.end() > next.dst_offset as usize {
                bail!("item {}: it begins within item {} of the destination", pair[1], pair[0]);
            }
        }
        Ok(())
    }

    /// Where it ends in the destination.
    fn end(&self) -> usize {
        end(self.dst_offset, self.rows as usize, self.cols as usize, self.dst_pitch as usize)
    }

    fn check(&self, index: &[u32], src: usize, dst: usize) -> Result<()> {
        let [rows, cols, pitch] = [self.rows, self.cols, self.dst_pitch].map(|n| n as usize);
        let [src_rows, src_cols, src_pitch] = [self.src_rows, self.src_cols, self.src_pitch].map(|n| n as usize);
        if self.end() > dst || rows > 1 && pitch < cols {
            bail!("{rows} rows of {cols} from element {} on do not fit into a destination of {dst}", self.dst_offset);
        }
        let Some(layers) = index.get(self.layer_start as usize..).and_then(|l| l.get(..self.layers as usize)) else {
            bail!("layers {} + {} lie outside an index of {}", self.layer_start, self.layers, index.len())
        };
        if let Some(start) = layers.iter().find(|&&start| end(start, src_rows, src_cols, src_pitch) > src) {
            bail!("{src_rows} rows of {src_cols} from element {start} on lie outside a source of {src}");
        }
        check_map("row", self.row_map, rows, src_rows, index)?;
        check_map("column", self.col_map, cols, src_cols, index)
    }
}

/// The element behind the last of a matrix.
fn end(start: u32, rows: usize, cols: usize, pitch: usize) -> usize {
    start as usize + rows.saturating_sub(1) * pitch + if rows == 0 { 0 } else { cols }
}

fn check_map(axis: &str, map: u32, units: usize, src_units: usize, index: &[u32]) -> Result<()> {
    if map == IDENTITY {
        if units > src_units {
            bail!("{units} units are carried over from {src_units} on the {axis} axis");
        }
        return Ok(());
    }
    let Some(pointers) = index.get(map as usize..).and_then(|p| p.get(..=units)) else {
        bail!("the {axis} map at {map} lies outside an index of {}", index.len())
    };
    for pair in pointers.windows(2) {
        let Some(group) = index.get(pair[0] as usize..pair[1] as usize) else {
            bail!("a group of the {axis} map at {map} lies outside an index of {}", index.len())
        };
        if let Some(unit) = group.iter().find(|&&unit| unit as usize >= src_units) {
            bail!("the {axis} map at {map} names unit {unit} of {src_units}");
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
        // Padding between parameters is left as it is.
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
            bail!("items need {} words each, and every index a weight", Item::WORDS);
        }
        if !(0.0..=1.0).contains(&self.alpha) {
            bail!("alpha is {} but must lie in 0..=1", self.alpha);
        }
        match &self.base {
            None if self.alpha != 1.0 => bail!("alpha below 1 needs a model to interpolate with"),
            Some(base) if base.dims() != self.dst.dims() => bail!("base and dst differ in size"),
            Some(base) => expect_floats(&[("dst", &self.dst), ("base", base)]),
            None => Ok(()),
        }
    }

    fn flops(&self) -> u64 {
        // A multiply-add for each element of the larger side, two more for the interpolation.
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
