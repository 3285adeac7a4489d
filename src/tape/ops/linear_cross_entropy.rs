use crate::device::ops::{ColumnSum, CrossEntropy, Linear};
use crate::tape::node::Node;
use crate::tape::{Affine, LossOptions, Tape, Var, Weight};
use crate::tensor::{DType, Tensor};

/// Elements to which rows of logits are padded in memory.
const PAD: usize = 128;

/// What the strips of a head are recorded from.
#[derive(Clone, Copy)]
pub(in crate::tape) struct Head {
    /// `[.., C]`, N rows.
    x: Var,
    /// `[V, C]`.
    w: Var,
    /// `[V]`.
    bias: Option<Var>,
    /// `[N]`.
    labels: Tensor,
    /// `[N]`, wide.
    losses: Tensor,
    /// `[1]`.
    loss: Var,
    options: LossOptions,
}

impl Tape {
    /// Mean cross-entropy of the logits `x W^T + bias` against labels: x `[.., C]`, W `[V, C]`, bias `[V]`, as many labels as x
    /// has rows; the result `[1]`.
    ///
    /// What [`Tape::linear`] and [`Tape::cross_entropy`] make of it, but strip by strip of rows: logits, losses and
    /// gradients of one, then those of the next in the same memory, so that nothing is computed twice and the logits never
    /// exist whole. In training [`Tape::backward`] records all of it, since gradients go into each strip; within a segment,
    /// whose operations are recorded twice, the logits are whole.
    pub fn linear_cross_entropy(
        &mut self,
        x: Var,
        w: Var,
        bias: Option<Var>,
        labels: Var,
        options: LossOptions,
    ) -> Var {
        if self.in_segment {
            let logits = self.linear(x, w, Affine { bias, weight: Weight::OutIn, pad: PAD, ..Affine::default() });
            return self.cross_entropy(logits, labels, options);
        }
        let (rows, labels) = (self.tensor(x).rows(), self.tensor(labels));
        let needs = self.used(&[x, w]) | bias.is_some_and(|b| self.used(&[b]));
        let (losses, loss) = (self.wide_buffer(&[rows]), self.wide_buffer(&[1]));
        let loss = self.push_result(loss, needs);
        let head = Head { x, w, bias, labels: labels_of(labels, rows), losses, loss, options };
        match self.is_training() {
            true => self.unrecorded = true,
            false => self.strips(head, false),
        }
        self.push_node(Node::LinearCrossEntropy(head));
        loss
    }

    pub(in crate::tape) fn linear_cross_entropy_backward(&mut self, head: Head) {
        let is_differentiated = self.vars[head.loss.0 as usize].uses > 0;
        self.strips(head, is_differentiated);
    }

    /// Records the strips, with gradients or for the loss alone.
    fn strips(&mut self, Head { x, w, bias, labels, losses, loss, options }: Head, gradients: bool) {
        let dbias = bias.filter(|b| gradients && self.needs(*b)).map(|b| self.target(b));
        let dw = (gradients && self.needs(w)).then(|| self.target(w));
        let dx = (gradients && self.needs(x)).then(|| self.target(x));
        let (x, w, loss) = (self.tensor(x), self.tensor(w), self.tensor(loss));
        let bias = bias.map(|b| self.tensor(b));
        let (rows, vocab) = (x.rows(), w.rows());
        let height = match options.strip {
            0 => strip_rows(rows, vocab.next_multiple_of(PAD), self.float),
            given => given.min(rows.max(1)),
        };
        let strip = self.buffer(&[height, vocab], PAD);
        let LossOptions { ignore, smoothing, weight, scored, .. } = options;
        // Without any row the loss is still written.
        for first in (0..rows.max(1)).step_by(height) {
            let count = height.min(rows - first);
            let (x, logits) = (x.row_block(first, count), strip.row_block(0, count));
            self.push_op(Linear { bias, ..Linear::product(x, w, logits, (false, true)) });
            let dlogits = (dbias.is_some() || dw.is_some() || dx.is_some()).then_some(logits);
            self.push_op(CrossEntropy {
                logits,
                labels,
                mix: None,
                scored,
                losses,
                loss,
                first,
                dlogits,
                ignore,
                smoothing,
                weight,
            });
            if let Some((out, accumulate)) = dbias {
                self.push_op(ColumnSum { x: logits, out, accumulate: accumulate || first > 0 });
            }
            if let Some((out, accumulate)) = dw {
                let accumulate = accumulate || first > 0;
                self.push_op(Linear { accumulate, ..Linear::product(logits, x, out, (true, false)) });
            }
            if let Some((out, accumulate)) = dx {
                let out = out.row_block(first, count);
                self.push_op(Linear { accumulate, ..Linear::product(logits, w, out, (false, false)) });
            }
        }
    }
}

/// Labels as a vector. Too few or too many: left as they are, for the operation's check to refuse.
pub(super) fn labels_of(labels: Tensor, rows: usize) -> Tensor {
    if labels.numel() == rows { labels.reshape(&[rows]) } else { labels }
}

/// Bytes of logits that are made at once in any case.
const SMALL: usize = 32 << 20;

/// Rows of a strip of logits, each `pitch` elements: what fits in [`SMALL`], but enough that strips cost little, and all but the
/// last as equal as multiples of 128 rows (a tile of the kernels) are.
///
/// Against whole logits, every strip reads W twice more, and reads and writes its gradient in f32 once more: 16 V C bytes in f32
/// beside the 6 h V C FLOPs of its h rows, whatever V and C. A CPU core of 116 GFLOP/s and 20 GB/s takes 15 / h longer for the
/// head, 3 % at 512 rows; a GPU of 19.5 TFLOP/s in f32 and 2 TB/s takes 26 / h, 5 %. In bf16 it is 12 V C bytes, and 190 / h at
/// the 190 TFLOP/s of a good kernel: 5 % at 4096 rows. The head is a third of a step of GPT-2, less of anything larger, so that
/// a step takes less than 2 % longer.
fn strip_rows(rows: usize, pitch: usize, float: DType) -> usize {
    let enough = if float == DType::BF16 { 4096 } else { 512 };
    let height = (SMALL / pitch.saturating_mul(float.bytes()).max(1)).max(enough);
    rows.div_ceil((rows / height).max(1)).next_multiple_of(128).clamp(1, rows.max(1))
}

#[cfg(test)]
mod tests {
    use super::{SMALL, strip_rows};
    use crate::tensor::DType;

    #[test]
    fn strips_are_high_enough_and_no_higher_than_they_must() {
        for (float, least) in [(DType::F32, 512), (DType::F64, 512), (DType::BF16, 4096)] {
            for pitch in [128, 1024, 8192, 50_304, 262_144] {
                let height = (SMALL / pitch / float.bytes()).max(least);
                for rows in [1, 127, 512, 1023, 1024, 1100, 2047, 5000, 32_768, 1_000_000] {
                    let strip = strip_rows(rows, pitch, float);
                    assert!(strip == rows || strip.is_multiple_of(128));
                    assert!(strip >= height.min(rows), "{rows} rows of {pitch} in strips of {strip}");
                    assert!(strip < 2 * height + 128, "{rows} rows of {pitch} in strips of {strip}");
                }
            }
            assert_eq!(strip_rows(0, 128, float), 1);
        }
        assert_eq!([512, 2048, 4096].map(|rows| strip_rows(rows, 50_304, DType::F32)), [512; 3]);
    }
}
