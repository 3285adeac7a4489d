//! Losses, the gradient norm, the optimizer, and multilevel maps.

use super::{Cells, Reference};
use crate::bail;
use crate::device::ops::{
    AdamW, CrossEntropy, Decoded, GlobalNorm, IDENTITY, Item, Multilevel, Opcode, REGISTERS, Register, SquaredError,
    StepState, Update,
};
use crate::error::Result;

impl Reference {
    pub(super) fn cross_entropy(&self, op: &CrossEntropy) -> Result<()> {
        let (logits, labels) = (self.f(&op.logits)?, self.flat::<i32>(&op.labels)?);
        let (losses, loss, dlogits) = (self.f(&op.losses)?, self.f(&op.loss)?, self.maybe(&op.dlogits)?);
        let others = op.mix.map(|mix| self.flat::<i32>(&mix.labels)).transpose()?;
        let shares = self.maybe(&op.mix.map(|mix| mix.share))?;
        let (vocab, rows) = (logits.width(), op.rows());
        let here = (0..labels.width()).filter(|&r| labels.get(0, r) != op.ignore).count() as f64;
        let scored = self.maybe(&op.scored)?.map_or(here, |all| all.get(0, 0));
        let each = op.weight / scored.max(1.0);
        for r in rows.clone() {
            let label = labels.get(0, r);
            let ignored = label == op.ignore;
            let (other, share) = match (others, shares) {
                (Some(others), Some(shares)) => (others.get(0, r), shares.get(0, r)),
                _ => (label, 1.0),
            };
            for (what, label) in [("label", label), ("second label", other)] {
                if !ignored && usize::try_from(label).map_or(true, |l| l >= vocab) {
                    bail!("{what} {label} of row {r} is out of range for a vocabulary of {vocab}");
                }
            }
            let row: Vec<f64> = (0..vocab).map(|c| logits.get(r - rows.start, c)).collect();
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = largest + row.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
            let wanted = |c: usize| {
                let is = |label: i32| if c as i64 == i64::from(label) { 1.0 } else { 0.0 };
                op.smoothing / vocab as f64 + (1.0 - op.smoothing) * (share * is(label) + (1.0 - share) * is(other))
            };
            let value: f64 = if ignored { 0.0 } else { (0..vocab).map(|c| wanted(c) * (lse - row[c])).sum() };
            losses.set(0, r, value);
            if let Some(d) = dlogits {
                for (c, z) in row.iter().enumerate() {
                    d.set(r - rows.start, c, if ignored { 0.0 } else { each * ((z - lse).exp() - wanted(c)) });
                }
            }
        }
        loss.set(0, 0, each * (0..rows.end).map(|r| losses.get(0, r)).sum::<f64>());
        Ok(())
    }

    pub(super) fn squared_error(&self, op: &SquaredError) -> Result<()> {
        let (x, targets, dx) = (self.f(&op.x)?, self.f(&op.targets)?, self.maybe(&op.dx)?);
        let all = || (0..x.rows()).flat_map(|r| (0..x.width()).map(move |c| (r, c)));
        let scored = |&(r, c): &(usize, usize)| !targets.get(r, c).is_nan();
        let here = all().filter(scored).count() as f64;
        let each = op.weight / self.maybe(&op.scored)?.map_or(here, |all| all.get(0, 0)).max(1.0);
        let total: f64 = all().filter(scored).map(|(r, c)| (x.get(r, c) - targets.get(r, c)).powi(2)).sum();
        self.f(&op.loss)?.set(0, 0, each * total);
        for (r, c) in all().filter(|_| dx.is_some()) {
            let gradient = if scored(&(r, c)) { 2.0 * each * (x.get(r, c) - targets.get(r, c)) } else { 0.0 };
            dx.iter().for_each(|dx| dx.set(r, c, gradient));
        }
        Ok(())
    }

    pub(super) fn global_norm(&self, op: &GlobalNorm) -> Result<()> {
        let x = self.flat::<f64>(&op.x)?;
        self.f(&op.norm)?.set(0, 0, (0..x.width()).map(|i| x.get(0, i) * x.get(0, i)).sum::<f64>().sqrt());
        Ok(())
    }

    pub(super) fn adamw(&self, op: &AdamW) -> Result<()> {
        let (p, g) = (self.f(&op.params)?, self.f(&op.grads)?);
        let (m, v) = (self.f(&op.m)?, self.f(&op.v)?);
        let (mask, copy) = (self.flat::<u8>(&op.decay_mask)?, self.maybe(&op.copy)?);
        let words = self.flat::<u32>(&op.state)?;
        let state: StepState = bytemuck::cast::<[u32; StepState::WORDS], _>(std::array::from_fn(|i| words.get(0, i)));
        let (lr, bias1, bias2) = (f64::from(state.lr), f64::from(state.bias1), f64::from(state.bias2));
        let clip = (op.max_norm / (self.f(&op.norm)?.get(0, 0) + 1e-6)).min(1.0);
        for i in 0..p.width() {
            let grad = g.get(0, i) * clip;
            let decay = if mask.get(0, i / crate::device::ops::ALIGN) != 0 { op.weight_decay } else { 0.0 };
            m.set(0, i, op.beta1 * m.get(0, i) + (1.0 - op.beta1) * grad);
            v.set(0, i, op.beta2 * v.get(0, i) + (1.0 - op.beta2) * grad * grad);
            let step = (m.get(0, i) / bias1) / ((v.get(0, i) / bias2).sqrt() + op.eps);
            p.set(0, i, p.get(0, i) * (1.0 - lr * decay) - lr * step);
            if let Some(copy) = copy {
                copy.set(0, i, p.get(0, i));
            }
        }
        Ok(())
    }

    pub(super) fn update(&self, op: &Update) -> Result<()> {
        let (p, g) = (self.f(&op.params)?, self.f(&op.grads)?);
        let [state0, state1] = [self.maybe(&op.state0)?, self.maybe(&op.state1)?];
        let (mask, copy) = (self.flat::<u8>(&op.decay_mask)?, self.maybe(&op.copy)?);
        let words = self.flat::<u32>(&op.state)?;
        let step: StepState = bytemuck::cast::<[u32; StepState::WORDS], _>(std::array::from_fn(|i| words.get(0, i)));
        let table = self.cells::<u32>(&op.program)?;
        let program = (0..table.rows()).map(|row| Decoded::new([table.get(row, 0), table.get(row, 1)]));
        let program: Vec<Decoded> = program.collect();
        let clip = (op.max_norm / (self.f(&op.norm)?.get(0, 0) + 1e-6)).min(1.0);
        for i in 0..p.width() {
            let state = |t: Option<Cells<'_, f64>>| t.map_or(0.0, |t| t.get(0, i));
            let mut registers = [0.0; REGISTERS];
            for (register, value) in [
                (Register::Param, p.get(0, i)),
                (Register::Grad, g.get(0, i) * clip),
                (Register::State0, state(state0)),
                (Register::State1, state(state1)),
                (Register::LearningRate, f64::from(step.lr)),
                (Register::Decays, f64::from(u8::from(mask.get(0, i / crate::device::ops::ALIGN) != 0))),
                (Register::Bias1, f64::from(step.bias1)),
                (Register::Bias2, f64::from(step.bias2)),
            ] {
                registers[register as usize] = value;
            }
            for instruction in &program {
                let (a, b): (f64, f64) = (registers[instruction.a], registers[instruction.b]);
                registers[instruction.to] = match instruction.opcode {
                    None => 0.0,
                    Some(Opcode::Const) => f64::from(instruction.constant),
                    Some(Opcode::Move) => a,
                    Some(Opcode::Add) => a + b,
                    Some(Opcode::Sub) => a - b,
                    Some(Opcode::Mul) => a * b,
                    Some(Opcode::Div) => a / b,
                    Some(Opcode::Sqrt) => a.sqrt(),
                    Some(Opcode::Sign) if a == 0.0 => 0.0,
                    Some(Opcode::Sign) => a.signum(),
                    Some(Opcode::Abs) => a.abs(),
                    Some(Opcode::Max) => a.max(b),
                    Some(Opcode::Min) => a.min(b),
                };
            }
            p.set(0, i, registers[Register::Param as usize]);
            copy.iter().for_each(|copy| copy.set(0, i, registers[Register::Param as usize]));
            state0.iter().for_each(|t| t.set(0, i, registers[Register::State0 as usize]));
            state1.iter().for_each(|t| t.set(0, i, registers[Register::State1 as usize]));
        }
        Ok(())
    }

    pub(super) fn multilevel(&self, op: &Multilevel) -> Result<()> {
        let (src, dst, base) = (self.flat::<f64>(&op.src)?, self.flat::<f64>(&op.dst)?, self.maybe(&op.base)?);
        let (items, index) = (self.cells::<u32>(&op.items)?, self.flat::<u32>(&op.index)?);
        let weight = self.flat::<f64>(&op.weight)?;
        // The entries of one unit of a map: (source unit, weight).
        let group = |map: u32, unit: usize| -> Vec<(usize, f64)> {
            if map == IDENTITY {
                return vec![(unit, 1.0)];
            }
            let pointer = |i: usize| index.get(0, map as usize + i) as usize;
            (pointer(unit)..pointer(unit + 1)).map(|e| (index.get(0, e) as usize, weight.get(0, e))).collect()
        };
        let words: Vec<u32> = (0..index.width()).map(|i| index.get(0, i)).collect();
        let read = |number| bytemuck::cast::<[u32; Item::WORDS], Item>(std::array::from_fn(|i| items.get(number, i)));
        let items: Vec<Item> = (0..items.rows()).map(read).collect();
        Item::check_all(&items, &words, src.width(), dst.width())?;
        for item in items {
            let layers = item.layer_start as usize..(item.layer_start + item.layers) as usize;
            for (i, j) in (0..item.rows as usize).flat_map(|i| (0..item.cols as usize).map(move |j| (i, j))) {
                let mut mapped = f64::from(item.fill);
                for l in layers.clone() {
                    let start = index.get(0, l) as usize;
                    for (a, wa) in group(item.row_map, i) {
                        for (b, wb) in group(item.col_map, j) {
                            mapped += weight.get(0, l) * wa * wb * src.get(0, start + a * item.src_pitch as usize + b);
                        }
                    }
                }
                let at = item.dst_offset as usize + i * item.dst_pitch as usize + j;
                let old = base.map_or(0.0, |base: Cells<'_, f64>| base.get(0, at));
                dst.set(0, at, (1.0 - op.alpha) * old + op.alpha * mapped);
            }
        }
        Ok(())
    }
}
