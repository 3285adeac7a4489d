//! Shared by all fuzz targets: an in-memory folder for the files of a case, and the checks that every input must pass:
//! limits on time and memory, and error messages that name their file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process};

use vcycle::data::images::source::{ImageSpec, prepare};
use vcycle::data::images::{AugmentConfig, ImageBatch, ImageSampler, Images, PatchShape, ViewConfig};
use vcycle::error::Result;

/// CPU time in seconds that a case may take, over all threads. Wall-clock time would include other processes.
const MOST_SECONDS: f64 = 10.0;
/// Error messages must be shorter than this number of bytes.
const LONGEST_MESSAGE: usize = 5_000;
/// A Zstandard frame claims its window before any content. Windows of up to 128 MiB are accepted, as by zstd itself, and
/// the decoder's buffer grows to twice that size.
const WINDOW: usize = 256 << 20;
/// The magic number of a Zstandard frame.
pub const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Separates the files of a case in [`texts`].
const SEPARATOR: &[u8] = b"\n%%\n";

/// An allocator that counts allocated bytes, so that each target can limit them in proportion to its input.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Counts an allocation.
fn grown(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is passed to the system allocator unchanged, and so is its result.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The memory limit of a case: a constant, plus an amount for each byte of the input.
#[derive(Clone, Copy)]
pub struct Memory {
    /// The constant part in MiB.
    pub mib: usize,
    /// Bytes for each byte of the input.
    pub per_byte: usize,
}

/// A folder for the files of one case.
pub struct Case {
    /// The path of the folder.
    pub dir: PathBuf,
}

/// Returns the in-memory folder of this process: `VCYCLE_FUZZ_DIR`, or else one named after the process id.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // With one thread, coverage depends only on the input.
        // SAFETY: the first case runs before any other thread is started.
        unsafe {
            env::set_var("RAYON_NUM_THREADS", "1");
            env::set_var("TOKENIZERS_PARALLELISM", "false");
        }
        let named = env::var_os("VCYCLE_FUZZ_DIR").map(PathBuf::from);
        named.unwrap_or_else(|| PathBuf::from(format!("/dev/shm/vcycle-fuzz-{}", process::id())))
    })
}

/// Returns the CPU time of this process in seconds.
fn cpu_seconds() -> f64 {
    // SAFETY: all bit patterns of the structure are valid, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime].iter().map(|t| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6).sum()
}

/// Runs a case in an empty folder.
///
/// # Panics
/// If the case exceeds its limits of time or memory, or if `case` panics. libFuzzer reports panics as findings.
pub fn run(data: &[u8], memory: Memory, case: impl FnOnce(&Case)) {
    let dir = root().join("case");
    // Remove the files of the previous case.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder in memory");
    let (begin, before) = (cpu_seconds(), LIVE.load(Ordering::Relaxed));
    PEAK.store(before, Ordering::Relaxed);
    case(&Case { dir });
    let (seconds, taken) = (cpu_seconds() - begin, PEAK.load(Ordering::Relaxed) - before);
    assert!(seconds < MOST_SECONDS, "took {seconds:.1} s of CPU time");
    let window = if data.windows(4).any(|bytes| bytes == ZSTANDARD) { WINDOW } else { 0 };
    let most = (memory.mib << 20) + memory.per_byte * data.len() + window;
    assert!(taken <= most, "took {taken} bytes of memory for {} bytes of input; the limit is {most}", data.len());
}

/// Makes a folder that `fill` fills once and that later cases can use.
pub fn once(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let dir = root().join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder in memory");
    fill(&dir);
    dir
}

impl Case {
    /// Writes a file and returns its path. The name may contain folders.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder in memory");
        fs::write(&path, bytes).expect("a file in memory");
        path
    }

    /// Returns the accepted value, or `None` for an error after checking its message: it must contain `name` and must
    /// not repeat all of the file.
    ///
    /// # Panics
    /// If the message fails these checks.
    pub fn accepted<T>(&self, result: Result<T>, name: &str) -> Option<T> {
        match result {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                let message = error.to_string();
                if env::var_os("VCYCLE_FUZZ_SAY").is_some() {
                    eprintln!("rejected: {message}");
                }
                assert!(message.contains(name), "the message does not name {name}: {message}");
                assert!(message.len() < LONGEST_MESSAGE, "the message has {} bytes, which is too long", message.len());
                None
            }
        }
    }
}

/// Returns the first byte, with which a target selects settings, and the rest of the input.
pub fn choice(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(&first, rest)| (first, rest))
}

/// Splits an input into several texts, separated by lines `%%`.
pub fn texts(data: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut rest) = (Vec::new(), data);
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|part| part == SEPARATOR) {
        all.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    all.push(rest);
    all
}

/// Splits an input into several files. Each is a 32-bit length followed by its bytes; a length beyond the end of the
/// input is cut off there.
pub fn parts(data: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut rest) = (Vec::new(), data);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).min(after.len());
        all.push(&after[..length]);
        rest = &after[length..];
    }
    all
}

/// Checks that two values are equal.
///
/// # Panics
/// If they differ.
pub fn same<T: PartialEq + Debug>(what: &str, a: &T, b: &T) {
    assert!(a == b, "{what}: {a:?} is not {b:?}");
}

/// Prepares images and reads all of them, as training and validation do. Returns `None` if they are rejected.
pub fn images(case: &Case, spec: &ImageSpec, name: &str) -> Option<Images> {
    let cache = case.dir.join("cache");
    let images = case.accepted(prepare(spec, &cache, &mut |_| {}), name)?;
    images.verify().expect("the shard was just written");
    walk(&images);
    Some(images)
}

/// Reads every sample, and batches of patches.
pub fn walk(images: &Images) {
    let ([height, width], channels) = (images.size(), images.channels());
    for i in 0..images.len() {
        let (pixels, label) = images.sample(i);
        assert!(pixels.len() == channels * height * width && (label as usize) < images.classes());
    }
    same("names", &images.names().len(), &images.classes());
    let shape = PatchShape { image: 8, patch: 4, channels, specials: 1 };
    let view = ViewConfig { mean: vec![0.5; channels], std: vec![0.5; channels], ..ViewConfig::default() };
    let augment = AugmentConfig::default();
    let sampler = ImageSampler::new(1, [0, 1], shape, &augment, &view).expect("valid settings");
    let rows = 2;
    let (mut patches, mut labels) = (vec![0.0; rows * shape.elements()], vec![0; rows]);
    let (mut others, mut share) = (vec![0; rows], vec![0.0; rows]);
    let mut found = 0;
    // More batches would not reach other code.
    for index in 0..images.len().div_ceil(rows).min(16) {
        let out = ImageBatch { patches: &mut patches, labels: &mut labels, others: &mut others, share: &mut share };
        found += sampler.validation_batch(images, index, out).expect("a batch");
        let out = ImageBatch { patches: &mut patches, labels: &mut labels, others: &mut others, share: &mut share };
        sampler.training_batch(images, index as u64, out).expect("a batch");
        assert!(patches.iter().all(|p| p.is_finite()) && share.iter().all(|s| (0.0..=1.0).contains(s)));
    }
    same("rows", &found, &images.len().min(16 * rows));
}
