use super::{Node, Recorded};
use crate::device::ops::{Access, ColumnSum, CrossEntropy, Linear};
use crate::tape::{Affine, LossOptions, Tape, Var, Weight};
use crate::tensor::{DType, Tensor};

/// Rows of logits are padded in memory to a multiple of this many elements.
const PAD: usize = 128;

/// A [`Tape::linear_cross_entropy`], from which its strips are recorded.
#[derive(Clone, Copy)]
pub(in crate::tape) struct Head {
    /// Input, `[.., C]` with N rows.
    x: Var,
    /// Weight, `[V, C]`.
    w: Var,
    /// Bias, `[V]`.
    bias: Option<Var>,
    /// Labels, `[N]`.
    labels: Tensor,
    /// Loss of each row, `[N]`, accumulator type.
    losses: Tensor,
    /// The loss, `[1]`.
    loss: Var,
    options: LossOptions,
}

impl Recorded for Head {
    /// Its operations are not recorded yet, and it is never in a segment.
    fn operands(&mut self, _visit: &mut dyn FnMut(&mut Tensor, Access)) {}

    fn backward(self, tape: &mut Tape) {
        tape.linear_cross_entropy_backward(self);
    }
}

impl Tape {
    /// Records the mean cross-entropy of the logits `x W^T + bias` against labels, without storing all logits. `x` is
    /// `[.., C]`, `w` `[V, C]`, `bias` `[V]`, with one label for each row of `x`. The result is `[1]`.
    ///
    /// It computes the same as [`Tape::linear`] followed by [`Tape::cross_entropy`], but for one strip of rows after
    /// the other: the logits, losses and gradients of one strip, then those of the next one in the same memory. Nothing
    /// is computed twice. In training, all of it is recorded by [`Tape::backward`], because every strip includes
    /// gradients. Within a segment, whose operations are recorded twice, the logits are stored as a whole.
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

    /// Records the strips in a training step, with gradients if the loss is differentiated.
    fn linear_cross_entropy_backward(&mut self, head: Head) {
        let is_differentiated = self.vars[head.loss.0 as usize].uses > 0;
        self.strips(head, is_differentiated);
    }

    /// Records the strips. Without `gradients`, they compute only the loss.
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
        // Without any rows, the loss must still be written.
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

/// Returns the labels as a vector. If their number is not `rows`, they are returned unchanged, and the operation's
/// check refuses them.
pub(super) fn labels_of(labels: Tensor, rows: usize) -> Tensor {
    if labels.numel() == rows { labels.reshape(&[rows]) } else { labels }
}

/// Bytes of logits that may be computed at once whatever their shape.
const SMALL: usize = 32 << 20;

/// Returns the number of rows in a strip of logits with `pitch` elements per row. A strip has the rows that fit in
/// [`SMALL`], but at least so many that strips cost little. Strips are nearly equal, and multiples of 128 rows (a tile
/// of the kernels) except for the last one.
///
/// Compared with all logits at once, every strip reads W twice more, and reads and writes its gradient in f32 once
/// more. In f32 these are 16 V C bytes, next to the 6 h V C FLOPs of a strip of h rows. On a CPU core with 116 GFLOP/s
/// and 20 GB/s the head takes a fraction of 15 / h longer, 3 % at 512 rows; on a GPU with 19.5 TFLOP/s in f32 and 2
/// TB/s it is 26 / h, 5 %. In bf16 these are 12 V C bytes and 190 / h at the 190 TFLOP/s of a good kernel, 5 % at 4096
/// rows. The head is a third of a step of GPT-2 and less of larger models, so a step takes less than 2 % longer.
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
    fn strips_have_enough_rows_and_few_more() {
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
