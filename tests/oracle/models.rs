//! GPT, BERT and DeiT: which parameters they have, and what they compute.

use super::config::Config;
use super::data::{Batch, Facts, scored};
use super::graph::{Activation, Attend, Graph, Mat, Target, Var};
use super::random::normal;

/// One axis of a parameter.
#[derive(Clone, Copy)]
pub struct Axis {
    pub size: usize,
    /// Equal parts that each fall into heads: 3 of fused queries, keys and values; 0 where nothing does.
    pub parts: usize,
    /// It consumes what it stands for.
    pub input: bool,
}

/// What the rules of the operators ask.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Plain,
    Embedding,
    /// The norm before a tied head.
    HeadNorm,
    /// Norms of post-LN layers: after attention, and at the end.
    InnerNorm,
    OutputNorm,
    /// What a residual branch adds.
    Branch,
}

pub struct Param {
    pub name: String,
    pub layer: Option<usize>,
    /// A vector has one.
    pub axes: Vec<Axis>,
    pub kind: Kind,
    /// Initial values: this, and normal numbers of this deviation.
    pub constant: f64,
    deviation: f64,
    pub decays: bool,
    /// Elements of its memory: rows of a multiple of 8, of a vocabulary 128 rows at a time, 64 elements at a time.
    pub space: usize,
}

impl Param {
    pub fn shape(&self) -> (usize, usize) {
        if let [rows, cols] = self.axes[..] { (rows.size, cols.size) } else { (1, self.axes[0].size) }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Gpt,
    Bert,
    Deit,
}

pub struct Model {
    family: Family,
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub params: Vec<Param>,
    facts: Facts,
    std: f64,
    dropout: f32,
    drop_path: f32,
    tied: bool,
    post: bool,
    labelled: bool,
    pairs: bool,
    /// Of an image.
    tokens: usize,
    specials: usize,
}

/// Axes.
fn out(size: usize) -> Axis {
    Axis { size, parts: 1, input: false }
}

fn input(size: usize) -> Axis {
    Axis { input: true, ..out(size) }
}

fn rows(size: usize) -> Axis {
    Axis { parts: 0, ..out(size) }
}

impl Model {
    pub fn new(c: &Config, facts: Facts, layers: usize, heads: usize) -> Model {
        let family = match c.text("model.family") {
            Some("gpt") => Family::Gpt,
            Some("bert") => Family::Bert,
            _ => Family::Deit,
        };
        let specials = 1 + usize::from(c.flag("model.distilled", false));
        let patches = (c.count("model.image", 0) / c.count("model.patch", 1)).pow(2);
        let mut model = Model {
            family,
            layers,
            heads,
            width: heads * c.count("model.head_size", 0),
            params: Vec::new(),
            facts,
            std: c.number("model.init_std", 0.02),
            dropout: c.number("model.dropout", 0.0) as f32,
            drop_path: c.number("model.drop_path", 0.0) as f32,
            tied: c.flag("model.tied", true),
            post: family == Family::Bert && !c.is("model.norm", "pre"),
            labelled: c.find("data.task").is_some(),
            pairs: c.flag("masking.next_sentence", false),
            tokens: specials + patches,
            specials,
        };
        match family {
            Family::Gpt => model.gpt(),
            Family::Bert => model.bert(),
            Family::Deit => model.deit(facts.channels * c.count("model.patch", 0).pow(2)),
        }
        model
    }

    fn push(&mut self, name: String, layer: Option<usize>, axes: &[Axis], kind: Kind, [constant, deviation]: [f64; 2]) {
        let (axes, decays) = (axes.to_vec(), axes.len() > 1);
        let mut param = Param { name, layer, axes, kind, constant, deviation, decays, space: 0 };
        let (rows, cols) = param.shape();
        let is_vocab = decays && rows == self.facts.vocab && param.axes[0].parts == 0;
        let rows = if is_vocab { rows.next_multiple_of(128) } else { rows };
        param.space = (rows * if decays { cols.next_multiple_of(8) } else { cols }).next_multiple_of(64);
        self.params.push(param);
    }

    fn table(&mut self, name: &str, count: usize, kind: Kind) {
        self.push(name.to_owned(), None, &[rows(count), out(self.width)], kind, [0.0, self.std]);
    }

    fn norm(&mut self, name: &str, layer: Option<usize>, kind: Kind) {
        for (part, value) in [("weight", 1.0), ("bias", 0.0)] {
            self.push(format!("{name}.{part}"), layer, &[out(self.width)], kind, [value, 0.0]);
        }
    }

    /// Weight and bias. GPT's weights are `[in, out]`, the others' `[out, in]`.
    fn dense(&mut self, name: &str, layer: Option<usize>, [to, from]: [Axis; 2], kind: Kind) {
        let is_gpt = self.family == Family::Gpt;
        let std = if is_gpt && kind == Kind::Branch { self.std / (2.0 * self.layers as f64).sqrt() } else { self.std };
        let axes = if is_gpt { [from, to] } else { [to, from] };
        self.push(format!("{name}.weight"), layer, &axes, kind, [0.0, std]);
        self.push(format!("{name}.bias"), layer, &[to], kind, [0.0, 0.0]);
    }

    fn layer(&mut self, number: usize) {
        let (layer, width) = (Some(number), self.width);
        let kinds = if self.post { [Kind::InnerNorm, Kind::OutputNorm] } else { [Kind::Plain; 2] };
        let norms_first = self.family != Family::Bert;
        let qkv = Axis { size: 3 * width, parts: 3, input: false };
        for (half, first, second) in [(0, qkv, input(width)), (1, out(4 * width), input(4 * width))] {
            if norms_first {
                self.norm(["norm_1", "norm_2"][half], layer, kinds[half]);
            }
            self.dense(["qkv", "fc"][half], layer, [first, input(width)], Kind::Plain);
            self.dense(["proj", "out"][half], layer, [out(width), second], Kind::Branch);
            if !norms_first {
                self.norm(["norm_1", "norm_2"][half], layer, kinds[half]);
            }
        }
    }

    fn gpt(&mut self) {
        self.table("tokens", self.facts.vocab, Kind::Embedding);
        self.table("positions", self.facts.context, Kind::Embedding);
        (0..self.layers).for_each(|number| self.layer(number));
        self.norm("last", None, if self.tied { Kind::HeadNorm } else { Kind::Plain });
        if !self.tied {
            let axes = [rows(self.facts.vocab), input(self.width)];
            self.push("head".to_owned(), None, &axes, Kind::Plain, [0.0, self.std]);
        }
    }

    fn bert(&mut self) {
        let square = [out(self.width), input(self.width)];
        self.table("tokens", self.facts.vocab, Kind::Embedding);
        self.table("positions", self.facts.context, Kind::Embedding);
        self.table("types", 2, Kind::Embedding);
        self.norm("first", None, Kind::Plain);
        (0..self.layers).for_each(|number| self.layer(number));
        if !self.post {
            self.norm("last", None, Kind::Plain);
        }
        if self.labelled || self.pairs {
            self.dense("pooler", None, square, Kind::Plain);
        }
        if !self.labelled {
            self.push("scores.bias".to_owned(), None, &[rows(self.facts.vocab)], Kind::Plain, [0.0, 0.0]);
            self.dense("transform", None, square, Kind::Plain);
            self.norm("transform.norm", None, Kind::HeadNorm);
        }
        if self.labelled || self.pairs {
            let classes = if self.labelled { self.facts.classes } else { 2 };
            self.dense("classes", None, [rows(classes), input(self.width)], Kind::Plain);
        }
    }

    fn deit(&mut self, pixels: usize) {
        // The bias of the patches, the class token, the distillation token.
        self.table("tokens", 1 + self.specials, Kind::Plain);
        self.table("positions", self.tokens, Kind::Plain);
        self.params.iter_mut().for_each(|table| table.decays = false);
        let axes = [out(self.width), Axis { input: true, ..rows(pixels) }];
        self.push("patches".to_owned(), None, &axes, Kind::Plain, [0.0, self.std]);
        (0..self.layers).for_each(|number| self.layer(number));
        self.norm("last", None, Kind::Plain);
        for name in &["head", "head_2"][..self.specials] {
            self.dense(name, None, [rows(self.facts.classes), input(self.width)], Kind::Plain);
        }
    }

    pub fn initial(&self, seed: u64) -> Vec<Mat> {
        let each = |(i, p): (usize, &Param)| {
            let (rows, cols) = p.shape();
            let value = |r: usize, c: usize| match p.deviation {
                0.0 => p.constant,
                std => std * normal(seed, i as u32, (r * cols + c) as u64),
            };
            Mat::of(rows, cols, value)
        };
        self.params.iter().enumerate().map(each).collect()
    }

    fn at(&self, name: &str) -> Var {
        self.params.iter().position(|p| p.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn eps(&self) -> f64 {
        [1e-5, 1e-12, 1e-6][self.family as usize]
    }

    fn linear(&self, g: &mut Graph, x: Var, weight: Var) -> Var {
        let y = g.matmul(x, weight, self.family != Family::Gpt);
        g.bias(y, weight + 1)
    }

    /// `x + drop(branch)`. A product adds x on its way where nothing is dropped.
    fn join(&self, g: &mut Graph, branch: Var, x: Var, number: usize) -> Var {
        let path = self.drop_path * number as f32 / (self.layers - 1).max(1) as f32;
        let dropped = g.dropout(branch, self.dropout, 1);
        let sample = self.tokens * self.width;
        let dropped = if self.family == Family::Deit { g.dropout(dropped, path, sample) } else { dropped };
        g.add(dropped, x, dropped != branch)
    }

    fn block(&self, g: &mut Graph, x: Var, number: usize, mask: Option<Vec<i32>>) -> Var {
        let start = self.params.iter().position(|p| p.layer == Some(number)).expect("a layer");
        let [norm_1, qkv, proj, norm_2, fc, out] =
            if self.family == Family::Bert { [4, 0, 2, 10, 6, 8] } else { [0, 2, 4, 6, 8, 10] }.map(|at| start + at);
        let norm = |g: &mut Graph, x, at: Var, here| if here { g.layernorm(x, [at, at + 1], self.eps()) } else { x };
        let a = norm(g, x, norm_1, !self.post);
        let a = self.linear(g, a, qkv);
        let (time, causal) = (self.time(), self.family == Family::Gpt);
        let dropout = if self.family == Family::Deit { 0.0 } else { self.dropout };
        let a = g.attention(a, Attend { time, heads: self.heads, causal, mask, dropout });
        let a = self.linear(g, a, proj);
        let x = self.join(g, a, x, number);
        let x = norm(g, x, norm_1, self.post);
        let m = norm(g, x, norm_2, !self.post);
        let m = self.linear(g, m, fc);
        let m = g.activate(m, if self.family == Family::Gpt { Activation::GeluTanh } else { Activation::GeluErf });
        let m = self.linear(g, m, out);
        let x = self.join(g, m, x, number);
        norm(g, x, norm_2, self.post)
    }

    /// Tokens of a sequence or an image.
    fn time(&self) -> usize {
        if self.family == Family::Deit { self.tokens } else { self.facts.context }
    }

    fn embed(&self, g: &mut Graph, batch: &Batch) -> Var {
        let (time, rows) = (self.time(), self.facts.micro * self.time());
        let whole = |ids: &[i32]| ids.iter().map(|&id| id as usize).collect::<Vec<_>>();
        let kind = |row: usize| if row % time < self.specials { row % time + 1 } else { 0 };
        let x = match self.family {
            Family::Deit => g.gather(0, (0..rows).map(kind).collect(), None),
            Family::Gpt => g.gather(0, whole(&batch.ids), None),
            Family::Bert => g.gather(0, whole(&batch.ids), Some(self.facts.pad)),
        };
        let positions = g.gather(1, (0..rows).map(|row| row % time).collect(), None);
        let mut x = g.add(x, positions, true);
        if self.family == Family::Bert {
            let types = g.gather(2, whole(&batch.types), None);
            x = g.add(x, types, true);
            x = g.layernorm(x, [3, 4], self.eps());
        }
        if self.family == Family::Deit {
            let v: Vec<f64> = batch.patches.iter().map(|&x| f64::from(x)).collect();
            let patches = g.constant(Mat { rows, cols: v.len() / rows, v });
            let patches = g.matmul(patches, 2, true);
            x = g.add(patches, x, false);
        }
        g.dropout(x, self.dropout, 1)
    }

    /// Losses, which add up to what is minimised, and scores of examples with labels. `batch` is a part of `whole`, over
    /// whose scored items the losses are means.
    pub fn forward(&self, g: &mut Graph, batch: &Batch, whole: &Batch, c: &Config) -> (Vec<Var>, Vec<Var>) {
        let recompute = c.flag("train.recompute", false);
        let mut x = self.embed(g, batch);
        for number in 0..self.layers {
            let mask = (self.family == Family::Bert).then(|| batch.mask.clone());
            x = g.block(recompute, |g| self.block(g, x, number, mask));
        }
        if !self.post {
            let last = self.at("last.weight");
            x = g.layernorm(x, [last, last + 1], self.eps());
        }
        let weight = 1.0 / scored(&whole.labels).max(1) as f64;
        let target = Target { labels: batch.labels.clone(), weight, ..Target::default() };
        // The token of each example with this number.
        let token = |number: usize| (0..self.facts.micro).map(|row| row * self.time() + number).collect::<Vec<_>>();
        let (mut losses, mut scores) = (Vec::new(), Vec::new());
        match self.family {
            Family::Gpt => {
                let y = g.matmul(x, if self.tied { 0 } else { self.at("head") }, true);
                losses.push(g.cross_entropy(y, target));
            }
            Family::Deit => {
                let smoothing = if g.training { c.number("train.label_smoothing", 0.0) } else { 0.0 };
                for (number, head) in ["head.weight", "head_2.weight"][..self.specials].iter().enumerate() {
                    let y = g.gather(x, token(number), None);
                    scores.push(self.linear(g, y, self.at(head)));
                    let others = Some((batch.others.clone(), batch.share.clone()));
                    let weight = weight / self.specials as f64;
                    losses
                        .push(g.cross_entropy(scores[number], Target { others, smoothing, weight, ..target.clone() }));
                }
            }
            Family::Bert => {
                if !self.labelled {
                    let y = g.gather(x, batch.positions.iter().map(|&at| at as usize).collect(), None);
                    let at = self.at("transform.weight");
                    let y = self.linear(g, y, at);
                    let y = g.activate(y, Activation::GeluErf);
                    let y = g.layernorm(y, [at + 2, at + 3], self.eps());
                    let y = g.matmul(y, 0, true);
                    let y = g.bias(y, self.at("scores.bias"));
                    losses.push(g.cross_entropy(y, target.clone()));
                }
                if self.labelled || self.pairs {
                    let y = g.gather(x, token(0), None);
                    let y = self.linear(g, y, self.at("pooler.weight"));
                    let y = g.activate(y, Activation::Tanh);
                    let y = g.dropout(y, self.dropout, 1);
                    let y = self.linear(g, y, self.at("classes.weight"));
                    if self.labelled && self.facts.classes == 1 {
                        let count = whole.values.iter().filter(|value| !value.is_nan()).count().max(1);
                        losses.push(g.squared_error(y, batch.values.clone(), 1.0 / count as f64));
                    } else if self.labelled {
                        losses.push(g.cross_entropy(y, target));
                    } else {
                        let weight = 1.0 / scored(&whole.next).max(1) as f64;
                        losses.push(g.cross_entropy(y, Target { labels: batch.next.clone(), weight, ..target }));
                    }
                    scores.extend(self.labelled.then_some(y));
                }
            }
        }
        (losses, scores)
    }
}
