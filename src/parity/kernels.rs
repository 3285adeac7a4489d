//! Parity of kernels: checks one variant at a time, on a GPU or in several schedules of the emulator.

use super::harness::{Choice, Harness};
use super::stem;
use crate::bail;
use crate::device::Device;
use crate::device::cuda;
use crate::device::cuda::variants::Variant;
use crate::error::Result;
use crate::tensor::DType;

/// The result of a variant's cases.
pub struct Outcome {
    /// How many operations were compared with the reference.
    pub comparisons: usize,
    /// The largest error, as a fraction of its tolerance.
    pub worst: f64,
}

/// Runs all cases of a variant on a GPU.
///
/// # Errors
/// There is no GPU, or a case fails.
pub fn on_gpu(gpu: usize, variant: &'static Variant, choice: Choice) -> Result<Outcome> {
    let devices = || {
        let mut device = cuda::open(gpu)?;
        device.prefer(variant);
        Ok(vec![Box::new(device) as Box<dyn Device>])
    };
    check(variant, devices, choice)
}

/// Runs all cases of a variant in each of these schedules. All must give the same bits or, if the variant is
/// nondeterministic, each must agree with the reference within the tolerance.
///
/// # Errors
/// The first fault or difference.
#[cfg(emulated)]
pub fn emulated(
    variant: &'static Variant,
    schedules: &[cuda::driver::emulator::Options],
    choice: Choice,
) -> Result<Outcome> {
    let device = |options: &cuda::driver::emulator::Options| -> Box<dyn Device> {
        let mut device = cuda::emulated(options.clone());
        device.prefer(variant);
        Box::new(device)
    };
    check(variant, || Ok(schedules.iter().map(device).collect()), choice)
}

/// Returns the barriers, fences, waits and commits that a variant's kernels reach in its cases.
///
/// # Errors
/// A case fails.
#[cfg(emulated)]
pub fn sites(variant: &'static Variant) -> Result<std::collections::BTreeSet<cuda::driver::emulator::Site>> {
    use cuda::driver::emulator::{Log, Options};
    let log = std::sync::Arc::new(std::sync::Mutex::new(Log::default()));
    emulated(variant, &[Options { log: Some(log.clone()), ..Options::default() }], Choice { every: 3, ..QUICK })?;
    let log = log.lock().unwrap_or_else(|e| e.into_inner());
    let own = |kernels: &std::collections::BTreeSet<&str>| variant.kernels.iter().any(|k| kernels.contains(k));
    Ok(log.sites.iter().filter(|(_, kernels)| own(kernels)).map(|(site, _)| site.clone()).collect())
}

/// Only cases with small operations.
#[cfg(emulated)]
pub const QUICK: Choice = Choice { every: 1, flops: 300_000, full: false };

/// Returns the variants whose cases reach the barrier, fence, wait or commit at `site`, written as FILE:LINE.
///
/// # Errors
/// This build has no emulator, `site` cannot be parsed, or a case fails.
pub fn reaching(site: &str, variants: &[&'static Variant]) -> Result<Vec<&'static Variant>> {
    #[cfg(emulated)]
    {
        let Some(site) = cuda::driver::emulator::Site::parse(site) else {
            bail!("{site:?} is not of the form FILE:LINE, such as kernels/linear.cu:147")
        };
        let mut all = Vec::new();
        for &variant in variants {
            if sites(variant)?.contains(&site) {
                all.push(variant);
            }
        }
        Ok(all)
    }
    #[cfg(not(emulated))]
    {
        let _ = (site, variants);
        crate::device::open("emulator", 0).map(|_| Vec::new())
    }
}

/// Runs all cases of a variant; fails if a type of the variant has none.
fn check(
    variant: &'static Variant,
    devices: impl Fn() -> Result<Vec<Box<dyn Device>>>,
    choice: Choice,
) -> Result<Outcome> {
    let (outcome, missing) = run(variant, devices, choice, |_| {})?;
    if let Some(float) = missing {
        bail!("the cases of {} have no operation in {float:?} that {} supports", variant.operation, variant.name);
    }
    Ok(outcome)
}

/// Runs all cases of a variant, calling `prepare` on each harness first. Also returns a type in which no case was
/// compared, if there is one.
pub(super) fn run(
    variant: &'static Variant,
    devices: impl Fn() -> Result<Vec<Box<dyn Device>>>,
    choice: Choice,
    prepare: impl Fn(&mut Harness),
) -> Result<(Outcome, Option<DType>)> {
    let name = variant.operation;
    let Some(stem) = stem(name) else { bail!("there are no parity cases for {name}") };
    let (mut outcome, mut missing) = (Outcome { comparisons: 0, worst: 0.0 }, None);
    for &float in variant.floats {
        let mut harness = Harness::new(devices()?, choice);
        harness.float = float;
        harness.deterministic = variant.deterministic;
        harness.only(name, variant.supports);
        prepare(&mut harness);
        (stem.cases)(&mut harness);
        harness.finish()?;
        if !harness.checked.contains(name) {
            missing = Some(float);
        }
        outcome.comparisons += harness.comparisons;
        outcome.worst = outcome.worst.max(harness.worst);
    }
    Ok((outcome, missing))
}
