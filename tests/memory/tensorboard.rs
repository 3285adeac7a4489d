//! Writing TensorBoard events allocates nothing after the first one.

use super::allocator::allocations;
use vcycle::runlog::tensorboard::TensorBoard;

fn first_event(board: &mut TensorBoard) {
    let values = [("loss/train", 6.9603593), ("lr", 0.0), ("grad_norm", 1.5), ("progress/flops", 1.1056188211200e13)];
    board.scalars(1, 1.7e9 + 0.25, &values).expect("written");
}

pub fn later_events_allocate_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut board = TensorBoard::create(dir.path()).expect("created");
    first_event(&mut board);
    let (all, first) = allocations(|| {
        (0..1000).for_each(|_| first_event(&mut board));
        board.flush().expect("flushed");
    });
    assert_eq!(all, 0, "allocations; the first one is at\n{first}");
}
