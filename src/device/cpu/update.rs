use super::{CHUNK, Cpu};
use crate::device::ops::{ALIGN, Decoded, MAX_INSTRUCTIONS, Opcode, REGISTERS, Register, Update};
use crate::error::Result;

/// The registers of the 64 elements that share an entry of the decay mask.
type Registers = [[f32; ALIGN]; REGISTERS];

impl Cpu {
    pub(super) fn update(&self, op: &Update) -> Result<()> {
        let (params, copy) = (self.f(&op.params)?, self.maybe(&op.copy)?);
        let [state0, state1] = [self.maybe(&op.state0)?, self.maybe(&op.state1)?];
        let (grads, mask) = (self.slice::<f32>(&op.grads)?, self.slice::<u8>(&op.decay_mask)?);
        let step = self.step_state(&op.state)?;
        let mut decoded = [Decoded::default(); MAX_INSTRUCTIONS];
        let rows = self.slice::<u32>(&op.program)?.chunks_exact(2);
        let program = &mut decoded[..rows.len()];
        program.iter_mut().zip(rows).for_each(|(to, row)| *to = Decoded::new([row[0], row[1]]));
        let program = &*program;
        let norm = f64::from(self.f(&op.norm)?.get(0, 0));
        let clip = (op.max_norm / (norm + 1e-6)).min(1.0) as f32;
        const _: () = assert!(CHUNK.is_multiple_of(ALIGN));
        self.for_chunks(
            grads.len(),
            CHUNK,
            #[inline(always)]
            |range| {
                let blocks = range.start / ALIGN..range.end / ALIGN;
                for (block, decays) in blocks.clone().zip(&mask[blocks]) {
                    let at = block * ALIGN..(block + 1) * ALIGN;
                    let [p, s0, s1, copied] = [Some(params), state0, state1, copy].map(|view| {
                        // SAFETY: only this chunk accesses these elements.
                        view.map(|view| unsafe { view.span_mut(0, at.clone()) })
                    });
                    let mut registers: Registers = [[0.0; ALIGN]; REGISTERS];
                    let mut written = [(Register::Param, p), (Register::State0, s0), (Register::State1, s1)];
                    for (register, elements) in &written {
                        elements.iter().for_each(|from| registers[*register as usize].copy_from_slice(from));
                    }
                    for (to, g) in registers[Register::Grad as usize].iter_mut().zip(&grads[at]) {
                        *to = g * clip;
                    }
                    for (register, value) in [
                        (Register::LearningRate, step.lr),
                        (Register::Decays, f32::from(*decays != 0)),
                        (Register::Bias1, step.bias1),
                        (Register::Bias2, step.bias2),
                    ] {
                        registers[register as usize] = [value; ALIGN];
                    }
                    program.iter().for_each(|instruction| run(&mut registers, instruction));
                    for (register, elements) in &mut written {
                        elements.iter_mut().for_each(|to| to.copy_from_slice(&registers[*register as usize]));
                    }
                    copied.into_iter().for_each(|to| to.copy_from_slice(&registers[Register::Param as usize]));
                }
            },
        );
        Ok(())
    }
}

#[inline(always)]
fn run(registers: &mut Registers, instruction: &Decoded) {
    let (a, b) = (registers[instruction.a], registers[instruction.b]);
    let to = &mut registers[instruction.to];
    let mut each = |f: fn(f32, f32) -> f32| {
        for i in 0..ALIGN {
            to[i] = f(a[i], b[i]);
        }
    };
    match instruction.opcode {
        None => *to = [0.0; ALIGN],
        Some(Opcode::Const) => *to = [instruction.constant; ALIGN],
        Some(Opcode::Move) => *to = a,
        Some(Opcode::Add) => each(|a, b| a + b),
        Some(Opcode::Sub) => each(|a, b| a - b),
        Some(Opcode::Mul) => each(|a, b| a * b),
        Some(Opcode::Div) => each(|a, b| a / b),
        Some(Opcode::Sqrt) => each(|a, _| a.sqrt()),
        Some(Opcode::Sign) => each(|a, _| f32::from(a > 0.0) - f32::from(a < 0.0)),
        Some(Opcode::Abs) => each(|a, _| a.abs()),
        Some(Opcode::Max) => each(|a, b| if a < b { b } else { a }),
        Some(Opcode::Min) => each(|a, b| if b < a { b } else { a }),
    }
}
