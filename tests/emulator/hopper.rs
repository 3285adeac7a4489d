//! TMA, mbarriers and wgmma: results compared with matmuls in f64, and the reports about kernels that use them wrongly.

use super::{launch_on, region};
use half::bf16;
use std::sync::{Arc, Mutex};
use vcycle::device::cuda::driver::emulator::{Emulator, Fault, Log, Options, Site};
use vcycle::device::cuda::driver::{Driver, Rows};
use vcycle::device::cuda::launch::{Launch, TensorMap};
use vcycle::device::ops::Access;

const SOURCE: &str = include_str!("kernels/hopper.cu");

/// A matmul [m, k] x [k, n] by a kernel for n up to `columns`. `ta`, `tb`: whether the operands are transposed.
#[derive(Clone, Copy)]
struct Case {
    ta: bool,
    tb: bool,
    columns: usize,
    m: usize,
    n: usize,
    k: usize,
}

impl Case {
    const PLAIN: Case = Case { ta: false, tb: false, columns: 64, m: 64, n: 64, k: 5 * 64 };

    fn kernel(&self) -> &'static str {
        let letter = |t| if t { 't' } else { 'n' };
        format!("product_{}{}_{}", letter(self.ta), letter(self.tb), self.columns).leak()
    }

    /// Returns random elements of a [m, k] and b [k, n], rounded to bf16.
    fn operands(&self) -> [Vec<f64>; 2] {
        let mut state = 1u32;
        [self.m * self.k, self.k * self.n].map(|count| {
            let next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bf16::from_f32(f32::from((state >> 16) as u16 as i16) / 32_768.0).to_f64()
            };
            std::iter::repeat_with(next).take(count).collect()
        })
    }
}

/// Writes a matrix of bf16 to the emulator's memory, with NaN between its rows.
fn matrix(emulator: &mut Emulator, [rows, columns]: [usize; 2], at: impl Fn(usize, usize) -> f64) -> Rows {
    let pitch = (columns + 8).next_multiple_of(8);
    let address = emulator.alloc(rows * pitch * 2).expect("memory");
    let value = |i: usize| if i % pitch < columns { at(i / pitch, i % pitch) } else { f64::NAN };
    let values: Vec<bf16> = (0..rows * pitch).map(|i| bf16::from_f64(value(i))).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    emulator.write(Rows { address, rows: 1, width: bytes.len(), pitch: bytes.len() }, &bytes).expect("input");
    Rows { address, rows, width: columns * 2, pitch: pitch * 2 }
}

/// Runs a kernel. Returns out [64, columns].
fn run(case: &Case, kernel: &'static str, options: Options) -> (Option<Fault>, Result<Vec<f32>, String>) {
    let Case { ta, tb, columns, m, n, k } = *case;
    let mut emulator = Emulator::new(options);
    let [a, b] = case.operands();
    let left = match ta {
        true => matrix(&mut emulator, [k, m], |k0, i| a[i * k + k0]),
        false => matrix(&mut emulator, [m, k], |i, k0| a[i * k + k0]),
    };
    let right = match tb {
        true => matrix(&mut emulator, [k, n], |k0, j| b[k0 * n + j]),
        false => matrix(&mut emulator, [n, k], |j, k0| b[k0 * n + j]),
    };
    let bytes = 64 * columns * 4;
    let out = Rows { address: emulator.alloc(bytes).expect("memory"), rows: 1, width: bytes, pitch: bytes };
    let reads = [left, right].map(|rows| region("operand", rows, Access::Read));
    emulator.operands(&[reads[0], reads[1], region("out", out, Access::Write)]);
    let map = |rows: Rows| TensorMap::new(rows.address, [rows.rows, rows.width / 2], rows.pitch, 64);
    let launch = Launch::new(kernel, 1, 160)
        .shared(2 * (64 + columns) * 128)
        .map(map(left))
        .map(map(right))
        .ptr(out.address)
        .int(k.div_ceil(64));
    let done = launch_on(&mut emulator, &launch).map_err(|e| e.to_string()).map(|()| {
        let mut values = vec![0f32; 64 * columns];
        emulator.read(out, bytemuck::cast_slice_mut(&mut values)).expect("output");
        values
    });
    (emulator.fault, done)
}

/// Returns the largest error compared with a matmul in f64. Elements outside of [m, n] must be zero.
fn error(case: &Case, out: &[f32]) -> f64 {
    let &Case { columns, m, n, k, .. } = case;
    let [a, b] = case.operands();
    let mut most = 0f64;
    for (index, x) in out.iter().enumerate() {
        let (i, j) = (index / columns, index % columns);
        let inside = i < m && j < n;
        let want: f64 = if inside { (0..k).map(|k0| a[i * k + k0] * b[k0 * n + j]).sum() } else { 0.0 };
        let off = (f64::from(*x) - want).abs();
        most = if off.is_nan() { f64::INFINITY } else { most.max(off) };
    }
    most
}

fn close(case: &Case, name: &'static str) {
    let mut first = None;
    for checks in [true, false] {
        for options in Options::schedules(checks) {
            let order = options.order;
            let out = run(case, name, options).1.unwrap_or_else(|e| panic!("{name} in order {order:?}: {e}"));
            let off = error(case, &out);
            assert!(off < 1e-5 * (case.k as f64).sqrt(), "{name} in order {order:?}: off by {off}");
            assert!(*first.get_or_insert(out.clone()) == out, "{name} in order {order:?} gives different bits");
        }
    }
}

#[test]
fn products_of_all_layouts_and_widths() {
    for columns in [64, 128, 192, 256] {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = Case { ta, tb, columns, m: 64, n: columns, k: 3 * 64 };
            close(&case, case.kernel());
        }
    }
}

#[test]
fn what_lies_outside_of_a_matrix_is_zero() {
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        for case in
            [Case { ta, tb, columns: 128, m: 37, n: 101, k: 150 }, Case { ta, tb, columns: 64, m: 1, n: 3, k: 9 }]
        {
            close(&case, case.kernel());
        }
    }
}

/// Each wgmma group is issued before the previous one is waited for.
#[test]
fn a_pipelined_product() {
    close(&Case::PLAIN, "product_kPipelined");
}

/// The left operand's 16 rows of each warp are in that warp's registers.
#[test]
fn products_with_a_left_operand_in_registers() {
    close(&Case::PLAIN, "product_kRegisters");
    close(&Case { tb: true, columns: 128, n: 128, ..Case::PLAIN }, "product_registers_t_128");
}

/// A thread writes to a tile, runs a proxy fence, and wgmma reads the tile.
#[test]
fn what_a_thread_has_fenced_reaches_products() {
    close(&Case::PLAIN, "product_kProxyFence");
}

/// Name, and what the report must contain: one of the alternatives separated by `|`. "wrong": nothing is reported, but
/// the result is wrong.
const BUGS: &[(&str, &str)] = &[
    ("kWrongParity", "race|uninitialised|deadlock"),
    ("kProducersWrongParity", "deadlock"),
    ("kTooFewBytes", "race|fewer bytes are expected"),
    ("kTooManyBytes", "deadlock"),
    ("kNoExpect", "race|uninitialised|fewer bytes are expected"),
    ("kNoInit", "not initialised"),
    ("kNoInitFence", "call mbarrier_fence"),
    ("kNoBarrierAfterInit", "race|not initialised"),
    ("kTwoInits", "initialised again"),
    ("kNoWait", "race|uninitialised"),
    ("kArrivesTwice", "too many arrivals"),
    ("kReleasesTwice", "race|deadlock|too many arrivals"),
    ("kReleasedEarly", "race"),
    ("kReleasedByOneWarp", "race"),
    ("kNoFence", "wgmma_fence is missing"),
    ("kTouchedAfterFence", "wgmma_fence is missing"),
    ("kTouchedInFlight", "accumulators of a wgmma are accessed"),
    ("kNoCommit", "race"),
    ("kNoWgmmaWait", "race"),
    ("kNoLastWait", "accumulators of a wgmma are accessed"),
    ("kPipelinedEarly", "race"),
    ("kWrongStride", "wrong"),
    ("kWrongLeading", "wrong"),
    ("kWrongStep", "wrong"),
    ("kNoSwizzle", "not for swizzle 128B"),
    ("kMisalignedTile", "misaligned"),
    ("kTileOutside", "out of bounds"),
    ("kMisalignedMbarrier", "multiple of 8"),
    ("kMbarrierInGlobal", "not in shared memory"),
    ("kNoProxyFence", "a proxy fence is missing"),
    ("kHalfAWarp", "waits for lanes 0xffff0000"),
    ("kThreeWarps", "divergent warpgroup"),
    ("kLastCopyUnused", "the block ends"),
    ("kOperandOverwritten", "the left operand of a wgmma is overwritten"),
    ("kOperandAfterFence", "wgmma_fence is missing"),
];

/// Returns the lines of the source that are marked with the name of a defect.
fn marked(name: &str) -> Vec<u32> {
    crate::marked(SOURCE, name)
}

fn planted(name: &str, options: Options) -> (Option<Fault>, Result<Vec<f32>, String>) {
    let case = match name {
        "kWrongLeading" => Case { ta: true, tb: true, columns: 128, n: 128, ..Case::PLAIN },
        _ => Case::PLAIN,
    };
    let (fault, done) = run(&case, format!("product_{name}").leak(), options);
    let wrong = |out: Vec<f32>| if error(&case, &out) > 0.1 { Err("wrong".into()) } else { Ok(out) };
    (fault, done.and_then(wrong))
}

#[test]
fn every_misuse_is_noticed_in_every_schedule() {
    let missed = crate::unnoticed(SOURCE, BUGS, planted);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// A correct matmul fails in some schedule if any one of its barriers, fences, waits and commits is dropped.
#[test]
fn every_site_of_a_product_is_missed() {
    for kernel in ["product_nn_64", "product_kPipelined", "product_kProxyFence", "product_kRegisters"] {
        let log = Arc::new(Mutex::new(Log::default()));
        let options = Options { log: Some(log.clone()), ..Options::default() };
        run(&Case::PLAIN, kernel, options).1.expect("a correct product");
        let sites: Vec<Site> = log.lock().expect("the log").sites.keys().cloned().collect();
        // Two inits, the fence and the barrier after them; a wait and an arrival each of producer and consumers; fence,
        // commit and wait of wgmma.
        assert!(sites.len() >= 11, "{sites:?}");
        for site in sites {
            let noticed = Options::schedules(true).into_iter().any(|options| {
                let done = run(&Case::PLAIN, kernel, Options { drop: Some(site.clone()), ..options }).1;
                done.is_err() || done.is_ok_and(|out| error(&Case::PLAIN, &out) > 0.1)
            });
            assert!(noticed, "{kernel} without {site}");
        }
    }
}

/// The report says which threads wait, for what, and what is missing.
#[test]
fn a_deadlock_at_an_mbarrier_says_what_is_missing() {
    let [options, ..] = Options::schedules(true);
    let text = planted("kTooManyBytes", options.clone()).1.expect_err("a deadlock");
    let init = 1 + SOURCE.lines().position(|line| line.contains("mbarrier_init(&full[s]")).expect("the line");
    let (file, wait) = ("tests/emulator/kernels/hopper.cu", marked("kTooManyBytes")[0]);
    for part in [
        format!("{file}:{wait}: product_kTooManyBytes, block (0, 0, 0), thread (0, 0, 0): deadlock"),
        format!("128 threads wait in {file}:{wait} for parity 0 of the mbarrier at shared address"),
        format!("(initialised in {file}:{init})"),
        "phase 0 still waits for 0 of 1 arrivals and 16 bytes".into(),
    ] {
        assert!(text.contains(&part), "{text:?} does not contain {part:?}");
    }
    let text = planted("kProducersWrongParity", options).1.expect_err("a deadlock");
    assert!(text.contains("waits for 4 of 4 arrivals") && text.contains("waits for 1 of 1 arrivals"), "{text}");
}

#[test]
fn matrices_that_tma_cannot_access_are_refused() {
    let good = TensorMap::new(4096, [64, 64], 128, 64);
    for bad in [
        TensorMap::new(4104, [64, 64], 128, 64),
        TensorMap::new(4096, [64, 64], 136, 64),
        TensorMap::new(4096, [0, 64], 128, 64),
        TensorMap::new(4096, [64, 0], 128, 64),
        TensorMap::new(4096, [64, 64], 128, 0),
        TensorMap::new(4096, [64, 64], 128, 257),
        good.of_many([0, 3], [4096, 128]),
        good.of_many([2, 3], [4096, 72]),
        good.of_many([2, 3], [4104, 128]),
    ] {
        let launch = Launch::new("product_nn_64", 1, 160).map(good).map(bad).ptr(8).int(1);
        let error = launch_on(&mut Emulator::new(Options::default()), &launch).expect_err("a wrong map").to_string();
        assert!(error.contains("product_nn_64") && error.contains("multiples of 16"), "{error}");
    }
}

/// Loads two boxes, one after the other into the same tile, and checks what the kernel reads.
fn boxes(kernel: &'static str, [row, column]: [i32; 2], options: Options) -> Result<Vec<f32>, String> {
    let (rows, columns, box_rows) = (40, 100, 24);
    let mut emulator = Emulator::new(options);
    let a = matrix(&mut emulator, [rows, columns], |i, j| (100 * i % 128 + j) as f64);
    let bytes = 2 * box_rows * 64 * 4;
    let out = Rows { address: emulator.alloc(bytes).expect("memory"), rows: 1, width: bytes, pitch: bytes };
    emulator.operands(&[region("a", a, Access::Read), region("out", out, Access::Write)]);
    let map = TensorMap::new(a.address, [rows, columns], a.pitch, box_rows);
    let launch = Launch::new(kernel, 1, 32).shared(box_rows * 128).map(map).ptr(out.address);
    launch_on(&mut emulator, &launch.signed(row).signed(column).int(box_rows)).map_err(|e| e.to_string())?;
    let mut values = vec![0f32; 2 * box_rows * 64];
    emulator.read(out, bytemuck::cast_slice_mut(&mut values)).expect("output");
    for (i, x) in values.iter().enumerate() {
        let (turn, r, c) = (i / 64 / box_rows, i / 64 % box_rows, i % 64);
        let at = (i64::from(row) + r as i64, i64::from(column) + (64 * turn + c) as i64);
        let inside = (0..rows as i64).contains(&at.0) && (0..columns as i64).contains(&at.1);
        let want = if inside { (100 * at.0 % 128 + at.1) as f64 } else { 0.0 };
        assert_eq!(*x, bf16::from_f64(want).to_f32(), "{at:?}");
    }
    Ok(values)
}

#[test]
fn boxes_lie_as_documented_and_are_zero_outside() {
    for from in [[0, 0], [3, 5], [-7, -9], [30, 60], [39, 99], [-24, 0], [1000, -1000]] {
        for checks in [true, false] {
            for options in Options::schedules(checks) {
                boxes("boxes_good", from, options).unwrap_or_else(|e| panic!("{from:?}: {e}"));
            }
        }
    }
    for options in Options::schedules(true) {
        let text = boxes("boxes_bad", [0, 0], options).expect_err("a box loaded over one that is still read");
        // Thread 0 may also run so far ahead that a second phase ends before the others have waited for the first.
        let race = text.contains("race") && text.contains("a TMA load");
        assert!(race || text.contains("deadlock: 31 threads wait"), "{text}");
        let first = text.split(": ").next().unwrap_or_default();
        assert!(marked("boxes").iter().any(|line| first.ends_with(&format!("hopper.cu:{line}"))), "{text}");
    }
}

/// A box of one of many matrices stays within that matrix: outside, loads give zeros and stores write nothing.
#[test]
fn boxes_of_many_matrices() {
    let (batches, time, heads, d, box_rows) = (2, 21, 3, 40, 16);
    let pitch = heads * d + 8;
    let copy = |[batch, head, row, column]: [i32; 4], options| -> Result<(), String> {
        let mut emulator = Emulator::new(options);
        let from = matrix(&mut emulator, [batches * time, heads * d], |i, j| f64::from((31 * i + 7 * j) as u8));
        let to = matrix(&mut emulator, [batches * time, heads * d], |_, _| -1.0);
        assert_eq!(from.pitch, 2 * pitch);
        let regions =
            [(from, Access::Read), (to, Access::Update)].map(|(rows, access)| region("operand", rows, access));
        emulator.operands(&regions);
        let map = |rows: Rows| {
            TensorMap::new(rows.address, [time, d], rows.pitch, box_rows)
                .of_many([batches, heads], [time * rows.pitch, 2 * d])
        };
        let launch = Launch::new("many", 1, 32).shared(box_rows * 128).map(map(from)).map(map(to));
        let launch = launch.signed(row).signed(column).signed(head).signed(batch).int(box_rows);
        launch_on(&mut emulator, &launch).map_err(|e| e.to_string())?;
        let mut values = vec![0u16; batches * time * heads * d];
        emulator.read(to, bytemuck::cast_slice_mut(&mut values)).expect("output");
        for (index, x) in values.iter().enumerate() {
            let (i, j) = (index / (heads * d), index % (heads * d));
            let at = [i / time, j / d, i % time, j % d].map(|n| n as i32);
            let inside = at[..2] == [batch, head]
                && (row..row + box_rows as i32).contains(&at[2])
                && (column..column + 64).contains(&at[3]);
            let want = if inside { f64::from((31 * i + 7 * j) as u8) } else { -1.0 };
            assert_eq!(bf16::from_bits(*x).to_f64(), want, "{at:?}");
        }
        Ok(())
    };
    let first =
        [[0, 0, 0, 0], [1, 2, 16, 0], [0, 1, -5, -30], [1, 0, 20, 39], [1, 2, 21, 0], [2, 0, 0, 0], [0, -1, 0, 0]];
    for at in first {
        for options in Options::schedules(true).into_iter().chain(Options::schedules(false)) {
            copy(at, options).unwrap_or_else(|e| panic!("{at:?}: {e}"));
        }
    }
}

#[test]
fn a_box_of_many_matrices_needs_head_and_batch() {
    let [options, ..] = Options::schedules(true);
    let mut emulator = Emulator::new(options);
    let a = matrix(&mut emulator, [40, 64], |_, _| 1.0);
    let map = TensorMap::new(a.address, [20, 64], a.pitch, 8).of_many([2, 1], [20 * a.pitch, 128]);
    let launch = Launch::new("boxes_good", 1, 32).shared(8 * 128).map(map).ptr(a.address).int(0).int(0).int(8);
    let text = launch_on(&mut emulator, &launch).expect_err("a box without head and batch").to_string();
    assert!(text.contains("also head and batch for many matrices"), "{text}");
}

#[test]
fn arrivals_hand_over_what_threads_have_written() {
    let turns = 5;
    let run = |kernel, options| -> Result<Vec<f32>, String> {
        let mut emulator = Emulator::new(options);
        let bytes = turns * 32 * 4;
        let out = Rows { address: emulator.alloc(bytes).expect("memory"), rows: 1, width: bytes, pitch: bytes };
        launch_on(&mut emulator, &Launch::new(kernel, 1, 64).ptr(out.address).int(turns)).map_err(|e| e.to_string())?;
        let mut values = vec![0f32; turns * 32];
        emulator.read(out, bytemuck::cast_slice_mut(&mut values)).expect("output");
        Ok(values)
    };
    let want: Vec<f32> = (0..turns * 32).map(|i| (31 - i % 32 + i / 32) as f32).collect();
    for options in Options::schedules(true).into_iter().chain(Options::schedules(false)) {
        assert_eq!(run("handshake_good", options), Ok(want.clone()));
    }
    for options in Options::schedules(true) {
        let text = run("handshake_bad", options).expect_err("an mbarrier that expects one arrival too few");
        assert!(["race", "uninitialised", "too many arrivals"].iter().any(|word| text.contains(word)), "{text}");
    }
}
