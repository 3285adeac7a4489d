//! Launch code that takes one parameter for another of its type: every two parameters of every launch of a variant change places,
//! and the cases must notice.

use super::harness::{Choice, Mutants};
use super::kernels::{QUICK, run};
use crate::device::Device;
use crate::device::cuda;
use crate::device::cuda::driver::emulator::{Exchange, Field, Options, Watch};
use crate::device::cuda::launch::{Args, Kind};
use crate::device::cuda::variants::Variant;
use crate::device::ops::Op;
use crate::error::Result;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Floating-point operations of the largest case of one attempt and the next.
const SMALL: [u64; 3] = [5_000, 30_000, QUICK.flops];

/// Two parameters of one launch of a variant. Kernels that launch code chooses from, for types and tiles, count as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Swap {
    kinds: Vec<Kind>,
    /// Its number among launches of an operation with parameters of these types.
    launch: usize,
    parameters: [usize; 2],
    field: Field,
}

/// What is known of a [`Swap`].
#[derive(Debug)]
struct State {
    /// A kernel that is launched so.
    kernel: &'static str,
    /// Some case has different values there.
    differ: bool,
    noticed: bool,
}

/// A swap that no case has noticed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Survivor {
    /// A kernel that is launched so.
    pub kernel: &'static str,
    pub parameters: [usize; 2],
    pub field: Field,
    /// Some case has different values there.
    pub differ: bool,
}

/// What became of the swaps of a variant.
#[derive(Debug, Default)]
pub struct Swaps {
    pub tried: usize,
    pub survivors: Vec<Survivor>,
}

/// Tries the swaps of a variant on an operation after the other.
struct Trial {
    operation: &'static str,
    watch: Arc<Mutex<Watch>>,
    all: Arc<Mutex<BTreeMap<Swap, State>>>,
    /// Those to be tried on the operation that ran last.
    next: Vec<(Swap, Exchange)>,
    /// The one that is on.
    on: Option<Swap>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

/// Whether the parameters have different values there.
fn differ(args: &Args, [a, b]: [usize; 2], field: Field) -> bool {
    let (a, b) = (args.slots()[a], args.slots()[b]);
    match field {
        Field::All => a != b,
        Field::Pitch => args.maps()[a as usize].pitch != args.maps()[b as usize].pitch,
    }
}

/// The pairs of parameters of one type.
fn pairs(kinds: &[Kind]) -> Vec<([usize; 2], Field)> {
    let mut all = Vec::new();
    for (a, kind) in kinds.iter().enumerate() {
        for (b, _) in kinds.iter().enumerate().skip(a + 1).filter(|(_, other)| *other == kind) {
            all.push(([a, b], Field::All));
            if *kind == Kind::Map {
                all.push(([a, b], Field::Pitch));
            }
        }
    }
    all
}

impl Trial {
    /// The swaps of what ran last.
    fn collect(&mut self) {
        let launches = std::mem::take(&mut lock(&self.watch).launches);
        let mut all = lock(&self.all);
        for (number, launch) in launches.iter().enumerate() {
            let kinds = launch.args.kinds();
            let before = launches[..number].iter().filter(|other| other.args.kinds() == kinds).count();
            for (parameters, field) in pairs(kinds) {
                let swap = Swap { kinds: kinds.to_vec(), launch: before, parameters, field };
                let state =
                    all.entry(swap.clone()).or_insert(State { kernel: launch.kernel, differ: false, noticed: false });
                let differ = differ(&launch.args, parameters, field);
                state.differ |= differ;
                if differ && !state.noticed {
                    self.next.push((swap, Exchange { kernel: launch.kernel, parameters, field }));
                }
            }
        }
    }
}

impl Mutants for Trial {
    fn next(&mut self, op: &Op) -> bool {
        if self.on.take().is_none() {
            if op.name() == self.operation {
                self.collect();
            } else {
                lock(&self.watch).launches.clear();
            }
        }
        let next = self.next.pop();
        lock(&self.watch).exchange = next.as_ref().map(|(_, exchange)| *exchange);
        self.on = next.map(|(swap, _)| swap);
        self.on.is_some()
    }

    fn judge(&mut self, noticed: bool) {
        let mut all = lock(&self.all);
        if let Some(state) = self.on.as_ref().and_then(|swap| all.get_mut(swap)) {
            state.noticed |= noticed;
        }
    }
}

/// Tries all swaps of a variant: on small cases, then, unless these leave but `known` survivors, on larger ones.
///
/// # Errors
/// The cases fail without a swap.
pub fn swaps(variant: &'static Variant, known: &[(&'static str, [usize; 2])]) -> Result<Swaps> {
    let watch = Arc::new(Mutex::new(Watch::default()));
    let all = Arc::new(Mutex::new(BTreeMap::new()));
    let options = Options { checks: true, watch: Some(watch.clone()), ..Options::default() };
    let devices = || {
        let mut device = cuda::emulated(options.clone());
        device.prefer(variant);
        Ok(vec![Box::new(device) as Box<dyn Device>])
    };
    let trial =
        || Trial { operation: variant.operation, watch: watch.clone(), all: all.clone(), next: Vec::new(), on: None };
    for flops in SMALL {
        let choice = Choice { flops, ..QUICK };
        let (_, missing) = run(variant, devices, choice, |harness| harness.mutate(Box::new(trial())))?;
        let done = |(swap, state): (&Swap, &State)| {
            state.noticed || known.contains(&(state.kernel, swap.parameters)) && swap.field == Field::All
        };
        if missing.is_none() && lock(&all).iter().all(done) {
            break;
        }
    }
    let all = lock(&all);
    let survivors = all.iter().filter(|(_, state)| !state.noticed).map(|(swap, state)| Survivor {
        kernel: state.kernel,
        parameters: swap.parameters,
        field: swap.field,
        differ: state.differ,
    });
    Ok(Swaps { tried: all.len(), survivors: survivors.collect() })
}
