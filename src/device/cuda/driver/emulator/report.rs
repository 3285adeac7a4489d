//! What the emulator found wrong, as a sentence with kernel, block, thread and source line.

use super::options::Schedule;
use std::ffi::{CStr, c_char};
use std::fmt;

/// A line of a kernel's source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Relative to the project's folder, such as `kernels/linear.cu`.
    pub file: String,
    pub line: u32,
}

impl Site {
    /// Of a file that has kernels, not of a header that several share.
    fn is_kernels(&self) -> bool {
        self.file.ends_with(".cu")
    }

    /// # Safety
    /// `file` is a string literal of a kernel's source, as `__FILE__` gives it.
    unsafe fn new(file: *const c_char, line: i32) -> Self {
        // SAFETY: the caller's promise.
        let file = unsafe { CStr::from_ptr(file) }.to_string_lossy();
        Site { file: shorten(&file), line: line.unsigned_abs() }
    }

    /// Parses `kernels/linear.cu:88`.
    pub fn parse(text: &str) -> Option<Self> {
        let (file, line) = text.rsplit_once(':')?;
        Some(Site { file: shorten(file), line: line.parse().ok()? })
    }
}

/// A [`Site`] as kernels give it: the address of `__FILE__`, and the line.
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
    /// # Safety
    /// As [`Site::new`].
    pub unsafe fn new(file: *const c_char, line: i32) -> Self {
        Here { file, line }
    }

    pub fn site(self) -> Site {
        // SAFETY: the promise of `new`.
        unsafe { Site::new(self.file, self.line) }
    }

    /// Whether this is that line.
    pub fn is(self, site: &Site) -> bool {
        site.line == self.line.unsigned_abs() && self.site() == *site
    }

    pub fn at(self) -> At {
        At::Line(self.site())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The part from the project's folder on.
fn shorten(file: &str) -> String {
    let start = ["tests/emulator/", "kernels/"].iter().find_map(|folder| file.rfind(folder));
    file[start.unwrap_or(0)..].to_string()
}

/// Where an instrumented access was made from; the line is looked up when it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pc(u64);

/// Somewhere in this program, from which places in its code are counted.
fn origin() -> u64 {
    origin as fn() -> u64 as usize as u64
}

impl Pc {
    pub fn new(pc: *const u8) -> Self {
        // A return address; the call lies before it.
        Pc((pc as u64).wrapping_sub(1))
    }

    /// In 32 bits, for shadow memory: code lies within 2 GiB.
    pub fn pack(self) -> u32 {
        self.0.wrapping_sub(origin()) as u32
    }

    pub fn unpack(packed: u32) -> Self {
        Pc(origin().wrapping_add(i64::from(packed as i32) as u64))
    }

    /// The innermost line of a kernel's source that this belongs to, from the debug information of this program.
    pub fn site(self) -> Option<Site> {
        self.sites().into_iter().next()
    }

    /// The lines of kernels' sources that this belongs to, the innermost first: behind it come those that its function was inlined
    /// into.
    fn sites(self) -> Vec<Site> {
        let mut found = Vec::new();
        backtrace::resolve(self.0 as *mut _, |symbol| {
            // An intrinsic, and an instruction of `ptx/`, is inlined into the line that uses it.
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
            // In a header: of its callers one wants to know which it was.
            (Some(site), Some(caller)) if site != caller => write!(f, "{site} (called at {caller})"),
            (Some(site), _) => write!(f, "{site}"),
            (None, _) => write!(f, "code at {:#x} (no debug information: build without strip)", self.0),
        }
    }
}

/// Where a fault lies.
#[derive(Clone, Debug, PartialEq)]
pub enum At {
    Line(Site),
    Access(Pc),
    /// The kernel as a whole.
    Kernel,
}

impl At {
    pub fn site(&self) -> Option<Site> {
        match self {
            At::Line(site) => Some(site.clone()),
            At::Access(pc) => pc.site(),
            At::Kernel => None,
        }
    }
}

/// One defect of a kernel.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kernel: &'static str,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub at: At,
    pub what: String,
    /// The access that it meets: its line stands in `what` where [`Fault::THERE`] does, and is looked up when the fault is printed.
    /// That takes more stack than an emulated thread has.
    pub there: Option<Pc>,
    /// In which it was seen.
    pub schedule: Schedule,
}

impl Fault {
    /// See [`Fault::there`].
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

/// What -fsanitize=undefined finds, by the numbers of `hooks.c`.
pub fn undefined(kind: i32) -> &'static str {
    match kind {
        0 => "an index is outside of its array",
        1 => "the address of an access is not aligned to its size",
        2 => "a shift by as many bits as the number has, or more",
        _ => "an integer divided by zero",
    }
}
