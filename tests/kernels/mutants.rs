//! Every barrier, fence, wait and commit of every kernel has a reason: without it, some schedule reports a defect or a wrong
//! result. The few that may go unnoticed are listed here with the reason.

#[cfg(emulated)]
mod mutants {
    use std::collections::BTreeSet;
    use vcycle::device::cuda::driver::emulator::{Options, Site};
    use vcycle::device::cuda::variants::{VARIANTS, Variant};
    use vcycle::parity::kernels::{QUICK, emulated, sites};

    /// Operation, variant, place, and why nobody can notice.
    const SURVIVORS: &[(&str, &str, &str, &str)] = &[
        ("cross_entropy", "naive", "kernels/common/reduce.cuh:34", ONCE),
        ("cross_entropy", "block", "kernels/common/reduce.cuh:45", ONCE),
        ("cross_entropy", "vector", "kernels/common/reduce.cuh:34", ONCE),
        ("global_norm", "block", "kernels/common/reduce.cuh:34", ONCE),
        ("linear", "pairs256", "kernels/linear_sm90.cu:114", ALONE),
    ];

    const ONCE: &str = "parts one reduction from the next of the same kind, and this kernel has only one";
    const ALONE: &str = "two multiprocessors are one cluster, whose warpgroups add parts that they have made themselves; where two \
                         blocks share them, as in boxes256, the same barrier is missed";

    fn noticed(variant: &'static Variant, site: &Site) -> bool {
        let schedules = Options::schedules(true).map(|o| Options { drop: Some(site.clone()), ..o });
        emulated(variant, &schedules, QUICK).is_err()
    }

    /// Every other variant, from `first` on: two tests, for two cores.
    fn every_barrier_is_missed(first: usize) {
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
                match listed
                    .iter()
                    .position(|(o, v, s, _)| (*o, *v, s.to_string()) == (place.0, place.1, site.to_string()))
                {
                    Some(explained) => drop(listed.swap_remove(explained)),
                    None => unexplained.push((place, site.to_string())),
                }
            }
        }
        println!("{mutants} mutants, {survivors} survivors");
        assert!(unexplained.is_empty(), "nobody notices, and no reason is given, without {unexplained:?}");
        assert!(listed.is_empty(), "no longer survivors: {listed:?}");
        assert!(20 * survivors <= mutants, "{survivors} of {mutants} mutants survive");
    }

    #[test]
    fn every_barrier_is_missed_in_even_variants() {
        every_barrier_is_missed(0);
    }

    #[test]
    fn every_barrier_is_missed_in_odd_variants() {
        every_barrier_is_missed(1);
    }

    /// No barrier stands where the cases do not come.
    #[test]
    fn every_barrier_is_reached() {
        let reached: BTreeSet<_> = VARIANTS.iter().flat_map(|v| sites(v).expect("the cases of a variant")).collect();
        let written = written();
        assert!(written.len() > 20, "{written:?}");
        let missing: Vec<_> = written.iter().filter(|site| !reached.contains(site)).map(Site::to_string).collect();
        assert!(missing.is_empty(), "{missing:?} are never reached");
    }

    /// Places of barriers, fences, waits and commits in the source of the kernels.
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
        for folder in ["kernels", "kernels/common"] {
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
}

#[cfg(not(emulated))]
#[test]
fn the_emulator_is_there() {
    panic!("built without the emulator: kernels were not tested; see the warnings of `cargo build`");
}
