//! An NVIDIA GPU, through the libcuda that its driver brings. Loaded at run time: the crate builds and starts without.

mod faults;
mod pinned;
mod ranges;
mod stamps;

use super::{Driver, Part, Rows};
use crate::bail;
use crate::device::cuda::chip::Chip;
use crate::device::cuda::compiled::{COMPILED, NVCC};
use crate::device::cuda::launch::{Args, Launch, Region};
use crate::device::{POSTS, Ticket};
use crate::error::{At, Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUDA_MEMCPY2D, CUdevice_attribute, CUfunction_attribute, CUgraphExec, CUgraphInstantiate_flags, CUmemorytype,
    CUresult, CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream};
use cudarc::nvrtc::Ptx;
use faults::{ELSEWHERE, failed, gib, is_fault, told, unopened};
use pinned::Pinned;
use ranges::Ranges;
use stamps::Stamps;
use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// The oldest compute capability that the kernels are compiled for.
const OLDEST: (i32, i32) = (8, 0);

/// Shared memory that a block may have without asking for more, static and dynamic, in bytes.
const SHARED_UNASKED: u32 = 48 << 10;

/// Kernels that a report of a fault names.
const RECENT: usize = 8;

/// Buffers through which writes go: those of two micro-batches (state, ids, labels), so that one may wait while the next is filled.
const STAGES: usize = 6;

/// Larger writes are waited for.
const STAGED: usize = 4 << 20;

/// The first GPU that `CUDA_VISIBLE_DEVICES` leaves visible. All work is on one stream.
pub struct Nvidia {
    functions: HashMap<&'static str, Function>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    /// Name and compute capability, for messages.
    device: String,
    /// Addresses handed out.
    live: Vec<u64>,
    /// What is on its way to the GPU, and the number of the buffer that is used next.
    stages: Vec<Pinned>,
    stage: usize,
    /// What is on its way to the host.
    posts: Vec<Pinned>,
    graphs: Vec<Option<CUgraphExec>>,
    stamps: Stamps,
    ranges: Ranges,
    chip: Chip,
    /// The kernels started last, since all were last known to have ended well.
    recent: VecDeque<&'static str>,
    /// How many were started since then.
    started: usize,
}

/// A kernel, loaded.
struct Function {
    handle: CudaFunction,
    /// Bytes of dynamic shared memory that it may have so far.
    shared: u32,
    /// Sizes of its parameters in bytes; `None` where the driver is too old to say.
    parameters: Option<Vec<u8>>,
}

impl Nvidia {
    /// Opens the GPU and loads all kernels.
    ///
    /// # Errors
    /// No driver, no device code in this build, no GPU, or one that the kernels do not run on: says which, and what
    /// else there is.
    pub fn open() -> Result<Self> {
        // SAFETY: only opens the library and closes it again; its initialisers are NVIDIA's own.
        if !unsafe { sys::is_culib_present() } {
            bail!(
                "--device cuda: libcuda.so.1 is not on this machine. It comes with the NVIDIA driver; install that, or \
                 add its folder to LD_LIBRARY_PATH. {ELSEWHERE}"
            );
        }
        if COMPILED.is_empty() {
            bail!(
                "--device cuda: this build has no device code, because it found no nvcc. Install nvcc 12.0 or newer \
                 (the warning of `touch build.rs && cargo build` says how), and build again. {ELSEWHERE}"
            );
        }
        let context = CudaContext::new(0).map_err(|error| unopened(&error))?;
        // SAFETY: no CudaSlice is ever made here, and there is one stream: nothing needs tracking.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(failed("asking for the GPU's name"))?;
        let capability = context.compute_capability().map_err(failed("asking for the compute capability"))?;
        let device = format!("{name} (compute capability {}.{})", capability.0, capability.1);
        if capability < OLDEST {
            bail!(
                "--device cuda: {device} is too old; the kernels need {}.{} (Ampere) or newer. {ELSEWHERE}",
                OLDEST.0,
                OLDEST.1
            );
        }
        let chip = chip(&context, capability).map_err(failed("asking what the GPU can do"))?;
        let stream = context.new_stream().map_err(failed("creating a stream"))?;
        let mut this = Nvidia {
            functions: HashMap::new(),
            stream,
            context,
            device,
            live: Vec::new(),
            stages: Vec::new(),
            stage: 0,
            posts: Vec::new(),
            graphs: Vec::new(),
            stamps: Stamps::default(),
            ranges: Ranges::new(),
            chip,
            recent: VecDeque::with_capacity(RECENT),
            started: 0,
        };
        this.load()?;
        Ok(this)
    }

    /// Loads every kernel of every module that has code for this GPU.
    fn load(&mut self) -> Result<()> {
        let version = driver_version();
        for compiled in COMPILED {
            let module = match self.context.load_module(Ptx::from_binary(compiled.fatbin.to_vec())) {
                Ok(module) => module,
                // A file for another architecture alone: its kernels are variants of others.
                Err(DriverError(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU)) => continue,
                Err(error) => bail!(
                    "--device cuda: cannot load {} on {}: {}. It was made by nvcc {}, and the driver is for CUDA \
                     {}.{}; where the driver is the older one, update it, or build with an older nvcc",
                    compiled.file,
                    self.device,
                    told(&error),
                    NVCC.unwrap_or("unknown"),
                    version / 1000,
                    version % 1000 / 10
                ),
            };
            for name in compiled.kernels.iter().map(|kernel| kernel.name) {
                if !self.functions.contains_key(name) {
                    let handle = module.load_function(name).map_err(failed("loading a kernel")).at(name)?;
                    let fixed = handle.shared_size_bytes().map_err(failed("asking for shared memory")).at(name)?;
                    let shared = SHARED_UNASKED.saturating_sub(fixed.unsigned_abs());
                    let parameters = parameters(&handle, version);
                    self.functions.insert(name, Function { handle, shared, parameters });
                }
            }
        }
        if self.functions.is_empty() {
            let mut archs: Vec<_> = COMPILED.iter().flat_map(|m| m.kernels).map(|kernel| kernel.arch).collect();
            archs.sort_unstable();
            archs.dedup();
            bail!(
                "--device cuda: this build has code for {} and none for {}. Build with VCYCLE_CUDA_ARCHS unset, or \
                 with this GPU's architecture in it",
                archs.join(", "),
                self.device
            );
        }
        Ok(())
    }

    /// Name, compute capability and memory of the GPU, and the driver's version, for a person.
    pub fn describe(&self) -> String {
        let memory = match self.context.mem_get_info() {
            Ok((free, total)) => format!("{} free of {}", gib(free), gib(total)),
            Err(error) => format!("memory unknown: {}", told(&error)),
        };
        let version = driver_version();
        format!("{}, {memory}, driver for CUDA {}.{}", self.device, version / 1000, version % 1000 / 10)
    }

    /// Makes the GPU that of this thread, on which a device may arrive at any time.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|error| self.fault("using the GPU", error))
    }

    /// The error of a call. A fault of a kernel shows at some later call, which then is not to blame.
    fn fault(&self, action: &str, error: DriverError) -> Error {
        if !is_fault(error.0) {
            return failed(action)(error);
        }
        let recent = self.recent.iter().copied().collect::<Vec<_>>().join(", ");
        Error::new(format!(
            "a kernel failed on {}: {}. Started since the last wait: {}, at last {}. CUDA_LAUNCH_BLOCKING=1 waits for \
             each, so that the last one named is the one that failed; `vcycle kernels check` and --device emulator \
             find the thread and the source line",
            self.device,
            told(&error),
            self.started,
            if recent.is_empty() { "none" } else { &recent },
        ))
    }

    /// Waits for all work; all kernels so far then are known to have ended well.
    fn wait(&mut self, action: &str) -> Result<()> {
        self.stream.synchronize().map_err(|error| self.fault(action, error))?;
        self.recent.clear();
        self.started = 0;
        Ok(())
    }

    fn zeroed(&self, bytes: usize) -> Result<u64, DriverError> {
        // The driver refuses a request of nothing, and an arena may be empty.
        let bytes = bytes.max(1);
        // SAFETY: plain memory, set before anything on the one stream reads it.
        let address = unsafe { result::malloc_sync(bytes) }?;
        // SAFETY: `address` has `bytes` bytes and belongs to this context, as the stream does.
        if let Err(error) = unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) } {
            // SAFETY: allocated above, and nothing else knows of it.
            let _ = unsafe { result::free_sync(address) };
            return Err(error);
        }
        Ok(address)
    }

    /// Starts a copy to the GPU from a buffer of its own, and does not wait.
    fn stage(&mut self, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        if self.stages.len() < STAGES {
            self.stages.push(Pinned::new()?);
            self.stage = self.stages.len() - 1;
        }
        let buffer = &mut self.stages[self.stage];
        self.stage = (self.stage + 1) % STAGES;
        buffer.reserve(bytes.len())?;
        buffer.bytes().copy_from_slice(bytes);
        let stream = self.stream.cu_stream();
        // SAFETY: the address was checked against its arena; the buffer is used again only after the event that follows.
        unsafe { result::memcpy_htod_async(address, buffer.bytes(), stream) }?;
        buffer.started(stream)
    }

    /// Starts a copy of rows that are a pitch apart.
    fn start(&self, copy: &CUDA_MEMCPY2D) -> Result<(), DriverError> {
        // SAFETY: each side is the memory that its kind names, either checked against its arena by the caller (and by
        // the driver) or a slice of `rows * width` bytes that outlives the wait after this.
        unsafe { sys::cuMemcpy2DAsync_v2(ptr::from_ref(copy), self.stream.cu_stream()) }.result()
    }
}

impl Driver for Nvidia {
    fn alloc(&mut self, bytes: usize) -> Result<u64> {
        self.bind()?;
        match self.zeroed(bytes) {
            Ok(address) => {
                self.live.push(address);
                Ok(address)
            }
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = self.context.mem_get_info().map_err(failed("asking for free memory"))?;
                bail!(
                    "out of device memory: {} wanted, {} free of {} on {}; use a smaller batch, a shorter context or a \
                     smaller model, or stop other programs on this GPU (nvidia-smi lists them)",
                    gib(bytes),
                    gib(free),
                    gib(total),
                    self.device
                )
            }
            Err(error) => Err(self.fault("allocating device memory", error)),
        }
    }

    fn free(&mut self, address: u64) {
        let Some(at) = self.live.iter().position(|&a| a == address) else { return };
        self.live.swap_remove(at);
        // What fails here fails again, and is then reported, at the next call that can report.
        let _ = self.bind();
        let _ = self.stream.synchronize();
        // SAFETY: handed out by `alloc`, just taken off the list, and no work is in flight.
        let _ = unsafe { result::free_sync(address) };
    }

    fn write(&mut self, to: Rows, bytes: &[u8]) -> Result<()> {
        check(to, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let action = "copying to the GPU";
        if is_packed(to) && bytes.len() <= STAGED {
            return self.stage(to.address, bytes).map_err(|error| self.fault(action, error));
        }
        let started = if is_packed(to) {
            // SAFETY: the address was checked against its arena; `bytes` outlives the wait below.
            unsafe { result::memcpy_htod_async(to.address, bytes, self.stream.cu_stream()) }
        } else {
            self.start(&CUDA_MEMCPY2D {
                srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
                srcHost: bytes.as_ptr().cast(),
                srcPitch: to.width,
                dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                dstDevice: to.address,
                dstPitch: to.pitch,
                ..whole(to)
            })
        };
        started.map_err(|error| self.fault(action, error))?;
        // Where the GPU reads the host's memory itself, the copy may still be going on.
        self.wait(action)
    }

    fn read(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()> {
        check(from, bytes.len())?;
        if bytes.is_empty() {
            return self.sync();
        }
        self.bind()?;
        let action = "copying from the GPU";
        let started = if is_packed(from) {
            // SAFETY: the address was checked against its arena; `bytes` outlives the wait below.
            unsafe { result::memcpy_dtoh_async(bytes, from.address, self.stream.cu_stream()) }
        } else {
            self.start(&CUDA_MEMCPY2D {
                srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcDevice: from.address,
                srcPitch: from.pitch,
                dstMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
                dstHost: bytes.as_mut_ptr().cast(),
                dstPitch: from.width,
                ..whole(from)
            })
        };
        started.map_err(|error| self.fault(action, error))?;
        self.wait(action)
    }

    fn post(&mut self, from: Rows) -> Result<Ticket> {
        self.bind()?;
        let failed = failed("making room for what comes from the GPU");
        while self.posts.len() < POSTS {
            self.posts.push(Pinned::new().map_err(&failed)?);
        }
        let Some(number) = self.posts.iter().position(|post| !post.taken) else {
            bail!("{POSTS} tensors are on their way to the host already; collect one first")
        };
        let bytes = from.rows * from.width;
        self.posts[number].reserve(bytes.max(1)).map_err(&failed)?;
        let (post, stream) = (&self.posts[number], self.stream.cu_stream());
        let started = self
            .start(&CUDA_MEMCPY2D {
                srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcDevice: from.address,
                srcPitch: from.pitch,
                dstMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
                dstHost: post.pointer(),
                dstPitch: from.width,
                ..whole(from)
            })
            .and_then(|()| post.started(stream));
        started.map_err(|error| self.fault("copying from the GPU", error))?;
        let post = &mut self.posts[number];
        (post.taken, post.len) = (true, bytes);
        Ok(Ticket(number as u32))
    }

    fn collect(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        let number = ticket.0 as usize;
        let Some(post) = self.posts.get(number).filter(|post| post.taken && post.len == bytes.len()) else {
            bail!("no tensor of {} bytes was posted as {ticket:?}", bytes.len())
        };
        post.wait().map_err(|error| self.fault("copying from the GPU", error))?;
        let post = &mut self.posts[number];
        bytes.copy_from_slice(post.bytes());
        post.taken = false;
        Ok(())
    }

    fn copy(&mut self, from: Rows, to: Rows) -> Result<()> {
        if (from.rows, from.width) != (to.rows, to.width) {
            bail!("{} rows of {} bytes copied to {} of {}", from.rows, from.width, to.rows, to.width);
        }
        if from.rows * from.width == 0 {
            return Ok(());
        }
        self.bind()?;
        let started = if is_packed(from) && is_packed(to) {
            let (bytes, stream) = (from.rows * from.width, self.stream.cu_stream());
            // SAFETY: both addresses were checked against their arenas, which live as long as work is in flight.
            unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, stream) }
        } else {
            self.start(&CUDA_MEMCPY2D {
                srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcDevice: from.address,
                srcPitch: from.pitch,
                dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                dstDevice: to.address,
                dstPitch: to.pitch,
                ..whole(to)
            })
        };
        started.map_err(|error| self.fault("copying on the GPU", error))
    }

    fn operands(&mut self, _: &[Region]) {}

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        if launch.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let Some(function) = self.functions.get_mut(launch.kernel) else {
            bail!("kernel {} has no code for {} in this build; build again with nvcc", launch.kernel, self.device);
        };
        if let Some(takes) = function.parameters.as_ref().filter(|takes| *takes != launch.args.sizes()) {
            let given = launch.args.sizes();
            bail!("kernel {} takes parameters of {takes:?} bytes and was given {given:?}", launch.kernel);
        }
        if launch.shared > function.shared {
            function.allow(launch.shared, &self.context).at(launch.kernel)?;
        }
        let slots = launch.args.slots();
        let mut pointers = [ptr::null_mut::<c_void>(); Args::MOST];
        for (pointer, slot) in pointers.iter_mut().zip(slots) {
            *pointer = ptr::from_ref(slot).cast_mut().cast();
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(launch.kernel);
        self.started += 1;
        let (kernel, grid, block) = (function.handle.cu_function(), launch.grid.into(), launch.block.into());
        // SAFETY: the function's module is loaded. The driver only reads the parameters, before it returns; their sizes
        // were compared with the kernel's, or on an old driver are those that the emulator compares. What the addresses
        // among them cover was checked against the arenas, which `free` keeps until work has ended.
        unsafe { result::launch_kernel(kernel, grid, block, launch.shared, self.stream.cu_stream(), &mut pointers) }
            .map_err(|error| {
                let Launch { kernel, grid, block, shared, .. } = launch;
                let action =
                    format!("starting {kernel} (grid {grid:?}, block {block:?}, {shared} bytes of shared memory)");
                self.fault(&action, error)
            })
    }

    fn sync(&mut self) -> Result<()> {
        self.bind()?;
        self.wait("waiting for the GPU")
    }

    fn record(&mut self, parts: &[Part]) -> Result<u32> {
        self.bind()?;
        let stream = self.stream.cu_stream();
        // Relaxed: a kernel may be allowed more shared memory meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is this driver's own, and does nothing else until `end_capture`.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(failed("beginning a graph"))?;
        let recorded = parts.iter().try_for_each(|part| part.start(self));
        // SAFETY: begun above. Ends the capture after an error too.
        let graph = unsafe { result::stream::end_capture(stream) };
        recorded?;
        let graph = graph.map_err(failed("ending a graph"))?;
        // SAFETY: just captured; the executable form does not need it.
        let executable = unsafe {
            let made = result::graph::instantiate(graph, CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            made
        };
        self.graphs.push(Some(executable.map_err(failed("preparing a graph"))?));
        Ok(self.graphs.len() as u32 - 1)
    }

    fn replay(&mut self, graph: u32) -> Result<()> {
        let Some(Some(executable)) = self.graphs.get(graph as usize) else { bail!("this graph was released") };
        self.bind()?;
        // SAFETY: instantiated by `record` and not yet destroyed; the memory it uses is kept by the caller's arenas.
        unsafe { result::graph::launch(*executable, self.stream.cu_stream()) }
            .map_err(|error| self.fault("starting a graph", error))
    }

    fn release(&mut self, graph: u32) {
        let Some(executable) = self.graphs.get_mut(graph as usize).and_then(Option::take) else { return };
        let _ = self.bind();
        let _ = self.stream.synchronize();
        // SAFETY: taken off the list just now, and no work is in flight.
        let _ = unsafe { result::graph::exec_destroy(executable) };
    }

    fn stamp(&mut self) -> Result<()> {
        self.bind()?;
        let stream = self.stream.cu_stream();
        self.stamps.stamp(stream).map_err(|error| self.fault("timing", error))
    }

    fn stamps(&mut self, each: &mut dyn FnMut(Duration)) -> Result<()> {
        self.bind()?;
        self.stamps.read(each).map_err(|error| self.fault("timing", error))
    }

    fn begin_range(&mut self, name: &str) {
        self.ranges.begin(name);
    }

    fn end_range(&mut self) {
        self.ranges.end();
    }

    fn chip(&self) -> Chip {
        self.chip
    }
}

impl Drop for Nvidia {
    /// The context may be shared with another device of this process, and then would keep the memory.
    fn drop(&mut self) {
        (0..self.graphs.len() as u32).for_each(|graph| self.release(graph));
        let _ = self.bind();
        self.stages.clear();
        self.posts.clear();
        self.stamps = Stamps::default();
        while let Some(&address) = self.live.last() {
            self.free(address);
        }
    }
}

impl Function {
    /// Lets its blocks have so much dynamic shared memory.
    fn allow(&mut self, bytes: u32, context: &CudaContext) -> Result<()> {
        let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        if let Err(error) = self.handle.set_attribute(most, i32::try_from(bytes).unwrap_or(i32::MAX)) {
            let of_block = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            let limit = context.attribute(of_block).map_err(failed("asking for shared memory"))?;
            bail!("{bytes} bytes of shared memory wanted, {limit} a block at most on this GPU: {}", told(&error));
        }
        self.shared = bytes;
        Ok(())
    }
}

/// Sizes of a kernel's parameters, from drivers for CUDA 12.4 on.
fn parameters(function: &CudaFunction, driver: i32) -> Option<Vec<u8>> {
    if driver < 12_040 {
        return None;
    }
    let mut sizes = Vec::new();
    let (mut offset, mut size) = (0, 0);
    // SAFETY: the function is loaded, and the driver (which has this call) writes one number through each pointer. Past
    // the last parameter it returns an error and writes nothing.
    while unsafe { sys::cuFuncGetParamInfo(function.cu_function(), sizes.len(), &raw mut offset, &raw mut size) }
        == CUresult::CUDA_SUCCESS
    {
        sizes.push(u8::try_from(size).unwrap_or(u8::MAX));
    }
    Some(sizes)
}

/// Rates of the GPU, for the time models.
fn chip(context: &CudaContext, capability: (i32, i32)) -> Result<Chip, DriverError> {
    let ask = |what| context.attribute(what).map(|n| f64::from(n.max(1)));
    let sms = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let clock = 1e3 * ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
    let memory = 1e3 * ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
    let width = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? / 8.0;
    // Two transfers a clock.
    Ok(Chip::of(sms as usize, clock, 2.0 * memory * width, capability))
}

/// The newest CUDA that the driver is for: 1000 times its major plus 10 times its minor version; 0 where it is silent.
fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: writes one int; may be called at any time once libcuda is there.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    if asked == CUresult::CUDA_SUCCESS { version } else { 0 }
}

/// Refuses rows that are not those of a slice so long, or overlap.
fn check(rows: Rows, bytes: usize) -> Result<()> {
    if rows.rows.checked_mul(rows.width) != Some(bytes) || (rows.rows > 1 && rows.pitch < rows.width) {
        bail!("{bytes} bytes for {rows:?}");
    }
    Ok(())
}

fn is_packed(rows: Rows) -> bool {
    rows.rows == 1 || rows.pitch == rows.width
}

/// A copy of all rows, from and to nowhere yet.
fn whole(rows: Rows) -> CUDA_MEMCPY2D {
    CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        srcHost: ptr::null(),
        srcDevice: 0,
        srcArray: ptr::null_mut(),
        srcPitch: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: ptr::null_mut(),
        dstDevice: 0,
        dstArray: ptr::null_mut(),
        dstPitch: 0,
        WidthInBytes: rows.width,
        Height: rows.rows,
    }
}
