//! What all targets share: a folder in memory for the bytes of a case, and what must hold for every input: an end in time,
//! memory in proportion to the input, errors that name their file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process};

use vcycle::data::images::source::{ImageSpec, prepare};
use vcycle::data::images::{AugmentConfig, ImageBatch, ImageSampler, Images, PatchShape, ViewConfig};
use vcycle::error::Result;

/// Seconds of CPU time that a case may take, all threads together. Wall-clock time would count other processes.
const MOST_SECONDS: f64 = 10.0;
/// Of an error's text.
const LONGEST_MESSAGE: usize = 5_000;
/// A Zstandard frame claims its window before anything of its content is known. Up to 128 MiB are accepted, as zstd itself does, and
/// the decoder's buffer grows to twice as much.
const WINDOW: usize = 256 << 20;
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Between the files of a case of [`texts`].
const SEPARATOR: &[u8] = b"\n%%\n";

/// Counts what is allocated, so that each target can say how much an input justifies.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came, and its answer comes back as it is.
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

/// What a case may allocate at most: so many MiB, and so many bytes for each byte of the input.
#[derive(Clone, Copy)]
pub struct Memory {
    pub mib: usize,
    pub per_byte: usize,
}

/// A folder for the files of one case.
pub struct Case {
    pub dir: PathBuf,
}

/// The folder of this process, in memory: `VCYCLE_FUZZ_DIR`, else one named by the process's number.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // SAFETY: the first case runs before any other thread is started. One thread makes coverage depend on the input alone.
        unsafe {
            env::set_var("RAYON_NUM_THREADS", "1");
            env::set_var("TOKENIZERS_PARALLELISM", "false");
        }
        let named = env::var_os("VCYCLE_FUZZ_DIR").map(PathBuf::from);
        named.unwrap_or_else(|| PathBuf::from(format!("/dev/shm/vcycle-fuzz-{}", process::id())))
    })
}

fn cpu_seconds() -> f64 {
    // SAFETY: the call fills the structure, of which any bits are valid.
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
/// When it takes too long or too much memory; and when `case` panics, which is for libFuzzer.
pub fn run(data: &[u8], memory: Memory, case: impl FnOnce(&Case)) {
    let dir = root().join("case");
    // Whatever the case before left there.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder in memory");
    let (begin, before) = (cpu_seconds(), LIVE.load(Ordering::Relaxed));
    PEAK.store(before, Ordering::Relaxed);
    case(&Case { dir });
    let (seconds, taken) = (cpu_seconds() - begin, PEAK.load(Ordering::Relaxed) - before);
    assert!(seconds < MOST_SECONDS, "took {seconds:.1} s of CPU time");
    let window = if data.windows(4).any(|bytes| bytes == ZSTANDARD) { WINDOW } else { 0 };
    let most = (memory.mib << 20) + memory.per_byte * data.len() + window;
    assert!(taken <= most, "took {taken} bytes of memory for {} of input; {most} are justified", data.len());
}

/// A folder that is made once and stays.
pub fn once(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let dir = root().join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder in memory");
    fill(&dir);
    dir
}

impl Case {
    /// Writes a file; its name may have folders in it.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder in memory");
        fs::write(&path, bytes).expect("a file in memory");
        path
    }

    /// What was accepted. An error must have a text that a person can use: it names the file, and does not repeat all of it.
    ///
    /// # Panics
    /// When it does not.
    pub fn accepted<T>(&self, result: Result<T>, name: &str) -> Option<T> {
        match result {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                let message = error.to_string();
                if env::var_os("VCYCLE_FUZZ_SAY").is_some() {
                    eprintln!("refused: {message}");
                }
                assert!(message.contains(name), "the message does not name {name}: {message}");
                assert!(message.len() < LONGEST_MESSAGE, "a message of {} bytes", message.len());
                None
            }
        }
    }
}

/// The first byte, which chooses among settings, and the rest.
pub fn choice(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(&first, rest)| (first, rest))
}

/// Several texts in one input, with a line `%%` between them.
pub fn texts(data: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut rest) = (Vec::new(), data);
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|part| part == SEPARATOR) {
        all.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    all.push(rest);
    all
}

/// Several files in one input: each a length of 32 bits and its bytes, the last one as long as the rest.
pub fn parts(data: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut rest) = (Vec::new(), data);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).min(after.len());
        all.push(&after[..length]);
        rest = &after[length..];
    }
    all
}

/// Two values that must agree.
///
/// # Panics
/// When they differ.
pub fn same<T: PartialEq + Debug>(what: &str, a: &T, b: &T) {
    assert!(a == b, "{what}: {a:?} is not {b:?}");
}

/// Prepares images and goes through all of them, as training and validation do.
pub fn images(case: &Case, spec: &ImageSpec, name: &str) -> Option<Images> {
    let cache = case.dir.join("cache");
    let images = case.accepted(prepare(spec, &cache, &mut |_| {}), name)?;
    images.verify().expect("the shard was just written");
    walk(&images);
    Some(images)
}

/// Every sample, and batches of patches.
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
    let sampler = ImageSampler::new(1, [0, 1], shape, &augment, &view).expect("sound settings");
    let rows = 2;
    let (mut patches, mut labels) = (vec![0.0; rows * shape.elements()], vec![0; rows]);
    let (mut others, mut share) = (vec![0; rows], vec![0.0; rows]);
    let mut found = 0;
    // Large sets take no other ways than small ones.
    for index in 0..images.len().div_ceil(rows).min(16) {
        let out = ImageBatch { patches: &mut patches, labels: &mut labels, others: &mut others, share: &mut share };
        found += sampler.validation_batch(images, index, out).expect("a batch");
        let out = ImageBatch { patches: &mut patches, labels: &mut labels, others: &mut others, share: &mut share };
        sampler.training_batch(images, index as u64, out).expect("a batch");
        assert!(patches.iter().all(|p| p.is_finite()) && share.iter().all(|s| (0.0..=1.0).contains(s)));
    }
    same("rows", &found, &images.len().min(16 * rows));
}
