//! What nvcc and ptxas say, read: pure functions, which `tests/nvcc_output.rs` holds to outputs of real compilers.

use std::fmt::Write;

/// The oldest nvcc that knows sm_90a.
pub const OLDEST_NVCC: u32 = 12;

/// The oldest architecture that the kernels are written for.
const OLDEST_ARCH: u32 = 80;

/// Cubins of every build that does not say otherwise, where nvcc knows them: Ampere (Ada runs it too), Hopper,
/// Blackwell of data centres. That of desks (120) runs the PTX: ptxas warns of launch bounds beyond its 1536 threads.
const USUAL: [&str; 3] = ["80", "90a", "100"];

/// The pip packages that hold a whole nvcc.
pub const PIP_PACKAGES: &str = "nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
                                nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85";

/// What one kernel takes on one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub kernel: String,
    /// As ptxas writes it: `sm_80`.
    pub arch: String,
    /// Of one thread.
    pub registers: u32,
    /// Bytes of a block, without what the launch adds.
    pub shared: u32,
}

/// What ptxas said of one source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub usages: Vec<Usage>,
    /// Why the code is not to be used: each names kernel and architecture.
    pub faults: Vec<String>,
}

/// Reads the output of `nvcc --resource-usage` for any number of architectures, one after the other.
///
/// Faults are spills, stack frames, and every note of the C75xx family: there ptxas has dropped a `setmaxnreg`, made
/// wgmma wait after each instruction, or put in fences and waits that the source lacks.
pub fn read(output: &str) -> Report {
    let mut report = Report::default();
    // Notes stand before the kernels of their architecture, which they do not name.
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

/// The rest of a line after `mark`.
fn after<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.split_once(mark).map(|(_, rest)| rest)
}

/// A note of the C75xx family.
struct Note {
    code: String,
    text: String,
    /// Empty where ptxas does not say.
    function: String,
    times: usize,
}

impl Note {
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

/// `ptxas info    : (C7519) warpgroup.arrive is injected ... in function 'name'`.
fn note(line: &str) -> Option<Note> {
    let (code, text) = after(line, "(C75")?.split_once(')')?;
    if !line.starts_with("ptxas") || code.len() != 2 {
        return None;
    }
    let place = [" in the function '", " in function '"].into_iter().find_map(|mark| text.split_once(mark));
    let (text, function) = place.map_or((text, ""), |(text, name)| (text, name.split('\'').next().unwrap_or("")));
    Some(Note { code: format!("C75{code}"), text: text.trim().into(), function: function.into(), times: 1 })
}

/// `16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads`, where it is not all zero.
fn memory_fault(line: &str, function: &str, arch: &str) -> Option<String> {
    let used: Vec<&str> = line.split(", ").map(str::trim).filter(|part| !part.starts_with("0 ")).collect();
    let remedy = if line.contains(" 0 bytes spill stores") {
        "index local arrays by constants (unroll the loops over them), and inline the functions that take them"
    } else {
        "use a smaller tile, or let KERNEL promise fewer threads or blocks"
    };
    (!used.is_empty()).then(|| format!("kernel {function} for {arch}: {}; {remedy}", used.join(", ")))
}

/// The version in the output of `nvcc --version`: `13.0.88`.
pub fn version(output: &str) -> Option<String> {
    let line = output.lines().find(|line| line.contains("release "))?;
    let version = after(line, ", V")?.split_whitespace().next()?;
    version.split('.').all(|part| part.parse::<u32>().is_ok()).then(|| version.into())
}

/// The first number of a version; 0 where there is none.
pub fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The architectures in the output of `nvcc --list-gpu-code`, without their suffixes: 75, 80, ...
pub fn known(output: &str) -> Vec<u32> {
    let mut all: Vec<u32> = output.split_whitespace().filter_map(|word| number(word.strip_prefix("sm_")?)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// 90 of `90a`.
fn number(arch: &str) -> Option<u32> {
    arch.strip_suffix(['a', 'f']).unwrap_or(arch).parse().ok()
}

/// What `-gencode` is given for one source file, in order; nothing where no architecture wanted runs the file.
///
/// `wanted` is the value of `VCYCLE_CUDA_ARCHS` (`80,90a`): these and no others. Without it the usual ones that this
/// nvcc knows, and PTX for GPUs newer than all of them. A file named `*_sm90.cu` is for sm_90a alone.
///
/// # Errors
/// What `wanted` asks for is no architecture, too old, or unknown to this nvcc.
pub fn gencode(stem: &str, known: &[u32], wanted: Option<&str>) -> Result<Vec<String>, String> {
    let hopper = stem.ends_with("_sm90");
    let wanted = wanted.filter(|list| !list.trim().is_empty());
    let mut archs: Vec<&str> = match wanted {
        None => USUAL.into_iter().filter(|arch| number(arch).is_some_and(|n| known.contains(&n))).collect(),
        Some(list) => list.split(',').map(str::trim).map(|arch| arch.strip_prefix("sm_").unwrap_or(arch)).collect(),
    };
    for arch in &archs {
        let list = known.iter().filter(|&&n| n >= OLDEST_ARCH).map(u32::to_string).collect::<Vec<_>>().join(", ");
        match number(arch) {
            None => return Err(format!("VCYCLE_CUDA_ARCHS: {arch:?} is no architecture; write for instance 80,90a")),
            Some(n) if n < OLDEST_ARCH => {
                return Err(format!("VCYCLE_CUDA_ARCHS: {arch} is too old; the kernels need 80 (Ampere) or newer"));
            }
            Some(n) if !known.contains(&n) => {
                return Err(format!("VCYCLE_CUDA_ARCHS: this nvcc does not know {arch}; it knows {list}"));
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

/// The output of an nvcc that failed, without what it says of code that is well.
pub fn complaints(output: &str) -> String {
    let told = |line: &&str| !line.starts_with("ptxas info") && !line.contains("bytes stack frame");
    output.lines().filter(told).collect::<Vec<_>>().join("\n")
}

/// What to do about nvcc's output, where that does not say it itself.
pub fn remedy(output: &str) -> Option<String> {
    let has = |text: &str| output.contains(text);
    if has("unsupported GNU version") || has("unsupported clang version") {
        return Some(
            "the host compiler is newer than this nvcc takes. Install an older one and name it in NVCC_CCBIN (for \
                     instance NVCC_CCBIN=g++-14), or use a newer nvcc"
                .into(),
        );
    }
    if has("Unsupported gpu architecture") {
        return Some("this nvcc does not know one of the architectures; name others in VCYCLE_CUDA_ARCHS".into());
    }
    if has("cuda_runtime.h") || has("cicc: not found") || has("ptxas: not found") || has("crt/host_config.h: No such") {
        return Some(format!("this nvcc lacks parts of itself. With pip they come as {PIP_PACKAGES}"));
    }
    if has("Failed to preprocess host compiler properties") {
        return Some(
            "nvcc found no host compiler. Install g++, or name one in NVCC_CCBIN (which nvcc reads itself)".into(),
        );
    }
    None
}
