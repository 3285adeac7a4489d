//! One operation, several devices: the same memory on each, poisoned where the operation must write, and a comparison of
//! all of it afterwards.

use crate::support::{Random, floats, integers, state};
use std::collections::BTreeSet;
use vcycle::device::cpu::Cpu;
use vcycle::device::ops::{Access, Op, StepState};
use vcycle::device::reference::Reference;
use vcycle::device::{Device, read_floats, write_floats};
use vcycle::tensor::{DType, Place, Tensor};

pub const EPS: f64 = f32::EPSILON as f64;

/// Elements before and after every tensor's rows, which no operation may touch.
const GUARD: usize = 16;

/// NaN with bits of its own, so that "untouched" is not "another NaN".
const POISON: f64 = f64::from_bits(0x7ff8_beef_beef_beef);

/// Tolerance of a sum of `n` products of numbers in -1..1: partial sums grow like sqrt(n) / 3 and each of the n additions
/// rounds by eps / 2 of one; such errors walk randomly, to eps n / 6, of which this is six sigma.
pub fn dot(n: usize) -> f64 {
    EPS * (n as f64 + 4.0)
}

/// Rows of random shape: `(dims, pitch)` with pitch 0 for rows back to back.
pub type Rows<'a> = (&'a [usize], usize);

pub struct Lab {
    /// Devices of one arithmetic: their memory must stay the same, bit for bit.
    cpus: Vec<Cpu>,
    oracle: Option<Reference>,
    pub random: Random,
    /// Number, type and elements of every arena, on all devices alike.
    arenas: Vec<(u32, DType, usize)>,
    /// Operations compared with the reference.
    pub checked: BTreeSet<&'static str>,
    /// The largest part of a tolerance that was used, for `VCYCLE_TOLERANCES=1`.
    pub worst: f64,
}

impl Lab {
    /// `cpu` on these numbers of threads.
    pub fn new(threads: &[usize], reference: bool) -> Self {
        Lab {
            cpus: threads.iter().map(|&n| Cpu::new(n)).collect(),
            oracle: reference.then(Reference::default),
            random: Random::new(0x5eed),
            arenas: Vec::new(),
            checked: BTreeSet::new(),
            worst: 0.0,
        }
    }

    /// Every device, with the type of its floats.
    pub fn devices(&mut self) -> impl Iterator<Item = &mut dyn Device> {
        self.cpus.iter_mut().map(|d| d as &mut dyn Device).chain(self.oracle.iter_mut().map(|d| d as &mut dyn Device))
    }

    /// Forgets all tensors.
    pub fn clear(&mut self) {
        for (arena, ..) in std::mem::take(&mut self.arenas) {
            self.devices().for_each(|d| d.free(arena));
        }
    }

    /// Random numbers in -1..1.
    pub fn input(&mut self, rows: Rows) -> Tensor {
        let values = self.random.floats(rows.0.iter().product());
        self.floats(rows, &values)
    }

    /// Poison, for an operation to overwrite.
    pub fn output(&mut self, rows: Rows) -> Tensor {
        let n = rows.0.iter().product();
        self.floats(rows, &vec![POISON; n])
    }

    /// These numbers, rounded to f32, among poison.
    pub fn floats(&mut self, (dims, pitch): Rows, values: &[f64]) -> Tensor {
        let mut t = Tensor::new(Place::Arena(0), DType::F32, GUARD, dims);
        if pitch > 0 {
            t = t.with_pitch(pitch);
        }
        let size = 2 * GUARD + t.extent();
        let all = vec![POISON; size];
        let rounded: Vec<f64> = values.iter().map(|&v| f64::from(v as f32)).collect();
        for device in self.devices() {
            let whole = floats(device, &[size], &all);
            t.place = whole.place;
            write_floats(device, &Tensor { dtype: whole.dtype, ..t }, &rounded).expect("values");
        }
        self.remember(t, size)
    }

    pub fn integers(&mut self, dims: &[usize], values: &[i32]) -> Tensor {
        let all = self.devices().map(|d| integers(d, dims, values)).last();
        self.remember(all.expect("a device"), values.len())
    }

    pub fn words(&mut self, dims: &[usize], values: &[u32]) -> Tensor {
        let t = self.integers(dims, bytemuck::cast_slice(values));
        Tensor { dtype: DType::U32, ..t }
    }

    pub fn bytes(&mut self, values: &[u8]) -> Tensor {
        let mut t = Tensor::new(Place::Arena(0), DType::U8, 0, &[values.len()]);
        for device in self.devices() {
            t.place = Place::Arena(device.alloc(values.len()).expect("memory for a test"));
            device.write(&t, values).expect("values");
        }
        self.remember(t, values.len())
    }

    pub fn state(&mut self, step: &StepState) -> Tensor {
        let all = self.devices().map(|d| state(d, step)).last();
        self.remember(all.expect("a device"), StepState::WORDS)
    }

    fn remember(&mut self, t: Tensor, size: usize) -> Tensor {
        let Place::Arena(number) = t.place else { unreachable!("allocated just now") };
        self.arenas.push((number, t.dtype, size));
        t
    }

    /// The numbers of a tensor on the first device.
    pub fn values(&mut self, t: &Tensor) -> Vec<f64> {
        read_floats(&mut self.cpus[0], t).expect("values of a tensor")
    }

    /// Runs the operation everywhere and compares: all of `cpu`'s memory bit for bit between numbers of threads (which run it
    /// from a captured list, but for the first), outputs with the reference within `tolerance(output, value)`, and
    /// everything that the operation does not write with what was there before. Outputs of `cpu` then go to the
    /// reference, so that a next operation starts from the same numbers.
    pub fn check(&mut self, op: impl Into<Op>, tolerance: impl Fn(&Tensor, f64) -> f64) {
        let op = op.into();
        let count = self.devices().count();
        let before: Vec<_> = (0..count).map(|i| self.memory(i)).collect();
        for (i, device) in self.devices().enumerate() {
            let op = retype(&op, device.float());
            let done = if i == 0 {
                device.run(&op)
            } else {
                device.capture(&[op]).and_then(|graph| {
                    device.replay(graph)?;
                    device.release(graph);
                    Ok(())
                })
            };
            done.unwrap_or_else(|e| panic!("{op:?} on {}: {e}", device.name()));
        }
        let after: Vec<_> = (0..count).map(|i| self.memory(i)).collect();
        for i in 1..self.cpus.len() {
            let same = after[i] == after[0];
            assert!(
                same,
                "{op:?}: other bits on {} threads than on {}",
                self.cpus[i].threads(),
                self.cpus[0].threads()
            );
        }
        let written = self.written(&op);
        for (before, after) in before.iter().zip(&after) {
            for ((was, is), written) in before.iter().zip(after).zip(&written) {
                let size = was.len() / written.len().max(1);
                for (e, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
                    let at = e * size..(e + 1) * size;
                    assert_eq!(was[at.clone()], is[at], "{op:?}: element {e}, which is no output, has changed");
                }
            }
        }
        self.compare(&op, tolerance);
    }

    fn compare(&mut self, op: &Op, tolerance: impl Fn(&Tensor, f64) -> f64) {
        let Some(oracle) = &mut self.oracle else { return };
        self.checked.insert(op.name());
        let mut outputs = Vec::new();
        { *op }.operands(&mut |t, access| outputs.extend((access != Access::Read).then_some(*t)));
        for out in outputs.iter().filter(|t| Some(**t) != workspace(op)) {
            let wide = Tensor { dtype: DType::F64, ..*out };
            let got = read_floats(&mut self.cpus[0], out).expect("an output");
            let want = read_floats(oracle, &wide).expect("an output");
            for (e, (&got, &want)) in got.iter().zip(&want).enumerate() {
                let allowed = tolerance(out, want);
                // Equal infinities have no difference.
                let used = if got == want { 0.0 } else { (got - want).abs() / allowed };
                assert!(used <= 1.0, "{op:?}\n{out:?}: element {e} is {got}, not {want} within {allowed:e}");
                self.worst = self.worst.max(used);
            }
            write_floats(oracle, &wide, &got).expect("the same numbers everywhere");
        }
    }

    /// Whether an element of an arena is an output.
    fn written(&self, op: &Op) -> Vec<Vec<bool>> {
        let mut all: Vec<_> = self.arenas.iter().map(|(.., size)| vec![false; *size]).collect();
        { *op }.operands(&mut |t, access| {
            let arena = self.arenas.iter().position(|(number, ..)| t.place == Place::Arena(*number));
            for r in (0..t.rows()).filter(|_| access != Access::Read) {
                let start = t.offset + r * t.pitch;
                all[arena.expect("an arena of this lab")][start..start + t.width].fill(true);
            }
        });
        all
    }

    /// All bytes of all arenas of a device.
    fn memory(&mut self, device: usize) -> Vec<Vec<u8>> {
        let arenas = self.arenas.clone();
        let device = self.devices().nth(device).expect("a device");
        let read = |(number, dtype, size): (u32, DType, usize)| {
            let dtype = if dtype.is_float() { device.float() } else { dtype };
            let mut bytes = vec![0; size * dtype.bytes()];
            device.read(&Tensor::new(Place::Arena(number), dtype, 0, &[size]), &mut bytes).expect("an arena");
            bytes
        };
        arenas.into_iter().map(read).collect()
    }
}

/// The operation with its floats in a device's type.
pub fn retype(op: &Op, float: DType) -> Op {
    let mut op = *op;
    op.operands(&mut |t, _| t.dtype = if t.dtype.is_float() { float } else { t.dtype });
    op
}

/// What an operation uses as it likes, so that devices differ.
fn workspace(op: &Op) -> Option<Tensor> {
    match op {
        Op::AttentionBackward(op) => Some(op.delta),
        Op::GlobalNorm(op) => Some(op.partials),
        Op::LayerNormBackward(op) => Some(op.partials),
        _ => None,
    }
}
