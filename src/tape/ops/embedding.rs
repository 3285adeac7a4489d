use super::{Node, Recorded};
use crate::device::ops::{Access, Embedding, EmbeddingBackward, Operation};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What the backward pass needs to know: the operation and the variables of its operands.
#[derive(Clone, Copy)]
pub(in crate::tape) struct EmbeddingNode {
    op: Embedding,
    table: Var,
    positions: Option<Var>,
    padding: Option<u32>,
    y: Var,
}

impl Recorded for EmbeddingNode {
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.op.operands(visit);
    }

    fn backward(self, tape: &mut Tape) {
        let EmbeddingNode { op, table, positions, padding, y } = self;
        tape.embedding_backward(op, table, positions, padding, y);
    }
}

impl Tape {
    /// Records `table[ids] + positions`, with `ids` `[B, T]`, `table` `[V, C]` and `positions` `[P, C]`. The result is
    /// `[B, T, C]`.
    pub fn embedding(&mut self, ids: Var, table: Var, positions: Option<Var>) -> Var {
        self.embeddings(&[(ids, table)], positions, None)
    }

    /// Records the sum of several look-ups `table[ids]` and of positions, with all `ids` `[B, T]`, each table `[V, C]`
    /// and `positions` `[P, C]`. The result is `[B, T, C]`. It is rounded to the compute type after the first look-up,
    /// which includes the positions, and after each further one.
    ///
    /// Look-ups of the id `padding` contribute no gradient to the first table.
    ///
    /// # Panics
    /// When there is no look-up.
    pub fn embeddings(&mut self, ids_tables: &[(Var, Var)], positions: Option<Var>, padding: Option<u32>) -> Var {
        assert!(!ids_tables.is_empty(), "embeddings requires at least one look-up");
        let (ids, table) = (self.tensor(ids_tables[0].0), self.tensor(ids_tables[0].1));
        let out = self.activation(&[ids.dims()[0], ids.dims()[1], table.shape().last()]);
        let needs = ids_tables.iter().fold(false, |any, (_, table)| any | self.used(&[*table]));
        let needs = needs | positions.is_some_and(|p| self.used(&[p]));
        let y = self.push_result(out, needs);
        for (i, &(ids, table)) in ids_tables.iter().enumerate() {
            let is_first = i == 0;
            let (positions, padding) = (positions.filter(|_| is_first), padding.filter(|_| is_first));
            let op = Embedding {
                ids: self.tensor(ids),
                table: self.tensor(table),
                positions: positions.map(|p| self.tensor(p)),
                out,
                accumulate: !is_first,
            };
            self.push_op(op);
            self.push_node(Node::Embedding(EmbeddingNode { op, table, positions, padding, y }));
        }
        y
    }

    /// Records a gather of rows of `x`, `[.., C]`. `ids`, `[B, S]`, are row numbers over all outer dimensions. The
    /// result is `[B, S, C]`.
    pub fn rows(&mut self, x: Var, ids: Var) -> Var {
        let (tx, ids) = (self.tensor(x), self.tensor(ids));
        let needs = self.used(&[x]);
        let out = self.activation(&[ids.dims()[0], ids.dims()[1], tx.width()]);
        let table = tx.reshape(&[tx.rows(), tx.width()]);
        let op = Embedding { ids, table, positions: None, out, accumulate: false };
        self.push_op(op);
        let y = self.push_result(out, needs);
        self.push_node(Node::Embedding(EmbeddingNode { op, table: x, positions: None, padding: None, y }));
        y
    }

    /// Records the gradient of one look-up.
    fn embedding_backward(&mut self, op: Embedding, table: Var, positions: Option<Var>, padding: Option<u32>, y: Var) {
        let Some(dout) = self.gradient(y) else { return };
        let table = self.needs(table).then(|| self.target(table));
        let positions = positions.filter(|p| self.needs(*p)).map(|p| self.target(p));
        if table.is_some() || positions.is_some() {
            self.push_op(EmbeddingBackward {
                ids: op.ids,
                dout,
                // If the table is an activation, it may have more than two dimensions.
                dtable: table.map(|t| t.0.reshape(op.table.dims())),
                dpositions: positions.map(|p| p.0),
                accumulate_table: table.is_some_and(|t| t.1),
                accumulate_positions: positions.is_some_and(|p| p.1),
                padding,
            });
        }
        // The look-up that overwrote the result comes last in the backward pass, after those that added to it.
        if !op.accumulate {
            self.done(y);
        }
    }
}
