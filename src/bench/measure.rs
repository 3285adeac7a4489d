//! Measures operations: a warm-up, then rounds in which all contenders run in turn, so that drift affects all of them
//! equally.

use super::Peer;
use super::cases::{Case, Prepared};
use super::inputs::OperandAllocator;
use super::machine::{Machine, VariantChoice};
use super::stats::Summary;
use crate::bail;
use crate::device::cuda::cublaslt::PeerProducts;
use crate::device::cuda::variants::{Variant, variants_of};
use crate::device::ops::{Cost, Op};
use crate::device::{Device, Graph};
use crate::error::{At, Result};
use crate::tensor::DType;
use std::time::Instant;

/// How long to measure: until both limits are reached.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Least number of rounds.
    pub rounds: usize,
    /// Least duration in seconds.
    pub seconds: f64,
}

/// The times of one variant of a case.
pub struct Measured {
    /// Name of the case.
    pub case: &'static str,
    /// Name of the variant; `None` on `cpu` and `reference`, which have only one, and for a peer.
    pub variant: Option<&'static str>,
    /// The peer and its version, if a peer ran it.
    pub peer: Option<(Peer, String)>,
    /// FLOPs and bytes of the operation.
    pub cost: Cost,
    /// Number of operand sets that were used in turn.
    pub sets: usize,
    /// Statistics of the seconds.
    pub summary: Summary,
}

/// The measurements of a case.
pub struct Outcome {
    /// One entry for each variant and peer.
    pub measured: Vec<Measured>,
    /// Requested variants that do not support the case.
    pub unsupported: Vec<&'static str>,
}

/// Largest number of operand sets.
const MOST_SETS: usize = 64;
/// Number of measurements of each variant that ends the rounds early.
const MOST_SAMPLES: usize = 1 << 20;

/// Runs a captured list of `ops` operations and appends the seconds of those called `name`, as the device measures
/// them.
///
/// # Errors
/// If the device fails.
pub fn samples(device: &mut dyn Device, graph: Graph, (name, ops): (&str, usize), into: &mut Vec<f64>) -> Result<()> {
    device.timings().record(ops);
    device.replay(graph)?;
    device.sync()?;
    let (spans, _) = device.timings().spans();
    into.extend(spans.iter().filter(|span| span.name == name).map(|span| span.length.as_secs_f64().max(1e-9)));
    Ok(())
}

/// Measures a case in all requested variants, and in the same rounds with a peer if one is given.
///
/// # Errors
/// If memory runs out or the device fails.
pub fn measure(
    machine: &mut Machine,
    float: DType,
    case: &Case,
    wish: (&VariantChoice, Option<Peer>),
    effort: Effort,
) -> Result<Outcome> {
    let cache = machine.cache();
    let mut maker = OperandAllocator::new(machine.device(), float);
    let made = sets(&mut maker, case, cache);
    let arenas = maker.into_arenas();
    let measured = made.and_then(|sets| race(machine, case, &sets, wish, effort)).at(case.name);
    arenas.into_iter().for_each(|arena| machine.device().free(arena));
    measured
}

/// Makes enough sets of operands to exceed the caches twice, so that no set is still cached when it is used again.
fn sets(maker: &mut OperandAllocator, case: &Case, cache: usize) -> Result<Vec<Prepared>> {
    let first = (case.build)(maker)?;
    let bytes = (first.op.cost().bytes as usize).max(1);
    let count = (2 * cache).div_ceil(bytes).clamp(1, MOST_SETS);
    let mut all = vec![first];
    for _ in 1..count {
        all.push((case.build)(maker)?);
    }
    Ok(all)
}

/// A variant or a peer under measurement.
struct Contender {
    variant: Option<&'static Variant>,
    entry: Entry,
    seconds: Vec<f64>,
}

enum Entry {
    Graph(Graph),
    Peer(Peer, PeerProducts),
}

impl Contender {
    /// Runs the list once and records the seconds.
    fn run(&mut self, machine: &mut Machine, what: (&str, usize)) -> Result<()> {
        match &self.entry {
            Entry::Graph(graph) => samples(machine.device(), *graph, what, &mut self.seconds),
            Entry::Peer(_, products) => machine.run_cublaslt(products, &mut self.seconds),
        }
    }
}

fn race(
    machine: &mut Machine,
    case: &Case,
    sets: &[Prepared],
    (wish, peer): (&VariantChoice, Option<Peer>),
    effort: Effort,
) -> Result<Outcome> {
    let op = sets[0].op;
    let (variants, unsupported) = choose(machine, &op, wish);
    let list: Vec<Op> = sets.iter().flat_map(|set| [set.before, Some(set.op)]).flatten().collect();
    let mut contenders = Vec::new();
    let run = line_up(machine, &list, (&variants, peer), &mut contenders)
        .and_then(|()| rounds(machine, (op.name(), list.len()), &mut contenders, effort));
    for contender in &contenders {
        if let Entry::Graph(graph) = contender.entry {
            machine.device().release(graph);
        }
    }
    run?;
    let mut measured = Vec::new();
    for c in &contenders {
        let Some(summary) = Summary::of(&c.seconds) else { bail!("nothing was measured") };
        let variant = c.variant.map(|v| v.name);
        let peer = match &c.entry {
            Entry::Graph(_) => None,
            Entry::Peer(peer, products) => Some((*peer, products.version())),
        };
        measured.push(Measured { case: case.name, variant, peer, cost: op.cost(), sets: sets.len(), summary });
    }
    Ok(Outcome { measured, unsupported })
}

/// Returns the variants to measure and the names of requested variants that do not support the operation.
fn choose(machine: &Machine, op: &Op, wish: &VariantChoice) -> (Vec<Option<&'static Variant>>, Vec<&'static str>) {
    if matches!(machine, Machine::Host(_)) || *wish == VariantChoice::Chosen {
        return (vec![machine.variant(op)], Vec::new());
    }
    let asked = |v: &&Variant| {
        matches!(wish, VariantChoice::All)
            || matches!(wish, VariantChoice::Named(names) if names.iter().any(|name| v.name == name))
    };
    let (can, cannot): (Vec<_>, Vec<_>) = variants_of(op.name()).filter(asked).partition(|v| (v.supports)(op));
    (can.into_iter().map(Some).collect(), cannot.into_iter().map(|v| v.name).collect())
}

/// Captures the list once for each variant and prepares it for the peer.
fn line_up(
    machine: &mut Machine,
    list: &[Op],
    (variants, peer): (&[Option<&'static Variant>], Option<Peer>),
    contenders: &mut Vec<Contender>,
) -> Result<()> {
    for &variant in variants {
        variant.into_iter().for_each(|v| machine.prefer(v));
        let graph = machine.device().capture(list)?;
        contenders.push(Contender { variant, entry: Entry::Graph(graph), seconds: Vec::new() });
    }
    if let Some(peer @ Peer::CublasLt) = peer {
        let entry = Entry::Peer(peer, machine.cublaslt(list)?);
        contenders.push(Contender { variant: None, entry, seconds: Vec::new() });
    }
    Ok(())
}

fn rounds(machine: &mut Machine, what: (&str, usize), contenders: &mut [Contender], effort: Effort) -> Result<()> {
    // Warm-up: touches pages, raises clocks and builds tables.
    contenders.iter_mut().try_for_each(|c| c.run(machine, what))?;
    contenders.iter_mut().for_each(|c| c.seconds.clear());
    let (begin, mut round) = (Instant::now(), 0);
    let enough = |c: &[Contender]| c.iter().all(|c| c.seconds.len() >= MOST_SAMPLES);
    while round < effort.rounds || begin.elapsed().as_secs_f64() < effort.seconds {
        for c in contenders.iter_mut() {
            c.run(machine, what)?;
        }
        if enough(contenders) {
            break;
        }
        round += 1;
    }
    Ok(())
}
