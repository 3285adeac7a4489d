//! A tape on the f64 reference device, and its gradients against finite differences.

use crate::gradients::support::{Random, floats, integers, state};
use vcycle::device::ops::StepState;
use vcycle::device::reference::Reference;
use vcycle::device::{Device, read_floats, read_scalar, write_floats};
use vcycle::tape::{Affine, LossOptions, Mode, Tape, Var};
use vcycle::tensor::{DType, Place, Tensor};

/// Step of the central differences.
const STEP: f64 = 1e-5;

/// Central differences are off by step^2 / 6 times the third derivative (up to about 100 here: 2e-9) and by the loss's
/// rounding over the step: 100 eps / 1e-5 = 2e-9.
const ABSOLUTE: f64 = 1e-8;
const RELATIVE: f64 = 1e-7;

/// Total loss and the gradient of every parameter.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub loss: f64,
    pub gradients: Vec<Vec<f64>>,
}

/// Records a step from parameters and inputs; gives its losses.
pub trait Record: Fn(&mut Tape, &[Var], &[Var]) -> Vec<Var> {}

impl<F: Fn(&mut Tape, &[Var], &[Var]) -> Vec<Var>> Record for F {}

pub struct Rig {
    pub device: Reference,
    pub tape: Tape,
    pub random: Random,
    /// Values and gradients.
    pub params: Vec<(Tensor, Tensor)>,
    pub inputs: Vec<Tensor>,
}

impl Rig {
    pub fn new(seed: u64) -> Self {
        let mut device = Reference::default();
        let state = state(&mut device, &StepState { step: 3, ..StepState::with_seed(seed) });
        let tape = Tape::new(device.float(), state);
        Rig { device, tape, random: Random::new(seed), params: Vec::new(), inputs: Vec::new() }
    }

    /// A rig with random parameters of these dimensions.
    pub fn with(seed: u64, params: &[&[usize]]) -> Self {
        let mut rig = Rig::new(seed);
        params.iter().for_each(|dims| rig.param(dims, 0));
        rig
    }

    /// A parameter, rows `pad` elements more than their width apart.
    pub fn param(&mut self, dims: &[usize], pad: usize) {
        let (width, rest) = dims.split_last().expect("dimensions");
        let wide: Vec<usize> = rest.iter().copied().chain([width + pad]).collect();
        let values = self.random.floats(wide.iter().product());
        let [value, gradient] = [&values, &vec![f64::NAN; values.len()]]
            .map(|values| floats(&mut self.device, &wide, values).columns(0, *width));
        self.params.push((value, gradient));
    }

    /// Ids or labels below a bound.
    pub fn ids(&mut self, dims: &[usize], below: usize) {
        let values = self.random.ids(dims.iter().product(), below);
        self.integers(dims, &values);
    }

    pub fn integers(&mut self, dims: &[usize], values: &[i32]) {
        self.inputs.push(integers(&mut self.device, dims, values));
    }

    /// Records a step; gives its losses.
    pub fn record(&mut self, mode: Mode, record: &dyn Record) -> Vec<Var> {
        self.tape.begin(mode);
        let params: Vec<Var> = self.params.iter().map(|(value, gradient)| self.tape.param(*value, *gradient)).collect();
        let inputs: Vec<Var> = self.inputs.iter().map(|t| self.tape.input(*t)).collect();
        let losses = record(&mut self.tape, &params, &inputs);
        if mode != Mode::Evaluate {
            self.tape.backward(&losses);
        }
        losses
    }

    fn loss(&mut self, losses: &[Var]) -> f64 {
        self.tape.run(&mut self.device).expect("a step");
        let loss = |&l: &Var| read_scalar(&mut self.device, &self.tape.value(l).expect("a loss")).expect("a loss");
        losses.iter().map(loss).sum()
    }

    /// Fills gradients with NaN, and the activations if there are any yet: a step must write what it reads.
    fn poison(&mut self) {
        for (_, gradient) in &self.params {
            let n = gradient.numel();
            write_floats(&mut self.device, gradient, &vec![f64::NAN; n]).expect("gradients");
        }
        let known = |place: Place| {
            let params = self.params.iter().any(|(v, g)| v.place() == place || g.place() == place);
            params || self.inputs.iter().any(|t| t.place() == place)
        };
        let mut arenas = Vec::new();
        for op in self.tape.placed_ops() {
            { *op }.operands(&mut |t, _| {
                let activation = t.dtype() == DType::F64 && !known(t.place());
                arenas.extend(activation.then_some(t.place()));
            });
        }
        arenas.dedup();
        assert!(arenas.len() <= 1, "activations lie in one arena");
        for place in arenas {
            let n = self.tape.cost().activation_bytes / 8;
            let all = Tensor::new(place, DType::F64, 0, &[n]);
            write_floats(&mut self.device, &all, &vec![f64::NAN; n]).expect("activations");
        }
    }

    pub fn read_gradients(&mut self) -> Vec<Vec<f64>> {
        self.params.iter().map(|(_, g)| read_floats(&mut self.device, g).expect("a gradient")).collect()
    }

    /// Loss and gradients of a step, run twice: the second time on poisoned activations.
    pub fn outcome(&mut self, record: &dyn Record) -> Outcome {
        let losses = self.record(Mode::Train { accumulate: false }, record);
        let first = self.loss(&losses);
        self.poison();
        let loss = self.loss(&losses);
        assert_eq!(first, loss, "the same step twice");
        Outcome { loss, gradients: self.read_gradients() }
    }

    /// Loss of a step without gradients.
    pub fn evaluate(&mut self, record: &dyn Record) -> f64 {
        let losses = self.record(Mode::Evaluate, record);
        losses.iter().for_each(|l| self.tape.keep(*l));
        self.loss(&losses)
    }

    /// The gradient of every element of every parameter equals the finite difference.
    pub fn check(&mut self, record: impl Fn(&mut Tape, &[Var], &[Var]) -> Vec<Var>) {
        let gradients = self.outcome(&record).gradients;
        let losses = self.record(Mode::Train { accumulate: false }, &record);
        for (number, gradient) in gradients.iter().enumerate() {
            let value = self.params[number].0;
            let mut values = read_floats(&mut self.device, &value).expect("a parameter");
            for (e, got) in gradient.iter().enumerate() {
                let x = values[e];
                let [above, below] = [x + STEP, x - STEP].map(|moved| {
                    values[e] = moved;
                    write_floats(&mut self.device, &value, &values).expect("a parameter");
                    self.loss(&losses)
                });
                values[e] = x;
                let want = (above - below) / (2.0 * STEP);
                let fits = (got - want).abs() <= ABSOLUTE + RELATIVE * want.abs();
                assert!(fits, "parameter {number}, element {e}: the gradient is {got}, the difference {want}");
            }
            write_floats(&mut self.device, &value, &values).expect("a parameter");
            let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            assert!(largest > 1e-3, "parameter {number} hardly matters ({largest:e}): the test shows nothing");
        }
    }
}

/// A scalar to differentiate: cross-entropy of a linear head.
pub fn loss_of(tape: &mut Tape, y: Var, head: Var, labels: Var) -> Var {
    let logits = tape.linear(y, head, Affine::default());
    tape.cross_entropy(logits, labels, LossOptions::default())
}
