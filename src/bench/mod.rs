//! Benchmarks of operations and training steps, with the roofline of the device. `docs/benchmarks.md` describes the
//! method.

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
use crate::config::Precision;
use crate::device::Kind;
use crate::device::cuda::driver::nvidia::cublaslt;
use crate::error::{At, Result};
use crate::tensor::DType;
use machine::{Machine, VariantChoice};
use measure::Effort;
use output::Setting;
use roofline::Roofline;
use shapes::{Shape, Subject};

/// A library to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// NVIDIA's cuBLASLt, for matrix products.
    CublasLt,
}

impl Peer {
    /// Returns the name of the peer on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Peer::CublasLt => "cublaslt",
        }
    }

    /// Checks that the peer can run the request, before anything is measured.
    fn admit(self, request: &Request) -> Result<()> {
        let name = self.name();
        if request.subject != Subject::Gemm {
            bail!("--peer {name} supports only matrix products; use it with gemm");
        }
        if !matches!(request.device.parse()?, Kind::Cuda { .. }) {
            bail!("--peer {name} needs an NVIDIA GPU, but the device is {}; add --device cuda", request.device);
        }
        cublaslt::admit().map_err(|e| e.at(format_args!("--peer {name}")))
    }
}

/// A request for measurements.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to measure.
    pub subject: Subject,
    /// Name or sizes; if `None`, the default shape of the subject.
    pub shape: Option<String>,
    /// Kernel variants to measure.
    pub variant: VariantChoice,
    /// Name of the device.
    pub device: String,
    /// Threads of the host.
    pub threads: usize,
    /// Precision of the computation.
    pub precision: Precision,
    /// A peer to measure in the same rounds.
    pub peer: Option<Peer>,
    /// Least number of rounds.
    pub rounds: usize,
    /// Least number of seconds for every case; if `None`, 1 for operations and 15 for steps.
    pub seconds: Option<f64>,
    /// Label that tells this version from others in a report.
    pub label: Option<String>,
}

/// Receives the output as it is produced.
pub struct Sink<'a> {
    /// Receives tables and notes for the user.
    pub say: &'a mut dyn FnMut(&str) -> Result<()>,
    /// Receives one object for each measurement.
    pub json: &'a mut dyn FnMut(&serde_json::Value) -> Result<()>,
}

/// Measures everything in the request.
///
/// # Errors
/// If the shape, variant, precision or device is unknown or unsupported, memory runs out, or the device fails.
pub fn run(request: &Request, sink: &mut Sink) -> Result<()> {
    let shapes = request.subject.shapes(request.shape.as_deref())?;
    request.peer.map_or(Ok(()), |peer| peer.admit(request))?;
    let mut machine = Machine::open(&request.device, request.threads)?;
    // JSON lines name the kind of device, without the number of a GPU.
    let request = &Request { device: machine.device().name().into(), ..request.clone() };
    let float = float(request, &mut machine)?;
    if !machine.is_timed() {
        (sink.say)("emulated hardware: these times say nothing about the speed of a GPU\n")?;
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
        bail!("no requested variant supports these shapes in this precision; --variant all shows which do");
    }
    Ok(())
}

/// Returns the type in which to compute.
fn float(request: &Request, machine: &mut Machine) -> Result<DType> {
    let device = machine.device();
    match request.precision {
        Precision::F32 => Ok(device.float()),
        Precision::Bf16 if request.subject == Subject::Multilevel => {
            bail!("--precision bf16: multilevel operators work on the f32 parameters; leave --precision out")
        }
        Precision::Bf16 if device.computes_in(DType::BF16) => Ok(DType::BF16),
        Precision::Bf16 => {
            let name = device.name();
            bail!("--precision bf16: the device {name} does not support it; use f32, or --device cuda or emulator")
        }
    }
}

/// Most seconds for measuring the roofline.
const ROOFLINE_SECONDS: f64 = 2.0;

/// Measures the roofline; `None` on the emulator, where it would be meaningless.
fn roofline(request: &Request, machine: &mut Machine, float: DType) -> Result<Option<Roofline>> {
    let seconds = request.seconds.unwrap_or(ROOFLINE_SECONDS).min(ROOFLINE_SECONDS);
    match machine.is_timed() {
        true => Roofline::measure(machine, float, seconds).map(Some),
        false => Ok(None),
    }
}

/// Measures all cases of a shape. Returns the number of measurements.
fn operation(setting: &Setting, machine: &mut Machine, float: DType, shape: &Shape, sink: &mut Sink) -> Result<usize> {
    let request = setting.request;
    let effort = Effort { rounds: request.rounds, seconds: request.seconds.unwrap_or(1.0) };
    let (mut outcomes, mut notes) = (Vec::new(), String::new());
    for case in cases::of(request.subject, shape) {
        let outcome = measure::measure(machine, float, &case, (&request.variant, request.peer), effort)?;
        for name in &outcome.unsupported {
            notes += &format!("{} {name} does not support {} in this precision\n", case.operation, shape.name);
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

/// Measures steps, and only then the roofline, whose operands would otherwise count as memory of the steps.
fn steps(request: &Request, machine: &mut Machine, float: DType, shape: &Shape, sink: &mut Sink) -> Result<()> {
    if request.variant != VariantChoice::Chosen {
        bail!("--variant: a step runs many operations; set VCYCLE_VARIANT_linear=naive and so on to choose theirs");
    }
    let effort = Effort { rounds: request.rounds, seconds: request.seconds.unwrap_or(15.0) };
    let steps = step::measure(machine, shape, request.precision, effort).at(&shape.name)?;
    let setting = Setting { request, roofline: roofline(request, machine, float)? };
    (sink.say)(&setting.step_text(shape, &steps))?;
    (sink.json)(&setting.step_json(shape, &steps))
}
