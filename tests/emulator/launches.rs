//! The emulator refuses launches that hardware would refuse.

use super::launch_on;
use vcycle::device::cuda::driver::emulator::{Emulator, Options};
use vcycle::device::cuda::launch::Launch;

fn refused(launch: Launch, words: &[&str]) {
    let error = launch_on(&mut Emulator::new(Options::default()), &launch).expect_err("a launch beyond the limits");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text:?} does not contain all of {words:?}");
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    let good = || Launch::new("trap_good", 1, 32).ptr(8).ptr(8).int(1);
    refused(Launch::new("no_such_kernel", 1, 32), &["no_such_kernel"]);
    refused(good().block(64, 1), &["trap_good", "64 threads"]);
    refused(good().block(0, 1), &["0 threads"]);
    refused(good().grid(0, 1, 1), &["empty"]);
    refused(good().grid(1, 70_000, 1), &["70000", "65,535"]);
    refused(good().shared(300_000), &["300000 bytes of shared memory"]);
    refused(good().int(1 << 31), &["2^31"]);
    refused(Launch::new("trap_good", 1, 32).ptr(8).ptr(8), &["[8, 8]", "[8, 8, 4]"]);
    refused(Launch::new("trap_good", 1, 32).ptr(8).int(8).int(1), &["[8, 4, 4]"]);
}
