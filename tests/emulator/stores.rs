//! TMA stores and additions, and stmatrix; and the reports about kernels that use them wrongly.

use super::{launch_on, region};
use std::sync::{Arc, Mutex};
use vcycle::device::cuda::driver::emulator::{Arrival, Emulator, Fault, Log, Options, Site};
use vcycle::device::cuda::driver::{Driver, Rows};
use vcycle::device::cuda::launch::{Launch, TensorMap};
use vcycle::device::ops::Access;

const SOURCE: &str = include_str!("kernels/stores.cu");

/// A matrix, and the number of rows of the boxes that are stored to it.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    columns: usize,
    box_rows: usize,
}

impl Shape {
    /// The last boxes extend beyond both edges of the matrix.
    const RAGGED: Shape = Shape { rows: 100, columns: 90, box_rows: 24 };
}

type Outcome = (Option<Fault>, Result<(), String>);

/// Runs a kernel that fills a matrix, of which only the first `owned` rows may be written. Fails if the matrix or the
/// memory around it is wrong afterwards.
fn run(kernel: &'static str, shape: Shape, owned: usize, options: Options) -> Outcome {
    const UNTOUCHED: u16 = 0xabcd;
    let Shape { rows, columns, box_rows } = shape;
    let pitch = (columns + 8).next_multiple_of(8);
    let mut emulator = Emulator::new(options);
    let bytes = rows * pitch * 2;
    let address = emulator.alloc(bytes).expect("memory");
    let all = Rows { address, rows: 1, width: bytes, pitch: bytes };
    emulator.write(all, &UNTOUCHED.to_le_bytes().repeat(rows * pitch)).expect("filled");
    let out = Rows { address, rows: owned, width: columns * 2, pitch: pitch * 2 };
    emulator.operands(&[region("out", out, Access::Write)]);
    let map = TensorMap::new(address, [rows, columns], pitch * 2, box_rows);
    let (across, down) = (columns.div_ceil(64), rows.div_ceil(box_rows));
    let launch = match kernel {
        "store_registers" => Launch::new(kernel, 1, 128).grid(across, down, 1).shared(box_rows * 128).map(map),
        _ => Launch::new(kernel, across, 64).shared(2 * box_rows * 128).map(map).ptr(address).int(down).int(box_rows),
    };
    let done = launch_on(&mut emulator, &launch).map_err(|e| e.to_string()).and_then(|()| {
        let mut values = vec![0u16; rows * pitch];
        emulator.read(all, bytemuck::cast_slice_mut(&mut values)).expect("output");
        let want = |i: usize| match (i / pitch, i % pitch) {
            (row, column) if column < columns => (331 * row + 7 * column + 1) as u16,
            _ => UNTOUCHED,
        };
        let wrong = (0..values.len()).find(|&i| values[i] != want(i));
        wrong.map_or(Ok(()), |i| Err(format!("wrong: element {i} is {}, not {}", values[i], want(i))))
    });
    (emulator.fault, done)
}

fn ragged(kernel: &str, options: Options) -> Outcome {
    run(kernel.to_string().leak(), Shape::RAGGED, Shape::RAGGED.rows, options)
}

fn all_schedules() -> impl Iterator<Item = Options> {
    Options::schedules(true).into_iter().chain(Options::schedules(false))
}

#[test]
fn tiles_are_stored_up_to_the_edges_of_the_matrix() {
    for (rows, columns) in [(100, 90), (24, 64), (1, 1), (49, 129), (200, 63)] {
        for kernel in ["store_kGood", "store_kGoodReadBack", "store_registers"] {
            let box_rows = if kernel == "store_registers" { 64 } else { 24 };
            for options in all_schedules() {
                let case =
                    format!("{kernel} [{rows}, {columns}] in order {:?}, checks {}", options.order, options.checks);
                let done = run(kernel, Shape { rows, columns, box_rows }, rows, options).1;
                assert_eq!(done, Ok(()), "{case}");
            }
        }
    }
}

/// Name, and what the report must contain: one of the alternatives separated by `|`.
const MISUSES: &[(&str, &str)] = &[
    ("kNoFence", "a proxy fence is missing"),
    ("kFenceByIssuer", "a proxy fence is missing"),
    ("kFenceTooEarly", "a proxy fence is missing"),
    ("kNoBarrier", "race|uninitialised"),
    ("kNoCommit", "race"),
    ("kNoWait", "race"),
    ("kWeakWait", "race"),
    ("kLateWait", "race"),
    ("kWaitByAnother", "race"),
    ("kNoLastWait", "the block ends"),
    ("kReadBackEarly", "race"),
    ("kWrongSwizzle", "wrong"),
    ("kMisalignedTile", "misaligned"),
    ("kTileOutside", "out of bounds"),
    ("kTileInGlobal", "not in shared memory"),
    ("kUnwrittenRow", "uninitialised"),
    ("kOverlap", "race"),
    ("kSameBox", "of another block"),
    ("kOverWritten", "a proxy fence is missing"),
    ("kTooManyStorers", "more than 32 threads store"),
];

#[test]
fn every_misuse_of_a_store_is_noticed_in_every_schedule() {
    let missed = crate::unnoticed(SOURCE, MISUSES, |name, options| ragged(&format!("store_{name}"), options));
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// The report of a race names the store and the thread that started it.
#[test]
fn a_tile_that_is_filled_too_early_names_the_store() {
    let [options, ..] = Options::schedules(true);
    let text = ragged("store_kNoWait", options).1.expect_err("a race");
    let store = 1 + SOURCE.lines().position(|line| line.contains("tma_store(map, from")).expect("the line");
    let part = format!("read by a TMA store started by thread (0, 0, 0) at tests/emulator/kernels/stores.cu:{store}");
    assert!(text.contains(&part), "{text:?} does not contain {part:?}");
}

/// Without checks, a store that reads its tile late writes wrong bytes, and missing waits are still reported at the end
/// of the block.
#[test]
fn late_stores_go_wrong_without_checks() {
    let late = Options { arrival: Arrival::Lazy, ..Options::default() };
    for (name, part) in [("kNoWait", "wrong"), ("kWeakWait", "wrong"), ("kNoCommit", "wrong|the block ends")] {
        let text = ragged(&format!("store_{name}"), late.clone()).1.expect_err(name);
        assert!(part.split('|').any(|part| text.contains(part)), "{name}: {text}");
    }
    for options in Options::schedules(false) {
        let text = ragged("store_kNoLastWait", options).1.expect_err("no thread waits");
        assert!(text.contains("the block ends"), "{text}");
    }
}

/// A store to rows of the matrix that do not belong to the operand is out of bounds.
#[test]
fn a_store_beyond_the_operand_is_out_of_bounds() {
    for options in Options::schedules(true) {
        let text = run("store_kGood", Shape::RAGGED, 97, options).1.expect_err("rows of another tensor");
        assert!(text.contains("out of bounds"), "{text}");
    }
}

/// A correct store fails in every schedule if any one of its barriers, fences, waits and commits is dropped.
#[test]
fn every_site_of_a_store_is_missed() {
    let run = |kernel: &str, options| match kernel.starts_with("kAdd") {
        true => add(kernel, Shape::RAGGED, beside(kernel), options),
        false => ragged(kernel, options),
    };
    for kernel in ["store_kGood", "store_kGoodReadBack", "kAdds", "kAddsReadBack"] {
        let log = Arc::new(Mutex::new(Log::default()));
        let options = Options { log: Some(log.clone()), ..Options::default() };
        assert_eq!(run(kernel, options).1, Ok(()));
        let sites: Vec<Site> = log.lock().expect("the log").sites.keys().cloned().collect();
        // Two barriers, the fence, the commit, the wait in the loop and the last wait.
        assert_eq!(sites.len(), 6, "{sites:?}");
        for site in sites {
            for options in Options::schedules(true) {
                let order = options.order;
                let done = run(kernel, Options { drop: Some(site.clone()), ..options }).1;
                assert!(done.is_err(), "{kernel} without {site} in order {order:?}");
            }
        }
    }
}

/// The value of every element before the additions.
const BEFORE: f32 = 0.5;

/// Runs a kernel with `beside` blocks for every 32 columns of a matrix, which all add to the same boxes.
fn add(name: &str, shape: Shape, beside: usize, options: Options) -> Outcome {
    let Shape { rows, columns, box_rows } = shape;
    let pitch = (columns + 4).next_multiple_of(4);
    let mut emulator = Emulator::new(options);
    let bytes = rows * pitch * 4;
    let address = emulator.alloc(bytes).expect("memory");
    let all = Rows { address, rows: 1, width: bytes, pitch: bytes };
    emulator.write(all, &BEFORE.to_le_bytes().repeat(rows * pitch)).expect("filled");
    let out = Rows { address, rows, width: columns * 4, pitch: pitch * 4 };
    let (kernel, access) = match name {
        "kAddUnwritten" => ("add_kAdds".to_string(), Access::Write),
        _ => (format!("add_{name}"), Access::Update),
    };
    emulator.operands(&[region("out", out, access)]);
    let map = TensorMap::new(address, [rows, columns], pitch * 4, box_rows);
    let map = if name == "kAddShort" { map } else { map.of_floats() };
    let (across, down) = (columns.div_ceil(32), rows.div_ceil(box_rows));
    let launch = Launch::new(kernel.leak(), 1, 64).grid(across, beside, 1).shared(2 * box_rows * 128);
    let done = launch_on(&mut emulator, &launch.map(map).ptr(address).int(down).int(box_rows));
    let done = done.map_err(|e| e.to_string()).and_then(|()| {
        let mut values = vec![0f32; rows * pitch];
        emulator.read(all, bytemuck::cast_slice_mut(&mut values)).expect("output");
        let want = |i: usize| match (i / pitch, i % pitch) {
            (row, column) if column < columns => BEFORE + (2 * beside) as f32 * (row % 7 + 3 * (column % 5) + 1) as f32,
            _ => BEFORE,
        };
        let wrong = (0..values.len()).find(|&i| values[i] != want(i));
        wrong.map_or(Ok(()), |i| Err(format!("wrong: element {i} is {}, not {}", values[i], want(i))))
    });
    (emulator.fault, done)
}

/// Returns the number of blocks per box for a kernel. Kernels that read the sum, or store first, get one block, so that
/// no other block interferes.
fn beside(name: &str) -> usize {
    if ["kAddsReadBack", "kAddReadEarly", "kAddAfterStore"].contains(&name) { 1 } else { 3 }
}

#[test]
fn whatever_is_added_is_there() {
    for (rows, columns) in [(100, 90), (24, 32), (1, 1), (49, 65)] {
        for name in ["kAdds", "kAddsReadBack"] {
            for options in all_schedules() {
                let case =
                    format!("{name} [{rows}, {columns}] in order {:?}, checks {}", options.order, options.checks);
                let done = add(name, Shape { rows, columns, box_rows: 24 }, beside(name), options).1;
                assert_eq!(done, Ok(()), "{case}");
            }
        }
    }
    // Blocks run on several host threads.
    for options in Options::schedules(false) {
        let done = add("kAdds", Shape::RAGGED, 200, Options { threads: 4, ..options }).1;
        assert_eq!(done, Ok(()));
    }
}

#[test]
fn every_misuse_of_an_addition_is_noticed_in_every_schedule() {
    let misuses = [
        ("kAddUnfenced", "a proxy fence is missing"),
        ("kAddRefilled", "race"),
        ("kAddUncommitted", "race"),
        ("kAddReadEarly", "race"),
        ("kAddBesideWrite", "race"),
        ("kAddBesideStore", "race"),
        ("kAddAfterStore", "race"),
        ("kAddShort", "tma_add adds f32"),
        ("kAddUnwritten", "uninitialised"),
    ];
    let missed = crate::unnoticed(SOURCE, &misuses, |name, options| add(name, Shape::RAGGED, beside(name), options));
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

fn matrices(kernel: &str, options: Options) -> (Option<Fault>, Result<Vec<u32>, String>) {
    let mut emulator = Emulator::new(options);
    let bytes = (256 + 128) * 4;
    let out = Rows { address: emulator.alloc(bytes).expect("memory"), rows: 1, width: bytes, pitch: bytes };
    let launch = Launch::new(kernel.to_string().leak(), 1, 32).ptr(out.address);
    let done = launch_on(&mut emulator, &launch).map_err(|e| e.to_string()).map(|()| {
        let mut values = vec![0u32; 256 + 128];
        emulator.read(out, bytemuck::cast_slice_mut(&mut values)).expect("output");
        values
    });
    (emulator.fault, done)
}

#[test]
fn stmatrix_lays_tiles_out_as_ldmatrix_takes_them() {
    let want: Vec<u32> = (0..256).chain([1; 128]).collect();
    for options in all_schedules() {
        assert_eq!(matrices("matrices_kGood", options).1, Ok(want.clone()));
    }
}

#[test]
fn every_misuse_of_stmatrix_is_noticed_in_every_schedule() {
    let misuses = [
        ("kMisalignedRow", "misaligned"),
        ("kRowInGlobal", "not in shared memory"),
        ("kNoSyncwarp", "race|uninitialised"),
        ("kHalfAWarp", "waits for lanes 0xffff0000"),
    ];
    let missed = crate::unnoticed(SOURCE, &misuses, |name, options| matrices(&format!("matrices_{name}"), options));
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
