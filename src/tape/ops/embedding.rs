use crate::device::ops::{Embedding, EmbeddingBackward};
use crate::tape::node::Node;
use crate::tape::{Tape, Var};

impl Tape {
    /// `table[ids] + positions`: ids `[B, T]`, table `[V, C]`, positions `[P, C]`, the result `[B, T, C]`.
    pub fn embedding(&mut self, ids: Var, table: Var, positions: Option<Var>) -> Var {
        let (ids, t) = (self.tensor(ids), self.tensor(table));
        let needs = self.used(&[table]) | positions.is_some_and(|p| self.used(&[p]));
        let out = self.activation(&[ids.dims()[0], ids.dims()[1], t.shape.last()]);
        let positions_at = positions.map(|p| self.tensor(p));
        let op = Embedding { ids, table: t, positions: positions_at, out, accumulate: false };
        self.push_op(op);
        let y = self.push_result(out, needs);
        self.push_node(Node::Embedding { op, table, positions, y });
        y
    }

    pub(in crate::tape) fn embedding_backward(&mut self, op: Embedding, table: Var, positions: Option<Var>, y: Var) {
        let Some(dout) = self.gradient(y) else { return };
        let table = self.needs(table).then(|| self.target(table));
        let positions = positions.filter(|p| self.needs(*p)).map(|p| self.target(p));
        self.push_op(EmbeddingBackward {
            ids: op.ids,
            dout,
            dtable: table.map(|t| t.0),
            dpositions: positions.map(|p| p.0),
            accumulate_table: table.is_some_and(|t| t.1),
            accumulate_positions: positions.is_some_and(|p| p.1),
            padding: None,
        });
        self.done(y);
    }
}
