use super::{Actor, Clocks, Knowledge, Seen, Stamp, Who};

fn by(thread: usize, actor: Actor) -> Who {
    Who { thread, actor }
}

#[test]
fn a_stamp_keeps_its_fields() {
    let stamp = Stamp::new(Stamp::INSTANCES - 1, 12_345_678, 2047, 0b1010, true);
    assert_eq!((stamp.instance(), stamp.clock(), stamp.who()), (Stamp::INSTANCES - 1, 12_345_678, 2047));
    assert_eq!((stamp.mask(), stamp.atomic(), stamp.with_mask(3).mask()), (0b1010, true, 3));
}

#[test]
fn barriers_order_the_threads_that_reach_them() {
    let mut clocks = Clocks::new(7, 5, 4);
    let old = clocks.stamp(by(1, Actor::Thread), 15, false);
    assert!(!clocks.before(old, 0) && clocks.before(old, 1));
    clocks.sync(&[1, 2]);
    assert!(!clocks.before(old, 0) && clocks.before(old, 2));
    // Thread 2 passes on what it has learned.
    clocks.sync(&[2, 3]);
    assert!(clocks.before(old, 3) && !clocks.before(old, 0));
    clocks.sync_all();
    assert!(clocks.before(old, 0));
    assert!(clocks.before(Stamp::new(4, 9, 3, 15, false), 0), "an earlier launch");
    assert!(!clocks.before(Stamp::new(6, 1, 3, 15, false), 0), "another block of this launch");
}

#[test]
fn copies_are_ordered_by_a_wait_and_for_other_threads_by_a_barrier_after_it() {
    let mut clocks = Clocks::new(1, 1, 2);
    let copied = clocks.stamp(by(0, Actor::CpAsync), 15, false);
    let group = clocks.commit(0);
    clocks.sync_all();
    assert!(!clocks.before(copied, 0), "a barrier does not wait for copies");
    clocks.wait(0, group);
    assert!(clocks.before(copied, 0) && !clocks.before(copied, 1));
    clocks.sync_all();
    assert!(clocks.before(copied, 1));
}

#[test]
fn atomics_publish_what_was_fenced() {
    let (mut writer, mut reader) = (Clocks::new(1, 1, 2), Clocks::new(2, 1, 2));
    let (early, mut word) = (writer.stamp(by(1, Actor::Thread), 15, false), Seen::new());
    writer.sync_all();
    let late = writer.stamp(by(1, Actor::Thread), 15, false);
    writer.fence(0);
    writer.exchange(0, &mut word, true);
    reader.exchange(0, &mut word, true);
    assert!(reader.before(early, 0) && !reader.before(early, 1));
    assert!(!reader.before(late, 0), "thread 1 has fenced nothing since the barrier");
    reader.sync_all();
    assert!(reader.before(early, 1));
}

#[test]
fn mbarriers_order_arrivals_and_the_loads_that_they_count() {
    let mut clocks = Clocks::new(1, 1, 64);
    let written = clocks.stamp(by(0, Actor::Thread), 15, false);
    let [early, late] = [0, 1].map(|phase| clocks.stamp(by(0, Actor::TmaLoads { mbarrier: 3, phase }), 15, false));
    let mut phase = Knowledge::default();
    clocks.publish(0, &mut phase);
    clocks.arrived(3, 0, &mut phase);
    assert!(!clocks.before(written, 40) && !clocks.before(early, 40));
    clocks.acquire(40, &phase);
    assert!(clocks.before(written, 40) && clocks.before(early, 40) && !clocks.before(late, 40));
    assert!(!clocks.before(early, 0), "the thread that started a load must wait for it too");
}

#[test]
fn waiting_for_stores_to_read_does_not_wait_for_them_to_write() {
    let mut clocks = Clocks::new(1, 1, 64);
    let (storer, group) = (3, 1);
    let read = clocks.stamp(by(5, Actor::StoreReads { storer, group }), 15, false);
    let written = clocks.stamp(by(5, Actor::StoreWrites { storer, group }), 15, false);
    clocks.sync_all();
    assert!(!clocks.before(read, 5) && !clocks.before(written, 5), "a barrier does not wait for stores");
    clocks.wait_stores(5, storer, group, false);
    assert!(clocks.before(read, 5) && !clocks.before(written, 5) && !clocks.before(read, 6));
    clocks.sync_all();
    assert!(clocks.before(read, 6) && !clocks.before(written, 6));
    clocks.wait_stores(5, storer, group, true);
    assert!(clocks.before(written, 5) && !clocks.before(written, 6));
}

#[test]
fn a_proxy_fence_is_run_by_the_writer_before_the_barrier() {
    let mut clocks = Clocks::new(1, 1, 2);
    let early = clocks.stamp(by(0, Actor::Thread), 15, false);
    let copied = clocks.stamp(by(0, Actor::CpAsync), 15, false);
    let group = clocks.commit(0);
    clocks.fence_async(1);
    clocks.sync_all();
    assert!(!clocks.proxied(early, 1), "another thread's fence");
    clocks.fence_async(0);
    let late = clocks.stamp(by(0, Actor::Thread), 15, false);
    assert!(clocks.proxied(early, 0) && !clocks.proxied(early, 1), "no barrier since the fence");
    clocks.sync_all();
    assert!(clocks.proxied(early, 1) && !clocks.proxied(late, 1) && !clocks.proxied(copied, 1));
    clocks.wait(0, group);
    clocks.fence_async(0);
    clocks.sync_all();
    assert!(clocks.proxied(late, 1) && clocks.proxied(copied, 1));
}

#[test]
fn wgmmas_are_ordered_by_a_wait_and_for_other_threads_by_a_release_after_it() {
    let mut clocks = Clocks::new(1, 1, 64);
    let read = clocks.stamp(by(1, Actor::Wgmma { group: 1 }), 15, false);
    let (mut early, mut late) = (Knowledge::default(), Knowledge::default());
    clocks.publish(1, &mut early);
    clocks.wait_wgmma(1, 1);
    clocks.publish(1, &mut late);
    clocks.acquire(40, &early);
    assert!(clocks.before(read, 1) && !clocks.before(read, 2) && !clocks.before(read, 40));
    clocks.acquire(40, &late);
    assert!(clocks.before(read, 40));
}
