//! Running Average Power Limit: counters of microjoules in files of Linux, for Intel and AMD. See
//! <https://docs.kernel.org/power/powercap/powercap.html>.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Linux shows them.
pub const FOLDER: &str = "/sys/class/powercap";

/// The counters of all packages (sockets). Those of cores and memory within a package are parts of them.
pub struct Packages {
    counters: Vec<Counter>,
    microjoules: u64,
}

struct Counter {
    file: PathBuf,
    /// As last read.
    value: u64,
    /// The value after which it begins at zero again.
    most: u64,
}

impl Packages {
    /// The counters in `folder`, from now on. `None` unless there are some and all can be read: a part of the energy would look like
    /// all of it.
    pub fn open(folder: &Path) -> Option<Self> {
        let mut counters = Vec::new();
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let domain = entry.path();
            let name = entry.file_name();
            // `intel-rapl:0` is a package, or the whole platform under the name `psys`; `intel-rapl:0:0` is a part of a package.
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

    /// Joules since then.
    pub fn joules(&mut self) -> Option<f64> {
        for counter in &mut self.counters {
            let now = number(&counter.file)?;
            self.microjoules = self.microjoules.saturating_add(counter.advance(now));
        }
        Some(self.microjoules as f64 / 1e6)
    }
}

impl Counter {
    /// Microjoules since it was last read. A value that is smaller than before began at zero again.
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
