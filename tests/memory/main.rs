//! Tests of memory allocation. A separate test binary, because it replaces the global allocator with a counting one.
//!
//! It is one test: the harness allocates whenever a test starts or ends, and the allocator would count that.

mod allocator;
mod no_alloc;
mod preparing;
#[cfg(target_os = "linux")]
mod steps;
mod tensorboard;

#[test]
fn allocations_stay_within_their_limits() {
    println!("training steps allocate nothing");
    no_alloc::steps_allocate_nothing();
    println!("TensorBoard events after the first one allocate nothing");
    tensorboard::later_events_allocate_nothing();
    println!("preparing takes no more memory for more text");
    preparing::memory_does_not_grow_with_the_text();
    #[cfg(target_os = "linux")]
    {
        println!("memory stays flat for 3000 steps");
        steps::memory_stays_flat_for_3000_steps();
    }
}
