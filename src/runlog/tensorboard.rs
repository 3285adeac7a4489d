//! Writes TensorBoard event files. Only scalars are supported.
//!
//! A file is a sequence of TFRecord records: length, checksum of the length, payload, checksum of the payload. The
//! payload is a protobuf `Event`, encoded by hand: a step, a time, and a `Summary` of tags with one value each.

use crate::bail;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The name of the event file. TensorBoard looks for `tfevents` in it; it is constant so that a resumed run finds its
/// file.
pub const FILE: &str = "events.out.tfevents.vcycle";

/// The event file of one branch of a run.
pub struct TensorBoard {
    path: PathBuf,
    out: BufWriter<File>,
    bytes: u64,
    /// Buffer for the payload being encoded.
    event: Vec<u8>,
}

impl TensorBoard {
    /// Creates an event file in `dir`, creating the folder if necessary.
    ///
    /// # Errors
    /// The file exists already or cannot be created.
    pub fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create folder", dir, e))?;
        let path = dir.join(FILE);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut board = Self::over(file.map_err(|e| Error::io("create", &path, e))?, path, 0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        wall_time(&mut board.event, now);
        field(&mut board.event, FILE_VERSION, VERSION);
        board.record()?;
        board.flush()?;
        Ok(board)
    }

    /// Opens the event file in `dir` to continue after its first `bytes`, and truncates it there.
    ///
    /// # Errors
    /// The file is missing, shorter than `bytes`, or cannot be opened.
    pub fn resume(dir: &Path, bytes: u64) -> Result<Self> {
        let path = dir.join(FILE);
        // Opening a pipe would block until it has a reader.
        if std::fs::metadata(&path).is_ok_and(|facts| !facts.is_file()) {
            bail!("{} is not a file; restore the file as it was", path.display());
        }
        let opened = OpenOptions::new().write(true).open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, mut file) = opened.map_err(|e| Error::io("open", &path, e))?;
        if length < bytes {
            bail!(
                "{} has {length} bytes but had {bytes} at the checkpoint; restore the file as it was",
                path.display()
            );
        }
        let ready = file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes)));
        ready.map_err(|e| Error::io("shorten", &path, e))?;
        Ok(Self::over(file, path, bytes))
    }

    /// Wraps an open file that has `bytes` bytes.
    fn over(file: File, path: PathBuf, bytes: u64) -> Self {
        TensorBoard { path, out: BufWriter::new(file), bytes, event: Vec::with_capacity(1024) }
    }

    /// Writes one event: tags and values of a step, with a time in seconds since 1970.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalars(&mut self, step: u64, seconds: f64, values: &[(&str, f64)]) -> Result<()> {
        let event = &mut self.event;
        event.clear();
        wall_time(event, seconds);
        key(event, STEP, VARINT);
        varint(event, step);
        let size = |tag: &str| 1 + varint_size(tag.len() as u64) + tag.len() as u64 + 5;
        let summary = values.iter().map(|(tag, _)| 1 + varint_size(size(tag)) + size(tag)).sum();
        key(event, SUMMARY, BYTES);
        varint(event, summary);
        for (tag, value) in values {
            key(event, SUMMARY_VALUE, BYTES);
            varint(event, size(tag));
            field(event, VALUE_TAG, tag.as_bytes());
            key(event, VALUE_SIMPLE, FIXED32);
            event.extend((*value as f32).to_le_bytes());
        }
        self.record()
    }

    /// Writes the encoded event as a TFRecord record.
    fn record(&mut self) -> Result<()> {
        let length = (self.event.len() as u64).to_le_bytes();
        let parts = [&length[..], &masked(&length), &self.event, &masked(&self.event)];
        let written = parts.iter().try_for_each(|part| self.out.write_all(part));
        written.map_err(|e| Error::io("write", &self.path, e))?;
        self.bytes += self.event.len() as u64 + 16;
        Ok(())
    }

    /// Writes buffered events to the file.
    ///
    /// # Errors
    /// Those of [`TensorBoard::scalars`].
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io("write", &self.path, e))
    }

    /// Returns the length of the file including buffered events, for [`TensorBoard::resume`].
    pub fn bytes_written(&self) -> u64 {
        self.bytes
    }
}

/// The format version, which is in the first event of a file.
const VERSION: &[u8] = b"brain.Event:2";

// Field numbers of Event, Summary and Summary.Value.
const WALL_TIME: u8 = 1;
const STEP: u8 = 2;
const FILE_VERSION: u8 = 3;
const SUMMARY: u8 = 5;
const SUMMARY_VALUE: u8 = 1;
const VALUE_TAG: u8 = 1;
const VALUE_SIMPLE: u8 = 2;

// Protobuf wire types.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

fn key(to: &mut Vec<u8>, field: u8, kind: u8) {
    to.push(field << 3 | kind);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn varint_size(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

fn field(to: &mut Vec<u8>, number: u8, value: &[u8]) {
    key(to, number, BYTES);
    varint(to, value.len() as u64);
    to.extend(value);
}

fn wall_time(to: &mut Vec<u8>, seconds: f64) {
    key(to, WALL_TIME, FIXED64);
    to.extend(seconds.to_le_bytes());
}

/// Table for a bytewise CRC-32C (Castagnoli). An event only has a few hundred bytes.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Returns the masked CRC-32C of a part of a record, as TFRecord defines it: rotated, plus a constant.
fn masked(bytes: &[u8]) -> [u8; 4] {
    let crc = !bytes.iter().fold(!0u32, |crc, byte| crc >> 8 ^ CRC[((crc ^ u32::from(*byte)) & 0xFF) as usize]);
    crc.rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}
