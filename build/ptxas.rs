//! Parses the output of nvcc and ptxas. These are pure functions, which `tests/kernels/nvcc_output.rs` checks against
//! real output.

use std::fmt::Write;

/// The oldest major version of nvcc that supports sm_90a.
pub const OLDEST_NVCC: u32 = 12;

/// The oldest architecture that the kernels support.
const OLDEST_ARCH: u32 = 80;

/// The default architectures, as far as nvcc supports them: Ampere (which Ada runs, too), Hopper and data-center
/// Blackwell. Consumer Blackwell (120) runs the PTX, because ptxas warns about launch bounds beyond its 1536 threads
/// per SM.
const USUAL: [&str; 3] = ["80", "90a", "100"];

/// The pip packages that hold a whole nvcc.
pub const PIP_PACKAGES: &str = "nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
                                nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85";

/// The resource usage of one kernel on one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The name of the kernel.
    pub kernel: String,
    /// The architecture in the notation of ptxas, such as `sm_80`.
    pub arch: String,
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory per block, in bytes.
    pub shared: u32,
}

/// The ptxas report on one source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The resource usage of each kernel on each architecture.
    pub usages: Vec<Usage>,
    /// Why the code is unacceptable. Each message names the kernel and architecture as far as ptxas does.
    pub faults: Vec<String>,
}

/// Parses the output of `nvcc --resource-usage` for any number of architectures, one after the other.
///
/// Faults are spills, stack frames and every note of the C75xx family, which says that ptxas has ignored a
/// `setmaxnreg`, serialized wgmma instructions, or inserted fences and waits that the source lacks.
pub fn read(output: &str) -> Report {
    let mut report = Report::default();
    // Notes precede the kernels of their architecture and do not name it.
    let mut notes: Vec<Note> = Vec::new();
    let mut function = String::new();
    for line in output.lines() {
        let (text, arch) = (line.trim(), report.usages.last().map(|u| u.arch.clone()).unwrap_or_default());
        if let Some(note) = note(text) {
            match notes.iter_mut().find(|n| n.code == note.code && n.function == note.function) {
                Some(earlier) => earlier.times += 1,
                None => notes.push(note),
            }
        } else if let Some(rest) = after(text, "Compiling entry function '") {
            let mut names = rest.split('\'');
            let (kernel, arch) = (names.next().unwrap_or(""), names.nth(1).unwrap_or(""));
            report.faults.extend(notes.drain(..).map(|n| n.fault(arch)));
            report.usages.push(Usage { kernel: kernel.into(), arch: arch.into(), ..Usage::default() });
        } else if let Some(name) = after(text, "Function properties for ") {
            function = name.trim().into();
        } else if text.contains("bytes stack frame") {
            report.faults.extend(memory_fault(text, &function, &arch));
        } else if let (Some(rest), Some(usage)) = (after(text, ": Used "), report.usages.last_mut()) {
            for part in rest.split(", ") {
                match part.trim().split_once(' ') {
                    Some((n, "registers")) => usage.registers = n.parse().unwrap_or(0),
                    Some((n, "bytes smem")) => usage.shared = n.parse().unwrap_or(0),
                    _ => {}
                }
            }
        }
    }
    report.faults.extend(notes.drain(..).map(|n| n.fault("")));
    report
}

/// Returns the rest of a line after `mark`.
fn after<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.split_once(mark).map(|(_, rest)| rest)
}

/// A note of the C75xx family.
struct Note {
    code: String,
    text: String,
    /// The kernel; empty if ptxas does not name it.
    function: String,
    times: usize,
}

impl Note {
    /// Formats the note as a fault.
    fn fault(&self, arch: &str) -> String {
        let mut fault = String::new();
        if !self.function.is_empty() {
            let _ = write!(fault, "kernel {}", self.function);
        }
        if !arch.is_empty() {
            let _ = write!(fault, "{}for {arch}", if fault.is_empty() { "" } else { " " });
        }
        let _ = write!(fault, "{}{}: {}", if fault.is_empty() { "" } else { ": " }, self.code, self.text);
        if self.times > 1 {
            let _ = write!(fault, " ({} times)", self.times);
        }
        fault
    }
}

/// Parses a note such as `ptxas info    : (C7519) warpgroup.arrive is injected ... in function 'name'`.
fn note(line: &str) -> Option<Note> {
    let (code, text) = after(line, "(C75")?.split_once(')')?;
    if !line.starts_with("ptxas") || code.len() != 2 {
        return None;
    }
    let place = [" in the function '", " in function '"].into_iter().find_map(|mark| text.split_once(mark));
    let (text, function) = place.map_or((text, ""), |(text, name)| (text, name.split('\'').next().unwrap_or("")));
    Some(Note { code: format!("C75{code}"), text: text.trim().into(), function: function.into(), times: 1 })
}

/// Returns a fault for a line such as `16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads`, unless all are
/// zero.
fn memory_fault(line: &str, function: &str, arch: &str) -> Option<String> {
    let used: Vec<&str> = line.split(", ").map(str::trim).filter(|part| !part.starts_with("0 ")).collect();
    let remedy = if line.contains(" 0 bytes spill stores") {
        "index local arrays by constants (unroll the loops over them), and inline the functions that take them"
    } else {
        "use a smaller tile, or lower the threads or blocks in the KERNEL macro"
    };
    (!used.is_empty()).then(|| format!("kernel {function} for {arch}: {}; {remedy}", used.join(", ")))
}

/// Returns the version in the output of `nvcc --version`, such as `13.0.88`.
pub fn version(output: &str) -> Option<String> {
    let line = output.lines().find(|line| line.contains("release "))?;
    let version = after(line, ", V")?.split_whitespace().next()?;
    version.split('.').all(|part| part.parse::<u32>().is_ok()).then(|| version.into())
}

/// Returns the first number of a version; 0 if there is none.
pub fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Returns the architectures in the output of `nvcc --list-gpu-code`, sorted and without their suffixes: 75, 80, ...
pub fn known(output: &str) -> Vec<u32> {
    let mut all: Vec<u32> = output.split_whitespace().filter_map(|word| number(word.strip_prefix("sm_")?)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Returns the number of an architecture: 90 for `90a`.
fn number(arch: &str) -> Option<u32> {
    arch.strip_suffix(['a', 'f']).unwrap_or(arch).parse().ok()
}

/// Returns the values of `-gencode` for one source file, in order; empty if none of the requested architectures can run
/// the file.
///
/// `wanted` is the value of `VCYCLE_CUDA_ARCHS`, such as `80,90a`: exactly these are compiled. Without it, the defaults
/// are the architectures in `USUAL` that this nvcc supports, and PTX for all other GPUs. Files in `kernels/sm90/`
/// are compiled for sm_90a only.
///
/// # Errors
/// Fails if `wanted` names something that is not an architecture, is too old, or is not supported by this nvcc.
pub fn gencode(stem: &str, known: &[u32], wanted: Option<&str>) -> Result<Vec<String>, String> {
    let hopper = stem.starts_with("sm90/");
    let wanted = wanted.filter(|list| !list.trim().is_empty());
    let mut archs: Vec<&str> = match wanted {
        None => USUAL.into_iter().filter(|arch| number(arch).is_some_and(|n| known.contains(&n))).collect(),
        Some(list) => list.split(',').map(str::trim).map(|arch| arch.strip_prefix("sm_").unwrap_or(arch)).collect(),
    };
    for arch in &archs {
        let list = known.iter().filter(|&&n| n >= OLDEST_ARCH).map(u32::to_string).collect::<Vec<_>>().join(", ");
        match number(arch) {
            None => return Err(format!("VCYCLE_CUDA_ARCHS: {arch:?} is not an architecture; use for instance 80,90a")),
            Some(n) if n < OLDEST_ARCH => {
                return Err(format!("VCYCLE_CUDA_ARCHS: {arch} is too old; the kernels need 80 (Ampere) or newer"));
            }
            Some(n) if !known.contains(&n) => {
                return Err(format!("VCYCLE_CUDA_ARCHS: this nvcc does not support {arch}; it supports {list}"));
            }
            Some(_) => {}
        }
    }
    if hopper {
        archs.retain(|&arch| arch == "90a");
    }
    let mut all: Vec<String> = archs.iter().map(|arch| format!("arch=compute_{arch},code=sm_{arch}")).collect();
    if wanted.is_none() && !hopper && known.contains(&OLDEST_ARCH) {
        all.push(format!("arch=compute_{OLDEST_ARCH},code=compute_{OLDEST_ARCH}"));
    }
    Ok(all)
}

/// Returns the output of a failed nvcc without the lines on resource usage.
pub fn complaints(output: &str) -> String {
    let relevant = |line: &&str| !line.starts_with("ptxas info") && !line.contains("bytes stack frame");
    output.lines().filter(relevant).collect::<Vec<_>>().join("\n")
}

/// Returns what to do about an error in nvcc's output that does not say so itself.
pub fn remedy(output: &str) -> Option<String> {
    let has = |text: &str| output.contains(text);
    if has("unsupported GNU version") || has("unsupported clang version") {
        return Some(
            "the host compiler is too new for this nvcc. Install an older one and set NVCC_CCBIN to it (for instance \
             NVCC_CCBIN=g++-14), or use a newer nvcc"
                .into(),
        );
    }
    if has("Unsupported gpu architecture") {
        return Some("this nvcc does not support one of the architectures; set VCYCLE_CUDA_ARCHS to others".into());
    }
    if has("cuda_runtime.h") || has("cicc: not found") || has("ptxas: not found") || has("crt/host_config.h: No such") {
        return Some(format!("this nvcc installation is incomplete. With pip, all parts are {PIP_PACKAGES}"));
    }
    if has("Failed to preprocess host compiler properties") {
        return Some("nvcc found no host compiler. Install g++, or set NVCC_CCBIN to a compiler".into());
    }
    None
}
