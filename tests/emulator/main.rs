//! The emulator itself: every planted defect is reported with kernel, block, thread and line in every schedule, and its correct
//! twin passes in all of them.
mod defects;
mod launches;

unsafe extern "C" {
    /// Of the planted kernels' file.
    fn vcycle_defects() -> i32;
}

/// The planted kernels are linked.
#[test]
fn planted_kernels_are_there() {
    // SAFETY: returns a number.
    assert_eq!(unsafe { vcycle_defects() }, 1);
}
