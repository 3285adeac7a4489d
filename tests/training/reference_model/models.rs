//! GPT, BERT and DeiT: their parameters and their forward passes.

use super::batch::{Batch, Facts, IDS, LABELS, MASK, NEXT, OTHERS, PATCHES, POSITIONS, SHARE, TYPES, VALUES, scored};
use super::config::Config;
use super::graph::{Graph, Mat, Var, one};
use super::random::normal;
use std::f64::consts::PI;

/// The parameters before, in and after the layers, in order, as pairs of a name and its axes. A letter is an axis: E
/// the residual stream, Q queries, keys and values, F the inner size of the feed-forward block, V vocabulary, P
/// positions, T types, K pixels, C classes. A lower-case letter is a fan-in axis. Two letters stand for a weight and
/// the bias of its fan-out axis, one letter for the weight and bias of a norm. A name with `=` is a single tensor.
const GPT: [&str; 3] = ["=tokens VE =positions PE", "norm_1 E qkv eQ proj eE norm_2 E fc eF out fE", "last E"];
const BERT: [&str; 3] =
    ["=tokens VE =positions PE =types TE first E", "qkv Qe proj Ee norm_1 E fc Fe out Ef norm_2 E", ""];
const DEIT: [&str; 3] =
    ["=tokens TE =positions PE =patches Ek", "norm_1 E qkv Qe proj Ee norm_2 E fc Fe out Ef", "last E head Ce"];

pub struct Param {
    pub name: String,
    pub layer: Option<usize>,
    /// The letter and size of each axis.
    pub axes: Vec<(char, usize)>,
    /// The mean of the initial values.
    pub constant: f64,
    /// The standard deviation of the initial values.
    deviation: f64,
    pub decays: bool,
    /// Elements in memory, padding included: rows are padded to a multiple of 8 elements, the number of rows of a
    /// vocabulary to a multiple of 128, and the whole to a multiple of 64 elements.
    pub space: usize,
}

impl Param {
    pub fn shape(&self) -> (usize, usize) {
        if let [rows, cols] = self.axes[..] { (rows.1, cols.1) } else { (1, self.axes[0].1) }
    }
}

pub struct Model<'a> {
    c: &'a Config,
    facts: Facts,
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub params: Vec<Param>,
    /// Whether BERT predicts masked tokens.
    masked: bool,
    /// Whether BERT classifies sequences, or pairs in pre-training.
    classified: bool,
    /// Whether BERT has post-norms.
    pub post: bool,
    /// Tokens of a sequence or image.
    time: usize,
    /// Class and distillation tokens of an image.
    specials: usize,
}

impl<'a> Model<'a> {
    pub fn new(c: &'a Config, facts: Facts, layers: usize, heads: usize) -> Model<'a> {
        let (labelled, pairs) = (c.find("data.task").is_some(), c.flag("masking.next_sentence", false));
        let [gpt, bert] = ["gpt", "bert"].map(|family| c.is("model.family", family));
        let specials = 1 + usize::from(c.flag("model.distilled", false));
        let patches = (c.count("model.image", 0) / c.count("model.patch", 1)).pow(2);
        let (time, params) = (if gpt || bert { facts.context } else { specials + patches }, Vec::new());
        let (width, post) = (heads * c.count("model.head_size", 0), bert && !c.is("model.norm", "pre"));
        let (masked, classified) = (bert && !labelled, bert && (labelled || pairs));
        let mut model = Model { c, facts, layers, heads, width, params, masked, classified, post, time, specials };
        let [before, layer, after] = if gpt {
            GPT
        } else if bert {
            BERT
        } else {
            DEIT
        };
        model.push(before, None);
        (0..layers).for_each(|number| model.push(layer, Some(number)));
        model.push(after, None);
        let rest = [
            ("=head Ve", gpt && !c.flag("model.tied", true)),
            ("last E", bert && !post),
            ("pooler Ee", classified),
            ("=scores V transform Ee last_norm E", masked),
            ("classes Ce", classified),
            ("head_2 Ce", specials > 1),
        ];
        rest.iter().filter(|rest| rest.1).for_each(|rest| model.push(rest.0, None));
        model
    }

    pub fn is(&self, family: &str) -> bool {
        self.c.is("model.family", family)
    }

    fn push(&mut self, list: &str, layer: Option<usize>) {
        let words: Vec<&str> = list.split_whitespace().collect();
        for pair in words.chunks(2) {
            let (name, all) = (pair[0].trim_start_matches('='), pair[1]);
            let produced: String = all.chars().filter(char::is_ascii_uppercase).collect();
            self.param(name, layer, all, one(all.len() == 1 && pair[0] == name));
            if pair[0] == name {
                self.param(&format!("{name}.bias"), layer, &produced, 0.0);
            }
        }
    }

    fn param(&mut self, name: &str, layer: Option<usize>, axes: &str, constant: f64) {
        let Facts { vocab, classes, channels, .. } = self.facts;
        let deit = self.is("deit");
        let size = |letter: char| match letter.to_ascii_uppercase() {
            'E' => self.width,
            'Q' => 3 * self.width,
            'F' => 4 * self.width,
            'V' => vocab,
            'P' => self.time,
            'T' if deit => 1 + self.specials,
            'K' => channels * self.c.count("model.patch", 0).pow(2),
            'C' if !self.masked => classes,
            _ => 2,
        };
        let axes: Vec<(char, usize)> = axes.chars().map(|letter| (letter, size(letter))).collect();
        let (matrix, branch) = (axes.len() > 1, self.is("gpt") && matches!(name, "proj" | "out"));
        let std = self.c.number("model.init_std", 0.02) / if branch { (2.0 * self.layers as f64).sqrt() } else { 1.0 };
        let (deviation, decays) = (if matrix { std } else { 0.0 }, matrix && !(deit && axes[1] == ('E', self.width)));
        let (name, rows) = (name.to_owned(), if matrix { axes[0].1 } else { 1 });
        let rows = if matrix && axes[0].0 == 'V' { rows.next_multiple_of(128) } else { rows };
        let cols = axes[axes.len() - 1].1;
        let space = (rows * if matrix { cols.next_multiple_of(8) } else { cols }).next_multiple_of(64);
        self.params.push(Param { name, layer, axes, constant, deviation, decays, space });
    }

    pub fn initial(&self, seed: u64) -> Vec<Mat> {
        let each = |(i, p): (usize, &Param)| {
            let (rows, cols) = p.shape();
            Mat::of(rows, cols, |r, c| p.constant + p.deviation * normal(seed, i, r * cols + c))
        };
        self.params.iter().enumerate().map(each).collect()
    }

    fn at(&self, name: &str, layer: Option<usize>) -> Var {
        self.params.iter().position(|p| p.name == name && p.layer == layer).unwrap_or_else(|| panic!("no {name}"))
    }

    fn linear(&self, g: &mut Graph, x: Var, name: &str, layer: Option<usize>) -> Var {
        let at = self.at(name, layer);
        let y = g.product(x, at, !self.is("gpt"));
        g.bias(y, at + 1)
    }

    fn norm(&self, g: &mut Graph, x: Var, name: &str, layer: Option<usize>) -> Var {
        let eps = if self.is("gpt") {
            1e-5
        } else if self.is("bert") {
            1e-12
        } else {
            1e-6
        };
        g.layernorm(x, self.at(name, layer), eps)
    }

    fn dropout(&self) -> f32 {
        self.c.number("model.dropout", 0.0) as f32
    }

    /// Computes `x + drop(branch)`. Without dropout, the preceding matmul adds `x` in its epilogue.
    fn join(&self, g: &mut Graph, branch: Var, x: Var, number: usize) -> Var {
        let last = self.c.number("model.drop_path", 0.0) as f32;
        let path = last * number as f32 / (self.layers - 1).max(1) as f32;
        let dropped = g.dropout(branch, self.dropout(), 1);
        let dropped = g.dropout(dropped, path, self.time * self.width);
        g.sum(dropped, x, dropped != branch)
    }

    fn block(&self, g: &mut Graph, x: Var, number: usize, mask: &[i32]) -> Var {
        let (layer, gpt, bert) = (Some(number), self.is("gpt"), self.is("bert"));
        let norm = |g: &mut Graph, x, name, here| if here { self.norm(g, x, name, layer) } else { x };
        let a = norm(g, x, "norm_1", !self.post);
        let a = self.linear(g, a, "qkv", layer);
        let dropout = if gpt || bert { self.dropout() } else { 0.0 };
        let a = g.attention(a, (self.time, self.heads), gpt, bert.then_some(mask), dropout);
        let a = self.linear(g, a, "proj", layer);
        let x = self.join(g, a, x, number);
        let x = norm(g, x, "norm_1", self.post);
        let m = norm(g, x, "norm_2", !self.post);
        let m = self.linear(g, m, "fc", layer);
        let m = g.activate(m, if gpt { gelu_tanh } else { gelu_erf });
        let m = self.linear(g, m, "out", layer);
        let x = self.join(g, m, x, number);
        norm(g, x, "norm_2", self.post)
    }

    fn embed(&self, g: &mut Graph, batch: &Batch) -> Var {
        let all: Vec<usize> = (0..self.facts.micro * self.time).collect();
        let ids = |which: usize| batch.ints[which].iter().map(|&id| id as usize).collect::<Vec<_>>();
        // Row 0 of the table is the bias of patches; the special tokens follow.
        let kind = |row: &usize| if row % self.time < self.specials { row % self.time + 1 } else { 0 };
        let tokens = if self.is("deit") { all.iter().map(kind).collect() } else { ids(IDS) };
        let x = g.gather(0, &tokens, self.is("bert").then_some(self.facts.pad));
        let positions: Vec<usize> = all.iter().map(|row| row % self.time).collect();
        let positions = g.gather(1, &positions, None);
        let mut x = g.sum(x, positions, true);
        if self.is("bert") {
            let types = g.gather(2, &ids(TYPES), None);
            x = g.sum(x, types, true);
            x = self.norm(g, x, "first", None);
        }
        if self.is("deit") {
            let v: Vec<f64> = batch.floats[PATCHES].iter().map(|&x| f64::from(x)).collect();
            let patches = g.constant(Mat { rows: all.len(), cols: v.len() / all.len(), v });
            let patches = g.product(patches, 2, true);
            x = g.sum(patches, x, false);
        }
        g.dropout(x, self.dropout(), 1)
    }

    /// Returns the losses, whose sum is minimised, and the scores of labelled examples. `batch` is a part of `whole`;
    /// the losses are means over the scored items of `whole`.
    pub fn forward(&self, g: &mut Graph, batch: &Batch, whole: &Batch) -> (Vec<Var>, Vec<Var>) {
        let mut x = self.embed(g, batch);
        for number in 0..self.layers {
            let recompute = self.c.flag("train.recompute", false);
            x = g.block(recompute, |g| self.block(g, x, number, &batch.ints[MASK]));
        }
        if !self.post {
            x = self.norm(g, x, "last", None);
        }
        // One row of target probabilities per label, multiplied by the label's weight in the mean.
        let target = |which: usize, classes: usize, smoothing: f64, heads: usize| {
            let (labels, share) = (&batch.ints[which], &batch.floats[SHARE]);
            let weight = 1.0 / (heads * scored(&whole.ints[which]).max(1)) as f64;
            let part = |r: usize| share.get(r).map_or(1.0, |share| f64::from(*share));
            let other = |r: usize| *batch.ints[OTHERS].get(r).unwrap_or(&labels[r]);
            let onehot = |r, c| part(r) * one(labels[r] == c) + (1.0 - part(r)) * one(other(r) == c);
            let target_share =
                |r: usize, c: usize| smoothing / classes as f64 + (1.0 - smoothing) * onehot(r, c as i32);
            Mat::of(labels.len(), classes, |r, c| if labels[r] < 0 { 0.0 } else { weight * target_share(r, c) })
        };
        // The rows of the token at position `number` of each example.
        let token = |number: usize| (0..self.facts.micro).map(|row| row * self.time + number).collect::<Vec<_>>();
        let Facts { vocab, classes, .. } = self.facts;
        let (mut losses, mut scores) = (Vec::new(), Vec::new());
        if self.is("gpt") {
            let head = if self.c.flag("model.tied", true) { 0 } else { self.at("head", None) };
            let y = g.product(x, head, true);
            losses.push(g.cross_entropy(y, target(LABELS, vocab, 0.0, 1)));
        }
        if self.is("deit") {
            let smoothing = if g.training { self.c.number("train.label_smoothing", 0.0) } else { 0.0 };
            for (number, head) in ["head", "head_2"][..self.specials].iter().enumerate() {
                let y = g.gather(x, &token(number), None);
                scores.push(self.linear(g, y, head, None));
                losses.push(g.cross_entropy(scores[number], target(LABELS, classes, smoothing, self.specials)));
            }
        }
        if self.masked {
            let positions: Vec<usize> = batch.ints[POSITIONS].iter().map(|&at| at as usize).collect();
            let y = g.gather(x, &positions, None);
            let y = self.linear(g, y, "transform", None);
            let y = g.activate(y, gelu_erf);
            let y = self.norm(g, y, "last_norm", None);
            let y = g.product(y, 0, true);
            let y = g.bias(y, self.at("scores", None));
            losses.push(g.cross_entropy(y, target(LABELS, vocab, 0.0, 1)));
        }
        if self.classified {
            let y = g.gather(x, &token(0), None);
            let y = self.linear(g, y, "pooler", None);
            let y = g.activate(y, |x| [x.tanh(), 1.0 - x.tanh() * x.tanh()]);
            let y = g.dropout(y, self.dropout(), 1);
            let y = self.linear(g, y, "classes", None);
            let values = |v: &[f32]| Mat { rows: v.len(), cols: 1, v: v.iter().map(|&x| f64::from(x)).collect() };
            losses.push(match (self.masked, classes) {
                (true, _) => g.cross_entropy(y, target(NEXT, 2, 0.0, 1)),
                (_, 1) => {
                    let count: f64 = whole.floats[VALUES].iter().map(|x| one(!x.is_nan())).sum();
                    let given = values(&batch.floats[VALUES]);
                    let weights = given.map(|x| one(!x.is_nan()) / count);
                    g.squared_error(y, given.map(|x| if x.is_nan() { 0.0 } else { x }), weights)
                }
                _ => g.cross_entropy(y, target(LABELS, classes, 0.0, 1)),
            });
            scores.extend((!self.masked).then_some(y));
        }
        (losses, scores)
    }
}

fn gelu_tanh(x: f64) -> [f64; 2] {
    let t = ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh();
    let slope = (1.0 - t * t) * (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
    [x * (1.0 + t) / 2.0, (1.0 + t + x * slope) / 2.0]
}

/// Computes x times the standard normal distribution function: 1/2 + density (x + x^3/3 + x^5/(3 5) + ...).
fn gelu_erf(x: f64) -> [f64; 2] {
    let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
    let (mut term, mut sum, mut n) = (x, 0.0, 1.0);
    while term.abs() > 1e-18 {
        sum += term;
        n += 2.0;
        term *= x * x / n;
    }
    let below = 0.5 + density * sum;
    [x * below, below + x * density]
}
