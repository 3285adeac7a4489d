//! Memory in proportion to what a file or an option claims: taken where it is there, refused in a sentence where not.

use crate::bail;
use crate::error::{Error, Result};

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
    all.try_reserve_exact(count).map_err(|_| refused(bytes))?;
    Ok(all)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

/// Bytes that the system can still give to this process, where it says so.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
    // Containers have a limit of their own.
    let of_group =
        |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    let group = of_group("memory.max").map(|most| most.saturating_sub(of_group("memory.current").unwrap_or(0)));
    Some(group.map_or(free, |group| group.min(free)))
}

/// Memory of this process in bytes: now, and the most it ever was. `None` where the system does not tell.
pub fn resident() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}
