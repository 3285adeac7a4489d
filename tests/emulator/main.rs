//! Tests of the emulator itself. Every planted defect is reported in every schedule, with kernel, block, thread and
//! line, and its correct version passes in all of them.
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
    // One function per file of planted kernels, so that the files are linked.
    fn vcycle_attention_tiles() -> i32;
    fn vcycle_clusters() -> i32;
    fn vcycle_defects() -> i32;
    fn vcycle_hopper() -> i32;
    fn vcycle_reports() -> i32;
    fn vcycle_stores() -> i32;
    fn vcycle_tiles() -> i32;
}

/// The files of planted kernels are linked.
#[cfg(emulated)]
#[test]
fn planted_kernels_are_there() {
    // SAFETY: these functions only return a number.
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

/// Launches a planted kernel.
#[cfg(emulated)]
fn launch_on(emulator: &mut Emulator, launch: &Launch) -> vcycle::error::Result<()> {
    // SAFETY: addresses are those of live allocations of this emulator. Kernels that access other memory run with
    // checks, which stop a thread before such an access. Launches with made-up addresses are refused before they run.
    unsafe { emulator.launch(launch) }
}

/// Returns an operand with elements of 4 bytes.
#[cfg(emulated)]
fn region(name: &'static str, rows: Rows, access: Access) -> Region {
    Region { name, rows, element: 4, access }
}

/// Returns the lines of a source that are marked with the name of a defect, at their end or in comments before them.
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

/// Runs planted misuses in every schedule. Each comes with alternatives, separated by `|`, one of which its report must
/// contain. Returns messages about those that were not reported, not in these words, or not at a marked line.
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
                missed.push(format!("{name}, {order:?}: not reported"));
                continue;
            };
            if !words.split('|').any(|w| text.contains(w)) {
                missed.push(format!("{name}, {order:?}: {text:?} does not contain {words:?}"));
            }
            let (line, lines) = (fault.and_then(|f| f.at.site()).map(|site| site.line), marked(source, name));
            if !lines.is_empty() && line.is_none_or(|line| !lines.contains(&line)) {
                missed.push(format!("{name}, {order:?}: {text:?} is not at one of the lines {lines:?}"));
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
