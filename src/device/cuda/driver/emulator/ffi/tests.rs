use super::with;
use crate::device::cuda::driver::emulator::Options;
use crate::device::cuda::driver::emulator::block::{Block, Setup};
use crate::device::cuda::driver::emulator::memory::Memory;
use crate::device::cuda::driver::emulator::registry::{Kernel, kernels};
use crate::device::cuda::launch::Launch;
use std::ffi::c_void;
use std::ptr::NonNull;

/// Stands in for a kernel: the function that it calls panics for the third thread.
unsafe extern "C" fn panics(_: *const *const c_void) {
    with(|block| assert!(block.current != 2, "thread 2 on purpose"));
}

#[test]
fn a_panic_in_what_a_kernel_calls_is_a_fault_of_that_thread() {
    let any = kernels().find(|kernel| kernel.cluster == 1).expect("a kernel");
    let kernel = Kernel { run: panics, threads: 32, sizes: &[], ..any };
    let (launch, options, mut memory) = (Launch::new(kernel.name, 1, 32), Options::default(), Memory::default());
    let setup =
        Setup { kernel, launch: &launch, options: &options, memory: NonNull::from(&mut memory), stacks: Vec::new() };
    let mut block = Block::new(setup).expect("stacks");
    // SAFETY: the kernel takes no parameters, and the memory outlives the call.
    unsafe { block.run([0; 3], 0, None, &[]) };
    let fault = block.fault.expect("a fault");
    assert_eq!(fault.thread, [2, 0, 0]);
    assert!(fault.to_string().contains("the emulator panicked: thread 2 on purpose"), "{fault}");
}
