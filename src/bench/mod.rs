//! What operations and training steps take, beside what the device gives at its best. How it measures: docs/benchmarks.md.

pub mod cases;
pub mod inputs;
pub mod machine;
pub mod measure;
mod output;
pub mod report;
pub mod roofline;
pub mod shapes;
pub mod stats;
pub mod step;
pub mod table;
pub mod workload;

use crate::bail;
use crate::device::cuda::driver::nvidia::cublaslt;
use crate::error::{At, Result};
use crate::tensor::DType;
use crate::train::state::Precision;
use machine::{Machine, Wish};
use measure::Effort;
use output::Setting;
use roofline::Roofline;
use shapes::{Shape, Subject};

/// Somebody else's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    CublasLt,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::CublasLt => "cublaslt",
        }
    }

    /// Refuses what it cannot run, before anything else is done.
    fn admit(self, request: &Request) -> Result<()> {
        let name = self.name();
        if request.subject != Subject::Gemm {
            bail!("--peer {name}: it has matrix products alone; measure gemm");
        }
        if request.device != "cuda" {
            bail!("--peer {name}: it runs on an NVIDIA GPU, and the device is {}; add --device cuda", request.device);
        }
        cublaslt::admit().map_err(|e| e.at(format_args!("--peer {name}")))
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub subject: Subject,
    /// The subject's own if none.
    pub shape: Option<String>,
    pub variant: Wish,
    pub device: String,
    pub threads: usize,
    pub precision: Precision,
    /// Measured beside ours, round by round.
    pub peer: Option<Peer>,
    /// At least so many rounds.
    pub rounds: usize,
    /// At least so many seconds; if none, as long as makes sense.
    pub seconds: Option<f64>,
    /// Tells this version from others in a report.
    pub label: Option<String>,
}

/// Takes text for people, and lines of JSON, as they come.
pub struct Sink<'a> {
    pub say: &'a mut dyn FnMut(&str) -> Result<()>,
    pub json: &'a mut dyn FnMut(&serde_json::Value) -> Result<()>,
}

/// Measures all that was asked for.
///
/// # Errors
/// A shape, variant, precision or device that there is not; out of memory; errors of the device.
pub fn run(request: &Request, sink: &mut Sink) -> Result<()> {
    let shapes = request.subject.shapes(request.shape.as_deref())?;
    request.peer.map_or(Ok(()), |peer| peer.admit(request))?;
    let mut machine = Machine::open(&request.device, request.threads)?;
    let float = float(request, &mut machine)?;
    if !machine.is_timed() {
        (sink.say)("emulated hardware: its times say nothing about the speed of a GPU\n")?;
    }
    if request.subject == Subject::Step {
        return shapes.iter().try_for_each(|shape| steps(request, &mut machine, float, shape, sink));
    }
    let operations: Vec<_> =
        shapes.iter().flat_map(|shape| cases::of(request.subject, shape)).map(|case| case.operation).collect();
    machine.admit(&request.variant, &operations)?;
    for shape in &shapes {
        machine.require(cases::elements(request.subject, shape).saturating_mul(float.bytes())).at(&shape.name)?;
    }
    let setting = Setting { request, roofline: roofline(request, &mut machine, float)? };
    setting.roofline.iter().try_for_each(|r| (sink.say)(&setting.head(r)))?;
    let mut measured = 0;
    for shape in &shapes {
        measured += operation(&setting, &mut machine, float, shape, sink).at(&shape.name)?;
    }
    if measured == 0 {
        bail!("no variant that was asked for runs these shapes in this precision; --variant all shows which do");
    }
    Ok(())
}

/// The type in which to compute.
fn float(request: &Request, machine: &mut Machine) -> Result<DType> {
    let device = machine.device();
    match request.precision {
        Precision::F32 => Ok(device.float()),
        Precision::Bf16 if request.subject == Subject::Multilevel => {
            bail!("--precision bf16: multilevel maps the parameters, which are f32 in any run; leave it out")
        }
        Precision::Bf16 if device.computes_in(DType::BF16) => Ok(DType::BF16),
        Precision::Bf16 => {
            let name = device.name();
            bail!("--precision bf16: the device {name} does not compute in it; use f32, or --device cuda or emulator")
        }
    }
}

/// What the roofline may take.
const ROOFLINE_SECONDS: f64 = 2.0;

/// None on the emulator, where it would mean nothing.
fn roofline(request: &Request, machine: &mut Machine, float: DType) -> Result<Option<Roofline>> {
    let seconds = request.seconds.unwrap_or(ROOFLINE_SECONDS).min(ROOFLINE_SECONDS);
    match machine.is_timed() {
        true => Roofline::measure(machine, float, seconds).map(Some),
        false => Ok(None),
    }
}

/// All cases of a shape. Returns how many variants were measured.
fn operation(setting: &Setting, machine: &mut Machine, float: DType, shape: &Shape, sink: &mut Sink) -> Result<usize> {
    let request = setting.request;
    let effort = Effort { rounds: request.rounds, seconds: request.seconds.unwrap_or(1.0) };
    let (mut outcomes, mut notes) = (Vec::new(), String::new());
    for case in cases::of(request.subject, shape) {
        let outcome = measure::measure(machine, float, &case, (&request.variant, request.peer), effort)?;
        for name in &outcome.unsupported {
            notes += &format!("{} {name} does not run {} in this precision\n", case.operation, shape.name);
        }
        outcomes.extend(outcome.measured);
    }
    if !outcomes.is_empty() {
        (sink.say)(&format!("\n{}", setting.table(shape, &outcomes)))?;
    }
    (sink.say)(&notes)?;
    outcomes.iter().try_for_each(|m| (sink.json)(&setting.json(shape, m)))?;
    Ok(outcomes.len())
}

/// Steps first, and the roofline behind them: its operands would count as memory of the steps.
fn steps(request: &Request, machine: &mut Machine, float: DType, shape: &Shape, sink: &mut Sink) -> Result<()> {
    if request.variant != Wish::Chosen {
        bail!("--variant: a step runs many operations; VCYCLE_VARIANT_linear=naive, and so on, choose theirs");
    }
    let effort = Effort { rounds: request.rounds, seconds: request.seconds.unwrap_or(15.0) };
    let steps = step::measure(machine, shape, request.precision, effort).at(&shape.name)?;
    let setting = Setting { request, roofline: roofline(request, machine, float)? };
    (sink.say)(&setting.step_text(shape, &steps))?;
    (sink.json)(&setting.step_json(shape, &steps))
}
