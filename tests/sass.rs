//! What the assembler has made of the tensor-core kernels: their products, loads of tiles and asynchronous copies are the
//! instructions that they are written for. Needs device code in this build and NVIDIA's cuobjdump (`CUOBJDUMP`, beside `NVCC`, or
//! on `PATH`); says so where one is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use vcycle::device::cuda::compiled::COMPILED;

/// Files of kernels for tensor cores, and a part of the names of those kernels.
const FILES: &[(&str, &str)] =
    &[("linear_sm80.cu", "linear_mma"), ("attention_sm80.cu", "flash"), ("attention_backward_sm80.cu", "flash")];

/// Products of tensor cores, loads of 8 x 8 tiles, copies from global to shared memory.
const INSTRUCTIONS: [&str; 3] = ["HMMA", "LDSM", "LDGSTS"];

fn cuobjdump() -> Option<PathBuf> {
    let named = std::env::var_os("CUOBJDUMP").map(PathBuf::from);
    let beside = std::env::var_os("NVCC").map(|nvcc| Path::new(&nvcc).with_file_name("cuobjdump"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("cuobjdump"));
    named.into_iter().chain(beside).chain(on_path).find(|path| path.is_file())
}

/// The instructions of every kernel of a listing, by architecture and name.
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
            found.extend(INSTRUCTIONS.iter().filter(|i| code.split_whitespace().any(|word| word.starts_with(**i))));
        }
    }
    all
}

#[test]
fn tensor_cores_are_used() {
    let Some(cuobjdump) = cuobjdump().filter(|_| !COMPILED.is_empty()) else {
        println!("not looked at: this build has no device code, or there is no cuobjdump");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    for (file, part) in FILES {
        let module = COMPILED.iter().find(|m| m.file == *file).unwrap_or_else(|| panic!("{file} was not compiled"));
        let path = folder.path().join("module.fatbin");
        std::fs::write(&path, module.fatbin).expect("written");
        // It calls nvdisasm, which lies beside it.
        let tools = cuobjdump.parent().unwrap_or(Path::new(".")).as_os_str().to_owned();
        let before = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
        let path_with = std::env::join_paths([PathBuf::from(tools)].into_iter().chain(before)).expect("a PATH");
        let done = Command::new(&cuobjdump).arg("--dump-sass").arg(&path).env("PATH", path_with).output();
        let done = done.unwrap_or_else(|e| panic!("{}: {e}", cuobjdump.display()));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let listing = String::from_utf8_lossy(&done.stdout);
        let kernels = instructions(&listing);
        let archs: BTreeSet<_> = module.kernels.iter().map(|k| k.arch).collect();
        for arch in archs {
            let named: Vec<_> = kernels.iter().filter(|((a, name), _)| a == arch && name.contains(part)).collect();
            assert!(named.len() > 1, "{file}: no kernels of {arch} with {part:?} in {:?}", kernels.keys());
            for ((_, name), found) in named {
                let missing: Vec<_> = INSTRUCTIONS.iter().filter(|i| !found.contains(**i)).collect();
                assert!(missing.is_empty(), "{name} for {arch} has no {missing:?}");
            }
        }
    }
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
        /*0010*/                   EXIT ;
";
    let all = instructions(listing);
    let of = |name: &str| all[&("sm_80".to_string(), name.to_string())].iter().copied().collect::<Vec<_>>();
    assert_eq!((of("one"), of("two")), (vec!["HMMA", "LDGSTS"], vec!["LDSM"]));
}
