//! Reads and writes safetensors files.
//!
//! The format: a little-endian `u64` header length, a JSON header that gives each tensor's dtype, shape and byte range,
//! and the data, which the ranges cover without holes or overlaps. The header is checked here and not by
//! [`safetensors::SafeTensors`], which accepts a repeated name and adds up byte ranges without an overflow check.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;
use crate::memory;

/// The key of the header that holds free text about the file instead of a tensor.
const METADATA: &str = "__metadata__";

/// The longest header the safetensors library reads, in bytes.
const MAX_HEADER: usize = 100_000_000;

/// A tensor with its name in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name in the file.
    pub name: String,
    /// Shape; empty for a scalar. The product, which does not overflow, is the number of `values`.
    pub shape: Vec<usize>,
    /// Row-major values, all finite.
    pub values: Vec<f32>,
}

/// Whether `name` is that of a buffer, which old checkpoints store with the weights: the causal mask of GPT-2 or the
/// position ids of BERT.
///
/// [`read`] skips buffers of integers or booleans, and those with values that are not finite (-1e9 as f16 is minus
/// infinity). Some public files store buffers as finite floating-point values; those are returned, and a model loader
/// should ignore them.
pub fn is_buffer(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", "embeddings.position_ids"].iter().any(|end| name.ends_with(end))
}

/// Reads every tensor of a safetensors file, in the order of its header.
///
/// F32 is kept bit for bit, F16 and BF16 are converted exactly, and F64 is rounded to the nearest f32. Buffers
/// ([`is_buffer`]) are skipped if they are integers, booleans or not finite.
///
/// # Errors
///
/// The file cannot be read, is truncated or malformed in any way, or contains a tensor of another dtype or a value that
/// is not finite in f32. The message names the file, the tensor if there is one, and the remedy.
pub fn read(path: &Path) -> Result<Vec<NamedTensor>> {
    parse(&files::read(path, u64::MAX)?).at(path.display())
}

/// The type of the values in a file that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreType {
    /// Values are written unchanged.
    #[default]
    F32,
    /// Values are rounded to nearest, ties to even. A value that rounds to beyond 65,504 is an error.
    F16,
    /// Values are rounded to nearest, ties to even. A value that rounds to beyond 3.39e38 is an error.
    Bf16,
}

impl StoreType {
    /// Returns the dtype in the safetensors header.
    fn dtype(self) -> Dtype {
        match self {
            StoreType::F32 => Dtype::F32,
            StoreType::F16 => Dtype::F16,
            StoreType::Bf16 => Dtype::BF16,
        }
    }

    /// Whether a finite value stays finite in this type.
    fn holds(self, value: f32) -> bool {
        match self {
            StoreType::F32 => value.is_finite(),
            StoreType::F16 => half::f16::from_f32(value).is_finite(),
            StoreType::Bf16 => half::bf16::from_f32(value).is_finite(),
        }
    }
}

/// Writes tensors, each with a name, a shape and row-major values, as F32 to the safetensors file `path`.
///
/// Accepts owned tuples, `(String, Vec<usize>, Vec<f32>)`, as well as borrowed ones, `(&str, &[usize], &[f32])`. The
/// data is ordered by name and the metadata is `{"format": "pt"}`, as `transformers` requires. The file is written
/// atomically ([`files::write_atomic`]), and equal tensors give equal bytes.
///
/// # Errors
///
/// A name is repeated or reserved, a shape does not match the number of values, a value is not finite, or the file
/// cannot be written.
pub fn write<N, S, V>(path: &Path, tensors: &[(N, S, V)]) -> Result<()>
where
    N: AsRef<str>,
    S: AsRef<[usize]>,
    V: AsRef<[f32]>,
{
    write_as(path, tensors, StoreType::F32)
}

/// Writes tensors like [`write()`], with values of type `kind`.
///
/// # Errors
///
/// Fails like [`write()`], and if a value is out of range for the type.
pub fn write_as<N, S, V>(path: &Path, tensors: &[(N, S, V)], kind: StoreType) -> Result<()>
where
    N: AsRef<str>,
    S: AsRef<[usize]>,
    V: AsRef<[f32]>,
{
    write_sorted(path, tensors.iter().map(|(n, s, v)| (n.as_ref(), s.as_ref(), v.as_ref())).collect(), kind)
}

fn write_sorted(path: &Path, mut tensors: Vec<(&str, &[usize], &[f32])>, kind: StoreType) -> Result<()> {
    tensors.sort_by_key(|&(name, ..)| name);
    let header = header(&tensors, kind).at(format_args!("cannot write {}", path.display()))?;
    files::write_atomic(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors.iter().try_for_each(|(.., values)| write_values(out, values, kind))
    })
}

/// Builds the header of a file with these tensors, which are sorted by name.
fn header(tensors: &[(&str, &[usize], &[f32])], kind: StoreType) -> Result<Vec<u8>> {
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        bail!("two tensors are named {:?}; give each its own name", pair[0].0);
    }
    let mut infos = Vec::with_capacity(tensors.len());
    let mut start = 0;
    for &(name, shape, values) in tensors {
        if name == METADATA {
            bail!("the tensor name {METADATA} is reserved by the safetensors format; choose another");
        }
        if elements(shape) != Some(values.len()) {
            bail!("tensor {name:?}: shape {shape:?} does not match the {} values given", values.len());
        }
        check_finite(name, values)?;
        if let Some(at) = values.iter().position(|&value| !kind.holds(value)) {
            bail!("tensor {name:?}: value {at} is {}, outside the range of {kind:?}; store it as F32", values[at]);
        }
        let end = start + values.len() * kind.dtype().bitsize() / 8;
        infos.push((
            name.to_string(),
            TensorInfo { dtype: kind.dtype(), shape: shape.to_vec(), data_offsets: (start, end) },
        ));
        start = end;
    }
    let about = HashMap::from([("format".to_string(), "pt".to_string())]);
    let mut header = Metadata::new(Some(about), infos)
        .map_err(|e| Error::new(format!("cannot build a safetensors header: {e}; write fewer or smaller tensors")))
        .and_then(|metadata| serde_json::to_vec(&metadata).map_err(|e| Error::new(format!("bad header: {e}"))))?;
    // The data starts at a multiple of 8 bytes, so that readers may map it into memory.
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() > MAX_HEADER {
        bail!("the names of {} tensors do not fit in a safetensors header; write fewer tensors", tensors.len());
    }
    Ok(header)
}

fn write_values(out: &mut dyn Write, values: &[f32], kind: StoreType) -> io::Result<()> {
    match kind {
        StoreType::F32 if cfg!(target_endian = "little") => out.write_all(bytemuck::cast_slice(values)),
        StoreType::F32 => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
        StoreType::F16 => values.iter().try_for_each(|&v| out.write_all(&half::f16::from_f32(v).to_le_bytes())),
        StoreType::Bf16 => values.iter().try_for_each(|&v| out.write_all(&half::bf16::from_f32(v).to_le_bytes())),
    }
}

/// Returns the product of `shape`, or `None` on overflow.
pub(super) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

fn check_finite(name: &str, values: &[f32]) -> Result<()> {
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        bail!(
            "tensor {name:?}: value {at} is {}, not a finite 32-bit number; the weights are damaged or the run \
             diverged; use an earlier checkpoint",
            values[at]
        );
    }
    Ok(())
}

/// The tensors of a header, in its order. Deserialising checks only that names are unique.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry per tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the name {name:?} appears twice")));
                    }
                    if name == METADATA {
                        map.next_value::<Option<HashMap<String, String>>>()?;
                        continue;
                    }
                    let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor {name:?}: {e}")))?;
                    tensors.push((name, info));
                }
                Ok(Header(tensors))
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Parses the content of a safetensors file.
fn parse(bytes: &[u8]) -> Result<Vec<NamedTensor>> {
    const REMEDY: &str = "the file is truncated, damaged or not a safetensors file; download or write it again";
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        bail!("{} bytes, too few for a safetensors header; {REMEDY}", bytes.len());
    };
    let length = u64::from_le_bytes(*length);
    let split = usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER).and_then(|n| rest.split_at_checked(n));
    let Some((header, data)) = split else {
        if bytes.trim_ascii_start().starts_with(b"<") {
            bail!("this is a web page, not weights; download the file itself");
        }
        bail!("the header claims {length} bytes, but {} follow; {REMEDY}", rest.len());
    };
    let Header(tensors) =
        serde_json::from_slice(header).map_err(|e| Error::new(format!("bad header: {e}; {REMEDY}")))?;
    check_ranges(&tensors, data.len()).map_err(|e| Error::new(format!("{e}; {REMEDY}")))?;

    let mut read = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let raw = &data[info.data_offsets.0..info.data_offsets.1];
        if let Some(values) = values(&name, info.dtype, raw)? {
            read.push(NamedTensor { name, shape: info.shape, values });
        }
    }
    Ok(read)
}

/// Converts the bytes of a tensor to f32. Returns `None` for a buffer that is skipped.
///
/// # Errors
/// The dtype is not supported, or a value is not finite.
pub(super) fn values(name: &str, dtype: Dtype, raw: &[u8]) -> Result<Option<Vec<f32>>> {
    let values = match dtype {
        Dtype::F32 => convert(raw, f32::from_le_bytes)?,
        Dtype::F16 => convert(raw, |b| half::f16::from_le_bytes(b).to_f32())?,
        Dtype::BF16 => convert(raw, |b| half::bf16::from_le_bytes(b).to_f32())?,
        Dtype::F64 => convert(raw, |b| f64::from_le_bytes(b) as f32)?,
        dtype if is_integer(dtype) && is_buffer(name) => return Ok(None),
        dtype => bail!(
            "tensor {name:?} has dtype {dtype:?}, but only F32, F16, BF16 and F64 are supported; \
             convert the checkpoint to one of these"
        ),
    };
    if is_buffer(name) && !values.iter().all(|value| value.is_finite()) {
        return Ok(None);
    }
    check_finite(name, &values)?;
    Ok(Some(values))
}

/// Checks that each tensor's bytes lie within `length` bytes of data and match its shape and dtype, and that together
/// they cover the data exactly once.
fn check_ranges(tensors: &[(String, TensorInfo)], length: usize) -> Result<()> {
    let mut sorted: Vec<_> = tensors.iter().map(|(name, info)| (info.data_offsets, name, info)).collect();
    sorted.sort_by_key(|&(range, name, _)| (range, name));
    let mut covered = 0;
    for ((start, end), name, info) in sorted {
        if start != covered || end < start || end > length {
            bail!(
                "tensor {name:?}: bytes {start} to {end} do not continue at byte {covered} of {length} bytes of data"
            );
        }
        let bits = elements(&info.shape).and_then(|n| n.checked_mul(info.dtype.bitsize()));
        // The range lies within a buffer in memory, so its number of bits does not overflow.
        if bits.is_none() || bits != (end - start).checked_mul(8) {
            bail!(
                "tensor {name:?}: shape {:?} of dtype {:?} does not match its {} bytes",
                info.shape,
                info.dtype,
                end - start
            );
        }
        covered = end;
    }
    if covered != length {
        bail!("the tensors cover {covered} of {length} bytes of data");
    }
    Ok(())
}

fn convert<const N: usize>(raw: &[u8], value: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>> {
    let chunks = raw.as_chunks::<N>().0;
    let mut values = memory::with_capacity(chunks.len())?;
    values.extend(chunks.iter().map(|&bytes| value(bytes)));
    Ok(values)
}

fn is_integer(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype, BOOL | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}
