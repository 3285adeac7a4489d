//! Promise: when a kernel that runs without checks crashes the process, a message says what it did and how to find the
//! line, and the exit code is that of any error. When the process crashes later, the message says that a kernel may
//! have damaged its memory. Without kernels a crash stays an ordinary crash.

use super::region;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use vcycle::device::cuda::driver::emulator::{Emulator, Options};
use vcycle::device::cuda::driver::{Driver, Part, Rows};
use vcycle::device::cuda::launch::Launch;
use vcycle::device::ops::Access;

const CASE: &str = "VCYCLE_TEST_CRASH";

/// Runs the case that the parent process requests. Every case has a process of its own.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    vcycle::signals::install();
    let (kernel, options, blocks) = match case.as_str() {
        "threads" => ("crash_far_bad", Options { threads: 2, ..Options::default() }, 64),
        "checked" => ("crash_abort_bad", Options { checks: true, ..Options::default() }, 1),
        "checked_stack" => ("crash_deep_bad", Options { checks: true, ..Options::default() }, 1),
        "abort_later" | "access_later" | "host_stack_later" | "sent_later" => ("crash_good", Options::default(), 1),
        "checked_abort_later" => ("crash_good", Options { checks: true, ..Options::default() }, 1),
        name => (format!("crash_{name}_bad").leak() as &str, Options::default(), 1),
    };
    if !case.starts_with("none") {
        let mut emulator = Emulator::new(options);
        let rows = |address| Rows { address, rows: 3, width: 16, pitch: 16 };
        let [x, out] = [0; 2].map(|_| emulator.alloc(48).expect("memory"));
        let x_given = if kernel == "crash_null_bad" { 0 } else { x };
        let part = Part {
            name: "fill",
            variant: "naive",
            regions: vec![region("x", rows(x), Access::Read), region("out", rows(out), Access::Write)],
            launches: vec![Launch::new(kernel, blocks, 32).ptr(x_given).ptr(out).int(1024)],
        };
        // SAFETY: the parameters match the kernel's. That it accesses memory outside of its operands is the purpose of
        // this process.
        unsafe { part.start(&mut emulator) }.expect("a kernel");
    }
    match case.as_str() {
        "abort_later" | "checked_abort_later" | "none_abort" => std::process::abort(),
        // SAFETY: none: this crashes the process on purpose.
        "access_later" | "none_access" => unsafe { (8 as *mut u8).write_volatile(1) },
        // SAFETY: only sends a signal to this process.
        "sent_later" => drop(unsafe { libc::kill(libc::getpid(), libc::SIGSEGV) }),
        "host_stack_later" => println!("{}", endless(1)),
        _ => {}
    }
}

#[allow(unconditional_recursion)]
fn endless(n: u64) -> u64 {
    let own = std::hint::black_box([n; 64]);
    endless(n + 1) + own[(n % 64) as usize]
}

fn crash(case: &str) -> (Output, String) {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["crashes::child", "--exact", "--nocapture"]).env(CASE, case);
    // Operands of this size then lie below all mapped files and libraries, and nothing is mapped 1 GiB after them.
    command.env("MALLOC_ARENA_MAX", "1");
    let output = command.output().expect("a process");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

/// Checks that the process ends with the exit code of errors and prints exactly this message.
fn reported(case: &str, expected: &str) {
    let (output, text) = crash(case);
    assert_eq!((output.status.code(), text.as_str()), (Some(2), format!("\nerror: {expected}\n").as_str()), "{case}");
}

const HINT: &str = "`vcycle kernels check fill/naive --shadow` names the operand and the line";

#[test]
fn a_write_1_gib_after_an_operand() {
    let far = "accessed memory outside of its operands, 1073741824 bytes after the end of `out`";
    reported(
        "far",
        &format!(
            "fill naive: kernel crash_far_bad, block (0, 0, 0), thread (3, 0, 0), was stopped by SIGSEGV: it {far}; {HINT}"
        ),
    );
    // On any of the host's threads.
    reported(
        "threads",
        &format!(
            "fill naive: kernel crash_far_bad, block (63, 0, 0), thread (3, 0, 0), was stopped by SIGSEGV: it {far}; {HINT}"
        ),
    );
}

#[test]
fn a_null_pointer() {
    reported(
        "null",
        &format!(
            "fill naive: kernel crash_null_bad, block (0, 0, 0), thread (0, 0, 0), was stopped by SIGSEGV: it accessed memory \
             outside of its operands, through a null pointer; {HINT}"
        ),
    );
}

#[test]
fn a_stack_that_is_used_up() {
    for (case, name) in [("deep", "deep"), ("wide", "wide"), ("checked_stack", "deep")] {
        let (output, text) = crash(case);
        let expected = format!(
            "\nerror: fill naive: kernel crash_{name}_bad, block (0, 0, 0), thread (0, 0, 0), was stopped by SIGSEGV: it \
             overflowed the stack of an emulated thread (256 KiB): its local arrays are too large, or its recursion does \
             not end\n"
        );
        assert_eq!((output.status.code(), text), (Some(2), expected), "{case}");
    }
}

#[test]
fn other_signals() {
    let who =
        |name: &str| format!("fill naive: kernel crash_{name}_bad, block (0, 0, 0), thread (0, 0, 0), was stopped by");
    reported(
        "unreachable",
        &format!("{} SIGILL: it reached code that the compiler assumed to be unreachable", who("unreachable")),
    );
    let gave_up = "SIGABRT: the process aborted, as it does when its memory is damaged";
    reported("abort", &format!("{} {gave_up}; {HINT}", who("abort")));
    reported("checked", &format!("{} {gave_up}, although every access was checked", who("abort")));
}

#[test]
fn a_crash_after_kernels_without_checks() {
    for (case, signal) in [("abort_later", "SIGABRT"), ("access_later", "SIGSEGV")] {
        reported(
            case,
            &format!(
                "the process was stopped by {signal}, perhaps because a kernel damaged its memory: the emulator has run \
                 kernels without checks, the last one crash_good; `vcycle kernels check --shadow` names those that access \
                 memory outside of their operands"
            ),
        );
    }
}

#[test]
fn crashes_that_no_kernel_can_have_made() {
    for (case, signal) in [
        ("none_abort", libc::SIGABRT),
        ("none_access", libc::SIGSEGV),
        ("checked_abort_later", libc::SIGABRT),
        // Sent by a process, not caused by an access.
        ("sent_later", libc::SIGSEGV),
    ] {
        let (output, text) = crash(case);
        assert_eq!((output.status.signal(), text.as_str()), (Some(signal), ""), "{case}");
    }
    // The Rust runtime itself reports overflows of its own stacks.
    let (output, text) = crash("host_stack_later");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(text.contains("has overflowed its stack") && !text.contains("kernel"), "{text}");
}
