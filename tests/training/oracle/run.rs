//! A V-cycle and its scratch run, as the lines of `metrics.jsonl` that they should write.

use super::data::Data;
use super::measures::measures;
use super::reference::batch::{Batch, NEXT, scored};
use super::reference::config::Config;
use super::reference::graph::{Graph, Mat};
use super::reference::models::Model;
use super::reference::operators::{Operators, Quantity};
use serde_json::{Value, json};

/// The weights, AdamW's moments, and the number of updates of the moments.
struct State {
    params: Vec<Mat>,
    m: Vec<Mat>,
    v: Vec<Mat>,
    updates: i32,
}

impl State {
    fn fresh(params: Vec<Mat>) -> State {
        let zeros: Vec<Mat> = params.iter().map(Mat::zeros).collect();
        State { params, m: zeros.clone(), v: zeros, updates: 0 }
    }
}

pub struct Run<'a> {
    c: &'a Config,
    data: Data,
    models: Vec<Model<'a>>,
    /// The state of each level after its latest stage.
    states: Vec<Option<State>>,
    stage: usize,
    level: usize,
    step: usize,
    flops: usize,
    hardware: usize,
    lines: Vec<Value>,
}

impl<'a> Run<'a> {
    pub fn new(c: &'a Config, data: Data) -> Run<'a> {
        let mut models = vec![Model::new(c, data.facts, c.count("model.layers", 0), c.count("model.heads", 0))];
        for level in (1..).take_while(|level| c.find(&format!("levels.{level}")).is_some()) {
            let size = |key: &str, scheme: &str, above: usize| {
                let groups: Option<Vec<Vec<usize>>> = c.read(&format!("levels.{level}.{scheme}"));
                c.count(&format!("levels.{level}.{key}"), groups.map_or(above, |groups| groups.len()))
            };
            let above = &models[level - 1];
            let layers = size("layers", "depth_scheme", above.layers);
            models.push(Model::new(c, data.facts, layers, size("heads", "width_scheme", above.heads)));
        }
        let states = models.iter().map(|_| None).collect();
        Run { c, data, models, states, stage: 0, level: 0, step: 0, flops: 0, hardware: 0, lines: Vec::new() }
    }

    /// Returns the lines of a V-cycle: down through all levels and up again.
    pub fn v_cycle(mut self) -> Vec<Value> {
        let last = self.models.len() - 1;
        (0..last).for_each(|level| self.stage(level, &format!("levels.{level}.before"), true));
        self.stage(last, &format!("levels.{last}.train"), true);
        (0..last).rev().for_each(|level| self.stage(level, &format!("levels.{level}.train"), false));
        self.line(json!({ "event": "summary" }));
        self.lines
    }

    pub fn scratch(mut self) -> Vec<Value> {
        self.stage(0, "scratch", true);
        self.line(json!({ "event": "summary" }));
        self.lines
    }

    fn line(&mut self, mut line: Value) {
        let at = [("stage", self.stage), ("level", self.level + 1), ("step", self.step), ("flops", self.flops)];
        at.iter().for_each(|(key, value)| line[key] = json!(value));
        line["hardware_flops"] = json!(self.hardware);
        self.lines.push(line);
    }

    fn spend(&mut self, flops: usize, recomputed: usize) {
        self.flops += flops;
        self.hardware += flops + recomputed;
    }

    fn stage(&mut self, level: usize, key: &str, down: bool) {
        (self.stage, self.level) = (self.stage + 1, level);
        let transfer = self.c.is(&format!("{key}.optimizer"), "transfer");
        let mut state = match (level, down) {
            (0, true) => State::fresh(self.models[0].initial(self.c.count("seed", 1) as u64)),
            (_, true) => self.coalesce(transfer),
            (_, false) => self.interpolate(transfer),
        };
        let (steps, model) = (self.c.count(&format!("{key}.steps"), 0), &self.models[level]);
        let parameters: usize = state.params.iter().map(|p| p.v.len()).sum();
        let (layers, width) = (model.layers, model.width);
        self.line(
            json!({ "event": "stage", "steps": steps, "parameters": parameters, "layers": layers, "width": width }),
        );
        let mut loss = self.evaluate(&state.params);
        // The last stage of level 1 ends at the target.
        let target = self.c.number("train.target_loss", f64::NEG_INFINITY);
        let target = if key == "scratch" || key == "levels.0.train" { target } else { f64::NEG_INFINITY };
        let (mut done, mut pass) = (0, 0);
        while done < steps && loss > target {
            self.train(&mut state, self.rate(key, done), &mut pass);
            done += 1;
            if done % self.c.count("train.eval_every", 1) == 0 || done == steps {
                loss = self.evaluate(&state.params);
            }
        }
        self.states[level] = Some(state);
    }

    /// Returns the learning rate of step `step` of the stage that `key` configures.
    fn rate(&self, key: &str, step: usize) -> f64 {
        let of = |name: &str, default: f64| self.c.number(&format!("{key}.{name}"), default);
        let text = |name: &str| self.c.text(&format!("{key}.{name}"));
        // With "continue", one schedule spans this stage and the level's first stage.
        let continues = text("schedule") == "continue";
        let before = if continues { self.c.number(&key.replace("train", "before.steps"), 0.0) } else { 0.0 };
        let (step, steps) = (step as f64 + before, of("steps", 0.0) + before);
        let (lr, warmup, floor) = (of("lr", 0.0), of("warmup", 0.0), of("floor", 0.1));
        if step < warmup {
            return if text("optimizer") == "rewarm" { 0.0 } else { lr * (step / warmup) };
        }
        let over = |start: f64| ((step - start) / (steps - start)).max(0.0);
        let left = match text("decay") {
            "constant" => return lr,
            "linear" => 1.0 - over(warmup),
            "wsd" => 1.0 - over((steps - (of("cooldown", 0.2) * steps).round()).max(warmup)),
            _ => (1.0 + (std::f64::consts::PI * over(warmup)).cos()) / 2.0,
        };
        lr * (floor + (1.0 - floor) * left)
    }

    /// Runs one step: gradients of the mean loss, accumulated over micro-batches, then AdamW.
    fn train(&mut self, state: &mut State, lr: f64, pass: &mut u32) {
        let (c, whole) = (self.c, self.data.training(self.step as u64));
        let seed = (c.count("seed", 1) + self.stage - 1) as u64;
        let (micro, mut loss) = (c.count("train.accumulate", 1), 0.0);
        let mut grads: Vec<Mat> = state.params.iter().map(Mat::zeros).collect();
        for i in 0..micro {
            *pass += 1;
            let mut g = Graph::new(&state.params, true, (seed, *pass));
            let (losses, _) = self.models[self.level].forward(&mut g, &whole.part(i, micro), &whole);
            loss += losses.iter().map(|&loss| g.values[loss].v[0]).sum::<f64>();
            grads.iter_mut().zip(g.backward(&losses)).for_each(|(sum, grad)| sum.add(&grad));
            self.spend(g.flops, g.recomputed);
        }
        let norm = grads.iter().flat_map(|g| &g.v).map(|g| g * g).sum::<f64>().sqrt();
        let adam = |key: &str, default: f64| c.number(&format!("optimizer.{key}"), default);
        let (b1, b2, eps) = (adam("beta1", 0.9), adam("beta2", 0.95), adam("eps", 1e-8));
        let (clip, decay) = ((adam("clip", 1.0) / (norm + 1e-6)).min(1.0), adam("weight_decay", 0.1));
        state.updates += 1;
        // The device receives these three as f32.
        let scalars = [lr, 1.0 - b1.powi(state.updates), 1.0 - b2.powi(state.updates)];
        let [rate, bias1, bias2] = scalars.map(|x| f64::from(x as f32));
        for (i, param) in self.models[self.level].params.iter().enumerate() {
            let keep = if param.decays { 1.0 - rate * decay } else { 1.0 };
            for (e, p) in state.params[i].v.iter_mut().enumerate() {
                let (g, m, v) = (clip * grads[i].v[e], &mut state.m[i].v[e], &mut state.v[i].v[e]);
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *p = *p * keep - rate * (*m / bias1) / ((*v / bias2).sqrt() + eps);
            }
        }
        // The gradient norm counts 2 FLOPs and AdamW 14 for each element of memory, padding included.
        self.spend(16 * self.models[self.level].params.iter().map(|p| p.space).sum::<usize>(), 0);
        self.step += 1;
        self.line(json!({ "event": "step", "lr": lr, "loss": loss, "grad_norm": norm }));
    }

    /// Returns the number of micro-batches in `batches` batches, or in `train.eval_batches` batches if that is fewer.
    fn max_micro_batches(&self, batches: usize) -> usize {
        let configured = self.c.count("train.eval_batches", 0);
        let batches = if configured == 0 { batches } else { batches.min(configured) };
        batches.saturating_mul(self.c.count("train.accumulate", 1))
    }

    /// Returns the loss, the number of scored labels, the FLOPs, and the scores of each batch (the sum of both heads'
    /// scores if there are two).
    fn held_out(&mut self, params: &[Mat], most: usize) -> (f64, usize, usize, Vec<(Mat, Batch)>) {
        let (mut totals, mut counts, mut flops, mut all) = ([0.0; 2], [0; 2], 0, Vec::new());
        for index in 0..most {
            let Some((batch, labels)) = self.data.held_out(index) else { break };
            let mut g = Graph::new(params, false, (0, 0));
            let (losses, scores) = self.models[self.level].forward(&mut g, &batch, &batch);
            for (i, &loss) in losses.iter().enumerate() {
                // The next-sentence loss is a mean over rows, not over scored tokens.
                let pairs = i == 1 && !batch.ints[NEXT].is_empty();
                let count = if pairs { scored(&batch.ints[NEXT]) } else { labels };
                totals[i] += count as f64 * g.values[loss].v[0];
                counts[i] += count;
            }
            flops += g.flops;
            let scores = scores.iter().map(|&score| g.values[score].clone());
            all.extend(scores.reduce(|a, b| a.with(&b, |a, b| a + b)).map(|scores| (scores, batch)));
        }
        (totals[0] / counts[0] as f64 + totals[1] / counts[1].max(1) as f64, counts[0], flops, all)
    }

    fn evaluate(&mut self, params: &[Mat]) -> f64 {
        let (loss, tokens, _, scores) = self.held_out(params, self.max_micro_batches(usize::MAX));
        let mut line = json!({ "event": "eval", "valid_loss": loss, "tokens": tokens });
        if let Some(measures) = measures(&scores, tokens) {
            line["measures"] = measures;
        }
        self.line(line);
        loss
    }

    fn operators(&self, below: usize) -> Operators<'_> {
        Operators::new(self.c, below, &self.models[below - 1], &self.models[below])
    }

    fn coalesce(&mut self, transfer: bool) -> State {
        let operators = self.operators(self.level);
        let big = self.states[self.level - 1].as_ref().expect("trained before");
        let mut state = State::fresh(operators.map(true, &big.params, Quantity::Weights));
        if transfer {
            state.m = operators.map(true, &big.m, Quantity::Gradients);
            state.v = operators.map(true, &big.v, Quantity::Squares);
            state.updates = big.updates;
        }
        let spent = operators.flops(true) * if transfer { 3 } else { 1 };
        self.spend(spent, 0);
        self.line(json!({ "event": "operator", "name": "coalesce", "flops_spent": spent, "alpha": null }));
        state
    }

    fn interpolate(&mut self, transfer: bool) -> State {
        let below = self.level + 1;
        let [big, small] = [self.level, below].map(|level| self.states[level].take().expect("trained before"));
        let fixed = self.c.find(&format!("levels.{below}.alpha")).and_then(toml::Value::as_float);
        let (alpha, searched) = fixed.map_or_else(|| self.search(&big.params, &small.params), |alpha| (alpha, 0));
        let operators = self.operators(below);
        let mut state = State::fresh(operators.up(&big.params, &small.params, alpha, Quantity::Weights));
        if transfer {
            state.m = operators.up(&big.m, &small.m, alpha, Quantity::Gradients);
            state.v = operators.up(&big.v, &small.v, alpha, Quantity::Squares);
            // The number of updates of whichever moments have the larger weight.
            state.updates = if alpha > 0.5 { small.updates } else { big.updates };
        }
        let spent = searched + operators.flops(false) * if transfer { 3 } else { 1 };
        self.spend(spent, 0);
        self.line(json!({ "event": "operator", "name": "interpolate", "flops_spent": spent, "alpha": alpha }));
        state
    }

    /// Searches for the alpha with the lowest held-out loss: five grid points, then a golden-section search around the
    /// best one. Returns alpha and the FLOPs spent.
    fn search(&mut self, big: &[Mat], small: &[Mat]) -> (f64, usize) {
        let (mut tried, mut spent): (Vec<(f64, f64)>, usize) = (Vec::new(), 0);
        let best = |tried: &[(f64, f64)]| tried.iter().fold(tried[0], |best, t| if t.1 < best.1 { *t } else { best }).0;
        let mut at = |alpha: f64| -> f64 {
            let operators = self.operators(self.level + 1);
            let (params, flops) = (operators.up(big, small, alpha, Quantity::Weights), operators.flops(false));
            let (loss, _, evaluated, _) = self.held_out(&params, self.max_micro_batches(8));
            spent += flops + evaluated;
            tried.push((alpha, loss));
            loss
        };
        let grid = [0.0, 0.25, 0.5, 0.75, 1.0].map(|alpha| (alpha, at(alpha)));
        let (mut low, mut high) = ((best(&grid) - 0.25).max(0.0), (best(&grid) + 0.25).min(1.0));
        // The two inner points of the bracket; each section keeps one of them.
        let golden = (5f64.sqrt() - 1.0) / 2.0;
        let inner = |low: f64, high: f64| [high - golden * (high - low), low + golden * (high - low)];
        let [mut left, mut right] = inner(low, high).map(|alpha| (alpha, at(alpha)));
        for _ in 1..5 {
            if left.1 <= right.1 {
                (high, right) = (right.0, left);
                left.0 = inner(low, high)[0];
                left.1 = at(left.0);
            } else {
                (low, left) = (left.0, right);
                right.0 = inner(low, high)[1];
                right.1 = at(right.0);
            }
        }
        let alpha = best(&tried);
        self.line(json!({ "event": "search", "alpha": alpha, "tried": tried, "flops_spent": spent }));
        (alpha, spent)
    }
}
