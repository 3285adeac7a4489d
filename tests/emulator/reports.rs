//! Promise: a report says which operand, row and column an access was to, how far outside of it, and in which schedule
//! it was seen. If the access is in a shared helper, the report also names the line of the kernel's file that called
//! it.

use super::{launch_on, marked, region};
use vcycle::device::cuda::driver::emulator::{Emulator, Options};
use vcycle::device::cuda::driver::{Driver, Rows};
use vcycle::device::cuda::launch::Launch;
use vcycle::device::ops::Access;

const SOURCE: &str = include_str!("kernels/reports.cu");
const HELPER: &str = include_str!("kernels/helper.cuh");

/// How reports describe each schedule.
const SCHEDULES: [&str; 3] =
    ["order forward, copies late", "order reverse, copies at once", "order random, copies at random, seed 0x5eee"];

/// Returns the place of the line with this mark, as reports print it.
fn line(name: &str) -> String {
    let lines = marked(SOURCE, name);
    assert_eq!(lines.len(), 1, "{name}");
    format!("tests/emulator/kernels/reports.cu:{}", lines[0])
}

/// Returns the place of `put` in the helper, called at the line with this mark, as reports print it.
fn put(name: &str) -> String {
    format!("tests/emulator/kernels/helper.cuh:{} (called at {})", marked(HELPER, "put")[0], line(name))
}

/// Runs `report_NAME_bad` with the parameter `at`. Returns the report.
fn report(name: &str, at: i32, options: Options) -> String {
    let mut emulator = Emulator::new(options);
    let mut matrix = |width: usize, pitch: usize| {
        let address = emulator.alloc(2 * pitch + width).expect("memory");
        Rows { address, rows: 3, width, pitch }
    };
    let (x, out) = (matrix(20, 28), matrix(16, 16));
    emulator.write(x, &[0; 60]).expect("input");
    emulator.operands(&[region("x", x, Access::Read), region("out", out, Access::Write)]);
    let kernel: &'static str = format!("report_{name}_bad").leak();
    let launch = Launch::new(kernel, 1, 32).ptr(x.address).ptr(out.address).signed(at);
    launch_on(&mut emulator, &launch).expect_err("a report").to_string()
}

/// Checks the whole report of `report_NAME_bad`, by thread 0, in every schedule.
fn reports(name: &str, at: i32, place: &str, words: &str) {
    for (options, schedule) in Options::schedules(true).into_iter().zip(SCHEDULES) {
        let expected =
            format!("{place}: report_{name}_bad, block (0, 0, 0), thread (0, 0, 0): {words}; seen with {schedule}");
        assert_eq!(report(name, at, options), expected);
    }
}

#[test]
fn accesses_outside_of_operands() {
    for (at, words) in [
        (19, "a read of 4 bytes of row 2, column 5 of `x`, right after the end of `x`"),
        (21, "a read of 4 bytes of row 3, column 0 of `x`, 8 bytes (2 elements) after the end of `x`"),
        (-1, "a read of 4 bytes of row -1, column 6 of `x`, 4 bytes (1 element) before the start of `x`"),
        (5, "a read of 4 bytes of row 0, column 5 of `x`, right after the end of the row"),
        (13, "a read of 4 bytes of row 1, column 6 of `x`, 4 bytes (1 element) after the end of the row"),
    ] {
        reports("read", at, &line("read"), &format!("out of bounds: {words} (3 rows of 5 elements)"));
    }
    for (at, words) in [
        (12, "a write of 4 bytes to row 3, column 0 of `out`, right after the end of `out`"),
        (112, "a write of 4 bytes to row 28, column 0 of `out`, 400 bytes (100 elements) after the end of `out`"),
    ] {
        reports("write", at, &line("write"), &format!("out of bounds: {words} (3 rows of 4 elements)"));
    }
    let words = "a write of 4 bytes to `x`, row 1, column 1, which the operation only reads";
    reports("input", 8, &line("input"), &format!("out of bounds: {words}"));
    // Half of the access is inside.
    let words =
        "a read of 8 bytes of row 0, columns 4 to 5 of `x`, its last 4 bytes (1 element) after the end of the row";
    reports("double", 4, &line("double"), &format!("out of bounds: {words} (3 rows of 5 elements)"));
}

#[test]
fn memory_that_was_never_written() {
    let words = "uninitialised: 4 bytes of global memory (`out`, row 1, column 3) are read but were never written";
    reports("unwritten", 7, &line("unwritten"), words);
    let words = "uninitialised: 4 bytes of shared memory (`sums`, element 9) are read but were never written";
    reports("shared_unwritten", 9, &line("shared_unwritten"), words);
}

#[test]
fn shared_arrays() {
    let words = "out of bounds: 4 bytes at `tile`, row 4, column 3 end 16 bytes after the end of this array of 128 bytes \
                 in shared memory";
    reports("shared_outside", 35, &line("shared_outside"), words);
}

/// Checks the whole report of a race of threads 0 and 1, in every schedule. The thread that comes second reports it,
/// which is thread 1 in forward order.
fn races(name: &str, at: i32, memory: &str, places: [&str; 2]) {
    for (options, schedule) in Options::schedules(true).into_iter().zip(SCHEDULES) {
        let text = report(name, at, options);
        let by = |second: usize| {
            format!(
                "{}: report_{name}_bad, block (0, 0, 0), thread ({second}, 0, 0): race: 4 bytes of {memory} are written by \
                 this thread and written by thread ({}, 0, 0) at {}, with no barrier, fence or wait that orders the two; \
                 seen with {schedule}",
                places[second],
                1 - second,
                places[1 - second]
            )
        };
        match schedule {
            _ if schedule == SCHEDULES[0] => assert_eq!(text, by(1)),
            _ if schedule == SCHEDULES[1] => assert_eq!(text, by(0)),
            _ => assert!([by(0), by(1)].contains(&text), "{text}"),
        }
    }
}

#[test]
fn races_name_the_bytes_and_both_lines() {
    let at = line("race");
    races("race", 5, "global memory (`out`, row 1, column 1)", [&at, &at]);
    let at = line("shared_race");
    races("shared_race", 21, "shared memory (`tile`, row 2, column 5)", [&at, &at]);
}

#[test]
fn a_helper_is_named_with_its_caller() {
    let words = "out of bounds: a write of 4 bytes to row 3, column 0 of `out`, right after the end of `out` (3 rows of 4 \
                 elements)";
    reports("helper", 12, &put("helper"), words);
    // The second call of `put` in `put_twice`.
    reports("deep_helper", 11, &put("deep_helper"), words);
    races("two_helpers", 0, "global memory (`out`, row 0, column 0)", [&put("first_helper"), &put("second_helper")]);
}

/// Without operands, the report describes the allocation.
#[test]
fn accesses_without_an_operation() {
    let mut emulator = Emulator::new(Options { checks: true, ..Options::default() });
    let [x, out] = [256, 512].map(|bytes| emulator.alloc(bytes).expect("memory"));
    let launch = |at: i32| Launch::new("report_write_bad", 1, 32).ptr(x).ptr(out).signed(at);
    let error = launch_on(&mut emulator, &launch(128)).expect_err("outside").to_string();
    let words = "out of bounds: a write of 4 bytes, 0 bytes after the end of an allocation of 512 bytes; seen with order \
                 forward, copies at once";
    assert!(error.ends_with(words), "{error}");
}
