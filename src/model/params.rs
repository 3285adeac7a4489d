//! The parameter table of a model: names, shapes, and the roles that the multi-level operators are derived from.

use crate::bail;
use crate::device::ops::ALIGN;
use crate::error::Result;
use crate::tensor::{DType, Place, Tensor};
use std::ops::Range;

/// What an axis of a parameter indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The residual stream.
    Embed,
    /// Queries and keys, grouped by head.
    QueryKey,
    /// Values, grouped by head.
    Value,
    /// The inner dimension of the feed-forward block.
    Ffn,
    /// Tokens of the vocabulary.
    Vocab,
    /// Positions in the sequence.
    Position,
    /// Rows of a table of token types or of special tokens.
    Type,
    /// The pixels of a patch.
    Patch,
    /// Classes of a head.
    Class,
}

impl Role {
    /// Whether the axis consists of one equal block per head, and so takes part in width mapping.
    pub fn has_heads(self) -> bool {
        matches!(self, Role::Embed | Role::QueryKey | Role::Value | Role::Ffn)
    }
}

/// Whether an axis produces (fan-out) or consumes (fan-in) the units of its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fan {
    /// The axis indexes outputs.
    Out,
    /// The axis indexes inputs.
    In,
}

/// One axis of a parameter. It has several parts if projections are fused: Q, K and V of a fused weight are mapped
/// separately.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Fan-in or fan-out.
    pub side: Fan,
    /// Role and size of each part.
    pub parts: Vec<(Role, usize)>,
}

impl Axis {
    /// Creates an axis from its parts.
    pub fn new(side: Fan, parts: &[(Role, usize)]) -> Self {
        Axis { side, parts: parts.to_vec() }
    }

    /// Returns the size of the axis: the sum of its parts.
    pub fn size(&self) -> usize {
        self.parts.iter().map(|p| p.1).sum()
    }
}

/// What the mapping rules must know about a parameter besides its axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing else.
    Plain,
    /// A lookup table whose rows enter the residual stream. The published implementation scales it by constants.
    Embedding,
    /// The norm before a head that is tied to the embeddings.
    HeadNorm,
    /// Post-LN: the norm after a layer's attention. In an identity layer it does nothing.
    InnerNorm,
    /// Post-LN: the norm at the end of a layer. It moves to the last of the identity layers that follow.
    OutputNorm,
    /// The output projection of a residual branch. If it is zero, the branch adds nothing.
    BranchOutput,
}

/// Initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All elements have this value.
    Constant(f64),
    /// Normally distributed with mean zero and this standard deviation.
    Normal(f64),
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name, with `{}` for the number of the layer.
    pub stem: String,
    /// Number of the layer. `None` outside the layers.
    pub layer: Option<usize>,
    /// One or two axes, outermost first.
    pub axes: Vec<Axis>,
    /// How the mapping rules treat it.
    pub kind: Kind,
    /// Initial values.
    pub init: Init,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Name stems and shapes of the consecutive tensors that the parameter consists of in a checkpoint. Empty if it is
    /// stored as one tensor under its own name and shape.
    pub parts: Vec<(String, Vec<usize>)>,
}

/// A tensor of a checkpoint: consecutive elements of a parameter in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Name of the tensor.
    pub name: String,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
    /// The elements of the parameter that it holds.
    pub elements: Range<usize>,
}

impl Param {
    /// Creates a parameter outside the layers that is one tensor in checkpoints. Weight decay applies if it is a
    /// matrix.
    pub fn new(stem: &str, axes: Vec<Axis>, kind: Kind, init: Init) -> Self {
        let decay = axes.len() > 1;
        Param { stem: stem.to_string(), layer: None, axes, kind, init, decay, parts: Vec::new() }
    }

    /// Returns the name. It is the name in checkpoints if the parameter is one tensor there.
    pub fn name(&self) -> String {
        self.in_layer(&self.stem)
    }

    /// Puts the number of the layer into a stem.
    fn in_layer(&self, stem: &str) -> String {
        self.layer.map_or_else(|| stem.to_string(), |layer| stem.replace("{}", &layer.to_string()))
    }

    /// Returns the tensors that the parameter consists of in checkpoints, in the order of their elements.
    pub fn published(&self) -> Vec<Published> {
        if self.parts.is_empty() {
            return vec![Published { name: self.name(), shape: self.shape(), elements: 0..self.numel() }];
        }
        let mut start = 0;
        let part = |(stem, shape): &(String, Vec<usize>)| {
            let elements = start..start + shape.iter().product::<usize>();
            start = elements.end;
            Published { name: self.in_layer(stem), shape: shape.clone(), elements }
        };
        self.parts.iter().map(part).collect()
    }

    /// Returns the size of each axis.
    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(Axis::size).collect()
    }

    /// Returns `(rows, columns)`. A vector is one row.
    pub fn matrix(&self) -> (usize, usize) {
        match self.axes.as_slice() {
            [row, column] => (row.size(), column.size()),
            axes => (1, axes.iter().map(Axis::size).product()),
        }
    }

    /// Returns the number of elements.
    pub fn numel(&self) -> usize {
        let (rows, columns) = self.matrix();
        rows * columns
    }
}

/// All parameters of a model in forward order, and the offset of each in a flat arena.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamTable {
    /// The parameters.
    pub params: Vec<Param>,
    /// Number of attention heads.
    pub heads: usize,
    /// Size of a head.
    pub head_size: usize,
    /// Number of layers.
    pub layers: usize,
    offsets: Vec<usize>,
    elements: usize,
}

/// In memory, the number of vocabulary rows is padded to a multiple of this.
const VOCAB_PAD: usize = 128;
/// In memory, the number of columns is padded to a multiple of this, for 16-byte loads in any type from bf16 up.
const COLUMN_PAD: usize = 8;

impl ParamTable {
    /// Lays out the parameters in an arena.
    ///
    /// # Errors
    /// There are more elements than 32-bit offsets can address.
    pub fn new(params: Vec<Param>, heads: usize, head_size: usize, layers: usize) -> Result<Self> {
        let (mut offsets, mut elements) = (Vec::with_capacity(params.len()), 0usize);
        for param in &params {
            offsets.push(elements);
            let (rows, _) = param.matrix();
            let is_vocab = param.axes.len() == 2 && param.axes[0].parts[0].0 == Role::Vocab;
            let rows = if is_vocab { rows.next_multiple_of(VOCAB_PAD) } else { rows };
            let space = rows.checked_mul(pitch(param)).and_then(|n| n.checked_add(elements));
            match space.map(|n| n.next_multiple_of(ALIGN)) {
                Some(n) if n < u32::MAX as usize => elements = n,
                _ => bail!("the model has more than 4,294,967,295 parameters; use smaller layers, heads or vocabulary"),
            }
        }
        Ok(ParamTable { params, heads, head_size, layers, offsets, elements })
    }

    /// Returns the number of elements of an arena, padding included.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Returns the number of parameters of the model, without padding.
    pub fn count(&self) -> usize {
        self.params.iter().map(Param::numel).sum()
    }

    /// Returns the offset of parameter `i` in an arena, in elements.
    pub fn offset(&self, i: usize) -> usize {
        self.offsets[i]
    }

    /// Returns the row pitch of parameter `i`, in elements.
    pub fn pitch(&self, i: usize) -> usize {
        pitch(&self.params[i])
    }

    /// Returns parameter `i` in an arena, as a vector or a matrix.
    pub fn tensor(&self, i: usize, arena: u32, dtype: DType) -> Tensor {
        let param = &self.params[i];
        // No heap allocation: this is called for every parameter in every step.
        let (rows, columns) = param.matrix();
        let dims = [rows, columns];
        let vector = param.axes.len() == 1;
        let t = Tensor::new(Place::Arena(arena), dtype, self.offsets[i], if vector { &dims[1..] } else { &dims });
        if vector { t } else { t.with_pitch(pitch(param)) }
    }

    /// Returns the index of the parameter with this stem in this layer.
    pub fn find(&self, stem: &str, layer: Option<usize>) -> Option<usize> {
        self.params.iter().position(|p| p.stem == stem && p.layer == layer)
    }
}

/// Returns the row pitch of a parameter, in elements.
fn pitch(param: &Param) -> usize {
    let (_, columns) = param.matrix();
    if param.axes.len() > 1 { columns.next_multiple_of(COLUMN_PAD) } else { columns }
}
