//! An NVIDIA GPU through libcuda, which comes with the NVIDIA driver. It is loaded at run time, so the crate builds and
//! starts without it.

mod copies;
#[cfg_attr(not(feature = "cublaslt"), path = "nvidia/no_cublaslt.rs")]
pub mod cublaslt;
mod faults;
mod pinned;
mod query;
mod ranges;
mod stamps;
mod tensor_map;

use super::{Driver, Part, Rows};
use crate::bail;
use crate::device::PendingRead;
use crate::device::cuda::compiled::{COMPILED, NVCC};
use crate::device::cuda::cublaslt::Product;
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::{Args, Launch, Region, TensorMap};
use crate::error::{At, Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUdevice_attribute, CUfunction_attribute, CUgraphExec, CUgraphInstantiate_flags, CUresult,
    CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream};
use cudarc::nvrtc::Ptx;
use faults::{ELSEWHERE, describe, failed, gib, is_fault, no_such_gpu, open_error};
use pinned::Pinned;
use query::{driver_version, gpu_spec, parameters};
use ranges::Ranges;
use stamps::Stamps;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// The oldest compute capability that the kernels are compiled for.
const OLDEST: (i32, i32) = (8, 0);

/// The shared memory (static and dynamic) that a block may use without opting in to more, in bytes.
const SHARED_UNASKED: u32 = 48 << 10;

/// The number of kernels that a fault report names.
const RECENT: usize = 8;

/// One of the GPUs that `CUDA_VISIBLE_DEVICES` leaves visible. All work is on one stream.
pub struct Nvidia {
    functions: HashMap<&'static str, Function>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    /// Name and compute capability, for messages.
    device: String,
    /// Live allocations: bytes by address.
    live: BTreeMap<u64, usize>,
    /// Staging buffers of writes, used in rotation.
    staging: Vec<Pinned>,
    /// The index of the staging buffer that is used next.
    next_staging: usize,
    /// Buffers of asynchronous reads.
    async_reads: Vec<Pinned>,
    /// Instantiated graphs by number; `None` once released.
    graphs: Vec<Option<CUgraphExec>>,
    stamps: Stamps,
    ranges: Ranges,
    gpu: GpuSpec,
    /// The last kernels launched since a successful wait, at most [`RECENT`].
    recent: VecDeque<&'static str>,
    /// The number of kernels and graphs launched since then.
    started: usize,
    /// Whether launches become part of a graph instead of running.
    recording: bool,
}

/// A loaded kernel.
struct Function {
    handle: CudaFunction,
    /// The dynamic shared memory that is currently allowed per block, in bytes.
    shared: u32,
    /// Sizes of its parameters in bytes; `None` if the driver is too old to report them.
    parameters: Option<Vec<u8>>,
}

impl Nvidia {
    /// Returns how many GPUs are visible: none without an NVIDIA driver.
    pub fn count() -> usize {
        // SAFETY: only opens and closes the library, which runs NVIDIA's own initialisers.
        let count = if unsafe { sys::is_culib_present() } { CudaContext::device_count().ok() } else { None };
        count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }

    /// Opens a GPU by its number and loads all kernels.
    ///
    /// # Errors
    /// Fails when there is no driver, no device code in this build, no GPU, or one that the kernels do not support. The
    /// message says which, and which devices need no GPU.
    pub fn open(gpu: usize) -> Result<Self> {
        // SAFETY: only opens and closes the library, which runs NVIDIA's own initialisers.
        if !unsafe { sys::is_culib_present() } {
            bail!(
                "--device cuda: cannot find libcuda.so.1. It comes with the NVIDIA driver; install the driver, or add \
                 the library's folder to LD_LIBRARY_PATH. {ELSEWHERE}"
            );
        }
        if COMPILED.is_empty() {
            bail!(
                "--device cuda: this build has no device code, because no nvcc was found. Install nvcc 12.0 or newer \
                 (the warning of `touch build.rs && cargo build` says how), and build again. {ELSEWHERE}"
            );
        }
        // Without any GPU the driver says why.
        let count = Self::count();
        if count > 0 && gpu >= count {
            return Err(no_such_gpu(gpu, count));
        }
        let context = CudaContext::new(gpu).map_err(|error| open_error(&error))?;
        // SAFETY: no CudaSlice is ever created here and there is only one stream, so nothing needs tracking.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(failed("querying the GPU's name"))?;
        let capability = context.compute_capability().map_err(failed("querying the compute capability"))?;
        let device = format!("{name} (compute capability {}.{})", capability.0, capability.1);
        if capability < OLDEST {
            bail!(
                "--device cuda: {device} is too old; the kernels need {}.{} (Ampere) or newer. {ELSEWHERE}",
                OLDEST.0,
                OLDEST.1
            );
        }
        let spec = gpu_spec(&context, capability).map_err(failed("querying the GPU's properties"))?;
        let stream = context.new_stream().map_err(failed("creating a stream"))?;
        let mut this = Nvidia {
            functions: HashMap::new(),
            stream,
            context,
            device,
            live: BTreeMap::new(),
            staging: Vec::new(),
            next_staging: 0,
            async_reads: Vec::new(),
            graphs: Vec::new(),
            stamps: Stamps::default(),
            ranges: Ranges::new(),
            gpu: spec,
            recent: VecDeque::with_capacity(RECENT),
            started: 0,
            recording: false,
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
                // The file is for another architecture only. Other variants run the operations of its kernels.
                Err(DriverError(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU)) => continue,
                Err(error) => bail!(
                    "--device cuda: cannot load {} on {}: {}. It was compiled by nvcc {}, and the driver supports CUDA \
                     {}.{}; if the driver is older, update it, or build with an older nvcc",
                    compiled.file,
                    self.device,
                    describe(&error),
                    NVCC.unwrap_or("unknown"),
                    version / 1000,
                    version % 1000 / 10
                ),
            };
            for name in compiled.kernels.iter().map(|kernel| kernel.name) {
                if !self.functions.contains_key(name) {
                    let handle = module.load_function(name).map_err(failed("loading a kernel")).at(name)?;
                    let fixed = handle.shared_size_bytes().map_err(failed("querying its shared memory")).at(name)?;
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
                "--device cuda: this build has code for {} but none for {}. Build with VCYCLE_CUDA_ARCHS unset, or \
                 add this GPU's architecture to it",
                archs.join(", "),
                self.device
            );
        }
        Ok(())
    }

    /// Returns a line of text with the name, compute capability and memory of the GPU and the driver's CUDA version.
    pub fn describe(&self) -> String {
        let memory = match self.context.mem_get_info() {
            Ok((free, total)) => format!("{} free of {}", gib(free), gib(total)),
            Err(error) => format!("memory unknown: {}", describe(&error)),
        };
        let version = driver_version();
        format!("{}, {memory}, driver for CUDA {}.{}", self.device, version / 1000, version % 1000 / 10)
    }

    /// Returns the PCI address of the GPU in NVML's format (domain, bus, device, function); `None` if the driver does
    /// not report it.
    pub fn bus(&self) -> Option<String> {
        let ask = |what| self.context.attribute(what).ok();
        let domain = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let device = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        Some(format!("{domain:08x}:{bus:02x}:{device:02x}.0"))
    }

    /// Returns whether the matmuls were prepared by [`Nvidia::cublaslt`] of this driver instance.
    pub(in crate::device::cuda) fn owns(&self, products: &cublaslt::Products) -> bool {
        Arc::ptr_eq(&self.stream, products.stream())
    }

    /// Prepares cuBLASLt matmuls on this driver's stream.
    ///
    /// # Errors
    /// Fails in a build without cuBLASLt, without the library, and when it rejects a matmul.
    pub(in crate::device::cuda) fn cublaslt(&self, products: &[Product]) -> Result<cublaslt::Products> {
        self.bind()?;
        cublaslt::Products::new(&self.stream, products)
    }

    /// Makes the context current on the calling thread. Every call does this, since a device may move between threads.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|error| self.fault("making the CUDA context current", error))
    }

    /// Returns the error of a driver call. A kernel fault shows up at some later call, which is not its cause, so the
    /// message lists recent kernels instead.
    fn fault(&self, action: &str, error: DriverError) -> Error {
        if !is_fault(error.0) {
            return failed(action)(error);
        }
        let recent = self.recent.iter().copied().collect::<Vec<_>>().join(", ");
        Error::new(format!(
            "a kernel failed on {}: {}. Launched since the last successful wait: {} kernels, the last ones {}. With \
             VCYCLE_GRAPHS=0 and CUDA_LAUNCH_BLOCKING=1 every launch is waited for, and the last one named is the one \
             that failed; `vcycle kernels check` and --device emulator find the thread and the source line",
            self.device,
            describe(&error),
            self.started,
            if recent.is_empty() { "none" } else { &recent },
        ))
    }

    /// Remembers a launch for fault reports.
    fn remember(&mut self, started: &'static str) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(started);
        self.started += 1;
    }

    /// Waits for all work. If that succeeds, all kernels so far have succeeded and are forgotten.
    fn wait(&mut self, action: &str) -> Result<()> {
        self.stream.synchronize().map_err(|error| self.fault(action, error))?;
        self.recent.clear();
        self.started = 0;
        Ok(())
    }

    /// Allocates zeroed memory.
    fn zeroed(&self, bytes: usize) -> Result<u64, DriverError> {
        // The driver rejects an allocation of 0 bytes, but an arena may be empty.
        let bytes = bytes.max(1);
        // SAFETY: plain memory, which is set before anything on the only stream reads it.
        let address = unsafe { result::malloc_sync(bytes) }?;
        // SAFETY: `address` has `bytes` bytes, and both it and the stream belong to this context.
        if let Err(error) = unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) } {
            // SAFETY: allocated above, and nothing else uses it.
            let _ = unsafe { result::free_sync(address) };
            return Err(error);
        }
        Ok(address)
    }
}

impl Driver for Nvidia {
    fn alloc(&mut self, bytes: usize) -> Result<u64> {
        self.bind()?;
        match self.zeroed(bytes) {
            Ok(address) => {
                self.live.insert(address, bytes);
                Ok(address)
            }
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = self.context.mem_get_info().map_err(failed("querying free memory"))?;
                bail!(
                    "out of device memory: {} requested, {} free of {} on {}; use a smaller batch, a shorter context \
                     or a smaller model, or stop other programs on this GPU (nvidia-smi lists them)",
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
        if self.live.remove(&address).is_none() {
            return;
        }
        // An error here will recur at the next call, which can report it.
        let _ = self.bind();
        let _ = self.stream.synchronize();
        // SAFETY: allocated by `alloc`, just removed from `live`, and no work is in flight.
        let _ = unsafe { result::free_sync(address) };
    }

    fn write(&mut self, to: Rows, bytes: &[u8]) -> Result<()> {
        self.copy_in(to, bytes)
    }

    fn read(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()> {
        self.copy_out(from, bytes)
    }

    fn read_async(&mut self, from: Rows) -> Result<PendingRead> {
        self.copy_out_async(from)
    }

    fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()> {
        self.wait_copy_out(ticket, bytes)
    }

    fn copy(&mut self, from: Rows, to: Rows) -> Result<()> {
        self.copy_within(from, to)
    }

    fn operands(&mut self, _: &[Region]) {}

    unsafe fn launch(&mut self, launch: &Launch) -> Result<()> {
        if launch.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let Some(function) = self.functions.get_mut(launch.kernel) else {
            bail!("this build has no code of kernel {} for {}; build again with nvcc", launch.kernel, self.device);
        };
        if let Some(takes) = function.parameters.as_ref().filter(|takes| *takes != launch.args.sizes()) {
            let given = launch.args.sizes();
            bail!("kernel {} takes parameters of {takes:?} bytes but was given {given:?}", launch.kernel);
        }
        if launch.shared > function.shared {
            function.allow(launch.shared, &self.context).at(launch.kernel)?;
        }
        let handle = function.handle.cu_function();
        if !self.recording {
            self.remember(launch.kernel);
        }
        let args = &launch.args;
        let mut maps = [tensor_map::NONE; Args::MOST_MAPS];
        for (encoded, map) in maps.iter_mut().zip(args.maps()) {
            *encoded = tensor_map::encoded(map).at(launch.kernel)?;
        }
        let mut pointers = [ptr::null_mut::<c_void>(); Args::MOST];
        for (pointer, (slot, bytes)) in pointers.iter_mut().zip(args.slots().iter().zip(args.sizes())) {
            *pointer = match usize::from(*bytes) {
                TensorMap::BYTES => ptr::from_ref(&maps[*slot as usize]).cast_mut().cast(),
                _ => ptr::from_ref(slot).cast_mut().cast(),
            };
        }
        let (grid, block) = (launch.grid.into(), launch.block.into());
        // SAFETY: the function's module is loaded. The driver only reads the parameters, before it returns. Their sizes
        // match the kernel's (compared above, or on an old driver guaranteed by the caller). The caller also guarantees
        // the memory behind the addresses among them, and `free` waits for the work in flight.
        unsafe { result::launch_kernel(handle, grid, block, launch.shared, self.stream.cu_stream(), &mut pointers) }
            .map_err(|error| {
                let Launch { kernel, grid, block, shared, .. } = launch;
                let action =
                    format!("launching {kernel} (grid {grid:?}, block {block:?}, {shared} bytes of shared memory)");
                self.fault(&action, error)
            })
    }

    fn sync(&mut self) -> Result<()> {
        self.bind()?;
        self.wait("waiting for the GPU")
    }

    unsafe fn record(&mut self, parts: &[Part]) -> Result<u32> {
        self.bind()?;
        let stream = self.stream.cu_stream();
        // Relaxed, because kernels may be allowed more shared memory during the capture.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream belongs to this driver and does nothing else until `end_capture`.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(failed("beginning a graph capture"))?;
        self.recording = true;
        // SAFETY: guaranteed by the caller; launches become part of the graph and do not run.
        let recorded = parts.iter().try_for_each(|part| unsafe { part.start(self) });
        self.recording = false;
        // SAFETY: the capture was begun above. It has to end after an error, too.
        let graph = unsafe { result::stream::end_capture(stream) };
        // The error of a part may also have invalidated the capture; it is the more useful message.
        let graph = match (recorded, graph) {
            (Ok(()), graph) => graph.map_err(failed("ending a graph capture"))?,
            (Err(error), Ok(graph)) => {
                // SAFETY: just captured, and not used by anything.
                let _ = unsafe { result::graph::destroy(graph) };
                return Err(error);
            }
            (Err(error), Err(_)) => return Err(error),
        };
        // SAFETY: just captured; the executable graph does not depend on it.
        let executable = unsafe {
            let made = result::graph::instantiate(graph, CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            made
        };
        self.graphs.push(Some(executable.map_err(failed("instantiating a graph"))?));
        Ok(self.graphs.len() as u32 - 1)
    }

    unsafe fn replay(&mut self, graph: u32) -> Result<()> {
        let Some(Some(executable)) = self.graphs.get(graph as usize).copied() else { bail!("this graph was released") };
        self.bind()?;
        self.remember("a captured step");
        // SAFETY: instantiated by `record` and not yet destroyed; the caller guarantees that the memory it uses is
        // live.
        unsafe { result::graph::launch(executable, self.stream.cu_stream()) }
            .map_err(|error| self.fault("launching a graph", error))
    }

    fn release(&mut self, graph: u32) {
        let Some(executable) = self.graphs.get_mut(graph as usize).and_then(Option::take) else { return };
        let _ = self.bind();
        let _ = self.stream.synchronize();
        // SAFETY: just removed from `graphs`, and no work is in flight.
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

    fn gpu(&self) -> GpuSpec {
        self.gpu
    }
}

impl Drop for Nvidia {
    /// Frees everything explicitly, because a context shared with another device of this process would keep the memory.
    fn drop(&mut self) {
        (0..self.graphs.len() as u32).for_each(|graph| self.release(graph));
        let _ = self.bind();
        self.staging.clear();
        self.async_reads.clear();
        self.stamps = Stamps::default();
        while let Some((&address, _)) = self.live.first_key_value() {
            self.free(address);
        }
    }
}

impl Function {
    /// Raises the limit of dynamic shared memory per block to `bytes`.
    fn allow(&mut self, bytes: u32, context: &CudaContext) -> Result<()> {
        let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        if let Err(error) = self.handle.set_attribute(most, i32::try_from(bytes).unwrap_or(i32::MAX)) {
            let of_block = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            let limit = context.attribute(of_block).map_err(failed("querying the shared memory limit"))?;
            bail!(
                "{bytes} bytes of shared memory requested, but this GPU has at most {limit} per block: {}",
                describe(&error)
            );
        }
        self.shared = bytes;
        Ok(())
    }
}
