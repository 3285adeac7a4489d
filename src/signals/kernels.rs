//! Messages for emulated kernels that crash the process: without checks, nothing keeps a kernel from accessing foreign
//! memory.

use super::{FAILED, Line, system};
use crate::device::cuda::driver::emulator::crash::{self, Outside, Running};
use crate::device::cuda::driver::emulator::operands::Place;
use std::cell::Cell;

/// No memory is mapped below this address: a fault there comes from a null pointer.
const NULL_PAGE: u64 = 4096;

thread_local! {
    /// How many parts of the message this thread has written: it may crash again while it reads memory that a kernel
    /// damaged.
    static SAID: Cell<u8> = const { Cell::new(0) };
}

fn name(signal: libc::c_int) -> &'static str {
    match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        _ => "SIGABRT",
    }
}

/// Ends the process with a message if a kernel runs on this thread; returns if none does. Not inlined into its caller,
/// which may run on a small stack.
#[inline(never)]
pub fn crashed(signal: libc::c_int, address: Option<u64>) {
    let Some(running) = crash::running() else { return };
    if SAID.get() == 0 {
        SAID.set(1);
        super::only_one();
        begin(&running, signal).print_part();
    }
    let mut memory = matches!(signal, libc::SIGSEGV | libc::SIGBUS);
    if SAID.get() == 1 {
        SAID.set(2);
        let mut line = Line::new("");
        memory = describe(&running, signal, address, &mut line);
        line.print_part();
    }
    let mut line = Line::new("");
    let [operation, variant] = running.operation;
    if memory && running.checks {
        line.add(b", although every access was checked");
    } else if memory {
        line.add(b"; `vcycle kernels check ");
        if !operation.is_empty() {
            [operation, "/", variant, " "].iter().for_each(|text| line.add(text.as_bytes()));
        }
        line.add(b"--shadow` names the operand and the line");
    }
    line.add_resume("; then resume with ");
    line.print();
    system::exit(FAILED)
}

/// Begins the message: the operation, variant, kernel, block, thread and signal.
fn begin(running: &Running, signal: libc::c_int) -> Line {
    let mut line = Line::new("\nerror: ");
    let [operation, variant] = running.operation;
    if !operation.is_empty() {
        [operation, " ", variant, ": "].iter().for_each(|text| line.add(text.as_bytes()));
    }
    line.add(b"kernel ");
    line.add(running.kernel.as_bytes());
    for (what, at) in [", block (", ", thread ("].iter().zip(running.thread()) {
        line.add(what.as_bytes());
        for (i, n) in at.into_iter().enumerate() {
            line.add(if i > 0 { b", " } else { b"" });
            line.add_number(n as usize);
        }
        line.add(b")");
    }
    line.add(b", was stopped by ");
    line.add(name(signal).as_bytes());
    line
}

/// Appends what the kernel did. Returns whether checks would have found it.
fn describe(running: &Running, signal: libc::c_int, address: Option<u64>, line: &mut Line) -> bool {
    match signal {
        libc::SIGSEGV | libc::SIGBUS => {}
        libc::SIGFPE => {
            line.add(b": an integer division by zero or with overflow");
            return false;
        }
        libc::SIGILL => {
            line.add(b": it reached code that the compiler assumed to be unreachable");
            return false;
        }
        _ => {
            line.add(b": the process aborted, as it does when its memory is damaged");
            return true;
        }
    }
    match address.map_or(Outside::Unknown, |address| running.outside(address)) {
        Outside::Stack => {
            line.add(
                b": it overflowed the stack of an emulated thread (256 KiB): its local arrays are too large, or its \
                  recursion does not end",
            );
            return false;
        }
        Outside::Operand(name, place) => {
            line.add(b": it accessed memory outside of its operands");
            let (bytes, how) = match place {
                Place::Before(bytes) => (bytes, " bytes before the start of `"),
                Place::After(bytes) => (bytes, " bytes after the end of `"),
                // Inside the operand, or between two of its rows: that memory is mapped, so do not name the operand.
                Place::Inside | Place::Between(_) => return true,
            };
            line.add(b", ");
            line.add_number(bytes as usize);
            line.add(how.as_bytes());
            line.add(name.as_bytes());
            line.add(b"`");
        }
        Outside::Unknown => {
            line.add(b": it accessed memory outside of its operands");
            if address.is_some_and(|address| address < NULL_PAGE) {
                line.add(b", through a null pointer");
            }
        }
    }
    true
}

/// Ends the process with a message if kernels have run without checks, because one of them may have caused the crash.
#[inline(never)]
pub fn perhaps(signal: libc::c_int) {
    let Some(last) = crash::unchecked() else { return };
    super::only_one();
    let mut line = Line::new("\nerror: the process was stopped by ");
    line.add(name(signal).as_bytes());
    line.add(
        b", perhaps because a kernel damaged its memory: the emulator has run kernels without checks, the last one ",
    );
    line.add(last.to_bytes());
    line.add(b"; `vcycle kernels check --shadow` names those that access memory outside of their operands");
    line.print();
    system::exit(FAILED)
}
