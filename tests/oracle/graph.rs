//! Reverse-mode differentiation over f64 matrices, by the formulas, and what each operation counts as FLOPs: two for a
//! multiply-add, none for what causality hides.

use super::random::dropped;
use std::f64::consts::PI;

/// Row-major.
#[derive(Clone, Debug, Default)]
pub struct Mat {
    pub rows: usize,
    pub cols: usize,
    pub v: Vec<f64>,
}

impl Mat {
    pub fn new(rows: usize, cols: usize) -> Mat {
        Mat { rows, cols, v: vec![0.0; rows * cols] }
    }

    /// What `f` says of row and column.
    pub fn of(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Mat {
        Mat { rows, cols, v: (0..rows * cols).map(|i| f(i / cols, i % cols)).collect() }
    }

    pub fn at(&self, row: usize, col: usize) -> f64 {
        self.v[row * self.cols + col]
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.v[row * self.cols..][..self.cols]
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> Mat {
        Mat { v: self.v.iter().map(|&x| f(x)).collect(), ..*self }
    }

    pub fn transposed(&self) -> Mat {
        Mat::of(self.cols, self.rows, |r, c| self.at(c, r))
    }

    pub fn times(&self, other: &Mat) -> Mat {
        Mat::of(self.rows, other.cols, |r, c| (0..self.cols).map(|k| self.at(r, k) * other.at(k, c)).sum())
    }

    pub fn add(&mut self, other: &Mat) {
        self.v.iter_mut().zip(&other.v).for_each(|(a, b)| *a += b);
    }
}

/// The number of a value in its [`Graph`].
pub type Var = usize;

/// From all values and the gradient of a result, adds to the gradients of what it was made from.
type Back = Box<dyn Fn(&[Mat], &Mat, &mut [Mat])>;

#[derive(Clone, Copy, PartialEq)]
pub enum Activation {
    GeluTanh,
    GeluErf,
    Tanh,
}

/// What attention is told beside queries, keys and values.
pub struct Attend {
    pub time: usize,
    pub heads: usize,
    pub causal: bool,
    /// By token: 0 hides it as a key.
    pub mask: Option<Vec<i32>>,
    pub dropout: f32,
}

/// What a cross-entropy is told beside scores and labels.
#[derive(Clone, Default)]
pub struct Target {
    pub labels: Vec<i32>,
    /// A second label for each row, and the first one's share in the target.
    pub others: Option<(Vec<i32>, Vec<f32>)>,
    pub smoothing: f64,
    /// Of each scored row in the loss.
    pub weight: f64,
}

/// One forward pass.
pub struct Graph {
    /// With dropout and gradients.
    pub training: bool,
    seed: u64,
    pass: u32,
    /// Attentions, and dropouts that drop, so far.
    site: u32,
    pub values: Vec<Mat>,
    back: Vec<Option<Back>>,
    /// A constant has no gradient.
    constant: Vec<bool>,
    pub flops: usize,
    /// FLOPs of what is computed a second time.
    pub again: usize,
    /// Forward FLOPs of each operation, and whether its backward pass needs what only it computes.
    ops: Vec<(usize, bool)>,
}

impl Graph {
    /// The first values are the parameters.
    pub fn new(params: &[Mat], training: bool, seed: u64, pass: u32) -> Graph {
        let (back, constant) = (params.iter().map(|_| None).collect(), vec![false; params.len()]);
        let (values, ops) = (params.to_vec(), Vec::new());
        Graph { training, seed, pass, site: 0, values, back, constant, flops: 0, again: 0, ops }
    }

    pub fn constant(&mut self, value: Mat) -> Var {
        self.values.push(value);
        self.back.push(None);
        self.constant.push(true);
        self.values.len() - 1
    }

    /// `flops`: forward and backward.
    fn push(&mut self, value: Mat, flops: [usize; 2], saves: bool, back: Back) -> Var {
        self.ops.push((flops[0], saves));
        self.flops += flops[0] + if self.training { flops[1] } else { 0 };
        self.values.push(value);
        self.back.push(Some(back));
        self.constant.push(false);
        self.values.len() - 1
    }

    /// The gradients of the sum of losses.
    pub fn backward(&self, losses: &[Var]) -> Vec<Mat> {
        let mut grads: Vec<Mat> = self.values.iter().map(|v| Mat::new(v.rows, v.cols)).collect();
        losses.iter().for_each(|&loss| grads[loss].v[0] = 1.0);
        for (var, back) in self.back.iter().enumerate().rev() {
            if let Some(back) = back {
                let dy = std::mem::take(&mut grads[var]);
                back(&self.values, &dy, &mut grads);
            }
        }
        grads
    }

    /// A block of which only the input is kept, if `recompute`. The operations it ends with serve nothing but its output,
    /// unless their own backward pass needs what they compute: only from the last of those on is it not computed again.
    pub fn block(&mut self, recompute: bool, f: impl FnOnce(&mut Graph) -> Var) -> Var {
        let start = self.ops.len();
        let out = f(self);
        let ops = &self.ops[start..];
        if recompute && self.training {
            let count = ops.iter().rposition(|op| op.1).map_or(0, |last| last + 1);
            self.again += ops[..count].iter().map(|op| op.0).sum::<usize>();
        }
        out
    }

    /// `x W`, or `x W^T` for a weight that is stored as `[out, in]`.
    pub fn matmul(&mut self, x: Var, w: Var, out_in: bool) -> Var {
        let (a, b) = (&self.values[x], &self.values[w]);
        let y = if out_in { a.times(&b.transposed()) } else { a.times(b) };
        let (flops, constant) = (2 * y.v.len() * a.cols, self.constant[x]);
        let back = move |v: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            if !constant {
                grads[x].add(&if out_in { dy.times(&v[w]) } else { dy.times(&v[w].transposed()) });
            }
            let dw = v[x].transposed().times(dy);
            grads[w].add(&if out_in { dw.transposed() } else { dw });
        };
        self.push(y, [flops, if constant { flops } else { 2 * flops }], false, Box::new(back))
    }

    pub fn bias(&mut self, x: Var, b: Var) -> Var {
        let y = Mat::of(self.values[x].rows, self.values[x].cols, |r, c| self.values[x].at(r, c) + self.values[b].v[c]);
        let back = move |_: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            grads[x].add(dy);
            (0..dy.rows).for_each(|r| grads[b].v.iter_mut().zip(dy.row(r)).for_each(|(sum, d)| *sum += d));
        };
        let flops = y.v.len();
        self.push(y, [0, flops], false, Box::new(back))
    }

    /// `x + y`, which counts where no product does it on its way.
    pub fn add(&mut self, x: Var, y: Var, counts: bool) -> Var {
        let mut sum = self.values[x].clone();
        sum.add(&self.values[y]);
        let flops = if counts { sum.v.len() } else { 0 };
        let back = move |_: &[Mat], dy: &Mat, grads: &mut [Mat]| [x, y].iter().for_each(|&to| grads[to].add(dy));
        self.push(sum, [flops, 0], false, Box::new(back))
    }

    pub fn activate(&mut self, x: Var, kind: Activation) -> Var {
        let y = self.values[x].map(|x| activation(kind, x)[0]);
        let flops = 10 * y.v.len();
        let back = move |v: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            let slopes = v[x].v.iter().map(|&x| activation(kind, x)[1]);
            grads[x].v.iter_mut().zip(&dy.v).zip(slopes).for_each(|((sum, d), slope)| *sum += d * slope);
        };
        self.push(y, [flops, flops], true, Box::new(back))
    }

    pub fn layernorm(&mut self, x: Var, [weight, bias]: [Var; 2], eps: f64) -> Var {
        // Each row's normalised values and 1 / its deviation.
        let normal = move |row: &[f64]| -> (Vec<f64>, f64) {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
            let scale = (variance + eps).sqrt().recip();
            (row.iter().map(|x| (x - mean) * scale).collect(), scale)
        };
        let (value, w, b) = (&self.values[x], &self.values[weight].v, &self.values[bias].v);
        let mut y = Mat::new(value.rows, value.cols);
        for (r, row) in y.v.chunks_exact_mut(value.cols).enumerate() {
            let h = normal(value.row(r)).0;
            (0..row.len()).for_each(|c| row[c] = h[c] * w[c] + b[c]);
        }
        let back = move |v: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            for r in 0..dy.rows {
                let ((h, scale), n) = (normal(v[x].row(r)), dy.cols as f64);
                let g: Vec<f64> = (0..dy.cols).map(|c| dy.at(r, c) * v[weight].v[c]).collect();
                let mean = g.iter().sum::<f64>() / n;
                let along = g.iter().zip(&h).map(|(g, h)| g * h).sum::<f64>() / n;
                for c in 0..dy.cols {
                    grads[x].v[r * dy.cols + c] += scale * (g[c] - mean - h[c] * along);
                    grads[weight].v[c] += dy.at(r, c) * h[c];
                    grads[bias].v[c] += dy.at(r, c);
                }
            }
        };
        let n = y.v.len();
        self.push(y, [7 * n, 14 * n], true, Box::new(back))
    }

    /// Of fused queries, keys and values `[B T, 3 C]`.
    pub fn attention(&mut self, qkv: Var, with: Attend) -> Var {
        self.site += 1;
        let Attend { time, heads, causal, mask, dropout } = with;
        let (rows, width) = (self.values[qkv].rows, self.values[qkv].cols / 3);
        let (size, scale) = (width / heads, ((width / heads) as f64).sqrt().recip());
        let (seed, pass, site) = (self.seed, self.pass, self.site);
        let p = if self.training { dropout } else { 0.0 };
        // Column of element e of head h of queries (0), keys (1), values (2).
        let column = move |part: usize, h: usize, e: usize| part * width + h * size + e;
        // Keys that a query sees, each with its probability and dropout's factor.
        let seen = move |x: &Mat, h: usize, query: usize| -> Vec<(usize, f64, f64)> {
            let first = query - query % time;
            let end = if causal { query + 1 } else { first + time };
            let keys = (first..end).filter(|&key| mask.as_ref().is_none_or(|mask| mask[key] != 0));
            let dot = |key| (0..size).map(|e| x.at(query, column(0, h, e)) * x.at(key, column(1, h, e))).sum::<f64>();
            let scores: Vec<(usize, f64)> = keys.map(|key| (key, scale * dot(key))).collect();
            let total: f64 = scores.iter().map(|s| s.1.exp()).sum();
            let row = ((first / time * heads + h) * time + query % time) * time;
            let factor = |key: usize| dropped((seed, pass, site), (row + key - first) as u64, p);
            scores.iter().map(|&(key, score)| (key, score.exp() / total, factor(key))).collect()
        };
        let x = &self.values[qkv];
        let mut y = Mat::new(rows, width);
        for (h, query) in (0..heads).flat_map(|h| (0..rows).map(move |query| (h, query))) {
            for (key, share, factor) in seen(x, h, query) {
                (0..size)
                    .for_each(|e| y.v[query * width + h * size + e] += share * factor * x.at(key, column(2, h, e)));
            }
        }
        let back = move |v: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            let (x, dx) = (&v[qkv], &mut grads[qkv]);
            for (h, query) in (0..heads).flat_map(|h| (0..rows).map(move |query| (h, query))) {
                let seen = seen(x, h, query);
                let d = |e: usize| dy.at(query, h * size + e);
                let dp = |key: usize| (0..size).map(|e| d(e) * x.at(key, column(2, h, e))).sum::<f64>();
                let mean: f64 = seen.iter().map(|&(key, share, factor)| share * factor * dp(key)).sum();
                for &(key, share, factor) in &seen {
                    let ds = scale * share * (factor * dp(key) - mean);
                    for e in 0..size {
                        let (q, k) = (column(0, h, e), column(1, h, e));
                        dx.v[query * 3 * width + q] += ds * x.at(key, k);
                        dx.v[key * 3 * width + k] += ds * x.at(query, q);
                        dx.v[key * 3 * width + column(2, h, e)] += share * factor * d(e);
                    }
                }
            }
        };
        let pairs = rows * heads * if causal { time + 1 } else { 2 * time } / 2;
        self.push(y, [pairs * (4 * size + 5), pairs * (8 * size + 8)], true, Box::new(back))
    }

    /// Rows of a table, or of hidden states. `padding`: a row that learns nothing.
    pub fn gather(&mut self, table: Var, ids: Vec<usize>, padding: Option<usize>) -> Var {
        let y = Mat::of(ids.len(), self.values[table].cols, |r, c| self.values[table].at(ids[r], c));
        let back = move |_: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            for (r, &id) in ids.iter().enumerate().filter(|(_, id)| padding != Some(**id)) {
                (0..dy.cols).for_each(|c| grads[table].v[id * dy.cols + c] += dy.at(r, c));
            }
        };
        let flops = y.v.len();
        self.push(y, [0, flops], false, Box::new(back))
    }

    /// Drops `unit` neighbours together.
    pub fn dropout(&mut self, x: Var, p: f32, unit: usize) -> Var {
        if p == 0.0 || !self.training {
            return x;
        }
        self.site += 1;
        let key = (self.seed, self.pass, self.site);
        let n = self.values[x].v.len();
        let factors: Vec<f64> = (0..n).map(|i| dropped(key, (i / unit) as u64, p)).collect();
        let y = Mat { v: self.values[x].v.iter().zip(&factors).map(|(x, f)| x * f).collect(), ..self.values[x] };
        let back = move |_: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            grads[x].v.iter_mut().zip(&dy.v).zip(&factors).for_each(|((sum, d), f)| *sum += d * f);
        };
        self.push(y, [n, n], false, Box::new(back))
    }

    /// The weighted sum over the rows with a label.
    pub fn cross_entropy(&mut self, scores: Var, target: Target) -> Var {
        let Target { labels, others, smoothing, weight } = target;
        let wanted = move |r: usize, classes: usize| -> Option<Vec<f64>> {
            let label = usize::try_from(labels[r]).ok()?;
            let mut q = vec![smoothing / classes as f64; classes];
            let (other, share) = others.as_ref().map_or((label, 1.0), |(o, s)| (o[r] as usize, f64::from(s[r])));
            q[label] += (1.0 - smoothing) * share;
            q[other] += (1.0 - smoothing) * (1.0 - share);
            Some(q)
        };
        let x = &self.values[scores];
        let lse = |row: &[f64]| row.iter().map(|x| x.exp()).sum::<f64>().ln();
        let loss = |r: usize| match wanted(r, x.cols) {
            Some(q) => q.iter().zip(x.row(r)).map(|(q, z)| q * (lse(x.row(r)) - z)).sum::<f64>(),
            None => 0.0,
        };
        let total = weight * (0..x.rows).map(loss).sum::<f64>();
        let n = x.v.len();
        let back = move |v: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            let x = &v[scores];
            for (r, q) in (0..x.rows).filter_map(|r| Some((r, wanted(r, x.cols)?))) {
                let lse = lse(x.row(r));
                let d = |c: usize| dy.v[0] * weight * ((x.at(r, c) - lse).exp() - q[c]);
                (0..x.cols).for_each(|c| grads[scores].v[r * x.cols + c] += d(c));
            }
        };
        self.push(Mat { rows: 1, cols: 1, v: vec![total] }, [4 * n, 2 * n], true, Box::new(back))
    }

    /// The weighted sum over the values that are numbers.
    pub fn squared_error(&mut self, x: Var, values: Vec<f32>, weight: f64) -> Var {
        let errors = move |x: &Mat| -> Vec<f64> {
            let error = |(x, y): (&f64, &f32)| if y.is_nan() { 0.0 } else { x - f64::from(*y) };
            x.v.iter().zip(&values).map(error).collect()
        };
        let total = weight * errors(&self.values[x]).iter().map(|e| e * e).sum::<f64>();
        let n = self.values[x].v.len();
        let back = move |v: &[Mat], dy: &Mat, grads: &mut [Mat]| {
            grads[x].v.iter_mut().zip(errors(&v[x])).for_each(|(sum, e)| *sum += dy.v[0] * weight * 2.0 * e);
        };
        self.push(Mat { rows: 1, cols: 1, v: vec![total] }, [3 * n, n], true, Box::new(back))
    }
}

/// The function and its derivative.
fn activation(kind: Activation, x: f64) -> [f64; 2] {
    let (cdf, slope) = match kind {
        Activation::Tanh => return [x.tanh(), 1.0 - x.tanh().powi(2)],
        Activation::GeluTanh => {
            let t = ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh();
            (0.5 + 0.5 * t, 0.5 * (1.0 - t * t) * (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x))
        }
        Activation::GeluErf => (normal_cdf(x), (-0.5 * x * x).exp() / (2.0 * PI).sqrt()),
    };
    [x * cdf, cdf + x * slope]
}

/// The share of a standard normal distribution below x: 1/2 + density (x + x^3/3 + x^5/(3 5) + ...), all terms of one sign.
fn normal_cdf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, 0.0, 1.0);
    while term.abs() > 1e-18 {
        sum += term;
        n += 2.0;
        term *= x * x / n;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}
