//! Every barrier, fence, wait and commit of every kernel is necessary: without it, some schedule reports a defect or
//! gives a wrong result. The few whose removal cannot be detected are listed here with the reason.

use std::collections::BTreeSet;
use vcycle::device::cuda::driver::emulator::{Options, Site};
use vcycle::device::cuda::variants::{VARIANTS, Variant};
use vcycle::parity::kernels::{QUICK, emulated, sites};

/// Removals that cannot be detected: the operation, the variant, the place and the reason.
const SURVIVORS: &[(&str, &str, &str, &str)] = &[
    ("cross_entropy", "naive", "kernels/common/reduce.cuh:34", ONCE),
    ("cross_entropy", "block", "kernels/common/reduce.cuh:45", ONCE),
    ("cross_entropy", "vec16", "kernels/common/reduce.cuh:34", ONCE),
    ("global_norm", "block", "kernels/common/reduce.cuh:34", ONCE),
    ("linear", "cluster2_128x256", "kernels/sm90/linear.cu:114", ALONE),
];

const ONCE: &str = "separates one block reduction from the next, and this kernel has only one";
const ALONE: &str = "the emulated GPU has two SMs, so there is one cluster, whose warpgroups add only their own \
                     partial sums; where two blocks share a tile, as in tma_store_128x256, removing the same fence is \
                     detected";

/// Returns whether the removal of a barrier is detected.
fn noticed(variant: &'static Variant, site: &Site) -> bool {
    let schedules = Options::schedules(true).map(|o| Options { drop: Some(site.clone()), ..o });
    emulated(variant, &schedules, QUICK).is_err()
}

/// Checks every other variant from `first` on. There are two tests, for two cores.
fn every_removal_is_detected(first: usize) {
    let (mut mutants, mut unexplained) = (0, Vec::new());
    let (mut survivors, mut listed) = (0, SURVIVORS.to_vec());
    for (number, variant) in VARIANTS.iter().enumerate() {
        let (mine, place) = (number % 2 == first, (variant.operation, variant.name));
        listed.retain(|(operation, name, ..)| mine || (*operation, *name) != place);
        if !mine {
            continue;
        }
        for site in sites(variant).expect("the cases of a variant") {
            mutants += 1;
            if noticed(variant, &site) {
                continue;
            }
            survivors += 1;
            match listed.iter().position(|(o, v, s, _)| (*o, *v, s.to_string()) == (place.0, place.1, site.to_string()))
            {
                Some(explained) => drop(listed.swap_remove(explained)),
                None => unexplained.push((place, site.to_string())),
            }
        }
    }
    println!("{mutants} mutants, {survivors} survivors");
    assert!(unexplained.is_empty(), "removals that are not detected and not listed with a reason: {unexplained:?}");
    assert!(listed.is_empty(), "listed as undetected but detected: {listed:?}");
    assert!(20 * survivors <= mutants, "{survivors} of {mutants} mutants survive");
}

#[test]
#[ignore = "exhaustive: minutes"]
fn every_removal_is_detected_in_even_variants() {
    every_removal_is_detected(0);
}

#[test]
#[ignore = "exhaustive: minutes"]
fn every_removal_is_detected_in_odd_variants() {
    every_removal_is_detected(1);
}

/// The cases reach every barrier.
#[test]
#[ignore = "exhaustive: half a minute"]
fn every_barrier_is_reached() {
    let reached: BTreeSet<_> = VARIANTS.iter().flat_map(|v| sites(v).expect("the cases of a variant")).collect();
    let written = written();
    assert!(written.len() > 20, "{written:?}");
    let missing: Vec<_> = written.iter().filter(|site| !reached.contains(site)).map(Site::to_string).collect();
    assert!(missing.is_empty(), "{missing:?} are never reached");
}

/// Returns the places of barriers, fences, waits and commits in the source of the kernels.
fn written() -> Vec<Site> {
    const CALLS: &[&str] = &[
        "__syncthreads()",
        "__syncwarp(",
        "__threadfence()",
        "named_barrier(",
        "cluster_barrier()",
        "cp_async_wait<",
        "cp_async_commit()",
        "mbarrier_init(",
        "mbarrier_fence()",
        "mbarrier_arrive(",
        "mbarrier_arrive_at(",
        "mbarrier_arrive_expect(",
        "mbarrier_wait(",
        "fence_async()",
        "tma_store_commit()",
        "tma_store_wait_read<",
        "tma_store_wait<",
        "wgmma_fence()",
        "wgmma_commit()",
        "wgmma_wait<",
    ];
    let mut sites = Vec::new();
    for folder in ["kernels", "kernels/common", "kernels/sm80", "kernels/sm90"] {
        for entry in std::fs::read_dir(folder).expect("the kernels").flatten() {
            let path = entry.path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for (number, line) in (1..).zip(text.lines()) {
                let code = line.split("//").next().unwrap_or_default();
                if CALLS.iter().any(|call| code.contains(call)) {
                    sites.extend(Site::parse(&format!("{}:{number}", path.display())));
                }
            }
        }
    }
    sites
}
