//! The emulator itself: every planted defect is reported with kernel, block, thread and line in every schedule, and its correct
//! twin passes in all of them.
#[cfg(emulated)]
mod clusters;
#[cfg(all(emulated, unix))]
mod crashes;
#[cfg(emulated)]
mod defects;
#[cfg(emulated)]
mod descriptors;
#[cfg(emulated)]
mod hopper;
#[cfg(emulated)]
mod launches;
#[cfg(emulated)]
mod reports;
#[cfg(emulated)]
mod stores;
#[cfg(emulated)]
mod tiles;

#[cfg(emulated)]
use vcycle::device::cuda::driver::emulator::{Emulator, Fault, Options};
#[cfg(emulated)]
use vcycle::device::cuda::driver::{Driver, Rows};
#[cfg(emulated)]
use vcycle::device::cuda::launch::{Launch, Region};
#[cfg(emulated)]
use vcycle::device::ops::Access;

#[cfg(emulated)]
unsafe extern "C" {
    /// Of each file of planted kernels.
    fn vcycle_attention_tiles() -> i32;
    fn vcycle_clusters() -> i32;
    fn vcycle_defects() -> i32;
    fn vcycle_hopper() -> i32;
    fn vcycle_reports() -> i32;
    fn vcycle_stores() -> i32;
    fn vcycle_tiles() -> i32;
}

/// The planted kernels are linked.
#[cfg(emulated)]
#[test]
fn planted_kernels_are_there() {
    // SAFETY: they return a number.
    let linked = unsafe {
        vcycle_attention_tiles()
            + vcycle_clusters()
            + vcycle_defects()
            + vcycle_hopper()
            + vcycle_reports()
            + vcycle_stores()
            + vcycle_tiles()
    };
    assert_eq!(linked, 7);
}

/// Starts a planted kernel.
#[cfg(emulated)]
fn launch_on(emulator: &mut Emulator, launch: &Launch) -> vcycle::error::Result<()> {
    // SAFETY: addresses are those of allocations that a test has made in this emulator and not freed. Kernels that stray from them
    // run with checks, which stop a thread before such an access; and launches with made-up addresses are refused before they run.
    unsafe { emulator.launch(launch) }
}

/// An operand of words.
#[cfg(emulated)]
fn region(name: &'static str, rows: Rows, access: Access) -> Region {
    Region { name, rows, element: 4, access }
}

/// Lines of a source that a defect is marked on, in that line or in comments before it.
#[cfg(emulated)]
fn marked(source: &str, name: &str) -> Vec<u32> {
    let (mut lines, mut before) = (Vec::new(), false);
    for (n, line) in (1..).zip(source.lines()) {
        let (code, names) = line.split_once("// <- ").unwrap_or((line, ""));
        before |= names.split(", ").any(|n| n == name);
        if !code.trim().is_empty() && std::mem::take(&mut before) {
            lines.push(n);
        }
    }
    lines
}

/// What is not noticed of planted misuses, each with parts of the report, one of which there must be, or is noticed
/// elsewhere than where it is marked.
#[cfg(emulated)]
fn unnoticed<T>(
    source: &str,
    misuses: &[(&str, &str)],
    run: impl Fn(&str, Options) -> (Option<Fault>, Result<T, String>),
) -> Vec<String> {
    let mut missed = Vec::new();
    for (name, words) in misuses {
        for options in Options::schedules(true) {
            let order = options.order;
            let (fault, done) = run(name, options);
            let Err(text) = done else {
                missed.push(format!("{name}, {order:?}: not noticed"));
                continue;
            };
            if !words.split('|').any(|w| text.contains(w)) {
                missed.push(format!("{name}, {order:?}: {text:?} has no {words:?}"));
            }
            let (line, lines) = (fault.and_then(|f| f.at.site()).map(|site| site.line), marked(source, name));
            if !lines.is_empty() && line.is_none_or(|line| !lines.contains(&line)) {
                missed.push(format!("{name}, {order:?}: {text:?} is not about lines {lines:?}"));
            }
        }
    }
    missed
}

#[cfg(not(emulated))]
#[test]
fn the_emulator_is_there() {
    panic!("built without the emulator: kernels were not tested; see the warnings of `cargo build`");
}
