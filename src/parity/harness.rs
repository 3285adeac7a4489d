//! Runs an operation on several devices: each gets the same memory, filled with NaN where the operation must write, and
//! all of it is compared afterwards.

mod mutants;
mod pitch;

pub use mutants::Mutants;
pub use pitch::{ALIGNED, Gap};

use super::differences;
use super::random::Random;
use crate::bail;
use crate::device::cpu::Cpu;
use crate::device::ops::{Access, Op, StepState};
use crate::device::reference::Reference;
use crate::device::{Device, alloc_tensor, read_floats, write_floats};
use crate::error::{Error, Result};
use crate::tensor::{DType, Place, Tensor};
use half::bf16;
use std::collections::BTreeSet;

/// The machine epsilon of f32: twice the largest relative rounding error.
pub const EPS: f64 = f32::EPSILON as f64;

/// Tolerance for rounding to bf16, relative to the number: bf16 has 8 bits of precision.
pub const BF16_ROUNDING: f64 = 1.0 / 256.0;

/// Elements before and after the rows of every tensor that no operation may change.
const GUARD: usize = 16;

/// A NaN with distinctive bits, so that an untouched element can be told from another NaN.
const POISON: f64 = f64::from_bits(0x7ff8_beef_beef_beef);

/// Returns the tolerance for a sum of `n` products of numbers in -1..1. Partial sums grow like sqrt(n) / 3, and each of
/// n additions rounds by eps / 2 of one: a random walk to eps n / 6, of which the tolerance is six sigma.
pub fn dot(n: usize) -> f64 {
    EPS * (n as f64 + 4.0)
}

/// The shape of a tensor: `(dims, pitch)`, in elements. Pitch 0 means rows without gaps.
pub type Rows<'a> = (&'a [usize], usize);

/// Returns whether a variant supports an operation.
type Supports = fn(&Op) -> bool;

type Visit = Box<dyn FnMut(usize, &Op)>;

/// The bytes of every arena.
type Memory = Vec<Vec<u8>>;

/// Selects the cases to run.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Run one case in this many, by number.
    pub every: usize,
    /// Skip cases that have an operation of more FLOPs than this.
    pub flops: u64,
    /// Also run shapes of real models at full size.
    pub full: bool,
}

impl Choice {
    /// All cases except those at full size.
    pub const ALL: Choice = Choice { every: 1, flops: u64::MAX, full: false };
}

/// Runs cases on several devices. After the first error nothing more is run; [`Harness::finish`] returns it.
pub struct Harness {
    /// The devices under test. Their memory must stay the same, bit for bit, if `deterministic`.
    subjects: Vec<Box<dyn Device>>,
    oracle: Option<Reference>,
    /// The type of the operands that do not have the accumulator type: f32 or bf16.
    pub float: DType,
    /// Whether the order of the devices' additions depends only on shapes. If not, each device is compared with the
    /// reference, and the devices are not compared with each other.
    pub deterministic: bool,
    choice: Choice,
    /// Skip cases whose operation of this name is not supported.
    supports: Option<(&'static str, Supports)>,
    /// Random numbers for the cases.
    pub random: Random,
    /// Number, type and size in elements of every arena; the same on all devices.
    arenas: Vec<(u32, DType, usize)>,
    /// Pitches of the current case's operands that have several rows.
    pitches: Vec<usize>,
    /// Called for every operation, with the number of its case.
    visit: Option<Visit>,
    mutants: Option<Box<dyn Mutants>>,
    /// Names of the operations that were compared with the reference.
    pub checked: BTreeSet<&'static str>,
    /// How many operations were compared with the reference.
    pub comparisons: usize,
    /// The largest error, as a fraction of its tolerance.
    pub worst: f64,
    /// The number of cases begun, and whether the current one is skipped.
    case: usize,
    skipped: bool,
    error: Option<Error>,
}

impl Harness {
    /// Creates a harness that compares these devices with the f64 reference.
    pub fn new(subjects: Vec<Box<dyn Device>>, choice: Choice) -> Self {
        Harness {
            subjects,
            oracle: Some(Reference::default()),
            float: DType::F32,
            deterministic: true,
            choice,
            supports: None,
            random: Random::new(0x5eed),
            arenas: Vec::new(),
            pitches: Vec::new(),
            visit: None,
            mutants: None,
            checked: BTreeSet::new(),
            comparisons: 0,
            worst: 0.0,
            case: 0,
            skipped: false,
            error: None,
        }
    }

    /// Creates a harness for one `cpu` device for each of these numbers of threads, with or without the f64 reference.
    pub fn cpu(threads: &[usize], reference: bool) -> Self {
        let subjects = threads.iter().map(|&n| Box::new(Cpu::new(n)) as Box<dyn Device>).collect();
        let mut harness = Harness::new(subjects, Choice::ALL);
        if !reference {
            harness.oracle = None;
        }
        harness
    }

    /// Creates a harness without devices that only passes every operation, with the number of its case, to `visit`.
    pub fn walk(float: DType, choice: Choice, visit: impl FnMut(usize, &Op) + 'static) -> Self {
        let (visit, random): (Option<Visit>, _) = (Some(Box::new(visit)), Random::zeros());
        Harness { oracle: None, float, visit, random, ..Harness::new(Vec::new(), choice) }
    }

    /// Skips cases whose operation of this name is not supported.
    pub fn only(&mut self, operation: &'static str, supports: Supports) {
        self.supports = Some((operation, supports));
    }

    /// Returns whether all devices have this name.
    pub fn on(&self, name: &str) -> bool {
        self.subjects.iter().all(|device| device.name() == name)
    }

    /// Returns whether shapes of real models are to be run at full size.
    pub fn full(&self) -> bool {
        self.choice.full
    }

    /// # Errors
    /// The first failure of a device, or the first difference between devices.
    pub fn finish(&mut self) -> Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// Iterates over all devices; the reference comes last.
    pub fn devices(&mut self) -> impl Iterator<Item = &mut dyn Device> {
        let oracle = self.oracle.iter_mut().map(|d| d as &mut dyn Device);
        self.subjects.iter_mut().map(|d| &mut **d as &mut dyn Device).chain(oracle)
    }

    /// Ends the current case: frees all tensors.
    pub fn clear(&mut self) {
        for (arena, ..) in std::mem::take(&mut self.arenas) {
            self.devices().for_each(|d| d.free(arena));
        }
        self.pitches.clear();
        self.case += 1;
        self.skipped = !self.case.is_multiple_of(self.choice.every.max(1));
    }

    fn is_empty(&self) -> bool {
        self.subjects.is_empty() && self.oracle.is_none()
    }

    fn idle(&self) -> bool {
        self.skipped || self.error.is_some()
    }

    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    /// Creates a tensor of random numbers in -1..1.
    pub fn input(&mut self, rows: Rows) -> Tensor {
        self.input_of(self.float, rows)
    }

    /// Like [`Harness::input`], in the accumulator type.
    pub fn accumulator_input(&mut self, rows: Rows) -> Tensor {
        self.input_of(self.float.accumulator(), rows)
    }

    /// Like [`Harness::input`], in this type.
    pub fn input_of(&mut self, dtype: DType, rows: Rows) -> Tensor {
        let values = self.random.floats(rows.0.iter().product());
        self.floats_of(dtype, rows, &values)
    }

    /// Creates a tensor of NaNs, for an operation to overwrite.
    pub fn output(&mut self, rows: Rows) -> Tensor {
        self.output_of(self.float, rows)
    }

    /// Like [`Harness::output`], in the accumulator type.
    pub fn accumulator_output(&mut self, rows: Rows) -> Tensor {
        self.output_of(self.float.accumulator(), rows)
    }

    /// Like [`Harness::output`], in this type.
    pub fn output_of(&mut self, dtype: DType, rows: Rows) -> Tensor {
        let n = if self.is_empty() { 0 } else { rows.0.iter().product() };
        self.floats_of(dtype, rows, &vec![POISON; n])
    }

    /// Creates a tensor of these numbers, rounded to its type, with NaN around its rows.
    pub fn floats(&mut self, rows: Rows, values: &[f64]) -> Tensor {
        self.floats_of(self.float, rows, values)
    }

    /// Like [`Harness::floats`], in this type.
    pub fn floats_of(&mut self, dtype: DType, (dims, pitch): Rows, values: &[f64]) -> Tensor {
        let mut t = Tensor::new(Place::Arena(0), dtype, GUARD, dims);
        if pitch > 0 {
            t = t.with_pitch(pitch);
        }
        if t.rows() > 1 {
            self.pitches.push(t.pitch());
        }
        let size = 2 * GUARD + t.extent();
        let round = |v: f64| if dtype == DType::BF16 { bf16::from_f64(v).to_f64() } else { f64::from(v as f32) };
        let values = if self.is_empty() { &[] } else { values };
        let rounded: Vec<f64> = values.iter().map(|&v| round(v)).collect();
        self.place(t, size, |device, t| {
            let dtype = of_device(device, t.dtype());
            write_floats(device, &Tensor::new(t.place(), dtype, 0, &[size]), &vec![POISON; size])?;
            write_floats(device, &t.with_dtype(dtype), &rounded)
        })
    }

    /// Creates a tensor of i32, with rows without gaps.
    pub fn integers(&mut self, dims: &[usize], values: &[i32]) -> Tensor {
        self.rows_of_integers((dims, dims.last().copied().unwrap_or(1)), values)
    }

    /// Like [`Harness::integers`], with a pitch.
    pub fn rows_of_integers(&mut self, (dims, pitch): Rows, values: &[i32]) -> Tensor {
        let t = Tensor::new(Place::Arena(0), DType::I32, 0, dims).with_pitch(pitch);
        self.place(t, t.extent(), |device, t| {
            (0..t.rows())
                .zip(values.chunks(t.width().max(1)))
                .try_for_each(|(r, row)| device.write(&t.row_block(r, 1), bytemuck::cast_slice(row)))
        })
    }

    /// Creates a tensor of u32.
    pub fn words(&mut self, dims: &[usize], values: &[u32]) -> Tensor {
        self.integers(dims, bytemuck::cast_slice(values)).with_dtype(DType::U32)
    }

    /// Creates a vector of bytes.
    pub fn bytes(&mut self, values: &[u8]) -> Tensor {
        let t = Tensor::new(Place::Arena(0), DType::U8, 0, &[values.len()]);
        self.place(t, values.len(), |device, t| device.write(t, values))
    }

    /// Creates a tensor with the state of a step.
    pub fn state(&mut self, step: &StepState) -> Tensor {
        self.words(&[StepState::WORDS], bytemuck::cast_slice(bytemuck::bytes_of(step)))
    }

    /// Allocates an arena of `size` elements on every device, places `t` in it and calls `fill`.
    fn place(&mut self, mut t: Tensor, size: usize, fill: impl Fn(&mut dyn Device, &Tensor) -> Result<()>) -> Tensor {
        if self.idle() {
            return t;
        }
        let placed = self.devices().try_fold(t.place(), |_, device| {
            let dtype = of_device(device, t.dtype());
            let place = alloc_tensor(device, dtype, &[size])?.place();
            fill(device, &t.with_place(place))?;
            Ok(place)
        });
        if let Some(mut place) = self.keep(placed) {
            if self.is_empty() {
                place = Place::Arena(self.arenas.len() as u32);
            }
            t = t.with_place(place);
            if let Place::Arena(number) = place {
                self.arenas.push((number, t.dtype(), size));
            }
        }
        t
    }

    /// Returns the elements of a tensor on the first device.
    pub fn values(&mut self, t: &Tensor) -> Vec<f64> {
        let values = match self.subjects.first_mut() {
            Some(device) if self.error.is_none() => read_floats(&mut **device, t),
            _ => Ok(Vec::new()),
        };
        self.keep(values).unwrap_or_default()
    }

    /// Runs an operation on all devices whose outputs another operation needs. They are not checked for accuracy.
    pub fn prepare(&mut self, op: impl Into<Op>) {
        self.check(op, |_, _| f64::INFINITY);
    }

    /// Runs an operation on all devices. Compares all memory of the devices under test bit for bit (if `deterministic`),
    /// outputs with the reference, and memory that the operation must not write with its previous contents.
    /// `tolerance(output, value)` is for arithmetic in f32; the rounding of outputs in bf16 is added to it. All devices
    /// but the first run the operation from a captured list. The outputs of the first are then copied to the others and
    /// to the reference, so that the next operation starts from the same numbers.
    pub fn check(&mut self, op: impl Into<Op>, tolerance: impl Fn(&Tensor, f64) -> f64) {
        let op = op.into();
        let unsupported = |(name, supports): (&str, Supports)| op.name() == name && !supports(&op);
        self.skipped |= op.cost().flops > self.choice.flops || self.supports.is_some_and(unsupported);
        if self.idle() {
            return;
        }
        if let Some(visit) = &mut self.visit {
            visit(self.case, &op);
        }
        let mutants = self.mutants.take();
        let before = if mutants.is_some() { self.memories() } else { Ok(Vec::new()) };
        let done = self.run(&op).and_then(|()| self.compare(&op, &tolerance));
        self.keep(done);
        if let Some(mut mutants) = mutants {
            let tried = before.and_then(|before| self.try_all(&mut *mutants, &op, &tolerance, &before));
            self.keep(tried);
            self.mutants = Some(mutants);
        }
    }

    /// Runs an operation on all devices and compares their memory with each other and with its previous contents.
    fn run(&mut self, op: &Op) -> Result<()> {
        let (count, comparisons) = (self.devices().count(), self.comparisons);
        let before = (0..count).map(|i| self.memory(i)).collect::<Result<Vec<_>>>()?;
        for (i, device) in self.devices().enumerate() {
            let op = retype(op, device);
            // With only one device under test, every other operation is captured.
            let captured = i > 0 || count == 2 && comparisons % 2 == 1;
            let done = if !captured {
                device.run(&op)
            } else {
                device.capture(&[op]).and_then(|graph| {
                    let done = device.replay(graph);
                    device.release(graph);
                    done
                })
            };
            done.map_err(|e| Error::new(format!("{e}\nin {op:?} on {}", device.name())))?;
        }
        let after = (0..count).map(|i| self.memory(i)).collect::<Result<Vec<_>>>()?;
        for (i, memory) in after.iter().enumerate().take(self.subjects.len()).skip(1) {
            if self.deterministic && *memory != after[0] {
                let [one, first] = [i, 0].map(|i| self.subjects[i].label());
                let what = differences::first(op, &self.arenas, [memory, &after[0]]);
                bail!(
                    "{op:?}: {one} and {first} give different bits: {what}; possibly a race: `vcycle kernels check {} \
                     --shadow` names its lines",
                    op.name()
                );
            }
        }
        let written = self.written(op);
        let labels: Vec<_> = self.devices().map(|device| device.label()).collect();
        for ((before, after), label) in before.iter().zip(&after).zip(&labels) {
            for (((was, is), written), (arena, ..)) in before.iter().zip(after).zip(&written).zip(&self.arenas) {
                let size = was.len() / written.len().max(1);
                let untouched = written.iter().enumerate().filter(|(_, written)| !**written);
                for at in untouched.map(|(e, _)| e * size..(e + 1) * size) {
                    if was[at.clone()] != is[at.clone()] {
                        let place = differences::place(op, *arena, at.start / size);
                        bail!("{op:?}: {place} has changed on {label}, but it is not an output");
                    }
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, op: &Op, tolerance: impl Fn(&Tensor, f64) -> f64) -> Result<()> {
        let Some(oracle) = self.oracle.as_mut().filter(|_| !self.subjects.is_empty()) else { return Ok(()) };
        let compared = if self.deterministic { 1 } else { self.subjects.len() };
        self.checked.insert(op.name());
        self.comparisons += 1;
        let mut outputs = Vec::new();
        { *op }.operands(&mut |t, access| outputs.extend((access != Access::Read).then_some(*t)));
        for out in outputs.iter().filter(|t| Some(**t) != workspace(op)) {
            let wide = out.with_dtype(DType::F64);
            let want = read_floats(oracle, &wide)?;
            let mut first = Vec::new();
            for subject in self.subjects.iter_mut().take(compared) {
                let got = read_floats(&mut **subject, out)?;
                for (e, (&got, &want)) in got.iter().zip(&want).enumerate() {
                    let mut allowed = tolerance(out, want);
                    if out.dtype() == DType::BF16 {
                        allowed += BF16_ROUNDING * (want.abs() + allowed);
                    }
                    // The difference of equal infinities is NaN.
                    let used = if got == want { 0.0 } else { (got - want).abs() / allowed };
                    if used.is_nan() || used > 1.0 {
                        bail!("{op:?}\n{out:?}: element {e} is {got}, expected {want} within {allowed:e}");
                    }
                    self.worst = self.worst.max(used);
                }
                if first.is_empty() {
                    first = got;
                } else {
                    write_floats(&mut **subject, out, &first)?;
                }
            }
            write_floats(oracle, &wide, &first)?;
        }
        Ok(())
    }

    /// Checks that all devices reject an operation, both when it is run and when it is captured or replayed, with an
    /// error that contains all of `words`.
    pub fn refuses(&mut self, op: &Op, words: &[&str]) {
        let mut wrong = Vec::new();
        for device in self.devices() {
            let (op, name) = (retype(op, device), device.name());
            let captured = device.capture(&[op]).and_then(|graph| device.replay(graph));
            for (how, result) in [("run", device.run(&op)), ("capture", captured)] {
                let text = result.map_or_else(|e| e.to_string(), |()| "nothing".into());
                if !words.iter().all(|w| text.contains(w)) {
                    wrong.push(format!("{how} of {op:?} on {name}: {text:?} does not contain all of {words:?}"));
                }
            }
        }
        self.keep(wrong.into_iter().next().map_or(Ok(()), |first| Err(Error::new(first))));
    }

    /// Returns for each element of each arena whether it is an output.
    fn written(&self, op: &Op) -> Vec<Vec<bool>> {
        let mut all: Vec<_> = self.arenas.iter().map(|(.., size)| vec![false; *size]).collect();
        { *op }.operands(&mut |t, access| {
            let arena = self.arenas.iter().position(|(number, ..)| t.place() == Place::Arena(*number));
            let Some(elements) = arena.map(|arena| &mut all[arena]) else { return };
            for r in (0..t.rows()).filter(|_| access != Access::Read) {
                let start = t.offset() + r * t.pitch();
                elements[start..start + t.width()].fill(true);
            }
        });
        all
    }

    /// Returns the bytes of all arenas of every device.
    fn memories(&mut self) -> Result<Vec<Memory>> {
        (0..self.devices().count()).map(|i| self.memory(i)).collect()
    }

    fn memory(&mut self, device: usize) -> Result<Memory> {
        let arenas = self.arenas.clone();
        let Some(device) = self.devices().nth(device) else { bail!("there is no device {device}") };
        let read = |(number, dtype, size): (u32, DType, usize)| {
            let dtype = of_device(device, dtype);
            let mut bytes = vec![0; size * dtype.bytes()];
            device.read(&Tensor::new(Place::Arena(number), dtype, 0, &[size]), &mut bytes)?;
            Ok(bytes)
        };
        arenas.into_iter().map(read).collect()
    }
}

/// Converts the operands of an operation to the types of a device.
fn retype(op: &Op, device: &dyn Device) -> Op {
    let mut op = *op;
    op.operands(&mut |t, _| *t = t.with_dtype(of_device(device, t.dtype())));
    op
}

/// Returns the type in which a device stores numbers of this type: f64 on the reference.
fn of_device(device: &dyn Device, dtype: DType) -> DType {
    if dtype.is_float() && !device.computes_in(dtype) { device.float() } else { dtype }
}

/// Returns the operand that an operation uses as scratch memory, whose contents may differ between devices.
fn workspace(op: &Op) -> Option<Tensor> {
    match op {
        Op::AttentionBackward(op) => Some(op.delta),
        Op::GlobalNorm(op) => Some(op.partials),
        Op::LayerNormBackward(op) => Some(op.partials),
        _ => None,
    }
}
