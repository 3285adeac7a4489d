//! Signals, and what else ends a process without an error that could be returned: a sentence in every case.
//!
//! | | |
//! |---|---|
//! | SIGINT, SIGTERM, SIGHUP, SIGXCPU | a run stops after its step and writes a checkpoint; before it trains, it ends at once |
//! | SIGINT again, 200 ms later or more | ends at once: a person has typed Ctrl-C twice |
//! | SIGBUS | a mapped file was cut short: its name, exit code 2 |
//! | SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT | a kernel of the emulator has crashed: its name, exit code 2 |
//! | SIGXFSZ | ignored, so that writing fails with an error, which names the file |
//! | no memory | what to do, exit code 2 |
//!
//! A signal that was ignored when the process began, as under nohup, stays ignored.
//!
//! Handlers run between any two instructions. They read and write atomics, call `write`, `clock_gettime` and `_exit`, all of
//! which POSIX allows there, and take no memory.

#[cfg(emulated)]
mod kernels;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// Exit code of a run that a signal stopped: what shells give for an interrupted command.
pub const STOPPED: u8 = 130;
/// Exit code of every error.
const FAILED: i32 = 2;

/// A signal has asked for the end.
static STOP: AtomicBool = AtomicBool::new(false);
/// A run is under way: signals wait for its checkpoint.
static TRAINING: AtomicBool = AtomicBool::new(false);
/// A thread is saying why the process ends.
static ENDING: AtomicBool = AtomicBool::new(false);
/// The folder of the run.
static RUN: [AtomicU8; 512] = [const { AtomicU8::new(0) }; 512];
static RUN_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Whether a signal has asked for the end.
pub fn stop() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// From here on signals wait for a checkpoint of the run in `dir`, and messages say how it goes on.
pub fn training(dir: &Path) {
    let name = crate::files::shell_quote(dir);
    let name = name.as_bytes();
    // Half a name leads nowhere.
    if name.len() <= RUN.len() {
        RUN_BYTES.store(0, Ordering::Relaxed);
        RUN.iter().zip(name).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
        RUN_BYTES.store(name.len(), Ordering::Release);
    }
    TRAINING.store(true, Ordering::Release);
}

/// Text for standard error, put together without memory.
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

    /// How to go on, if there is a run.
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

    /// Without the end of the line.
    fn print_part(self) {
        system::print(&self.bytes[..self.length]);
    }
}

/// Goes on in the first thread that comes here: one sentence, whichever of them fail together.
fn only_one() {
    if ENDING.swap(true, Ordering::Relaxed) {
        loop {
            std::hint::spin_loop();
        }
    }
}

/// Ends the process because `bytes` of memory were refused.
pub fn out_of_memory(bytes: usize) -> ! {
    only_one();
    let mut line = Line::new("error: out of memory: the system refused ");
    line.add_number(bytes);
    line.add(
        b" bytes; give the process more (ulimit -v, its container, other programs), or use fewer --threads, or a smaller \
          train.batch or model in a new run",
    );
    line.add_resume("; once there is more memory, go on with ");
    line.print();
    system::exit(FAILED)
}

/// Prepares the process: for the binary, before anything else.
pub fn install() {
    system::install();
}

/// Listens for the signals that stop a run. [`stop`] tells of them.
///
/// # Errors
/// The system lets nobody listen.
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

    /// A second SIGINT that comes earlier, in milliseconds, was not typed by a person who had read what the first one said:
    /// launchers and process groups send signals more than once.
    const TWICE: u64 = 200;

    /// When the first SIGINT came, in milliseconds; 0: none did.
    static INTERRUPTED: AtomicU64 = AtomicU64::new(0);

    /// Signals of a process that has gone wrong. Without emulated kernels all but one are left to the system.
    #[cfg(emulated)]
    const CRASHES: [libc::c_int; 5] = [libc::SIGBUS, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL, libc::SIGABRT];
    #[cfg(not(emulated))]
    const CRASHES: [libc::c_int; 1] = [libc::SIGBUS];

    /// What handled them before: Rust's own handlers, which tell of overflowing stacks.
    static BEFORE: [OnceLock<libc::sigaction>; CRASHES.len()] = [const { OnceLock::new() }; CRASHES.len()];

    pub fn print(text: &[u8]) {
        // SAFETY: the pointer and the length are of one slice. That nobody may be reading is no reason to do anything else.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }

    pub fn exit(code: i32) -> ! {
        // SAFETY: ends the process; runs nothing of it any more.
        unsafe { libc::_exit(code) }
    }

    /// What is done about a signal now.
    fn current(signal: libc::c_int) -> Option<libc::sigaction> {
        let mut action = MaybeUninit::uninit();
        // SAFETY: a null action changes nothing; the old one is written whole where the call returns 0.
        match unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } {
            // SAFETY: see above.
            0 => Some(unsafe { action.assume_init() }),
            _ => None,
        }
    }

    fn set(signal: libc::c_int, handler: libc::sighandler_t, flags: libc::c_int) -> bool {
        // SAFETY: all bytes zero are a valid action, with an empty mask. `handler` is one of this file, of the kind that the
        // flags say, or SIG_IGN or SIG_DFL.
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
            // On the stack that Rust has set aside for its handler, or the emulator: the one in use may be what is broken. And
            // again while it runs, since it looks at what may be damaged.
            let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            set(signal, handler as libc::sighandler_t, flags);
        }
    }

    /// What SIGBUS at `address` was about. Returns where it was about no file. Not part of its caller, whose stack is small.
    #[inline(never)]
    fn cut_short(address: usize) {
        let mut name = [0; mapped::NAME];
        let mut line = Line::new("\nerror: ");
        match mapped::name_at(address, &mut name) {
            Found::Name(length) => line.add(&name[..length]),
            Found::Perhaps => line.add(b"a file of tokens or images"),
            Found::Nothing => return,
        }
        line.add(b" could not be read any more (SIGBUS): it was cut short while it was read, or its disk failed; bring it back as it was");
        line.add_resume(", then go on with ");
        line.print();
        exit(FAILED)
    }

    extern "C" fn on_crash(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system gives a valid `info` to a handler with SA_SIGINFO; what is no address is not used as one.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
        #[cfg(emulated)]
        let own = {
            // Of Linux: sent by the process to itself, as abort() does; and by the CPU, which says no address.
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
        // As if this handler were not here. An access is made again when it returns, and then ends the process; what was sent is
        // sent again.
        set(signal, libc::SIG_DFL, 0);
        if code <= 0 {
            // SAFETY: sends a signal to this thread.
            unsafe { libc::raise(signal) };
        }
    }

    /// Calls what handled the signal before. True where it has dealt with it: it is asked again for the next one.
    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) -> bool {
        let slot = CRASHES.iter().position(|s| *s == signal).and_then(|i| BEFORE[i].get());
        let Some(before) = slot.filter(|b| !matches!(b.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)) else {
            return false;
        };
        let handler = before.sa_sigaction as *const ();
        // It may end the process by abort(), and its stack, of 8 KiB, has no room for a second handler.
        let abort = current(libc::SIGABRT);
        set(libc::SIGABRT, libc::SIG_DFL, 0);
        // SAFETY: the system gave this action as the one in place, so it is a handler of the kind its flags say.
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
        // Rust's own gives up where no stack has overflowed.
        current(signal).is_some_and(|action| action.sa_sigaction != libc::SIG_DFL)
    }

    pub fn listen() -> Result<()> {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGXCPU] {
            // Who started this process wants it to go on, as nohup does.
            if current(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_IGN) {
                continue;
            }
            let handler: extern "C" fn(libc::c_int) = on_stop;
            // Calls that a signal interrupts go on by themselves.
            if !set(signal, handler as libc::sighandler_t, libc::SA_RESTART) {
                let error = std::io::Error::last_os_error();
                return Err(Error::new(format!("cannot listen for signal {signal}: {error}; start vcycle again")));
            }
        }
        Ok(())
    }

    extern "C" fn on_stop(signal: libc::c_int) {
        let kept = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        if !TRAINING.load(Ordering::Acquire) {
            Line::new("\nstopped before training began: there is nothing new to save").print();
            exit(i32::from(STOPPED));
        }
        let first = !STOP.swap(true, Ordering::Relaxed);
        if first {
            let mut line = Line::new("\nstopping: the current step will be finished and a checkpoint written");
            line.add(b"; press Ctrl-C again to end at once, without saving");
            line.print();
        }
        if signal == libc::SIGINT {
            let now = milliseconds();
            match INTERRUPTED.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
                Err(before) if now >= before.saturating_add(TWICE) => {
                    let mut line = Line::new("\nended at once: what came after the last checkpoint is lost");
                    line.add_resume("; go on from there with ");
                    line.print();
                    exit(i32::from(STOPPED));
                }
                Ok(_) if !first => Line::new("\nCtrl-C once more ends at once, without saving").print(),
                _ => {}
            }
        }
        set_errno(kept);
    }

    fn milliseconds() -> u64 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes `now` alone.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        // Never 0, which is none.
        (now.tv_sec as u64).saturating_mul(1000).saturating_add(now.tv_nsec as u64 / 1_000_000).max(1)
    }

    /// What the interrupted code may be about to look at.
    fn set_errno(error: i32) {
        #[cfg(target_os = "linux")]
        // SAFETY: the address is this thread's own.
        unsafe {
            *libc::__errno_location() = error;
        }
        #[cfg(target_os = "macos")]
        // SAFETY: the address is this thread's own.
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
        set.map_err(|e| Error::new(format!("cannot listen for Ctrl-C: {e}; start vcycle again")))
    }
}
