//! Energy of Intel and AMD CPUs from RAPL (Running Average Power Limit), whose counters Linux exposes as files. See
//! <https://docs.kernel.org/power/powercap/powercap.html>.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder in which Linux exposes the counters.
pub const FOLDER: &str = "/sys/class/powercap";

/// The counters of all packages (sockets). They include the cores and memory, whose own counters are not added.
pub struct Packages {
    counters: Vec<Counter>,
    /// The total since the counters were opened.
    microjoules: u64,
}

struct Counter {
    file: PathBuf,
    /// The last value read, in microjoules.
    value: u64,
    /// The value after which the counter wraps around to zero.
    most: u64,
}

impl Packages {
    /// Opens all package counters in `folder`. They count from now on. `None` if there are none or one cannot be read,
    /// since a partial sum would look like the total.
    pub fn open(folder: &Path) -> Option<Self> {
        let mut counters = Vec::new();
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let domain = entry.path();
            let name = entry.file_name();
            // `intel-rapl:0` is a package, or the whole platform if its name is `psys`. `intel-rapl:0:0` is a part of a
            // package.
            let outer =
                name.to_str().and_then(|name| name.strip_prefix("intel-rapl:")).is_some_and(|n| !n.contains(':'));
            if outer && fs::read_to_string(domain.join("name")).is_ok_and(|name| name.starts_with("package")) {
                let file = domain.join("energy_uj");
                counters.push(Counter {
                    value: number(&file)?,
                    most: number(&domain.join("max_energy_range_uj"))?,
                    file,
                });
            }
        }
        (!counters.is_empty()).then_some(Packages { counters, microjoules: 0 })
    }

    /// Returns the joules since the counters were opened; `None` if one can no longer be read.
    pub fn joules(&mut self) -> Option<f64> {
        for counter in &mut self.counters {
            let now = number(&counter.file)?;
            self.microjoules = self.microjoules.saturating_add(counter.advance(now));
        }
        Some(self.microjoules as f64 / 1e6)
    }
}

impl Counter {
    /// Stores the new value and returns the microjoules since the last one. A smaller value means that the counter has
    /// wrapped around.
    fn advance(&mut self, now: u64) -> u64 {
        let before = std::mem::replace(&mut self.value, now);
        match now.checked_sub(before) {
            Some(difference) => difference,
            None => self.most.saturating_sub(before).saturating_add(now),
        }
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
