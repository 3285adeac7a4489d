//! Promise: TensorBoard can read what `runlog::tensorboard` writes, and a resumed run leaves the same file as a run
//! that never stopped. The expected bytes were written by TensorBoard's own library
//! (`tests/cli/tensorboard_events/events.py`).

use std::path::Path;
use vcycle::runlog::tensorboard::{FILE, TensorBoard};

const GOLDEN: &[u8] = include_bytes!("tensorboard_events/events");
/// The size of the first record: 8 bytes of length, 4 of checksum, 24 of an event with a time (at 13) and a version, 4
/// of checksum.
const FIRST: usize = 40;
const TIME: std::ops::Range<usize> = 13..21;

fn written(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join(FILE)).expect("an event file")
}

fn first_event(board: &mut TensorBoard) {
    let values = [("loss/train", 6.9603593), ("lr", 0.0), ("grad_norm", 1.5), ("progress/flops", 1.1056188211200e13)];
    board.scalars(1, 1.7e9 + 0.25, &values).expect("written");
}

fn other_events(board: &mut TensorBoard) {
    board.scalars(300, 1.7e9 + 77.125, &[("loss/held_out", -0.25)]).expect("written");
    let long = "t".repeat(200);
    board.scalars(70_000_000_000, 1.8e9, &[(long.as_str(), 3.25), ("inf", f64::INFINITY)]).expect("written");
}

/// Computes the CRC-32C bit by bit, masked as in TFRecord files.
fn checksum(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    });
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[test]
fn the_bytes_match_those_of_tensorboards_library() {
    assert_eq!(checksum(b"123456789"), 0xE306_9283u32.rotate_right(15).wrapping_add(0xA282_EAD8));
    let dir = tempfile::tempdir().expect("a folder");
    let mut board = TensorBoard::create(dir.path()).expect("created");
    first_event(&mut board);
    other_events(&mut board);
    board.flush().expect("flushed");
    let bytes = written(dir.path());
    assert_eq!(board.bytes_written(), bytes.len() as u64);
    assert_eq!(&bytes[FIRST..], &GOLDEN[FIRST..]);
    // The first event contains the time at which it was written.
    let mut first = bytes[..FIRST].to_vec();
    first[TIME].copy_from_slice(&GOLDEN[TIME]);
    assert_eq!(first[..FIRST - 4], GOLDEN[..FIRST - 4]);
    let mut at = 0;
    let mut records = 0;
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
        let (end, sum) =
            (at + 12 + length, |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")));
        assert_eq!(sum(at + 8), checksum(&bytes[at..at + 8]));
        assert_eq!(sum(end), checksum(&bytes[at + 12..end]));
        (at, records) = (end + 4, records + 1);
    }
    assert_eq!((at, records), (bytes.len(), 4));
}

#[test]
fn a_resumed_file_continues_at_its_checkpoint() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut board = TensorBoard::create(dir.path()).expect("created");
    first_event(&mut board);
    let checkpoint = board.bytes_written();
    board.scalars(2, 1.7e9, &[("lost", 1.0)]).expect("written");
    drop(board);
    let mut board = TensorBoard::resume(dir.path(), checkpoint).expect("resumed");
    assert_eq!(board.bytes_written(), checkpoint);
    other_events(&mut board);
    assert_eq!(board.bytes_written(), GOLDEN.len() as u64);
    drop(board);
    assert_eq!(&written(dir.path())[FIRST..], &GOLDEN[FIRST..]);
}

#[test]
fn existing_missing_and_truncated_files_are_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = TensorBoard::resume(dir.path(), 0).err().expect("no file").to_string();
    assert!(missing.contains(FILE), "{missing}");
    drop(TensorBoard::create(dir.path()).expect("created"));
    let before = written(dir.path());
    assert!(TensorBoard::create(dir.path()).is_err());
    let short = TensorBoard::resume(dir.path(), 1000).err().expect("short").to_string();
    assert!(short.contains("has 40 bytes but had 1000"), "{short}");
    assert_eq!(written(dir.path()), before);
}
