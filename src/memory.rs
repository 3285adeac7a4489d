//! Allocations whose size depends on a file or an option: they return an error if the memory is not available.

use crate::bail;
use crate::error::{Error, Result};
use std::cell::Cell;
use std::path::Path;

thread_local! {
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread is in an allocation that may fail: the allocator then must not end the process.
pub fn is_fallible_allocation() -> bool {
    ASKING.get()
}

/// Requests below this many bytes are not checked against the available memory.
const SMALL: usize = 64 << 20;

/// Checks that `bytes` of memory are available. The system overcommits: it grants allocations that it cannot back, and
/// kills the process without a message when it uses them.
///
/// # Errors
/// If less memory is available; the message says how much is needed and how much is left.
pub fn require(bytes: usize) -> Result<()> {
    if bytes < SMALL {
        return Ok(());
    }
    match available() {
        Some(left) if bytes as u64 > left => {
            bail!("out of memory: {} needed, {} available; use a smaller batch or model", mib(bytes as u64), mib(left))
        }
        _ => Ok(()),
    }
}

/// Checks that there is memory for another thread. The standard library maps a signal stack when a thread starts, and
/// panics if it cannot.
///
/// # Errors
/// If there is too little memory.
pub fn require_thread() -> std::io::Result<()> {
    // The default stack, and more than a signal stack with its guard page needs.
    const BYTES: usize = (2 << 20) + (256 << 10);
    memmap2::MmapMut::map_anon(BYTES).map(|_| ())
}

/// Returns the error for a failed allocation of `bytes`.
pub fn refused(bytes: usize) -> Error {
    Error::new(format!("out of memory: {} needed; use a smaller batch or model", mib(bytes as u64)))
}

/// Allocates a vector of `count` zeros.
///
/// # Errors
/// If there is not enough memory; the message says how much is needed.
pub fn zeros<T: bytemuck::Zeroable + Clone>(count: usize) -> Result<Vec<T>> {
    let mut all = with_capacity(count)?;
    all.resize(count, T::zeroed());
    Ok(all)
}

/// Allocates an empty vector with capacity for `count` elements.
///
/// # Errors
/// If there is not enough memory; the message says how much is needed.
pub fn with_capacity<T>(count: usize) -> Result<Vec<T>> {
    let bytes = count.saturating_mul(size_of::<T>());
    require(bytes)?;
    let mut all = Vec::new();
    ASKING.set(true);
    let reserved = all.try_reserve_exact(count);
    ASKING.set(false);
    reserved.map_err(|_| refused(bytes))?;
    Ok(all)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

/// Returns the bytes that this process can still allocate: the least of what the machine, `ulimit -v` and cgroups
/// leave. `None` without `/proc`.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let free = kilobytes(&text, "MemAvailable:")?;
    let least = [of_process(), of_groups()].into_iter().flatten().fold(free, u64::min);
    Some(least)
}

/// Returns the field `name` of a `/proc` file in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the bytes that `ulimit -v` leaves.
fn of_process() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    // "unlimited" does not parse, which means no limit.
    let most = line.split_whitespace().next()?.parse::<u64>().ok()?;
    let size = kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(most.saturating_sub(size))
}

/// Returns the bytes that cgroup limits leave: the least over the cgroup of this process and its ancestors.
fn of_groups() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    let number = |path: std::path::PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let root = Path::new("/sys/fs/cgroup");
    let all = Path::new(own).ancestors().map(|group| root.join(group));
    all.filter_map(|group| {
        let most = number(group.join("memory.max"))?;
        let used = number(group.join("memory.current")).unwrap_or(0);
        // The page cache counts as used, but the system drops it when memory is needed.
        let facts = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let cached = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let cached: u64 = ["active_file ", "inactive_file "].iter().filter_map(|name| cached(name)).sum();
        Some(most.saturating_sub(used.saturating_sub(cached)))
    })
    .min()
}

/// Returns the resident memory of this process in bytes: current and peak. `None` without `/proc`.
pub fn resident() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    Some((kilobytes(&text, "VmRSS:")?, kilobytes(&text, "VmHWM:")?))
}
