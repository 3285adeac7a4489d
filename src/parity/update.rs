use super::harness::{EPS, Harness};
use super::{Size, Stem};
use crate::device::ops::{ALIGN, Instruction, MAX_INSTRUCTIONS, Op, Opcode, Operation, Register, StepState, Update};

pub const STEMS: &[Stem] = &[Stem { name: Update::NAME, cases, sample }];

/// A program that uses every opcode and every register that holds a value when it starts.
fn program() -> Vec<Instruction> {
    use Opcode::{Abs, Add, Const, Div, Max, Min, Move, Mul, Sign, Sqrt, Sub};
    use Register::{Bias1, Bias2, Decays, Grad, LearningRate, Param, State0, State1};
    let step = |opcode, to: u8, a: u8, b: u8| Instruction { opcode, to, a, b, constant: 0.75 };
    let [p, g, s0, s1] = [Param as u8, Grad as u8, State0 as u8, State1 as u8];
    let [lr, decays, bias1, bias2] = [LearningRate as u8, Decays as u8, Bias1 as u8, Bias2 as u8];
    vec![
        step(Const, 8, 0, 0),
        step(Mul, 9, g, 8),
        step(Add, 9, 9, s0),
        step(Abs, 10, 9, 0),
        step(Add, 10, 10, 8),
        step(Sqrt, 10, 10, 0),
        step(Div, 11, s1, 10),
        step(Max, 12, 11, 9),
        step(Min, 13, 11, 9),
        step(Sub, 12, 12, 13),
        step(Sign, 14, p, 0),
        step(Mul, 14, 14, decays),
        step(Add, 12, 12, 14),
        step(Mul, 12, 12, lr),
        step(Sub, p, p, 12),
        step(Mul, s0, s0, bias1),
        step(Mul, s1, g, bias2),
        step(Move, 15, s1, 0),
        step(Max, s1, 15, s1),
    ]
}

/// Creates an update. `clip` is the maximum norm as a fraction of the gradients' norm, `states` the number of state
/// tensors.
fn of(harness: &mut Harness, blocks: usize, clip: f64, states: usize, program: &[Instruction]) -> Update {
    let (n, wide) = (blocks * ALIGN, harness.float.accumulator());
    let params = harness.accumulator_input((&[n], 0));
    let grads = harness.accumulator_input((&[n], 0));
    let [state0, state1] = [0, 1].map(|state| (state < states).then(|| harness.accumulator_input((&[n], 0))));
    let decays: Vec<u8> = harness.random.ids(blocks, 2).iter().map(|&b| b as u8).collect();
    let decay_mask = harness.bytes(&decays);
    let norm = harness.floats_of(wide, (&[1], 0), &[3.7]);
    let state = harness.state(&StepState { lr: 0.25, bias1: 0.5, bias2: 0.875, ..StepState::default() });
    let words: Vec<u32> = program.iter().flat_map(Instruction::encode).collect();
    let program = harness.words(&[program.len(), 2], &words);
    // In bf16, the rounded copy of the parameters that the model computes with.
    let copy = (harness.float != wide).then(|| harness.output((&[n], 0)));
    Update { params, grads, state0, state1, copy, decay_mask, norm, state, program, max_norm: 3.7 * clip }
}

fn cases(harness: &mut Harness) {
    // 257 blocks: one more than `cpu` processes in a chunk.
    let blocks: &[usize] = if harness.full() { &[1, 2, 3, 257, 200_000] } else { &[1, 2, 3, 257] };
    // All values are below 4, and no instruction amplifies the error of an operand more than twice: the square root is
    // taken of numbers above 0.75, so that the quotient's derivatives are below 1.2 and 1.4.
    let every = 2.0 * program().len() as f64 * 4.0 * EPS;
    for &blocks in blocks {
        for (clip, states) in [(f64::INFINITY, 2), (2.0, 1), (0.3, 0), (0.3, 2)] {
            let op = of(harness, blocks, clip, states, &program());
            harness.check(op, |_, want| 2.0 * EPS * want.abs() + every);
            harness.clear();
        }
    }
    // An empty program changes nothing, and the longest one is run to its end.
    let add = Instruction { opcode: Opcode::Add, to: 0, a: 0, b: 1, constant: 0.0 };
    for count in [0, 1, MAX_INSTRUCTIONS] {
        let op = of(harness, 3, f64::INFINITY, 1, &vec![add; count]);
        harness.check(op, |_, want| 2.0 * EPS * want.abs() + (count * count) as f64 * EPS);
        harness.clear();
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    of(harness, if size == Size::Large { 3000 } else { 2 }, 0.5, 2, &program()).into()
}
