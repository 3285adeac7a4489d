//! Mutants that swap two kernel parameters of the same type, as if the launch code confused them. Every pair of every
//! launch of a variant is tried, and the cases must notice.

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

/// The largest cases, in FLOPs, of the first attempt and of the following ones.
const SMALL: [u64; 3] = [5_000, 30_000, QUICK.flops];

/// A pair of parameters of one launch of a variant. Kernels with the same parameter types, such as for other element
/// types or tiles, count as the same launch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Swap {
    kinds: Vec<Kind>,
    /// The number of the launch among the operation's launches with parameters of these types.
    launch: usize,
    parameters: [usize; 2],
    field: Field,
}

/// The results of a [`Swap`].
#[derive(Debug)]
struct State {
    /// One of its kernels.
    kernel: &'static str,
    /// Whether the two parameters have different values in some case.
    differ: bool,
    noticed: bool,
}

/// A swap that no case noticed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Survivor {
    /// One of the kernels that are launched with these parameters.
    pub kernel: &'static str,
    /// The numbers of the parameters, counted from 0.
    pub parameters: [usize; 2],
    /// Whether whole parameters or only row pitches were swapped.
    pub field: Field,
    /// Whether the two parameters have different values in some case.
    pub differ: bool,
}

/// The results of all swaps of a variant.
#[derive(Debug, Default)]
pub struct Swaps {
    /// The number of swaps.
    pub tried: usize,
    /// The swaps that no case noticed.
    pub survivors: Vec<Survivor>,
}

/// Tries the swaps of a variant on one operation after another.
struct Trial {
    operation: &'static str,
    watch: Arc<Mutex<Watch>>,
    all: Arc<Mutex<BTreeMap<Swap, State>>>,
    /// Swaps to be tried on the operation that ran last.
    next: Vec<(Swap, Exchange)>,
    /// The swap that is active.
    active: Option<Swap>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

/// Returns whether two parameters have different values.
fn differ(args: &Args, [a, b]: [usize; 2], field: Field) -> bool {
    let (a, b) = (args.slots()[a], args.slots()[b]);
    match field {
        Field::All => a != b,
        Field::Pitch => args.maps()[a as usize].pitch != args.maps()[b as usize].pitch,
    }
}

/// Returns all pairs of parameters of the same type.
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
    /// Collects the swaps of the operation that ran last.
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
        if self.active.take().is_none() {
            if op.name() == self.operation {
                self.collect();
            } else {
                lock(&self.watch).launches.clear();
            }
        }
        let next = self.next.pop();
        lock(&self.watch).exchange = next.as_ref().map(|(_, exchange)| *exchange);
        self.active = next.map(|(swap, _)| swap);
        self.active.is_some()
    }

    fn judge(&mut self, noticed: bool) {
        let mut all = lock(&self.all);
        if let Some(state) = self.active.as_ref().and_then(|swap| all.get_mut(swap)) {
            state.noticed |= noticed;
        }
    }
}

/// Tries all swaps of a variant on small cases and then, as long as swaps other than `known` survive, on larger ones.
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
    let trial = || Trial {
        operation: variant.operation,
        watch: watch.clone(),
        all: all.clone(),
        next: Vec::new(),
        active: None,
    };
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
