//! A test rig: a tape on the f64 reference device, and a comparison of its gradients with finite differences.

use crate::gradients::support::{Random, floats, integers, state};
use vcycle::device::ops::StepState;
use vcycle::device::reference::Reference;
use vcycle::device::{Device, read_floats, read_scalar, write_floats};
use vcycle::tape::{Affine, LossOptions, Mode, Tape, Var};
use vcycle::tensor::{DType, Place, Tensor};

/// Step size of the central differences.
const STEP: f64 = 1e-5;

/// Absolute tolerance. Central differences have an error of step^2 / 6 times the third derivative (up to about 100
/// here: 2e-9), and one from the rounding of the loss divided by the step: 100 eps / 1e-5 = 2e-9.
const ABSOLUTE: f64 = 1e-8;
/// Relative tolerance.
const RELATIVE: f64 = 1e-7;

/// The result of a step: the total loss and the gradient of every parameter.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub loss: f64,
    pub gradients: Vec<Vec<f64>>,
}

/// A function that records a step from parameters and inputs, and returns its losses.
pub trait Record: Fn(&mut Tape, &[Var], &[Var]) -> Vec<Var> {}

impl<F: Fn(&mut Tape, &[Var], &[Var]) -> Vec<Var>> Record for F {}

/// A tape with its device, parameters and inputs.
pub struct Rig {
    pub device: Reference,
    pub tape: Tape,
    pub random: Random,
    /// The value and the gradient of each parameter.
    pub params: Vec<(Tensor, Tensor)>,
    pub inputs: Vec<Tensor>,
}

impl Rig {
    /// Creates a rig without parameters and inputs.
    pub fn new(seed: u64) -> Self {
        let mut device = Reference::default();
        let state = state(&mut device, &StepState { step: 3, ..StepState::with_seed(seed) });
        let tape = Tape::new(device.float(), state);
        Rig { device, tape, random: Random::new(seed), params: Vec::new(), inputs: Vec::new() }
    }

    /// Creates a rig with random parameters of these dimensions.
    pub fn with(seed: u64, params: &[&[usize]]) -> Self {
        let mut rig = Rig::new(seed);
        params.iter().for_each(|dims| rig.param(dims, 0));
        rig
    }

    /// Adds a random parameter whose rows are padded with `pad` elements.
    pub fn param(&mut self, dims: &[usize], pad: usize) {
        let (width, rest) = dims.split_last().expect("dimensions");
        let padded: Vec<usize> = rest.iter().copied().chain([width + pad]).collect();
        let values = self.random.floats(padded.iter().product());
        let [value, gradient] = [&values, &vec![f64::NAN; values.len()]]
            .map(|values| floats(&mut self.device, &padded, values).columns(0, *width));
        self.params.push((value, gradient));
    }

    /// Adds an input of random ids or labels below a bound.
    pub fn ids(&mut self, dims: &[usize], below: usize) {
        let values = self.random.ids(dims.iter().product(), below);
        self.integers(dims, &values);
    }

    /// Adds an input of integers.
    pub fn integers(&mut self, dims: &[usize], values: &[i32]) {
        self.inputs.push(integers(&mut self.device, dims, values));
    }

    /// Records a step, with its backward pass when training, and returns its losses.
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

    /// Runs the recorded step and returns the sum of its losses.
    fn loss(&mut self, losses: &[Var]) -> f64 {
        self.tape.run(&mut self.device).expect("a step");
        let loss = |&l: &Var| read_scalar(&mut self.device, &self.tape.value(l).expect("a loss")).expect("a loss");
        losses.iter().map(loss).sum()
    }

    /// Fills the gradients and the activation arena, if it exists, with NaN, because a step must not read what it has
    /// not written.
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
        assert!(arenas.len() <= 1, "all activations are in one arena");
        for place in arenas {
            let n = self.tape.cost().activation_bytes / 8;
            let all = Tensor::new(place, DType::F64, 0, &[n]);
            write_floats(&mut self.device, &all, &vec![f64::NAN; n]).expect("activations");
        }
    }

    /// Returns the gradients of all parameters.
    pub fn read_gradients(&mut self) -> Vec<Vec<f64>> {
        self.params.iter().map(|(_, g)| read_floats(&mut self.device, g).expect("a gradient")).collect()
    }

    /// Runs a training step twice, the second time on memory filled with NaN, and returns its loss and gradients.
    pub fn outcome(&mut self, record: &dyn Record) -> Outcome {
        let losses = self.record(Mode::Train { accumulate: false }, record);
        let first = self.loss(&losses);
        self.poison();
        let loss = self.loss(&losses);
        assert_eq!(first, loss, "the same step twice must give the same loss");
        Outcome { loss, gradients: self.read_gradients() }
    }

    /// Returns the loss of a step without gradients.
    pub fn evaluate(&mut self, record: &dyn Record) -> f64 {
        let losses = self.record(Mode::Evaluate, record);
        losses.iter().for_each(|l| self.tape.keep(*l));
        self.loss(&losses)
    }

    /// Checks that the gradient of every element of every parameter equals the finite difference.
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
                assert!(
                    fits,
                    "parameter {number}, element {e}: the gradient is {got} but the finite difference is {want}"
                );
            }
            write_floats(&mut self.device, &value, &values).expect("a parameter");
            let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            assert!(largest > 1e-3, "parameter {number} hardly matters ({largest:e}): the test shows nothing");
        }
    }
}

/// Records a scalar to differentiate: the cross-entropy of a linear head on `y`.
pub fn loss_of(tape: &mut Tape, y: Var, head: Var, labels: Var) -> Var {
    let logits = tape.linear(y, head, Affine::default());
    tape.cross_entropy(logits, labels, LossOptions::default())
}
