//! Memory in proportion to what a file or an option claims: taken where it is there, refused in a sentence where not.

use crate::bail;
use crate::error::{Error, Result};
use std::cell::Cell;
use std::path::Path;

thread_local! {
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is asking for memory that it may do without: a refusal is then an answer, not the end.
pub fn is_asking() -> bool {
    ASKING.get()
}

/// Below this a request is not worth a look at what is left.
const SMALL: usize = 64 << 20;

/// Refuses more than the system has left. Memory is handed out before it exists, and a process that then uses it is killed
/// without a word.
///
/// # Errors
/// Says how much was wanted and how much is there.
pub fn require(bytes: usize) -> Result<()> {
    if bytes < SMALL {
        return Ok(());
    }
    match available() {
        Some(left) if bytes as u64 > left => {
            bail!("out of memory: {} wanted and {} left; use a smaller batch or model", mib(bytes as u64), mib(left))
        }
        _ => Ok(()),
    }
}

/// The error where `bytes` were refused.
pub fn refused(bytes: usize) -> Error {
    Error::new(format!("out of memory: {} wanted; use a smaller batch or model", mib(bytes as u64)))
}

/// `count` zeros.
///
/// # Errors
/// Out of memory: says how much was wanted.
pub fn zeros<T: bytemuck::Zeroable + Clone>(count: usize) -> Result<Vec<T>> {
    let mut all = with_capacity(count)?;
    all.resize(count, T::zeroed());
    Ok(all)
}

/// An empty vector with room for `count`.
///
/// # Errors
/// As [`zeros`].
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

/// Bytes that the system can still give to this process, where it says so.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let free = kilobytes(&text, "MemAvailable:")?;
    let least = [of_process(), of_groups()].into_iter().flatten().fold(free, u64::min);
    Some(least)
}

/// The field `name` of a file of /proc, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What `ulimit -v` leaves.
fn of_process() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    // "unlimited" is no number.
    let most = line.split_whitespace().next()?.parse::<u64>().ok()?;
    let size = kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(most.saturating_sub(size))
}

/// What the limits of containers leave: that of this process's group, and of all around it.
fn of_groups() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    let number = |path: std::path::PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let root = Path::new("/sys/fs/cgroup");
    let all = Path::new(own).ancestors().map(|group| root.join(group));
    all.filter_map(|group| {
        let most = number(group.join("memory.max"))?;
        let used = number(group.join("memory.current")).unwrap_or(0);
        // The system drops cached files when memory is asked for.
        let facts = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let cached = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let cached: u64 = ["active_file ", "inactive_file "].iter().filter_map(|name| cached(name)).sum();
        Some(most.saturating_sub(used.saturating_sub(cached)))
    })
    .min()
}

/// Memory of this process in bytes: now, and the most it ever was. `None` where the system does not tell.
pub fn resident() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    Some((kilobytes(&text, "VmRSS:")?, kilobytes(&text, "VmHWM:")?))
}
