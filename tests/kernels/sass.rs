//! Tests of the machine code (SASS): tensor-core kernels contain the matrix instructions, tile loads and asynchronous
//! copies that they are written for, and vector kernels access 16 bytes at a time. This requires device code in the
//! build and NVIDIA's cuobjdump (`CUOBJDUMP`, next to nvcc, or on `PATH`), which the build looks for. Without them the
//! test checks nothing and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use vcycle::device::cuda::compiled::{COMPILED, Module};

/// Tensor-core kernels: the file, a part of their names, the end of their names, and the instructions that they must
/// contain.
const FILES: &[(&str, &str, &str, &[&str])] = &[
    ("sm80/linear.cu", "linear_mma", "", &AMPERE),
    ("sm80/attention.cu", "flash", "", &AMPERE),
    ("sm80/attention_backward.cu", "flash", "", &AMPERE),
    ("sm90/linear.cu", "linear_wgmma", "", &HOPPER),
    ("sm90/linear.cu", "linear_tma_store", "_bf16", &BOXES),
    ("sm90/linear.cu", "linear_tma_store", "_f32", &ADDING),
    ("sm90/linear.cu", "linear_cluster2", "", &PAIRS),
    ("sm90/attention.cu", "wgmma", "", &BOXES),
    ("sm90/attention_single_pass.cu", "single_pass_kv", "", &BOXES),
    ("sm90/attention_backward.cu", "wgmma", "", &BOXES),
    ("sm90/attention_backward.cu", "dkdvdq", "", &ADDING),
];

/// Tensor-core matrix products, loads of 8 x 8 tiles, asynchronous copies from global to shared memory.
const AMPERE: [&str; 3] = ["HMMA", "LDSM", "LDGSTS"];

/// Warpgroup matrix products, TMA loads, mbarriers, and reallocation of registers between warpgroups.
const HOPPER: [&str; 4] = ["HGMMA", "UTMALDG", "SYNCS", "USETMAXREG"];

/// The same, with stores of 8 x 8 tiles to shared memory and TMA stores.
const BOXES: [&str; 6] = ["HGMMA", "UTMALDG", "SYNCS", "USETMAXREG", "STSM", "UTMASTG"];

/// TMA loads that are multicast to both blocks of a cluster, and the cluster barrier.
const PAIRS: [&str; 5] = ["HGMMA", "UTMALDG.2D.MULTICAST", "SYNCS", "USETMAXREG", "UCGABAR_ARV"];
/// [`HOPPER`] with TMA stores of f32, both overwriting and adding (reduction).
const ADDING: [&str; 6] = ["HGMMA", "UTMALDG", "SYNCS", "USETMAXREG", "UTMASTG", "UTMAREDG"];

/// Returns whether an instruction accesses 16 bytes of global memory.
fn is_16_bytes(word: &str) -> bool {
    (word.starts_with("LDG.") || word.starts_with("STG.")) && word.split('.').any(|part| part == "128")
}

/// Returns the instructions of every kernel of a listing, by architecture and name. `WIDE` stands for [`is_16_bytes`].
fn instructions(listing: &str) -> BTreeMap<(String, String), BTreeSet<&'static str>> {
    let (mut arch, mut function) = (String::new(), String::new());
    let mut all: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("code for ") {
            arch = name.to_string();
        } else if let Some(name) = line.strip_prefix("Function : ") {
            function = name.to_string();
            all.entry((arch.clone(), function.clone())).or_default();
        } else if let Some(found) = all.get_mut(&(arch.clone(), function.clone())) {
            let code = line.split("*/").nth(1).unwrap_or_default();
            let known = AMPERE.into_iter().chain(BOXES).chain(ADDING).chain(PAIRS);
            found.extend(known.filter(|i| code.split_whitespace().any(|word| word.starts_with(i))));
            found.extend(code.split_whitespace().any(is_16_bytes).then_some("WIDE"));
        }
    }
    all
}

/// Disassembles a module and returns the instructions of its kernels.
fn read(cuobjdump: &Path, module: &Module) -> BTreeMap<(String, String), BTreeSet<&'static str>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("module.fatbin");
    std::fs::write(&path, module.fatbin).expect("written");
    // cuobjdump calls nvdisasm, which is in the same folder.
    let tools = cuobjdump.parent().unwrap_or(Path::new(".")).to_path_buf();
    let before = std::env::var_os("PATH").unwrap_or_default();
    let path_with = std::env::join_paths([tools].into_iter().chain(std::env::split_paths(&before))).expect("a PATH");
    let done = Command::new(cuobjdump).arg("--dump-sass").arg(&path).env("PATH", path_with).output();
    let done = done.unwrap_or_else(|e| panic!("{}: {e}", cuobjdump.display()));
    assert!(done.status.success(), "{}: {}", module.file, String::from_utf8_lossy(&done.stderr));
    instructions(&String::from_utf8_lossy(&done.stdout))
}

#[test]
fn tensor_cores_and_wide_accesses_are_used() {
    // The path that the build found.
    let Some(cuobjdump) = option_env!("VCYCLE_CUOBJDUMP") else {
        return eprintln!("built without nvcc or without cuobjdump: there is no machine code to check");
    };
    assert!(!COMPILED.is_empty(), "this build has no device code");
    let mut wide = 0;
    for module in COMPILED {
        let kernels = read(Path::new(cuobjdump), module);
        let of_file: Vec<_> = FILES.iter().filter(|(file, ..)| *file == module.file).collect();
        let archs: BTreeSet<_> = module.kernels.iter().map(|k| k.arch).collect();
        for arch in archs {
            let of_arch = || kernels.iter().filter(|((a, _), _)| a == arch);
            for ((_, name), found) in of_arch().filter(|((_, name), _)| name.contains("_vec16_")) {
                assert!(found.contains("WIDE"), "{name} for {arch} does not access 16 bytes at a time");
                wide += 1;
            }
            for (_, part, end, written_for) in &of_file {
                let of_these = |name: &str| name.contains(part) && name.ends_with(end);
                let named: Vec<_> = of_arch().filter(|((_, name), _)| of_these(name)).collect();
                assert!(!named.is_empty(), "{}: no kernels of {arch} with {part:?} and {end:?}", module.file);
                for ((_, name), found) in named {
                    let missing: Vec<_> = written_for.iter().filter(|i| !found.contains(**i)).collect();
                    assert!(missing.is_empty(), "{name} for {arch} lacks {missing:?}");
                }
            }
        }
    }
    assert!(wide > 20, "only {wide} kernels access 16 bytes at a time");
    println!("{} files and {wide} kernels of vec16 variants were checked", COMPILED.len());
    assert!(
        FILES.iter().all(|(file, ..)| COMPILED.iter().any(|m| m.file == *file)),
        "a file in FILES is not among the compiled modules"
    );
}

#[test]
fn a_listing_is_read() {
    let listing = "
\tcode for sm_80
\t\tFunction : one
        /*0000*/                   LDGSTS.E.BYPASS.128 [R1], [R2.64] ;
        /*0010*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
\t\tFunction : two
        /*0000*/                   LDSM.16.M88.4 R4, [R1] ;
        /*0008*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0010*/                   EXIT ;
";
    let all = instructions(listing);
    let of = |name: &str| all[&("sm_80".to_string(), name.to_string())].iter().copied().collect::<Vec<_>>();
    assert_eq!((of("one"), of("two")), (vec!["HMMA", "LDGSTS"], vec!["LDSM", "WIDE"]));
}
