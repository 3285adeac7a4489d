//! The table of a model's parameters: names, shapes, and the roles from which the multi-level operators follow.

use crate::bail;
use crate::device::ops::ALIGN;
use crate::error::Result;
use crate::tensor::{DType, Place, Tensor};
use std::ops::Range;

/// What an axis carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The residual stream.
    Embed,
    /// Queries and keys, head by head.
    QueryKey,
    /// Values, head by head.
    Value,
    /// The inner dimension of the feed-forward block.
    Ffn,
    Vocab,
    Position,
    /// Rows of a table of token types, or of special tokens.
    Type,
    /// The pixels of a patch.
    Patch,
    Class,
}

impl Role {
    /// Whether the axis falls into as many equal blocks as there are heads, and so takes part in width mapping.
    pub fn has_heads(self) -> bool {
        matches!(self, Role::Embed | Role::QueryKey | Role::Value | Role::Ffn)
    }
}

/// Whether an axis produces or consumes what its role names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fan {
    Out,
    In,
}

/// One axis of a parameter. Several parts where projections are fused: Q, K and V of one weight are mapped apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    pub side: Fan,
    pub parts: Vec<(Role, usize)>,
}

impl Axis {
    pub fn new(side: Fan, parts: &[(Role, usize)]) -> Self {
        Axis { side, parts: parts.to_vec() }
    }

    pub fn size(&self) -> usize {
        self.parts.iter().map(|p| p.1).sum()
    }
}

/// What a rule must know of a parameter besides its axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Plain,
    /// A look-up table whose rows enter the residual stream, where the published implementation scales by constants.
    Embedding,
    /// The norm before a head that is tied to the embeddings.
    HeadNorm,
    /// Post-LN: the norm of a layer's stream after its attention, which an identity layer does without.
    InnerNorm,
    /// Post-LN: the norm at a layer's end, which identity layers hand on to the last of them.
    OutputNorm,
    /// What a residual branch adds to the stream: zero makes its layer the identity.
    BranchOutput,
}

/// Values at the start of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Constant(f64),
    /// Mean zero, this standard deviation.
    Normal(f64),
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name with `{}` for the number of the layer.
    pub stem: String,
    pub layer: Option<usize>,
    /// One or two, outermost first.
    pub axes: Vec<Axis>,
    pub kind: Kind,
    pub init: Init,
    /// Whether AdamW's weight decay applies.
    pub decay: bool,
    /// How it is published where that is not under its own name and shape: stems and shapes of the tensors that follow one
    /// another in it.
    pub parts: Vec<(String, Vec<usize>)>,
}

/// A tensor as it is published: consecutive elements of a parameter, rows back to back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub name: String,
    pub shape: Vec<usize>,
    pub elements: Range<usize>,
}

impl Param {
    /// One that stands outside the layers, is published whole, and decays if it is a matrix.
    pub fn new(stem: &str, axes: Vec<Axis>, kind: Kind, init: Init) -> Self {
        let decay = axes.len() > 1;
        Param { stem: stem.to_string(), layer: None, axes, kind, init, decay, parts: Vec::new() }
    }

    /// Its name; the published one where it is published whole.
    pub fn name(&self) -> String {
        self.in_layer(&self.stem)
    }

    fn in_layer(&self, stem: &str) -> String {
        self.layer.map_or_else(|| stem.to_string(), |layer| stem.replace("{}", &layer.to_string()))
    }

    /// The tensors as which it is published, in the order of their elements.
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

    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(Axis::size).collect()
    }

    /// `(rows, columns)`; a vector is one row.
    pub fn matrix(&self) -> (usize, usize) {
        match self.axes.as_slice() {
            [row, column] => (row.size(), column.size()),
            axes => (1, axes.iter().map(Axis::size).product()),
        }
    }

    pub fn numel(&self) -> usize {
        let (rows, columns) = self.matrix();
        rows * columns
    }
}

/// All parameters of a model in forward order, and where each lies in a flat arena.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamTable {
    pub params: Vec<Param>,
    pub heads: usize,
    pub head_size: usize,
    pub layers: usize,
    offsets: Vec<usize>,
    elements: usize,
}

/// Rows of the vocabulary are padded to this in memory.
const VOCAB_PAD: usize = 128;
/// Columns are padded to this in memory: 16-byte loads at any type from bf16 up.
const COLUMN_PAD: usize = 8;

impl ParamTable {
    /// # Errors
    /// More elements than 32-bit offsets reach.
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

    /// Elements of an arena of this table, padding included.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Parameters without padding.
    pub fn count(&self) -> usize {
        self.params.iter().map(Param::numel).sum()
    }

    /// First element of parameter `i` in an arena.
    pub fn offset(&self, i: usize) -> usize {
        self.offsets[i]
    }

    /// Elements between rows of parameter `i`.
    pub fn pitch(&self, i: usize) -> usize {
        pitch(&self.params[i])
    }

    /// Parameter `i` within an arena: a vector or a matrix.
    pub fn tensor(&self, i: usize, arena: u32, dtype: DType) -> Tensor {
        let param = &self.params[i];
        // On the stack: this is called for every parameter in every step.
        let (rows, columns) = param.matrix();
        let dims = [rows, columns];
        let vector = param.axes.len() == 1;
        let t = Tensor::new(Place::Arena(arena), dtype, self.offsets[i], if vector { &dims[1..] } else { &dims });
        if vector { t } else { t.with_pitch(pitch(param)) }
    }

    /// Number of the parameter with this stem in this layer.
    pub fn find(&self, stem: &str, layer: Option<usize>) -> Option<usize> {
        self.params.iter().position(|p| p.stem == stem && p.layer == layer)
    }
}

fn pitch(param: &Param) -> usize {
    let (_, columns) = param.matrix();
    if param.axes.len() > 1 { columns.next_multiple_of(COLUMN_PAD) } else { columns }
}
