//! A V-cycle and its scratch twin, as the lines of `metrics.jsonl` that they should leave.

use super::config::Config;
use super::data::{Batch, Data};
use super::graph::{Graph, Mat, Var};
use super::measures::measures;
use super::models::Model;
use super::operators::{Operators, Quantity};
use serde_json::{Value, json};

/// What AdamW keeps, and after how many updates.
#[derive(Clone)]
struct Moments {
    m: Vec<Mat>,
    v: Vec<Mat>,
    updates: i32,
}

/// Where a run stands.
#[derive(Clone, Copy, Default)]
struct Position {
    stage: usize,
    level: usize,
    step: usize,
    flops: usize,
    hardware: usize,
}

/// How a stage begins.
#[derive(Clone, Copy, PartialEq)]
enum Enter {
    Initialise,
    Coalesce,
    Interpolate,
}

pub struct Run<'a> {
    c: &'a Config,
    data: Data,
    models: Vec<Model>,
    /// Of each level, since it was trained last.
    states: Vec<Option<(Vec<Mat>, Moments)>>,
    at: Position,
    lines: Vec<Value>,
}

impl<'a> Run<'a> {
    pub fn new(c: &'a Config, data: Data) -> Run<'a> {
        let mut models = vec![Model::new(c, data.facts, c.count("model.layers", 0), c.count("model.heads", 0))];
        for level in 1..c.find("levels").and_then(toml::Value::as_array).map_or(0, Vec::len) {
            let above = &models[level - 1];
            let size = |key: &str, scheme: &str, above: usize| {
                let groups = c.read::<Vec<Vec<usize>>>(&format!("levels.{level}.{scheme}")).map(|groups| groups.len());
                c.count(&format!("levels.{level}.{key}"), groups.unwrap_or(above))
            };
            let sizes = (size("layers", "depth_scheme", above.layers), size("heads", "width_scheme", above.heads));
            models.push(Model::new(c, data.facts, sizes.0, sizes.1));
        }
        let states = models.iter().map(|_| None).collect();
        Run { c, data, models, states, at: Position::default(), lines: Vec::new() }
    }

    pub fn v_cycle(mut self) -> Vec<Value> {
        let last = self.models.len() - 1;
        for level in 0..last {
            self.stage(
                level,
                &format!("levels.{level}.before"),
                if level == 0 { Enter::Initialise } else { Enter::Coalesce },
            );
        }
        self.stage(last, &format!("levels.{last}.train"), if last == 0 { Enter::Initialise } else { Enter::Coalesce });
        for level in (0..last).rev() {
            self.stage(level, &format!("levels.{level}.train"), Enter::Interpolate);
        }
        self.line("summary", json!({}));
        self.lines
    }

    pub fn scratch(mut self) -> Vec<Value> {
        self.stage(0, "scratch", Enter::Initialise);
        self.line("summary", json!({}));
        self.lines
    }

    fn line(&mut self, event: &str, mut values: Value) {
        let Position { stage, level, step, flops, hardware } = self.at;
        let at = json!({ "event": event, "stage": stage, "level": level, "step": step, "flops": flops, "hardware_flops": hardware });
        values.as_object_mut().expect("an object").extend(at.as_object().expect("an object").clone());
        self.lines.push(values);
    }

    fn stage(&mut self, level: usize, key: &str, enter: Enter) {
        (self.at.stage, self.at.level) = (self.at.stage + 1, level + 1);
        let (mut params, mut moments) = self.enter(level, key, enter);
        let steps = self.c.count(&format!("{key}.steps"), 0);
        let model = &self.models[level];
        let count: usize = params.iter().map(|p| p.v.len()).sum();
        self.line(
            "stage",
            json!({ "steps": steps, "parameters": count, "layers": model.layers, "width": model.width }),
        );
        let mut loss = self.evaluate(level, &params);
        // The last stage ends when the target is reached.
        let target = self.c.number("train.target_loss", f64::NEG_INFINITY);
        let ends = (key == "levels.0.train" || key == "scratch").then_some(target);
        let (mut done, mut passes) = (0, 0);
        while done < steps && ends.is_none_or(|target| loss > target) {
            let mut evaluated = false;
            while done < steps && !evaluated {
                self.step(level, &mut params, &mut moments, self.rate(key, done), &mut passes);
                done += 1;
                evaluated = done % self.c.count("train.eval_every", 1) == 0;
            }
            loss = self.evaluate(level, &params);
        }
        self.states[level] = Some((params, moments));
    }

    /// The learning rate of a stage's step.
    fn rate(&self, key: &str, step: usize) -> f64 {
        let of = |name: &str, default: f64| self.c.number(&format!("{key}.{name}"), default);
        let is = |name: &str, word: &str| self.c.is(&format!("{key}.{name}"), word);
        // One schedule over this stage and the level's first one.
        let before =
            if is("schedule", "continue") { self.c.number(&key.replace("train", "before.steps"), 0.0) } else { 0.0 };
        let (step, steps) = (step as f64 + before, of("steps", 0.0) + before);
        let (lr, warmup, floor) = (of("lr", 0.0), of("warmup", 0.0), of("floor", 0.1));
        if step < warmup {
            return if is("optimizer", "rewarm") { 0.0 } else { lr * (step / warmup) };
        }
        let over = |start: f64| ((step - start) / (steps - start)).max(0.0);
        let left = match self.c.text(&format!("{key}.decay")).unwrap_or("cosine") {
            "constant" => return lr,
            "linear" => 1.0 - over(warmup),
            "wsd" => 1.0 - over((steps - (of("cooldown", 0.2) * steps).round()).max(warmup)),
            _ => 0.5 * (1.0 + (std::f64::consts::PI * over(warmup)).cos()),
        };
        lr * (floor + (1.0 - floor) * left)
    }

    fn step(&mut self, level: usize, params: &mut [Mat], moments: &mut Moments, lr: f64, passes: &mut u32) {
        let (c, model) = (self.c, &self.models[level]);
        let seed = c.count("seed", 1) + self.at.stage - 1;
        let whole = self.data.training(self.at.step as u64);
        let mut grads: Vec<Mat> = params.iter().map(|p| Mat::new(p.rows, p.cols)).collect();
        let mut loss = 0.0;
        let micro = c.count("train.accumulate", 1);
        for i in 0..micro {
            *passes += 1;
            let mut g = Graph::new(params, true, seed as u64, *passes);
            let (losses, _) = model.forward(&mut g, &whole.part(i, micro), &whole, c);
            loss += losses.iter().map(|&loss| g.values[loss].v[0]).sum::<f64>();
            grads.iter_mut().zip(g.backward(&losses)).for_each(|(sum, grad)| sum.add(&grad));
            self.at.flops += g.flops;
            self.at.hardware += g.flops + g.again;
        }
        let norm = grads.iter().flat_map(|g| &g.v).map(|g| g * g).sum::<f64>().sqrt();
        let adam = |key: &str, default: f64| c.number(&format!("optimizer.{key}"), default);
        let [b1, b2] = [adam("beta1", 0.9), adam("beta2", 0.95)];
        let (eps, decay) = (adam("eps", 1e-8), adam("weight_decay", 0.1));
        let clip = (adam("clip", 1.0) / (norm + 1e-6)).min(1.0);
        moments.updates += 1;
        // The device is told these three in f32.
        let [rate, bias1, bias2] =
            [lr, 1.0 - b1.powi(moments.updates), 1.0 - b2.powi(moments.updates)].map(|x| f64::from(x as f32));
        for (i, param) in model.params.iter().enumerate() {
            let decay = if param.decays { decay } else { 0.0 };
            for (e, p) in params[i].v.iter_mut().enumerate() {
                let (g, m, v) = (clip * grads[i].v[e], &mut moments.m[i].v[e], &mut moments.v[i].v[e]);
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *p = *p * (1.0 - rate * decay) - rate * (*m / bias1) / ((*v / bias2).sqrt() + eps);
            }
        }
        // Of the norm 2, of AdamW 14 for each element of memory.
        let update = 16 * model.params.iter().map(|p| p.space).sum::<usize>();
        self.at.step += 1;
        self.at.flops += update;
        self.at.hardware += update;
        self.line("step", json!({ "lr": lr, "loss": loss, "grad_norm": norm }));
    }

    /// Batches of a step.
    fn most(&self) -> usize {
        match self.c.count("train.eval_batches", 0) {
            0 => usize::MAX,
            n => n * self.c.count("train.accumulate", 1),
        }
    }

    /// Loss, scored labels, FLOPs, and scores beside each batch's labels.
    fn held_out(&mut self, level: usize, params: &[Mat], most: usize) -> (f64, usize, usize, Vec<(Mat, Batch)>) {
        let (mut total, mut count, mut flops, mut all) = (0.0, 0, 0, Vec::new());
        for index in 0..most {
            let Some((batch, scored)) = self.data.held_out(index) else { break };
            let mut g = Graph::new(params, false, 0, 0);
            let (losses, scores) = self.models[level].forward(&mut g, &batch, &batch, self.c);
            total += scored as f64 * losses.iter().map(|&loss| g.values[loss].v[0]).sum::<f64>();
            count += scored;
            flops += g.flops;
            let sum = |mut sum: Mat, &var: &Var| {
                sum.add(&g.values[var]);
                sum
            };
            if let Some((first, rest)) = scores.split_first() {
                all.push((rest.iter().fold(g.values[*first].clone(), sum), batch));
            }
        }
        (total / count as f64, count, flops, all)
    }

    fn evaluate(&mut self, level: usize, params: &[Mat]) -> f64 {
        let (loss, tokens, _, scores) = self.held_out(level, params, self.most());
        let mut values = json!({ "valid_loss": loss, "tokens": tokens });
        if let Some(measures) = measures(&scores, tokens) {
            values["measures"] = measures;
        }
        self.line("eval", values);
        loss
    }

    /// Weights and moments at the begin of a stage.
    fn enter(&mut self, level: usize, key: &str, enter: Enter) -> (Vec<Mat>, Moments) {
        let zeros = |params: &[Mat]| params.iter().map(|p| Mat::new(p.rows, p.cols)).collect::<Vec<_>>();
        let fresh = |params: &[Mat]| Moments { m: zeros(params), v: zeros(params), updates: 0 };
        let transfer = self.c.is(&format!("{key}.optimizer"), "transfer");
        let (params, moments, spent, name, alpha) = match enter {
            Enter::Initialise => {
                let params = self.models[level].initial(self.c.count("seed", 1) as u64);
                let moments = fresh(&params);
                return (params, moments);
            }
            Enter::Coalesce => {
                let operators = Operators::new(self.c, level, &self.models[level - 1], &self.models[level]);
                let (big, from) = self.states[level - 1].as_ref().expect("trained before");
                let params = operators.down(big, Quantity::Weights);
                let moments = match transfer {
                    true => Moments {
                        m: operators.down(&from.m, Quantity::Gradients),
                        v: operators.down(&from.v, Quantity::Squares),
                        updates: from.updates,
                    },
                    false => fresh(&params),
                };
                let spent = operators.flops(true) * if transfer { 3 } else { 1 };
                (params, moments, spent, "coalesce", None)
            }
            Enter::Interpolate => {
                let (big, own) = self.states[level].take().expect("trained before");
                let (small, from) = self.states[level + 1].take().expect("trained before");
                let fixed = self.c.find(&format!("levels.{}.alpha", level + 1)).and_then(toml::Value::as_float);
                let (alpha, searched) = fixed.map_or_else(|| self.search(level, &big, &small), |alpha| (alpha, 0));
                let operators = Operators::new(self.c, level + 1, &self.models[level], &self.models[level + 1]);
                let params = operators.up(&big, &small, alpha, Quantity::Weights);
                let moments = match transfer {
                    true => Moments {
                        m: operators.up(&own.m, &from.m, alpha, Quantity::Gradients),
                        v: operators.up(&own.v, &from.v, alpha, Quantity::Squares),
                        // Of those that weigh more.
                        updates: if alpha > 0.5 { from.updates } else { own.updates },
                    },
                    false => fresh(&params),
                };
                let spent = searched + operators.flops(false) * if transfer { 3 } else { 1 };
                (params, moments, spent, "interpolate", Some(alpha))
            }
        };
        self.at.flops += spent;
        self.at.hardware += spent;
        self.line("operator", json!({ "name": name, "flops_spent": spent, "alpha": alpha }));
        (params, moments)
    }

    /// Alpha by held-out loss: five points, then five golden sections around the best. Returns FLOPs too.
    fn search(&mut self, level: usize, big: &[Mat], small: &[Mat]) -> (f64, usize) {
        let (mut tried, mut spent): (Vec<(f64, f64)>, usize) = (Vec::new(), 0);
        let most = self.most().min(8 * self.c.count("train.accumulate", 1));
        let mut at = |alpha: f64| -> f64 {
            let operators = Operators::new(self.c, level + 1, &self.models[level], &self.models[level + 1]);
            let params = operators.up(big, small, alpha, Quantity::Weights);
            spent += operators.flops(false);
            let (loss, _, flops, _) = self.held_out(level, &params, most);
            spent += flops;
            tried.push((alpha, loss));
            loss
        };
        let grid = [0.0, 0.25, 0.5, 0.75, 1.0].map(|alpha| (at(alpha), alpha));
        let middle = grid.iter().fold(grid[0], |best, point| if point.0 < best.0 { *point } else { best }).1;
        let (mut low, mut high) = ((middle - 0.25).max(0.0), (middle + 0.25).min(1.0));
        let golden = (5f64.sqrt() - 1.0) / 2.0;
        // The inner points of the bracket; after a section one of them is known.
        let mut inner = [high - golden * (high - low), low + golden * (high - low)];
        let mut losses = inner.map(&mut at);
        for _ in 0..4 {
            if losses[0] <= losses[1] {
                (high, inner[1], losses[1]) = (inner[1], inner[0], losses[0]);
                inner[0] = high - golden * (high - low);
                losses[0] = at(inner[0]);
            } else {
                (low, inner[0], losses[0]) = (inner[0], inner[1], losses[1]);
                inner[1] = low + golden * (high - low);
                losses[1] = at(inner[1]);
            }
        }
        let alpha = tried.iter().fold(tried[0], |best, t| if t.1 < best.1 { *t } else { best }).0;
        self.line("search", json!({ "alpha": alpha, "tried": tried, "flops_spent": spent }));
        (alpha, spent)
    }
}
