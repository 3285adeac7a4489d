//! An NVIDIA GPU, through the libcuda that its driver brings. Loaded at run time: the crate builds and starts without.

mod copies;
#[cfg_attr(not(feature = "cublaslt"), path = "nvidia/no_cublaslt.rs")]
pub mod cublaslt;
mod faults;
mod pinned;
mod ranges;
mod stamps;
mod tensor_map;

use super::{Driver, Part, Rows};
use crate::bail;
use crate::device::Ticket;
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
use faults::{ELSEWHERE, failed, gib, is_fault, told, unopened};
use pinned::Pinned;
use ranges::Ranges;
use stamps::Stamps;
use std::collections::{BTreeMap, HashMap, VecDeque};
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

/// The first GPU that `CUDA_VISIBLE_DEVICES` leaves visible. All work is on one stream.
pub struct Nvidia {
    functions: HashMap<&'static str, Function>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    /// Name and compute capability, for messages.
    device: String,
    /// Addresses handed out, and how many bytes lie there.
    live: BTreeMap<u64, usize>,
    /// What is on its way to the GPU, and the number of the buffer that is used next.
    stages: Vec<Pinned>,
    stage: usize,
    /// What is on its way to the host.
    async_reads: Vec<Pinned>,
    graphs: Vec<Option<CUgraphExec>>,
    stamps: Stamps,
    ranges: Ranges,
    gpu: GpuSpec,
    /// The kernels started last, since all were last known to have ended well.
    recent: VecDeque<&'static str>,
    /// How many were started since then.
    started: usize,
    /// What is launched becomes part of a graph and does not run.
    recording: bool,
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
        let gpu = gpu(&context, capability).map_err(failed("asking what the GPU can do"))?;
        let stream = context.new_stream().map_err(failed("creating a stream"))?;
        let mut this = Nvidia {
            functions: HashMap::new(),
            stream,
            context,
            device,
            live: BTreeMap::new(),
            stages: Vec::new(),
            stage: 0,
            async_reads: Vec::new(),
            graphs: Vec::new(),
            stamps: Stamps::default(),
            ranges: Ranges::new(),
            gpu,
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

    /// Where the GPU is on the PCI bus, as NVML writes it: domain, bus, device, function. `None` where the driver is silent.
    pub fn bus(&self) -> Option<String> {
        let ask = |what| self.context.attribute(what).ok();
        let domain = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let device = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        Some(format!("{domain:08x}:{bus:02x}:{device:02x}.0"))
    }

    /// Whether products were made by [`Nvidia::cublaslt`] of this very driver.
    pub(in crate::device::cuda) fn made(&self, products: &cublaslt::Products) -> bool {
        Arc::ptr_eq(&self.stream, products.stream())
    }

    /// Products by cuBLASLt on this driver's stream.
    ///
    /// # Errors
    /// A build without it, no library; what it refuses.
    pub(in crate::device::cuda) fn cublaslt(&self, products: &[Product]) -> Result<cublaslt::Products> {
        self.bind()?;
        cublaslt::Products::new(&self.stream, products)
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
            "a kernel failed on {}: {}. Started since the last wait: {}, at last {}. With VCYCLE_GRAPHS=0 and \
             CUDA_LAUNCH_BLOCKING=1 each is waited for, so that the last one named is the one that failed; `vcycle kernels check` and --device emulator \
             find the thread and the source line",
            self.device,
            told(&error),
            self.started,
            if recent.is_empty() { "none" } else { &recent },
        ))
    }

    /// For the report of a fault.
    fn remember(&mut self, started: &'static str) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(started);
        self.started += 1;
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
        if self.live.remove(&address).is_none() {
            return;
        }
        // What fails here fails again, and is then reported, at the next call that can report.
        let _ = self.bind();
        let _ = self.stream.synchronize();
        // SAFETY: handed out by `alloc`, just taken off the list, and no work is in flight.
        let _ = unsafe { result::free_sync(address) };
    }

    fn write(&mut self, to: Rows, bytes: &[u8]) -> Result<()> {
        self.copy_in(to, bytes)
    }

    fn read(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()> {
        self.copy_out(from, bytes)
    }

    fn read_async(&mut self, from: Rows) -> Result<Ticket> {
        self.copy_out_async(from)
    }

    fn wait_read(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
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
            bail!("kernel {} has no code for {} in this build; build again with nvcc", launch.kernel, self.device);
        };
        if let Some(takes) = function.parameters.as_ref().filter(|takes| *takes != launch.args.sizes()) {
            let given = launch.args.sizes();
            bail!("kernel {} takes parameters of {takes:?} bytes and was given {given:?}", launch.kernel);
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
        // SAFETY: the function's module is loaded. The driver only reads the parameters, before it returns; their sizes
        // were compared with the kernel's, or on an old driver are the caller's promise. So is what the addresses among them
        // cover; `free` keeps it until work has ended.
        unsafe { result::launch_kernel(handle, grid, block, launch.shared, self.stream.cu_stream(), &mut pointers) }
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

    unsafe fn record(&mut self, parts: &[Part]) -> Result<u32> {
        self.bind()?;
        let stream = self.stream.cu_stream();
        // Relaxed: a kernel may be allowed more shared memory meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is this driver's own, and does nothing else until `end_capture`.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(failed("beginning a graph"))?;
        self.recording = true;
        // SAFETY: the caller's promise; what is started becomes part of the graph and does not run.
        let recorded = parts.iter().try_for_each(|part| unsafe { part.start(self) });
        self.recording = false;
        // SAFETY: begun above. Ends the capture after an error too.
        let graph = unsafe { result::stream::end_capture(stream) };
        // What made a part fail may also have spoilt the graph, and is the better message.
        let graph = match (recorded, graph) {
            (Ok(()), graph) => graph.map_err(failed("ending a graph"))?,
            (Err(error), Ok(graph)) => {
                // SAFETY: just captured, and used by nobody.
                let _ = unsafe { result::graph::destroy(graph) };
                return Err(error);
            }
            (Err(error), Err(_)) => return Err(error),
        };
        // SAFETY: just captured; the executable form does not need it.
        let executable = unsafe {
            let made = result::graph::instantiate(graph, CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            made
        };
        self.graphs.push(Some(executable.map_err(failed("preparing a graph"))?));
        Ok(self.graphs.len() as u32 - 1)
    }

    unsafe fn replay(&mut self, graph: u32) -> Result<()> {
        let Some(Some(executable)) = self.graphs.get(graph as usize).copied() else { bail!("this graph was released") };
        self.bind()?;
        self.remember("a captured step");
        // SAFETY: instantiated by `record` and not yet destroyed; that the memory it uses is there is the caller's promise.
        unsafe { result::graph::launch(executable, self.stream.cu_stream()) }
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

    fn gpu(&self) -> GpuSpec {
        self.gpu
    }
}

impl Drop for Nvidia {
    /// The context may be shared with another device of this process, and then would keep the memory.
    fn drop(&mut self) {
        (0..self.graphs.len() as u32).for_each(|graph| self.release(graph));
        let _ = self.bind();
        self.stages.clear();
        self.async_reads.clear();
        self.stamps = Stamps::default();
        while let Some((&address, _)) = self.live.first_key_value() {
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
fn gpu(context: &CudaContext, capability: (i32, i32)) -> Result<GpuSpec, DriverError> {
    let ask = |what| context.attribute(what).map(f64::from);
    let sms = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let clock = 1e3 * ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
    let memory = 1e3 * ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
    let width = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? / 8.0;
    // Virtual GPUs and integrated ones may keep their clocks to themselves.
    if sms * clock * memory * width == 0.0 {
        return Ok(GpuSpec::A100);
    }
    // Two transfers a clock.
    Ok(GpuSpec::of(sms as usize, clock, 2.0 * memory * width, capability))
}

/// The newest CUDA that the driver is for: 1000 times its major plus 10 times its minor version; 0 where it is silent.
fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: writes one int; may be called at any time once libcuda is there.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    if asked == CUresult::CUDA_SUCCESS { version } else { 0 }
}
