//! Promise: energy counters are read correctly (only those of CPU packages, also when they wrap around; that of a GPU
//! by its PCI address), and nothing fails if there are none.

use std::fs;
use std::path::Path;
use vcycle::device::energy::nvml::Gpu;
use vcycle::device::energy::rapl::Packages;

/// Writes a RAPL domain: its name, its counter and the counter's range.
fn domain(folder: &Path, domain: &str, name: &str, energy: &str, most: &str) {
    let at = folder.join(domain);
    fs::create_dir_all(&at).expect("made");
    for (file, text) in [("name", name), ("energy_uj", energy), ("max_energy_range_uj", most)] {
        fs::write(at.join(file), format!("{text}\n")).expect("written");
    }
}

#[test]
fn package_counters_are_summed_and_may_wrap_around() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    domain(at, "intel-rapl:0", "package-0", "9000000", "10000000");
    domain(at, "intel-rapl:1", "package-1", "500000", "10000000");
    // A part of a package, the whole platform, and the same package through another interface must not be counted
    // twice.
    domain(at, "intel-rapl:0:0", "core", "1", "10");
    domain(at, "intel-rapl:2", "psys", "1", "10");
    domain(at, "intel-rapl-mmio:0", "package-0", "1", "10");
    fs::create_dir(at.join("intel-rapl")).expect("made");
    let mut packages = Packages::open(at).expect("two packages");
    assert_eq!(packages.joules(), Some(0.0));
    let set = |package: u32, energy: &str| {
        fs::write(at.join(format!("intel-rapl:{package}/energy_uj")), energy).expect("written")
    };
    // The counters advance by 0.5 J and 1.5 J.
    set(0, "9500000");
    set(1, "2000000\n");
    assert_eq!(packages.joules(), Some(2.0));
    // The counter wraps around: 0.5 J up to its range of 10 J, and 0.25 J from zero.
    set(0, "250000");
    assert_eq!(packages.joules(), Some(2.75));
    assert_eq!(packages.joules(), Some(2.75));
    // The counter drops from a value above its range: only the energy since zero is certain.
    set(0, "20000000");
    assert_eq!(packages.joules(), Some(22.5));
    set(0, "1000000");
    assert_eq!(packages.joules(), Some(23.5));
    set(1, "nonsense");
    assert_eq!(packages.joules(), None);
}

#[test]
fn a_missing_or_invalid_counter_gives_none() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(Packages::open(&dir.path().join("missing")).is_none());
    assert!(Packages::open(dir.path()).is_none());
    domain(dir.path(), "intel-rapl:0", "package-0", "5", "10");
    assert!(Packages::open(dir.path()).is_some());
    for (energy, most) in [("", "10"), ("-5", "10"), ("5", "nan"), ("99999999999999999999999", "10")] {
        domain(dir.path(), "intel-rapl:1", "package-1", energy, most);
        assert!(Packages::open(dir.path()).is_none(), "some of the packages would pass for all: {energy:?} {most:?}");
    }
}

/// Opens a GPU through a library that is missing, or the one below.
fn open(library: &str, bus: &str) -> Option<Gpu> {
    // SAFETY: the functions of `LIBRARY` have the types of nvml.h, and loading it runs no code.
    unsafe { Gpu::open_library(library, bus) }
}

#[test]
fn a_missing_library_gives_none() {
    assert!(open("/nowhere/libnvidia-ml.so.1", "00000000:00:00.0").is_none());
    assert!(open("/dev/null", "00000000:00:00.0").is_none());
}

/// Source of a library with the functions of NVML for one GPU. Its counter advances by 1.5 J with every query.
#[cfg(emulated)]
const LIBRARY: &str = r#"
#include <cstring>
static int initialised, token;
static unsigned long long energy = 7000;
extern "C" int nvmlInit_v2() { return initialised++ * 0; }
extern "C" int nvmlShutdown() { return --initialised < 0; }
extern "C" int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device) {
    if (initialised != 1 || std::strcmp(bus, "00000000:65:00.0") != 0) return 6;
    *device = &token;
    return 0;
}
extern "C" int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    if (device != &token || initialised != 1) return 2;
    *millijoules = energy += 1500;
    return 0;
}
"#;

#[cfg(emulated)]
#[test]
fn a_gpu_is_found_by_its_address() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, library) = (dir.path().join("nvml.cpp"), dir.path().join("libnvml.so"));
    fs::write(&source, LIBRARY).expect("written");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let compiled =
        std::process::Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(compiled.expect("a C++ compiler").success());
    let library = library.to_str().expect("UTF-8");
    assert!(open(library, "00000000:66:00.0").is_none(), "another GPU");
    assert!(open(library, "a\0b").is_none());
    for _ in 0..2 {
        let gpu = open(library, "00000000:65:00.0").expect("a GPU");
        assert_eq!((gpu.joules(), gpu.joules()), (Some(1.5), Some(3.0)));
    }
}
