//! Coalescing, de-coalescing and interpolation as dense matrices, as defined in `docs/multilevel.md`.

use super::config::Config;
use super::graph::{Mat, one};
use super::models::{Model, Param};
use super::random::part;

/// What is mapped: weights by the operator itself, gradients by the transpose of the opposite operator, and squared
/// gradients by the squares of that transpose's weights.
#[derive(Clone, Copy, PartialEq)]
pub enum Quantity {
    Weights,
    Gradients,
    Squares,
}

/// The operators between a level and the one below it.
pub struct Operators<'a> {
    c: &'a Config,
    big: &'a Model<'a>,
    small: &'a Model<'a>,
    heads: Vec<Vec<usize>>,
    layers: Vec<Vec<usize>>,
}

impl<'a> Operators<'a> {
    /// `level` is the index of the level below, counted from 0.
    pub fn new(c: &'a Config, level: usize, big: &'a Model, small: &'a Model) -> Operators<'a> {
        let groups = |key: &str, default: Vec<Vec<usize>>| {
            let mut groups = c.read(&format!("levels.{level}.{key}")).unwrap_or(default);
            groups.iter_mut().for_each(|group: &mut Vec<usize>| group.sort());
            groups
        };
        let (h, l) = (small.heads, small.layers);
        let heads = groups("width_scheme", (0..h).map(|i| (i..big.heads).step_by(h).collect()).collect());
        let runs = (0..l).map(|t| (t * big.layers / l..(t + 1) * big.layers / l).collect()).collect();
        Operators { c, big, small, heads, layers: groups("depth_scheme", runs) }
    }

    /// Returns the FLOPs of mapping all parameters once.
    pub fn flops(&self, down: bool) -> usize {
        let [big, small] = [self.big, self.small].map(|m| m.params.iter().map(|p| p.space).sum::<usize>());
        2 * big.max(small) + if down { 0 } else { 3 * big }
    }

    /// Returns `(1 - alpha) big + alpha D(small)`.
    pub fn up(&self, big: &[Mat], small: &[Mat], alpha: f64, quantity: Quantity) -> Vec<Mat> {
        let new = self.map(false, small, quantity);
        big.iter().zip(&new).map(|(old, new)| old.with(new, |old, new| (1.0 - alpha) * old + alpha * new)).collect()
    }

    /// Returns `C(from)` if `down`, else `D(from)`.
    pub fn map(&self, down: bool, from: &[Mat], quantity: Quantity) -> Vec<Mat> {
        let (source, target) = if down { (self.big, self.small) } else { (self.small, self.big) };
        // Selects the requested matrix from C (small x big) and D (big x small).
        let choose = |(c, d): (Mat, Mat)| match (down, quantity) {
            (true, Quantity::Weights) => c,
            (false, Quantity::Weights) => d,
            (true, Quantity::Gradients) => d.t(),
            (false, Quantity::Gradients) => c.t(),
            (_, Quantity::Squares) => if down { d.t() } else { c.t() }.map(|w| w * w),
        };
        let random = self.c.is("rules.shares", "random") && !down && quantity == Quantity::Weights;
        let each = |(number, p): (usize, &Param)| {
            let axes: Vec<Mat> = p.axes.iter().map(|&axis| choose(self.axis(number, p, axis, down, random))).collect();
            let one_row = Mat::of(1, 1, |_, _| 1.0);
            let (rows, cols) = if let [rows, cols] = &axes[..] { (rows, cols) } else { (&one_row, &axes[0]) };
            let named = |layer: Option<usize>| {
                let at = source.params.iter().position(|q| q.name == p.name && q.layer == layer).expect("a source");
                rows.times(&from[at]).times(&cols.t())
            };
            let Some(layer) = p.layer.filter(|_| self.big.layers > self.small.layers) else { return named(p.layer) };
            let weights = choose(self.depth(p));
            let mut sum = Mat::of(rows.rows, cols.rows, |_, _| 0.0);
            for l in (0..source.layers).filter(|&l| weights.at(layer, l) != 0.0) {
                sum.add(&named(Some(l)).map(|x| weights.at(layer, l) * x));
            }
            // The place of a norm that was moved to another layer gets the identity norm.
            let moved = (0..source.layers).all(|l| weights.at(layer, l) == 0.0) && p.name.starts_with("norm");
            if moved && quantity == Quantity::Weights { sum.map(|_| p.constant) } else { sum }
        };
        target.params.iter().enumerate().map(each).collect()
    }

    /// Returns C and D between layers.
    fn depth(&self, p: &Param) -> (Mat, Mat) {
        let (groups, identity) = (&self.layers, self.c.is("rules.depth", "identity"));
        let branch = p.name.starts_with("proj") || p.name.starts_with("out");
        let pair = |c: &dyn Fn(usize, usize) -> f64, d: &dyn Fn(usize, usize) -> f64| {
            let (small, big) = (self.small.layers, self.big.layers);
            (Mat::of(small, big, c), Mat::of(big, small, |b, s| d(s, b)))
        };
        let member = |s: usize, b: usize| one(groups[s].contains(&b));
        let mean = |s: usize, b: usize| member(s, b) / groups[s].len() as f64;
        let first = |s: usize, b: usize| one(groups[s][0] == b);
        // Layer b is the last one before the first layer of the next group.
        let end = |s: usize, b: usize| one(b + 1 == groups.get(s + 1).map_or(self.big.layers, |next| next[0]));
        match p.name.split('.').next() {
            _ if branch && identity => pair(&member, &first),
            _ if branch && self.c.is("rules.depth", "split") => pair(&member, &mean),
            Some("norm_1") if identity && self.big.post => pair(&first, &first),
            Some("norm_2") if identity && self.big.post => pair(&end, &end),
            _ => pair(&mean, &member),
        }
    }

    /// Returns C and D between the units of an axis.
    fn axis(&self, number: usize, p: &Param, (letter, size): (char, usize), down: bool, random: bool) -> (Mat, Mat) {
        let (big, small) = (self.big.heads, self.small.heads);
        if !"EQF".contains(letter.to_ascii_uppercase()) || big == small {
            let same = Mat::of(size, size, |r, c| one(r == c));
            return (same.clone(), same);
        }
        // `parts`: queries, keys and values, each split into heads. `block`: elements per head (or per head's share of
        // the inner size). `units`: elements of the axis in the small model.
        let parts = if letter == 'Q' { 3 } else { 1 };
        let block = size / parts / if down { small } else { big };
        let units = parts * small * block;
        // The position of big unit `b` in the group of small unit `s`, if it is in it.
        let place = |s: usize, b: usize| {
            let [at, to] = [(s, small), (b, big)].map(|(u, heads)| (u / (heads * block), u / block % heads, u % block));
            let found = self.heads[at.1].iter().position(|&head| head == to.1);
            found.filter(|_| (at.0, at.2) == (to.0, to.2))
        };
        let group = |s: usize| self.heads[s / block % small].len();
        let (exact, seed) = (self.c.is("rules.width", "exact"), self.c.count("seed", 1) as u64);
        let random_share = |s: usize, k: usize| {
            part(seed, number, s, k) / (0..group(s)).map(|k| part(seed, number, s, k)).sum::<f64>()
        };
        let share = |s: usize, k: usize| if random { random_share(s, k) } else { 1.0 / group(s) as f64 };
        let table = matches!(p.name.as_str(), "tokens" | "positions" | "types") && !self.big.is("deit");
        let tied =
            matches!(p.name.as_str(), "last" | "last.bias") && self.big.is("gpt") && self.c.flag("model.tied", true);
        let weights = |s: usize, k: usize| match () {
            () if table && !exact && letter == 'E' => (2.0 / group(s) as f64, 0.5),
            () if letter.is_lowercase() || exact && (tied || p.name.starts_with("last_norm")) => (1.0, share(s, k)),
            () => (1.0 / group(s) as f64, 1.0),
        };
        let c = |s: usize, b: usize| place(s, b).map_or(0.0, |k| weights(s, k).0);
        let d = |b: usize, s: usize| place(s, b).map_or(0.0, |k| weights(s, k).1);
        (Mat::of(units, parts * big * block, c), Mat::of(parts * big * block, units, d))
    }
}
