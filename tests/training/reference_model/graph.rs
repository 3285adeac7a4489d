//! Reverse-mode differentiation over f64 matrices. Four primitive operations have a derivative; all others are composed
//! of them. Each composed operation states its FLOPs: two for a multiply-add, none for pairs hidden by the causal mask.

use super::random::dropped;

/// A row-major matrix.
#[derive(Clone, Debug, Default)]
pub struct Mat {
    pub rows: usize,
    pub cols: usize,
    pub v: Vec<f64>,
}

impl Mat {
    pub fn of(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Mat {
        Mat { rows, cols, v: (0..rows * cols).map(|i| f(i / cols, i % cols)).collect() }
    }

    /// Returns an element; a single row or column is broadcast.
    pub fn at(&self, row: usize, col: usize) -> f64 {
        self.v[(row % self.rows) * self.cols + col % self.cols]
    }

    pub fn zeros(&self) -> Mat {
        self.map(|_| 0.0)
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> Mat {
        Mat { v: self.v.iter().map(|&x| f(x)).collect(), ..*self }
    }

    pub fn with(&self, other: &Mat, f: impl Fn(f64, f64) -> f64) -> Mat {
        Mat::of(self.rows, self.cols, |r, c| f(self.at(r, c), other.at(r, c)))
    }

    pub fn t(&self) -> Mat {
        Mat::of(self.cols, self.rows, |r, c| self.at(c, r))
    }

    pub fn times(&self, b: &Mat) -> Mat {
        Mat::of(self.rows, b.cols, |r, c| (0..self.cols).map(|k| self.v[r * self.cols + k] * b.v[k * b.cols + c]).sum())
    }

    /// Adds `other`; if `self` is a single row or column, sums over the broadcast dimension.
    pub fn add(&mut self, other: &Mat) {
        for (i, x) in other.v.iter().enumerate() {
            self.v[(i / other.cols % self.rows) * self.cols + i % other.cols % self.cols] += x;
        }
    }
}

pub fn one(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// The index of a value in its [`Graph`].
pub type Var = usize;

/// The operation that produced a value, and its operands.
enum Origin {
    Input,
    /// `a b`, or `a b^T`.
    Times(Var, Var, bool),
    Mul(Var, Var),
    Add(Var, Var),
    /// Elementwise, by a function that returns the value and the derivative.
    Map(Var, Box<dyn Fn(f64) -> [f64; 2]>),
}

/// One forward pass.
pub struct Graph {
    /// Whether dropout is applied and the backward pass is counted.
    pub training: bool,
    /// Seed, and number of the micro-batch within the stage.
    key: (u64, u32),
    /// The number of attentions and active dropouts so far, which identifies a dropout site.
    site: u32,
    pub values: Vec<Mat>,
    origins: Vec<Origin>,
    params: usize,
    pub flops: usize,
    /// FLOPs of recomputed operations.
    pub recomputed: usize,
    /// For each operation, its forward FLOPs and whether its own backward pass needs the tensors that its forward pass
    /// produces.
    ops: Vec<(usize, bool)>,
}

impl Graph {
    /// Starts a pass whose first values are the parameters.
    pub fn new(params: &[Mat], training: bool, key: (u64, u32)) -> Graph {
        let (values, origins) = (params.to_vec(), params.iter().map(|_| Origin::Input).collect());
        Graph {
            training,
            key,
            site: 0,
            values,
            origins,
            params: params.len(),
            flops: 0,
            recomputed: 0,
            ops: Vec::new(),
        }
    }

    fn push(&mut self, value: Mat, origin: Origin) -> Var {
        self.values.push(value);
        self.origins.push(origin);
        self.values.len() - 1
    }

    pub fn constant(&mut self, value: Mat) -> Var {
        self.push(value, Origin::Input)
    }

    fn times(&mut self, a: Var, b: Var, transposed: bool) -> Var {
        let (x, y) = (&self.values[a], &self.values[b]);
        self.push(if transposed { x.times(&y.t()) } else { x.times(y) }, Origin::Times(a, b, transposed))
    }

    fn mul(&mut self, a: Var, b: Var) -> Var {
        self.push(self.values[a].with(&self.values[b], |a, b| a * b), Origin::Mul(a, b))
    }

    fn add(&mut self, a: Var, b: Var) -> Var {
        self.push(self.values[a].with(&self.values[b], |a, b| a + b), Origin::Add(a, b))
    }

    fn map(&mut self, a: Var, f: impl Fn(f64) -> [f64; 2] + 'static) -> Var {
        self.push(self.values[a].map(|x| f(x)[0]), Origin::Map(a, Box::new(f)))
    }

    /// Returns the gradient of the sum of `losses` with respect to every value. The first ones are those of the
    /// parameters.
    pub fn backward(&self, losses: &[Var]) -> Vec<Mat> {
        let mut grads: Vec<Mat> = self.values.iter().map(Mat::zeros).collect();
        losses.iter().for_each(|&loss| grads[loss].v[0] = 1.0);
        for var in (self.params..grads.len()).rev() {
            let dy = std::mem::take(&mut grads[var]);
            let value = |var: Var| &self.values[var];
            let mut give = |to: Var, d: &dyn Fn() -> Mat| {
                if to < self.params || !matches!(self.origins[to], Origin::Input) {
                    grads[to].add(&d());
                }
            };
            match &self.origins[var] {
                Origin::Input => {}
                Origin::Times(a, b, transposed) => {
                    give(*a, &|| if *transposed { dy.times(value(*b)) } else { dy.times(&value(*b).t()) });
                    give(*b, &|| if *transposed { dy.t().times(value(*a)) } else { value(*a).t().times(&dy) });
                }
                Origin::Mul(a, b) => {
                    give(*a, &|| dy.with(value(*b), |d, y| d * y));
                    give(*b, &|| dy.with(value(*a), |d, x| d * x));
                }
                Origin::Add(a, b) => [a, b].iter().for_each(|to| give(**to, &|| dy.clone())),
                Origin::Map(a, f) => give(*a, &|| dy.with(value(*a), |d, x| d * f(x)[1])),
            }
        }
        grads
    }

    fn count(&mut self, forward: usize, backward: usize, saves: bool) {
        self.ops.push((forward, saves));
        self.flops += forward + if self.training { backward } else { 0 };
    }

    fn size(&self, var: Var) -> usize {
        self.values[var].v.len()
    }

    /// Runs a block of which only the input is saved, if `recompute`. The trailing operations that only produce the
    /// output of the block are not recomputed, unless their own backward pass needs what they compute.
    pub fn block(&mut self, recompute: bool, f: impl FnOnce(&mut Graph) -> Var) -> Var {
        let start = self.ops.len();
        let out = f(self);
        let needed = self.ops[start..].iter().rposition(|op| op.1).map_or(0, |last| last + 1);
        if recompute && self.training {
            self.recomputed += self.ops[start..][..needed].iter().map(|op| op.0).sum::<usize>();
        }
        out
    }

    /// Computes `x W`, or `x W^T` for a weight that is stored as `[out, in]`. A constant `x` gets no gradient, and none
    /// is counted.
    pub fn product(&mut self, x: Var, w: Var, out_in: bool) -> Var {
        let y = self.times(x, w, out_in);
        let flops = 2 * self.size(y) * self.values[x].cols;
        let of_x = if x >= self.params && matches!(self.origins[x], Origin::Input) { 0 } else { flops };
        self.count(flops, flops + of_x, false);
        y
    }

    pub fn bias(&mut self, x: Var, b: Var) -> Var {
        self.count(0, self.size(x), false);
        self.add(x, b)
    }

    /// Computes `x + y`. `counts` is false where the preceding matmul adds it in its epilogue, which counts no FLOPs.
    pub fn sum(&mut self, x: Var, y: Var, counts: bool) -> Var {
        self.count(if counts { self.size(x) } else { 0 }, 0, false);
        self.add(x, y)
    }

    pub fn activate(&mut self, x: Var, f: fn(f64) -> [f64; 2]) -> Var {
        self.count(10 * self.size(x), 10 * self.size(x), true);
        self.map(x, f)
    }

    /// Layer normalisation with the weight `w` and the bias `w + 1`.
    pub fn layernorm(&mut self, x: Var, w: Var, eps: f64) -> Var {
        self.count(7 * self.size(x), 14 * self.size(x), true);
        let n = self.values[x].cols;
        let mean_of = self.constant(Mat::of(n, 1, |_, _| 1.0 / n as f64));
        let mean = self.times(x, mean_of, false);
        let minus = self.map(mean, |x| [-x, -1.0]);
        let centred = self.add(x, minus);
        let squares = self.mul(centred, centred);
        let variance = self.times(squares, mean_of, false);
        let scale = self.map(variance, move |x| [(x + eps).powf(-0.5), -0.5 * (x + eps).powf(-1.5)]);
        let normal = self.mul(centred, scale);
        let scaled = self.mul(normal, w);
        self.add(scaled, w + 1)
    }

    /// Attention over fused queries, keys and values. Tokens with 0 in `mask` are not used as keys.
    pub fn attention(
        &mut self,
        qkv: Var,
        (time, heads): (usize, usize),
        causal: bool,
        mask: Option<&[i32]>,
        p: f32,
    ) -> Var {
        self.site += 1;
        let (rows, width, key) = (self.values[qkv].rows, self.values[qkv].cols / 3, (self.key, self.site));
        let (size, p) = (width / heads, if self.training { p } else { 0.0 });
        let scale = 1.0 / (size as f64).sqrt();
        let pairs = rows * heads * if causal { time + 1 } else { 2 * time } / 2;
        self.count(pairs * (4 * size + 5), pairs * (8 * size + 8), true);
        let mut out = self.constant(Mat::of(rows, width, |_, _| 0.0));
        for (b, h) in (0..rows / time).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let own = Mat::of(time, rows, |r, c| one(c == b * time + r));
            let [own, back] = [own.clone(), own.t()].map(|m| self.constant(m));
            let x = self.times(own, qkv, false);
            let [q, k, v] = [0, 1, 2].map(|part| {
                let columns = self.constant(Mat::of(3 * width, size, |r, c| one(r == part * width + h * size + c)));
                self.times(x, columns, false)
            });
            let scores = self.times(q, k, true);
            let all = self.map(scores, move |x| [(scale * x).exp(), scale * (scale * x).exp()]);
            let sees = |i: usize, j: usize| (!causal || j <= i) && mask.is_none_or(|mask| mask[b * time + j] != 0);
            let seen = self.constant(Mat::of(time, time, |i, j| one(sees(i, j))));
            let seen = self.mul(all, seen);
            let ones = self.constant(Mat::of(time, 1, |_, _| 1.0));
            let total = self.times(seen, ones, false);
            let part = self.map(total, |x| [1.0 / x, -1.0 / (x * x)]);
            let shares = self.mul(seen, part);
            let factor = |i: usize, j: usize| dropped(key, ((b * heads + h) * time + i) * time + j, p);
            let factors = self.constant(Mat::of(time, time, factor));
            let shares = self.mul(shares, factors);
            let y = self.times(shares, v, false);
            let columns = self.constant(Mat::of(size, width, |r, c| one(c == h * size + r)));
            let y = self.times(y, columns, false);
            let y = self.times(back, y, false);
            out = self.add(out, y);
        }
        out
    }

    /// Gathers rows of a table or of hidden states. The row `padding` gets no gradient.
    pub fn gather(&mut self, table: Var, ids: &[usize], padding: Option<usize>) -> Var {
        let (rows, cols) = (self.values[table].rows, self.values[table].cols);
        self.count(0, ids.len() * cols, false);
        let learns = |r: usize| padding != Some(ids[r]);
        let which = self.constant(Mat::of(ids.len(), rows, |r, c| one(c == ids[r] && learns(r))));
        let fixed = |r: usize, c: usize| if learns(r) { 0.0 } else { self.values[table].at(ids[r], c) };
        let fixed = self.constant(Mat::of(ids.len(), cols, fixed));
        let y = self.times(which, table, false);
        self.add(y, fixed)
    }

    /// Applies dropout; each group of `unit` consecutive elements is kept or dropped together.
    pub fn dropout(&mut self, x: Var, p: f32, unit: usize) -> Var {
        if p == 0.0 || !self.training {
            return x;
        }
        self.site += 1;
        self.count(self.size(x), self.size(x), false);
        let (cols, key) = (self.values[x].cols, (self.key, self.site));
        let factors = Mat::of(self.values[x].rows, cols, |r, c| dropped(key, (r * cols + c) / unit, p));
        let factors = self.constant(factors);
        self.mul(x, factors)
    }

    /// Computes `- sum of q log softmax(x)`.
    pub fn cross_entropy(&mut self, x: Var, q: Mat) -> Var {
        self.count(4 * self.size(x), 2 * self.size(x), true);
        let all = self.map(x, |x| [x.exp(), x.exp()]);
        let ones = self.constant(Mat::of(q.cols, 1, |_, _| 1.0));
        let total = self.times(all, ones, false);
        let minus = self.map(total, |x| [-x.ln(), -1.0 / x]);
        let logs = self.add(x, minus);
        self.weighted_sum(logs, q.map(|q| -q))
    }

    /// Computes `sum of w (x - y)^2`.
    pub fn squared_error(&mut self, x: Var, y: Mat, w: Mat) -> Var {
        self.count(3 * self.size(x), self.size(x), true);
        let minus = self.constant(y.map(|y| -y));
        let errors = self.add(x, minus);
        let squares = self.mul(errors, errors);
        self.weighted_sum(squares, w)
    }

    /// Computes the sum of the elements of `x`, weighted by `w`.
    fn weighted_sum(&mut self, x: Var, w: Mat) -> Var {
        let (left, right) = (Mat::of(1, w.rows, |_, _| 1.0), Mat::of(w.cols, 1, |_, _| 1.0));
        let [w, left, right] = [w, left, right].map(|m| self.constant(m));
        let products = self.mul(x, w);
        let sums = self.times(left, products, false);
        self.times(sums, right, false)
    }
}
