//! Coalesce, de-coalesce and interpolate as dense matrices, by `docs/multilevel.md`.

use super::config::Config;
use super::graph::Mat;
use super::models::{Axis, Kind, Model, Param};
use super::random::{philox, words};

/// What is mapped: gradients by the transposes of the opposite operator, their squares by its squared weights.
#[derive(Clone, Copy, PartialEq)]
pub enum Quantity {
    Weights,
    Gradients,
    Squares,
}

/// C, small x big, and D, big x small: of an axis, or of the layers.
struct Pair {
    c: Mat,
    d: Mat,
}

impl Pair {
    fn new(groups: &[Vec<usize>], c: impl Fn(usize, usize) -> f64, d: impl Fn(usize, usize) -> f64) -> Pair {
        let (small, big) = (groups.len(), groups.iter().map(Vec::len).sum());
        let of =
            |s: usize, b: usize, f: &dyn Fn(usize, usize) -> f64| if groups[s].contains(&b) { f(s, b) } else { 0.0 };
        Pair { c: Mat::of(small, big, |s, b| of(s, b, &c)), d: Mat::of(big, small, |b, s| of(s, b, &d)) }
    }

    fn map(&self, down: bool, quantity: Quantity) -> Mat {
        let (own, opposite) = if down { (&self.c, &self.d) } else { (&self.d, &self.c) };
        match quantity {
            Quantity::Weights => own.clone(),
            Quantity::Gradients => opposite.transposed(),
            Quantity::Squares => opposite.transposed().map(|w| w * w),
        }
    }
}

/// Between a level and the one below, whose number from 0 is `level`.
pub struct Operators<'a> {
    c: &'a Config,
    big: &'a Model,
    small: &'a Model,
    heads: Vec<Vec<usize>>,
    layers: Vec<Vec<usize>>,
}

impl<'a> Operators<'a> {
    pub fn new(c: &'a Config, level: usize, big: &'a Model, small: &'a Model) -> Operators<'a> {
        let given = |key: &str| c.read::<Vec<Vec<usize>>>(&format!("levels.{level}.{key}"));
        let (h, l) = (small.heads, small.layers);
        let strided = || (0..h).map(|i| (i..big.heads).step_by(h).collect()).collect();
        let neighbours = || (0..l).map(|t| (t * big.layers / l..(t + 1) * big.layers / l).collect()).collect();
        let heads = given("width_scheme").unwrap_or_else(strided);
        Operators { c, big, small, heads, layers: given("depth_scheme").unwrap_or_else(neighbours) }
    }

    /// FLOPs of a pass over all parameters.
    pub fn flops(&self, down: bool) -> usize {
        let [big, small] = [self.big, self.small].map(|m| m.params.iter().map(|p| p.space).sum::<usize>());
        2 * big.max(small) + if down { 0 } else { 3 * big }
    }

    /// `small = C(big)`.
    pub fn down(&self, big: &[Mat], quantity: Quantity) -> Vec<Mat> {
        self.map(true, big, quantity)
    }

    /// `(1 - alpha) big + alpha D(small)`.
    pub fn up(&self, big: &[Mat], small: &[Mat], alpha: f64, quantity: Quantity) -> Vec<Mat> {
        let mix = |(old, new): (&Mat, Mat)| {
            let v = old.v.iter().zip(&new.v).map(|(old, new)| (1.0 - alpha) * old + alpha * new);
            Mat { v: v.collect(), ..*old }
        };
        big.iter().zip(self.map(false, small, quantity)).map(mix).collect()
    }

    fn map(&self, down: bool, from: &[Mat], quantity: Quantity) -> Vec<Mat> {
        let (source, target) = if down { (self.big, self.small) } else { (self.small, self.big) };
        let each = |(number, param): (usize, &Param)| {
            let axis = |at: usize| self.axis(number, param, param.axes[at], down, quantity);
            let (rows, cols) = match param.axes.len() {
                1 => (Mat::of(1, 1, |_, _| 1.0), axis(0)),
                _ => (axis(0), axis(1)),
            };
            let (layers, fill) = self.layer_weights(param, down, quantity);
            let mut sum = Mat::of(rows.rows, cols.rows, |_, _| fill);
            for (layer, weight) in layers {
                let at = source.params.iter().position(|p| p.name == param.name && p.layer == layer).expect("a source");
                sum.add(&rows.times(&from[at]).times(&cols.transposed()).map(|x| weight * x));
            }
            sum
        };
        target.params.iter().enumerate().map(each).collect()
    }

    /// Layers of the source that make a parameter, with weights, and what is added.
    fn layer_weights(&self, p: &Param, down: bool, quantity: Quantity) -> (Vec<(Option<usize>, f64)>, f64) {
        let Some(layer) = p.layer.filter(|_| self.big.layers > self.small.layers) else {
            return (vec![(p.layer, 1.0)], 0.0);
        };
        let groups = &self.layers;
        let (identity, split) = (self.c.is("rules.depth", "identity"), self.c.is("rules.depth", "split"));
        let size = |s: usize| groups[s].len() as f64;
        let first = |s: usize, b: usize| if groups[s].iter().min() == Some(&b) { 1.0 } else { 0.0 };
        let pair = match p.kind {
            Kind::Branch if identity => Pair::new(groups, |_, _| 1.0, first),
            Kind::Branch if split => Pair::new(groups, |_, _| 1.0, |s, _| 1.0 / size(s)),
            Kind::InnerNorm if identity => Pair::new(groups, first, first),
            Kind::OutputNorm if identity => {
                // At the end of the identity layers that follow the group's active layer, whosever they are.
                let active = |s: usize| groups.get(s).map_or(self.big.layers, |g| g[0]);
                let home = |s: usize, b: usize| if active(s + 1) == b + 1 { 1.0 } else { 0.0 };
                let (small, big) = (self.small.layers, self.big.layers);
                Pair { c: Mat::of(small, big, home), d: Mat::of(big, small, |b, s| home(s, b)) }
            }
            _ => Pair::new(groups, |s, _| 1.0 / size(s), |_, _| 1.0),
        };
        let weights = pair.map(down, quantity);
        let found: Vec<_> =
            weights.row(layer).iter().enumerate().filter(|w| *w.1 != 0.0).map(|(l, w)| (Some(l), *w)).collect();
        let is_norm = matches!(p.kind, Kind::InnerNorm | Kind::OutputNorm);
        let fill = if is_norm && found.is_empty() && quantity == Quantity::Weights { p.constant } else { 0.0 };
        (found, fill)
    }

    /// The map of one axis, target x source.
    fn axis(&self, number: usize, p: &Param, axis: Axis, down: bool, quantity: Quantity) -> Mat {
        let (big, small) = (self.big.heads, self.small.heads);
        if axis.parts == 0 || big == small {
            return Mat::of(axis.size, axis.size, |r, c| f64::from(u8::from(r == c)));
        }
        // Elements of a head in a part, and the groups of all elements.
        let block = axis.size / axis.parts / if down { small } else { big };
        let unit = |u: usize| -> Vec<usize> {
            let (part, group, within) = (u / (small * block), u / block % small, u % block);
            let mut heads = self.heads[group].clone();
            heads.sort();
            heads.iter().map(|head| (part * big + head) * block + within).collect()
        };
        let groups: Vec<Vec<usize>> = (0..axis.parts * small * block).map(unit).collect();
        let size = |s: usize| groups[s].len() as f64;
        let exact = self.c.is("rules.width", "exact");
        // Random shares belong to the weights of D alone.
        let random = self.c.is("rules.shares", "random") && !down && quantity == Quantity::Weights;
        let share = |s: usize, b: usize| {
            if !random {
                return 1.0 / size(s);
            }
            let seed = words(self.c.count("seed", 1) as u64);
            let part = |k: usize| {
                0.5 + f64::from(philox(seed, [s as u32, number as u32, k as u32, u32::MAX - 1])[0]) / 2f64.powi(32)
            };
            let at = groups[s].iter().position(|&member| member == b).expect("a member");
            part(at) / (0..groups[s].len()).map(part).sum::<f64>()
        };
        let pair = match p.kind {
            Kind::Embedding if !exact && !axis.input => Pair::new(&groups, |s, _| 2.0 / size(s), |_, _| 0.5),
            kind if axis.input || exact && kind == Kind::HeadNorm => Pair::new(&groups, |_, _| 1.0, share),
            _ => Pair::new(&groups, |s, _| 1.0 / size(s), |_, _| 1.0),
        };
        pair.map(down, quantity)
    }
}
