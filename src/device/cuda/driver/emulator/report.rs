//! Reports of defects: what is wrong, with kernel, block, thread and source line.

use super::options::Schedule;
use std::ffi::{CStr, c_char};
use std::fmt;

/// A line in the source of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The path relative to the project's root, such as `kernels/linear.cu`.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
}

impl Site {
    /// Returns whether the file contains kernels, and is not a header.
    fn is_kernels(&self) -> bool {
        self.file.ends_with(".cu")
    }

    /// Converts the address of `__FILE__` and a line.
    ///
    /// # Safety
    /// `file` is a string literal of a kernel's source, such as `__FILE__`.
    unsafe fn new(file: *const c_char, line: i32) -> Self {
        // SAFETY: guaranteed by the caller.
        let file = unsafe { CStr::from_ptr(file) }.to_string_lossy();
        Site { file: shorten(&file), line: line.unsigned_abs() }
    }

    /// Parses text such as `kernels/linear.cu:88`.
    pub fn parse(text: &str) -> Option<Self> {
        let (file, line) = text.rsplit_once(':')?;
        Some(Site { file: shorten(file), line: line.parse().ok()? })
    }
}

/// A [`Site`] as kernels pass it: the address of `__FILE__`, and the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Here {
    file: *const c_char,
    line: i32,
}

// SAFETY: the address of a literal, which lives as long as the program.
unsafe impl Send for Here {}
// SAFETY: as above.
unsafe impl Sync for Here {}

impl Here {
    /// Wraps the address of `__FILE__` and a line.
    ///
    /// # Safety
    /// `file` is a string literal of a kernel's source, such as `__FILE__`.
    pub unsafe fn new(file: *const c_char, line: i32) -> Self {
        Here { file, line }
    }

    /// Returns the source line.
    pub fn site(self) -> Site {
        // SAFETY: guaranteed by the caller of `new`.
        unsafe { Site::new(self.file, self.line) }
    }

    /// Returns whether this is the line `site`.
    pub fn is(self, site: &Site) -> bool {
        site.line == self.line.unsigned_abs() && self.site() == *site
    }

    /// Returns the place of a fault on this line.
    pub fn at(self) -> At {
        At::Line(self.site())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Returns the part of a path below the project's root.
fn shorten(file: &str) -> String {
    let start = ["tests/emulator/", "kernels/"].iter().find_map(|folder| file.rfind(folder));
    file[start.unwrap_or(0)..].to_string()
}

/// The code address of an instrumented access. Its source line is looked up only when it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pc(u64);

/// Returns an address in the program's code, relative to which others are packed.
fn origin() -> u64 {
    origin as fn() -> u64 as usize as u64
}

impl Pc {
    /// Wraps a return address.
    pub fn new(pc: *const u8) -> Self {
        // The call lies before the return address.
        Pc((pc as u64).wrapping_sub(1))
    }

    /// Packs the address into 32 bits, for shadow memory. All code lies within 2 GiB.
    pub fn pack(self) -> u32 {
        self.0.wrapping_sub(origin()) as u32
    }

    /// Reverses [`Pc::pack`].
    pub fn unpack(packed: u32) -> Self {
        Pc(origin().wrapping_add(i64::from(packed as i32) as u64))
    }

    /// Returns the innermost source line of this address, according to the program's debug information.
    pub fn site(self) -> Option<Site> {
        self.sites().into_iter().next()
    }

    /// Returns the source lines of this address: the innermost, then those that its function was inlined into.
    fn sites(self) -> Vec<Site> {
        let mut found = Vec::new();
        backtrace::resolve(self.0 as *mut _, |symbol| {
            // Intrinsics of the shim and the functions of `ptx/` count as the line that calls them.
            let shim = symbol.filename().is_some_and(|file| {
                file.ends_with("emulator/shim.h") || file.parent().is_some_and(|folder| folder.ends_with("kernels/ptx"))
            });
            if !shim && let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
                found.push(Site { file: shorten(&file.to_string_lossy()), line });
            }
        });
        found
    }
}

impl fmt::Display for Pc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites = self.sites();
        match (sites.first(), sites.iter().find(|site| site.is_kernels())) {
            // In a header: also name the line of the kernel's file that called it.
            (Some(site), Some(caller)) if site != caller => write!(f, "{site} (called at {caller})"),
            (Some(site), _) => write!(f, "{site}"),
            (None, _) => write!(f, "code at {:#x} (no debug information: build without strip)", self.0),
        }
    }
}

/// Where a fault is.
#[derive(Clone, Debug, PartialEq)]
pub enum At {
    /// At a call, such as a barrier.
    Line(Site),
    /// At a memory access.
    Access(Pc),
    /// The kernel as a whole.
    Kernel,
}

impl At {
    /// Returns the source line, if there is one.
    pub fn site(&self) -> Option<Site> {
        match self {
            At::Line(site) => Some(site.clone()),
            At::Access(pc) => pc.site(),
            At::Kernel => None,
        }
    }
}

/// A defect of a kernel.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The `extern "C"` name of the kernel.
    pub kernel: &'static str,
    /// Index of the block (`blockIdx`).
    pub block: [u32; 3],
    /// Index of the thread (`threadIdx`).
    pub thread: [u32; 3],
    /// The call or memory access that revealed the defect, or the kernel as a whole.
    pub at: At,
    /// What is wrong.
    pub what: String,
    /// The other access of a race. Its source line replaces [`Fault::THERE`] in `what` when the fault is printed:
    /// looking it up takes more stack than an emulated thread has.
    pub there: Option<Pc>,
    /// The schedule in which the defect showed.
    pub schedule: Schedule,
}

impl Fault {
    /// Placeholder in `what` for the source line of [`Fault::there`].
    pub const THERE: &str = "\u{1a}";
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Line(site) => write!(f, "{site}: ")?,
            At::Access(pc) => write!(f, "{pc}: ")?,
            At::Kernel => {}
        }
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, "{}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz}): ", self.kernel)?;
        match self.there {
            Some(pc) => write!(f, "{}", self.what.replace(Self::THERE, &pc.to_string()))?,
            None => write!(f, "{}", self.what)?,
        }
        write!(f, "; seen with {}", self.schedule)
    }
}

/// Describes a finding of `-fsanitize=undefined`. `kind` is a number of `hooks.c`.
pub fn undefined(kind: i32) -> &'static str {
    match kind {
        0 => "an index is outside of its array",
        1 => "the address of an access is not aligned to its size",
        2 => "a shift by the bit width of its operand or more",
        _ => "an integer is divided by zero",
    }
}
