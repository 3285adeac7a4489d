use super::{launch_on, region};
use vcycle::device::cuda::driver::emulator::{Emulator, Options};
use vcycle::device::cuda::driver::{Driver, Rows};
use vcycle::device::cuda::launch::Launch;
use vcycle::device::ops::Access;

const SOURCE: &str = include_str!("kernels/defects.cu");

/// Elements of the input and of the output.
const N: usize = 128;

/// Name, threads, blocks, and what the report must contain: one of the alternatives separated by `|`, because in some
/// schedules a reader runs before any writer.
struct Defect(&'static str, u32, usize, &'static str);

const DEFECTS: &[Defect] = &[
    Defect("no_barrier", 64, 1, "race|uninitialised"),
    Defect("no_barrier_before_reuse", 64, 1, "race"),
    Defect("no_syncwarp", 32, 1, "race|uninitialised"),
    Defect("shuffle_orders_nothing", 32, 1, "race|uninitialised"),
    Defect("syncwarp_for_a_block", 64, 1, "race|uninitialised"),
    Defect("divergent_barrier", 64, 1, "divergent barrier"),
    Defect("barrier_for_some", 64, 1, "deadlock: 32 of 64 threads"),
    Defect("early_return", 64, 1, "has returned"),
    Defect("two_counts_of_one_barrier", 96, 1, "already waiting at it expect|deadlock"),
    Defect("barrier_waits_for_too_many", 96, 1, "deadlock: 64 of 96 threads"),
    Defect("barrier_for_half_a_warp", 64, 1, "whole warps"),
    Defect("barrier_sixteen", 64, 1, "there is no barrier 16"),
    Defect("barrier_without_the_reader", 96, 1, "race|uninitialised"),
    Defect("read_behind_the_end", 64, 1, "out of bounds"),
    Defect("write_behind_the_end", 64, 1, "out of bounds"),
    Defect("read_before_the_start", 64, 1, "out of bounds"),
    Defect("shared_array_too_short", 64, 1, "outside of its array"),
    Defect("dynamic_shared_too_small", 64, 1, "out of bounds"),
    Defect("local_array_too_short", 64, 1, "outside of its array"),
    Defect("shared_never_written", 64, 1, "uninitialised"),
    Defect("global_never_written", 64, 1, "uninitialised"),
    Defect("misaligned_vector", 32, 1, "not aligned"),
    Defect("too_much_shared_memory", 32, 1, "too much shared memory"),
    Defect("shift_by_32", 32, 1, "shift"),
    Defect("division_by_zero", 32, 1, "divided by zero"),
    Defect("shuffle_in_a_branch", 32, 1, "waits for lanes 0xffff0000"),
    Defect("mask_without_oneself", 32, 1, "not in its own mask"),
    Defect("shuffle_from_an_idle_lane", 32, 1, "reads lane 16"),
    Defect("two_masks_that_overlap", 32, 1, "divergent warp|waits for lanes"),
    Defect("mask_beyond_the_block", 48, 1, "names lanes"),
    Defect("copy_without_wait", 64, 1, "race|uninitialised"),
    Defect("copy_one_group_short", 64, 1, "race|uninitialised"),
    Defect("copy_without_barrier", 64, 1, "race|uninitialised"),
    Defect("copy_without_commit", 64, 1, "race|uninitialised"),
    Defect("copy_over_what_is_read", 64, 1, "race"),
    Defect("copy_misaligned", 4, 1, "misaligned"),
    Defect("copy_misaligned_and_unread", 4, 1, "misaligned"),
    Defect("copy_behind_the_end", 64, 1, "out of bounds"),
    Defect("copy_to_global", 64, 1, "not in shared memory"),
    Defect("threads_write_one_word", 64, 1, "race"),
    Defect("blocks_write_one_word", 32, 3, "of another block"),
    Defect("counting_without_atomics", 64, 1, "race"),
    Defect("last_block_without_fence", 32, 5, "race"),
    Defect("input_is_written", 64, 1, "only reads"),
    Defect("shared_atomics_between_blocks", 32, 3, "of another block"),
    Defect("plain_read_of_an_atomic", 64, 1, "race"),
    Defect("a_third_reader", 96, 1, "race"),
    Defect("halves_of_a_word", 64, 1, "race"),
    Defect("copy_from_shared", 32, 1, "must be in global memory"),
    Defect("ldmatrix_without_barrier", 64, 1, "race|uninitialised"),
    Defect("ldmatrix_without_syncwarp", 32, 1, "race|uninitialised"),
    Defect("ldmatrix_of_what_is_replaced", 64, 1, "race"),
    Defect("ldmatrix_misaligned", 32, 1, "misaligned"),
    Defect("ldmatrix_behind_the_end", 32, 1, "out of bounds"),
    Defect("ldmatrix_from_global", 32, 1, "not in shared memory"),
    Defect("ldmatrix_by_half_a_warp", 32, 1, "waits for lanes 0xffff0000"),
    Defect("mma_in_a_branch", 32, 1, "waits for lanes 0x55555555"),
    Defect("two_products_at_a_time", 32, 1, "divergent warp"),
    Defect("endless_meetings", 32, 1, "endless loop"),
    Defect("polling_by_adding_nothing", 32, 1, "polls"),
    Defect("endless_loop", 32, 1, "endless loop"),
    Defect("flag_that_nobody_sets", 32, 1, "deadlock"),
    Defect("trap", 32, 1, "trap"),
];

/// Returns the lines of the source that are marked with the name of a defect.
fn marked(name: &str) -> Vec<u32> {
    let mark = format!("// <- {name}");
    (1..).zip(SOURCE.lines()).filter(|(_, line)| line.trim_end().ends_with(&mark)).map(|(n, _)| n).collect()
}

/// Runs one version of a kernel, `bad` or `good`. Returns its output.
fn run(defect: &Defect, version: &str, options: Options) -> (Emulator, Result<Vec<f32>, String>) {
    let Defect(name, threads, blocks, _) = *defect;
    let kernel: &'static str = format!("{name}_{version}").leak();
    let mut emulator = Emulator::new(options);
    let bytes = N * 4;
    let (data, out) = (emulator.alloc(bytes).expect("memory"), emulator.alloc(bytes).expect("memory"));
    let rows = |address| Rows { address, rows: 1, width: bytes, pitch: bytes };
    let values: Vec<f32> = (0..N).map(|i| 1.0 + i as f32).collect();
    emulator.write(rows(data), bytemuck::cast_slice(&values)).expect("input");
    // Kernels that count in their output need it to be zero; other outputs start as unwritten.
    let counts = [
        "counting_without_atomics",
        "last_block_without_fence",
        "flag_that_nobody_sets",
        "plain_read_of_an_atomic",
        "polling_by_adding_nothing",
    ]
    .contains(&name);
    let access = if counts { Access::Update } else { Access::Write };
    emulator.operands(&[region("data", rows(data), Access::Read), region("out", rows(out), access)]);
    let launch = Launch::new(kernel, blocks, threads).shared(64 * 4).ptr(data).ptr(out).int(N);
    let done = launch_on(&mut emulator, &launch).map_err(|e| e.to_string()).map(|()| {
        let mut values = vec![0f32; N];
        emulator.read(rows(out), bytemuck::cast_slice_mut(&mut values)).expect("output");
        values
    });
    (emulator, done)
}

/// Each schedule is a test of its own, so that they run at the same time.
mod every_defect_is_reported {
    #[test]
    fn in_forward_order() {
        super::all_are_reported(0);
    }

    #[test]
    fn in_reverse_order() {
        super::all_are_reported(1);
    }

    #[test]
    fn in_random_order() {
        super::all_are_reported(2);
    }
}

fn all_are_reported(schedule: usize) {
    for defect in DEFECTS {
        let Defect(name, _, _, words) = defect;
        {
            let options = Options::schedules(true)[schedule].clone();
            let order = options.order;
            let (emulator, done) = run(defect, "bad", options);
            let text = done.expect_err(&format!("{name} is not reported in order {order:?}"));
            assert!(
                words.split('|').any(|w| text.contains(w)),
                "{name}, {order:?}: {text:?} does not contain {words:?}"
            );
            assert!(text.contains(&format!("{name}_bad, block (")) && text.contains("thread ("), "{text}");
            let fault = emulator.fault.expect("a fault");
            let lines = marked(name);
            if !lines.is_empty() {
                let site = fault.at.site().unwrap_or_else(|| panic!("{name}: {text} names no line"));
                assert_eq!(site.file, "tests/emulator/kernels/defects.cu", "{text}");
                assert!(lines.contains(&site.line), "{name}, {order:?}: {text} is not at one of the lines {lines:?}");
            }
        }
    }
}

#[test]
fn correct_versions_pass_in_every_schedule() {
    for defect in DEFECTS {
        let mut first = None;
        for checks in [true, false] {
            for options in Options::schedules(checks) {
                let order = options.order;
                let (_, done) = run(defect, "good", options);
                let values = done.unwrap_or_else(|e| panic!("{} in order {order:?}: {e}", defect.0));
                assert_eq!(*first.get_or_insert(values.clone()), values, "{} in order {order:?}", defect.0);
            }
        }
    }
}

/// The report of a race names both lines.
#[test]
fn a_race_names_both_sides() {
    let defect = DEFECTS.iter().find(|d| d.0 == "no_barrier_before_reuse").expect("a defect");
    let [options, ..] = Options::schedules(true);
    let text = run(defect, "bad", options).1.expect_err("a race");
    let lines = marked(defect.0);
    let places: Vec<String> = lines.iter().map(|line| format!("defects.cu:{line}")).collect();
    assert!(places.iter().all(|place| text.contains(place)), "{text} does not contain all of {places:?}");
}

#[test]
fn most_defects_name_a_line() {
    let without: Vec<_> = DEFECTS.iter().map(|d| d.0).filter(|name| marked(name).is_empty()).collect();
    // Too much shared memory and loops of all threads do not belong to a single line.
    assert_eq!(
        without,
        ["too_much_shared_memory", "endless_meetings", "polling_by_adding_nothing", "flag_that_nobody_sets"]
    );
}

/// What an operation leaves unwritten, the next one must not read.
#[test]
fn an_output_that_was_written_in_part_is_not_initialised() {
    let mut emulator = Emulator::new(Options { checks: true, ..Options::default() });
    let bytes = N * 4;
    let [a, b, c] = std::array::from_fn(|_| emulator.alloc(bytes).expect("memory"));
    let rows = |address| Rows { address, rows: 1, width: bytes, pitch: bytes };
    let mut run = |from, to| {
        let regions = [(from, Access::Read), (to, Access::Write)].map(|(t, access)| region("operand", rows(t), access));
        emulator.operands(&regions);
        // Writes the first 64 of 128 elements. Reads 64 elements, from the start for a, from the middle for b.
        launch_on(
            &mut emulator,
            &Launch::new("read_behind_the_end_bad", 1, 64).ptr(from).ptr(to).int(if from == a { 60 } else { 124 }),
        )
    };
    run(a, b).expect("the whole input is initialised");
    let error = run(b, c).expect_err("the second half of b was never written").to_string();
    assert!(error.contains("uninitialised"), "{error}");
}
