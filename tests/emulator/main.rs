//! The emulator itself: every planted defect is reported with kernel, block, thread and line in every schedule, and its correct
//! twin passes in all of them.
#[cfg(emulated)]
mod defects;
#[cfg(emulated)]
mod hopper;
#[cfg(emulated)]
mod launches;

#[cfg(emulated)]
unsafe extern "C" {
    /// Of each file of planted kernels.
    fn vcycle_defects() -> i32;
    fn vcycle_hopper() -> i32;
}

/// The planted kernels are linked.
#[cfg(emulated)]
#[test]
fn planted_kernels_are_there() {
    // SAFETY: they return a number.
    assert_eq!(unsafe { vcycle_defects() + vcycle_hopper() }, 2);
}

#[cfg(not(emulated))]
#[test]
fn the_emulator_is_there() {
    panic!("built without the emulator: kernels were not tested; see the warnings of `cargo build`");
}
