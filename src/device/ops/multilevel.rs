use super::{Access, Operation, expect_contiguous, expect_dtype, expect_floats};
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
}

impl Operation for Multilevel {
    const NAME: &'static str = "multilevel";

    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        visit(&mut self.src, Access::Read);
        if let Some(t) = &mut self.base {
            visit(t, Access::Read);
        }
        for t in [&mut self.items, &mut self.index, &mut self.weight] {
            visit(t, Access::Read);
        }
        // Padding between parameters is left as it is.
        visit(&mut self.dst, Access::Update);
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
        if self.items.shape.last() != Item::WORDS || self.index.numel() != self.weight.numel() {
            bail!("items need {} words each, and every index a weight", Item::WORDS);
        }
        if !(0.0..=1.0).contains(&self.alpha) {
            bail!("alpha is {} but must lie in 0..=1", self.alpha);
        }
        match &self.base {
            None if self.alpha != 1.0 => bail!("alpha below 1 needs a model to interpolate with"),
            Some(base) if base.dims() != self.dst.dims() => bail!("base and dst differ in size"),
            _ => Ok(()),
        }
    }

    fn flops(&self) -> u64 {
        // A multiply-add for each element of the larger side, two more for the interpolation.
        let interpolate = if self.base.is_some() { 3 * self.dst.numel() } else { 0 };
        (2 * self.src.numel().max(self.dst.numel()) + interpolate) as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        self.base.map(|base| (base, self.dst))
    }
}
