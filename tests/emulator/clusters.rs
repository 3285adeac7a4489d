//! Clusters of two blocks that load tiles for each other, and the reports about clusters that do it wrongly.

use super::{launch_on, region};
use half::bf16;
use std::sync::{Arc, Mutex};
use vcycle::device::cuda::driver::emulator::{Emulator, Fault, Log, Options, Site};
use vcycle::device::cuda::driver::{Driver, Rows};
use vcycle::device::cuda::launch::{Launch, TensorMap};
use vcycle::device::ops::Access;

const SOURCE: &str = include_str!("kernels/clusters.cu");
const STEPS: usize = 5;
const BLOCKS: usize = 4;

/// Name, and what the report must contain: one of the alternatives separated by `|`.
const BUGS: &[(&str, &str)] = &[
    ("kNoMeeting", "race|not initialised"),
    ("kBlocksMeetAlone", "race|not initialised"),
    ("kNoLastMeeting", "of the cluster has ended"),
    ("kReleasedHereOnly", "race"),
    ("kReleasedThereOnly", "race|too many arrivals"),
    ("kHalfIsExpected", "race|uninitialised|fewer bytes are expected|deadlock"),
    ("kNotForAll", "deadlock"),
    ("kNoSuchBlock", "there is no block 2 in a cluster of 2"),
    ("kNoSuchBarrier", "out of bounds"),
    ("kReadsTooEarly", "race|uninitialised"),
    ("kTwoMeetings", "divergent barrier"),
];

fn a(row: usize, column: usize) -> f32 {
    ((7 * row + 3 * column) % 32) as f32
}

/// Runs a kernel. Returns what each block writes: the column sums, times its rank in the cluster plus one.
fn run(name: &str, options: Options) -> (Option<Fault>, Result<Vec<f32>, String>) {
    let mut emulator = Emulator::new(options);
    let rows = 64 * STEPS;
    let bytes: Vec<u8> = (0..rows * 64).flat_map(|i| bf16::from_f32(a(i / 64, i % 64)).to_le_bytes()).collect();
    let matrix = Rows { address: emulator.alloc(bytes.len()).expect("memory"), rows, width: 128, pitch: 128 };
    emulator.write(matrix, &bytes).expect("input");
    let width = BLOCKS * 64 * 4;
    let out = Rows { address: emulator.alloc(width).expect("memory"), rows: 1, width, pitch: width };
    let regions = [(matrix, Access::Read), (out, Access::Write)].map(|(rows, access)| region("operand", rows, access));
    emulator.operands(&regions);
    let map = TensorMap::new(matrix.address, [rows, 64], 128, 32);
    let kernel = format!("clusters_{name}").leak();
    let launch = Launch::new(kernel, BLOCKS, 96).shared(2 * 64 * 128).map(map).ptr(out.address).int(STEPS);
    let done = launch_on(&mut emulator, &launch).map_err(|e| e.to_string()).map(|()| {
        let mut values = vec![0f32; BLOCKS * 64];
        emulator.read(out, bytemuck::cast_slice_mut(&mut values)).expect("output");
        values
    });
    (emulator.fault, done)
}

fn right(out: &[f32]) -> bool {
    out.iter().enumerate().all(|(i, x)| {
        let sum: f32 = (0..64 * STEPS).map(|row| a(row, i % 64)).sum();
        *x == sum * (i / 64 % 2 + 1) as f32
    })
}

#[test]
fn blocks_of_a_cluster_share_a_tile() {
    for checks in [true, false] {
        for options in Options::schedules(checks) {
            let order = options.order;
            let out = run("kNone", options).1.unwrap_or_else(|e| panic!("in order {order:?}: {e}"));
            assert!(right(&out), "in order {order:?}: {out:?}");
        }
    }
}

#[test]
fn every_misuse_is_noticed_in_every_schedule() {
    let missed = crate::unnoticed(SOURCE, BUGS, run);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// The correct kernel fails in some schedule if any one of its barriers, fences, waits and arrivals is dropped.
#[test]
fn every_site_is_missed() {
    let log = Arc::new(Mutex::new(Log::default()));
    run("kNone", Options { log: Some(log.clone()), ..Options::default() }).1.expect("a correct kernel");
    let sites: Vec<Site> = log.lock().expect("the log").sites.keys().cloned().collect();
    // Two inits and their fence; both cluster barriers; a wait and an arrival each of producer and consumers; the
    // barrier of a warp.
    assert_eq!(sites.len(), 10, "{sites:?}");
    for site in sites {
        let noticed = Options::schedules(true).into_iter().any(|options| {
            let done = run("kNone", Options { drop: Some(site.clone()), ..options }).1;
            done.is_err() || done.is_ok_and(|out| !right(&out))
        });
        assert!(noticed, "without {site}");
    }
}

#[test]
fn grids_are_whole_clusters() {
    let map = TensorMap::new(4096, [64, 64], 128, 32);
    let launch = Launch::new("clusters_kNone", 3, 96).map(map).ptr(8).int(1);
    let error = launch_on(&mut Emulator::new(Options::default()), &launch).expect_err("half a cluster").to_string();
    assert!(error.contains("3 blocks along x") && error.contains("clusters of 2"), "{error}");
    let launch = Launch::new("clusters_large", 2, 1024).ptr(8);
    let error = launch_on(&mut Emulator::new(Options::default()), &launch).expect_err("too many threads").to_string();
    assert!(error.contains("1024 threads are more than the checks can track"), "{error}");
}

/// A report names the block of the cluster that made the other access.
#[test]
fn reports_name_the_other_block() {
    let reported = |bug: &str, part: &str| {
        let texts = Options::schedules(true).map(|options| run(bug, options).1.expect_err("a defect"));
        assert!(texts.iter().any(|text| text.contains(part)), "{texts:#?}");
    };
    reported("kBlocksMeetAlone", "written by thread (0, 0, 0) of block (1, 0, 0)");
    reported("kReleasedHereOnly", " of block 1 of the cluster (initialised in");
}
