//! Signals, and other events that end the process without an error that could be returned. Each prints a message.
//!
//! | | |
//! |---|---|
//! | SIGINT, SIGTERM, SIGHUP, SIGXCPU | a run ends its step and writes a checkpoint; before training: exit at once |
//! | SIGINT again, at least 200 ms later | exits at once: the user has pressed Ctrl-C twice |
//! | SIGBUS | a mapped file was truncated: prints its name, exit code 2 |
//! | SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT | an emulated kernel crashed: prints its name, exit code 2 |
//! | SIGXFSZ | ignored, so that the write fails with an error that names the file |
//! | failed allocation | prints what to do, exit code 2 |
//!
//! A signal that was ignored when the process started, as under nohup, stays ignored.
//!
//! Handlers may run between any two instructions. They only use atomics and the async-signal-safe calls `write`,
//! `clock_gettime`, `sigaction`, `raise` and `_exit`, and do not allocate.

#[cfg(emulated)]
mod kernels;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// Exit code of a run that a signal stopped, as shells report for an interrupted command.
pub const STOPPED: u8 = 130;
/// Exit code of every error.
const FAILED: i32 = 2;

/// Set once a signal has requested a stop.
static STOP: AtomicBool = AtomicBool::new(false);
/// Set while a run trains: signals then stop it after a checkpoint.
static TRAINING: AtomicBool = AtomicBool::new(false);
/// Set once a thread prints why the process ends.
static ENDING: AtomicBool = AtomicBool::new(false);
/// The shell-quoted folder of the run, and its length in `RUN_BYTES`.
static RUN: [AtomicU8; 512] = [const { AtomicU8::new(0) }; 512];
static RUN_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Returns whether a signal has requested a stop.
pub fn stop() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Marks the start of training in `dir`: from now on signals wait for a checkpoint, and messages say how to resume the
/// run.
pub fn training(dir: &Path) {
    let name = crate::files::shell_quote(dir);
    let name = name.as_bytes();
    // A name that does not fit is left out: part of it would be useless.
    if name.len() <= RUN.len() {
        RUN_BYTES.store(0, Ordering::Relaxed);
        RUN.iter().zip(name).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
        RUN_BYTES.store(name.len(), Ordering::Release);
    }
    TRAINING.store(true, Ordering::Release);
}

/// A message for standard error, built without allocation. Text beyond 1024 bytes is cut off.
struct Line {
    bytes: [u8; 1024],
    length: usize,
}

impl Line {
    fn new(text: &str) -> Self {
        let mut line = Line { bytes: [0; 1024], length: 0 };
        line.add(text.as_bytes());
        line
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.length..];
        room.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
        self.length += bytes.len().min(room.len());
    }

    fn add_number(&mut self, mut number: usize) {
        let (mut digits, mut first) = ([b'0'; 20], 20);
        while first == 20 || number > 0 {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        self.add(&digits[first..]);
    }

    /// Appends the command that resumes the run, if there is one.
    fn add_resume(&mut self, before: &str) {
        let length = RUN_BYTES.load(Ordering::Acquire);
        if length > 0 {
            self.add(before.as_bytes());
            self.add(b"`vcycle train --resume ");
            RUN[..length].iter().for_each(|byte| self.add(&[byte.load(Ordering::Relaxed)]));
            self.add(b"`");
        }
    }

    fn print(mut self) {
        self.add(b"\n");
        self.print_part();
    }

    /// Prints without a line break.
    fn print_part(self) {
        system::print(&self.bytes[..self.length]);
    }
}

/// Returns in the first thread that calls it and blocks all others, so that only one message is printed.
fn only_one() {
    if ENDING.swap(true, Ordering::Relaxed) {
        loop {
            std::hint::spin_loop();
        }
    }
}

/// Ends the process because an allocation of `bytes` failed.
pub fn out_of_memory(bytes: usize) -> ! {
    only_one();
    let mut line = Line::new("error: out of memory: cannot allocate ");
    line.add_number(bytes);
    line.add(
        b" bytes; give the process more memory (check ulimit -v, container limits and other programs), use fewer \
          --threads, or start a new run with a smaller train.batch or model",
    );
    line.add_resume("; once there is more memory, resume with ");
    line.print();
    system::exit(FAILED)
}

/// Installs the handlers for crashes. The binary calls this before anything else.
pub fn install() {
    system::install();
}

/// Installs the handlers for the signals that stop a run. [`stop`] then reports them.
///
/// # Errors
/// If the system refuses to install a handler.
pub fn listen() -> crate::error::Result<()> {
    system::listen()
}

#[cfg(unix)]
mod system {
    use super::{FAILED, Line, Ordering, STOP, STOPPED, TRAINING};
    use crate::data::mapped::{self, Found};
    use crate::error::{Error, Result};
    use std::mem::MaybeUninit;
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU64;

    /// Milliseconds after which a second SIGINT counts as typed by the user. Earlier ones are duplicates: launchers and
    /// process groups send signals more than once.
    const TWICE: u64 = 200;

    /// Time of the first SIGINT in milliseconds; 0 if there was none.
    static INTERRUPTED: AtomicU64 = AtomicU64::new(0);

    /// Signals of a crash. Without emulated kernels only SIGBUS is handled here.
    #[cfg(emulated)]
    const CRASHES: [libc::c_int; 5] = [libc::SIGBUS, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL, libc::SIGABRT];
    #[cfg(not(emulated))]
    const CRASHES: [libc::c_int; 1] = [libc::SIGBUS];

    /// The previous handlers: those of Rust's runtime, which report stack overflows.
    static BEFORE: [OnceLock<libc::sigaction>; CRASHES.len()] = [const { OnceLock::new() }; CRASHES.len()];

    pub fn print(text: &[u8]) {
        // SAFETY: the pointer and the length are of one slice. Errors are ignored: standard error may be closed.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }

    pub fn exit(code: i32) -> ! {
        // SAFETY: `_exit` ends the process without running any of its code.
        unsafe { libc::_exit(code) }
    }

    /// Returns the current action of a signal.
    fn current(signal: libc::c_int) -> Option<libc::sigaction> {
        let mut action = MaybeUninit::uninit();
        // SAFETY: a null action changes nothing; the old action is fully written if the call returns 0.
        match unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } {
            // SAFETY: the call returned 0, so `action` is initialised.
            0 => Some(unsafe { action.assume_init() }),
            _ => None,
        }
    }

    fn set(signal: libc::c_int, handler: libc::sighandler_t, flags: libc::c_int) -> bool {
        // SAFETY: all-zero bytes are a valid action with an empty mask. `handler` is SIG_IGN, SIG_DFL, a handler of
        // this file whose signature matches the flags, or an action that `current` returned.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler;
            action.sa_flags = flags;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
        }
    }

    pub fn install() {
        set(libc::SIGXFSZ, libc::SIG_IGN, 0);
        for (signal, slot) in CRASHES.into_iter().zip(&BEFORE) {
            let Some(before) = current(signal) else { continue };
            let _ = slot.set(before);
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_crash;
            // Run on the alternate stack set up by Rust or the emulator, since the current stack may be broken, and
            // allow the signal again inside the handler, since the handler reads memory that may be damaged.
            let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            set(signal, handler as libc::sighandler_t, flags);
        }
    }

    /// Ends the process with a message if SIGBUS at `address` came from a mapped file; returns if not. Not inlined into
    /// its caller, which runs on a small stack.
    #[inline(never)]
    fn cut_short(address: usize) {
        let mut name = [0; mapped::NAME];
        let mut line = Line::new("\nerror: ");
        match mapped::name_at(address, &mut name) {
            Found::Name(length) => line.add(&name[..length]),
            Found::Perhaps => line.add(b"a file of tokens or images"),
            Found::Nothing => return,
        }
        line.add(b" became unreadable (SIGBUS): it was truncated while in use, or its disk failed; restore it");
        line.add_resume(", then resume with ");
        line.print();
        exit(FAILED)
    }

    extern "C" fn on_crash(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system passes a valid `info` to a handler with SA_SIGINFO; the address is not dereferenced.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
        #[cfg(emulated)]
        let own = {
            // Linux codes: sent by the process to itself, as abort() does; and a fault whose address the CPU does not
            // report.
            const SI_TKILL: libc::c_int = -6;
            const SI_KERNEL: libc::c_int = 0x80;
            let own = code > 0 || code == SI_TKILL && signal == libc::SIGABRT;
            if own {
                super::kernels::crashed(signal, (code != SI_KERNEL).then_some(address as u64));
            }
            own
        };
        if signal == libc::SIGBUS {
            cut_short(address);
        }
        if pass_on(signal, info, context) {
            return;
        }
        #[cfg(emulated)]
        if own {
            super::kernels::perhaps(signal);
        }
        // Behave as if this handler did not exist. A faulting access is retried after return and then ends the process;
        // a signal that was sent is sent again.
        set(signal, libc::SIG_DFL, 0);
        if code <= 0 {
            // SAFETY: `raise` only sends a signal to this thread.
            unsafe { libc::raise(signal) };
        }
    }

    /// Calls the previous handler of the signal. Returns whether it handled the signal, so that it stays installed.
    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) -> bool {
        let slot = CRASHES.iter().position(|s| *s == signal).and_then(|i| BEFORE[i].get());
        let Some(before) = slot.filter(|b| !matches!(b.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)) else {
            return false;
        };
        let handler = before.sa_sigaction as *const ();
        // It may call abort(), and its stack of 8 KiB has no space for a second handler.
        let abort = current(libc::SIGABRT);
        set(libc::SIGABRT, libc::SIG_DFL, 0);
        // SAFETY: the system returned this action as the installed one, so the handler has the signature that its flags
        // say.
        unsafe {
            if before.sa_flags & libc::SA_SIGINFO != 0 {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            } else {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
        if let Some(abort) = abort {
            set(libc::SIGABRT, abort.sa_sigaction, abort.sa_flags);
        }
        // Rust's handler resets the action to SIG_DFL if the fault was not a stack overflow.
        current(signal).is_some_and(|action| action.sa_sigaction != libc::SIG_DFL)
    }

    pub fn listen() -> Result<()> {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGXCPU] {
            // The parent wants this signal ignored, as nohup does.
            if current(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_IGN) {
                continue;
            }
            let handler: extern "C" fn(libc::c_int) = on_stop;
            // SA_RESTART: interrupted system calls restart by themselves.
            if !set(signal, handler as libc::sighandler_t, libc::SA_RESTART) {
                let error = std::io::Error::last_os_error();
                return Err(Error::new(format!(
                    "cannot install a handler for signal {signal}: {error}; start vcycle again"
                )));
            }
        }
        Ok(())
    }

    extern "C" fn on_stop(signal: libc::c_int) {
        let saved = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        if !TRAINING.load(Ordering::Acquire) {
            Line::new("\nstopped before training began; nothing to save").print();
            exit(i32::from(STOPPED));
        }
        let first = !STOP.swap(true, Ordering::Relaxed);
        if first {
            let mut line = Line::new("\nstopping: the current step will be finished and a checkpoint written");
            line.add(b"; press Ctrl-C again to exit at once without saving");
            line.print();
        }
        if signal == libc::SIGINT {
            let now = milliseconds();
            match INTERRUPTED.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
                Err(before) if now >= before.saturating_add(TWICE) => {
                    let mut line = Line::new("\nexited at once: everything after the last checkpoint is lost");
                    line.add_resume("; resume from it with ");
                    line.print();
                    exit(i32::from(STOPPED));
                }
                Ok(_) if !first => Line::new("\npress Ctrl-C once more to exit at once without saving").print(),
                _ => {}
            }
        }
        set_errno(saved);
    }

    fn milliseconds() -> u64 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `clock_gettime` writes only to `now`.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        // Never 0, which means that there was no SIGINT.
        (now.tv_sec as u64).saturating_mul(1000).saturating_add(now.tv_nsec as u64 / 1_000_000).max(1)
    }

    /// Restores errno, which the interrupted code may be about to read.
    fn set_errno(error: i32) {
        #[cfg(target_os = "linux")]
        // SAFETY: the pointer is to this thread's errno.
        unsafe {
            *libc::__errno_location() = error;
        }
        #[cfg(target_os = "macos")]
        // SAFETY: the pointer is to this thread's errno.
        unsafe {
            *libc::__error() = error;
        }
        #[cfg(not(any(target_os = "linux", target_os = "macos")))]
        let _ = error;
    }
}

#[cfg(not(unix))]
mod system {
    use super::{Ordering, STOP, TRAINING};
    use crate::error::{Error, Result};
    use std::io::Write;

    pub fn print(text: &[u8]) {
        let _ = std::io::stderr().write_all(text);
    }

    pub fn exit(code: i32) -> ! {
        std::process::exit(code)
    }

    pub fn install() {}

    pub fn listen() -> Result<()> {
        let set = ctrlc::set_handler(|| {
            if !TRAINING.load(Ordering::Acquire) || STOP.swap(true, Ordering::Relaxed) {
                exit(i32::from(super::STOPPED));
            }
        });
        set.map_err(|e| Error::new(format!("cannot install a handler for Ctrl-C: {e}; start vcycle again")))
    }
}
