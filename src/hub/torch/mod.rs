//! Reads the tensors of `pytorch_model.bin`, `.pt` and `.pth` files, without PyTorch and without executing anything in
//! them.
//!
//! Two formats are supported. Since PyTorch 1.6, a file is a zip archive: `data.pkl` describes the tensors, and
//! `data/KEY` holds the elements of a storage. Before that, it was a sequence of pickles (a magic number, a version,
//! facts about the machine, the tensors, the keys of the storages), followed by the storages in the order of their
//! keys, each with a 64-bit element count and its elements.

mod known;
mod pickle;
mod zip;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use safetensors::Dtype;

use super::tensors::{self, NamedTensor};
use crate::bail;
use crate::error::{At, Result};
use crate::{files, memory};
use pickle::{Heap, Storage, Value, View};
use zip::Zip;

const REMEDY: &str = "the file is truncated or damaged; download or save it again";

/// The first pickle of the old format.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const OLD_VERSION: i64 = 1001;

/// Keys under which training scripts save the weights next to other data, in order of preference. Averaged weights come
/// first if there are any, as in timm. `module` is the key of DeepSpeed.
const WRAPPERS: [&str; 6] = ["state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "module"];
/// Number of keys in [`WRAPPERS`] that hold averaged weights.
const AVERAGED: usize = 2;

/// Reads every tensor of a `torch.save` file, in the order of its dictionary.
///
/// The dictionary may be nested in another one under `state_dict`, `model`, `model_state_dict` or `module`. Averaged
/// weights, under `state_dict_ema` or `model_ema`, are preferred. Views and tied tensors become separate tensors. Types
/// are converted as in [`tensors::read`], and the same buffers are skipped.
///
/// # Errors
/// The file was not written by `torch.save` or is damaged, refers to a function that does not build tensors or plain
/// data, or contains something other than tensors or a value that is not finite. The message names the file and the
/// tensor.
pub fn read(path: &Path) -> Result<Vec<NamedTensor>> {
    Ok(read_with_source(path)?.tensors)
}

/// Whether a file begins like one written by `torch.save`.
pub(super) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(zip::MAGIC) || bytes.starts_with(OLD_MAGIC)
}

/// The content of a file.
pub(super) struct Content {
    pub tensors: Vec<NamedTensor>,
    /// If the file has averaged and other weights: the key that was read, and the other key.
    pub of_two: Option<[&'static str; 2]>,
}

/// Reads a file like [`read`], and also returns which of two sets of weights was read.
pub(super) fn read_with_source(path: &Path) -> Result<Content> {
    let bytes = files::read(path, u64::MAX)?;
    parse(&bytes).at(path.display())
}

fn parse(bytes: &[u8]) -> Result<Content> {
    if bytes.starts_with(zip::MAGIC) {
        archive(bytes)
    } else if bytes.starts_with(OLD_MAGIC) {
        old(bytes)
    } else if bytes.trim_ascii_start().starts_with(b"<") {
        bail!("this is a web page, not weights; download the file itself")
    } else {
        bail!("neither a zip archive nor a sequence of pickles written by torch.save; save the weights again")
    }
}

/// Reads the zip format.
fn archive(bytes: &[u8]) -> Result<Content> {
    const PICKLE: &str = "data.pkl";
    let zip = Zip::open(bytes)?;
    let mut folders = zip.names().filter_map(|n| n.strip_suffix(PICKLE)).filter(|n| n.is_empty() || n.ends_with('/'));
    let (Some(folder), None) = (folders.next(), folders.next()) else {
        bail!("a zip archive without exactly one {PICKLE}, so not from torch.save; give the file with the weights");
    };
    if zip.contains(&format!("{folder}constants.pkl")) {
        bail!("a TorchScript program; save only its weights: torch.save(model.state_dict(), path)");
    }
    let order = format!("{folder}byteorder");
    if zip.contains(&order) && *zip.read(&order)? != *b"little" {
        bail!("saved with another byte order; save it again on a little-endian machine");
    }
    let description = zip.read(&format!("{folder}{PICKLE}"))?;
    let mut heap = Heap::default();
    let (root, _) = pickle::run(&description, &mut heap).at(PICKLE)?;
    collect(&heap, root, zip.size(), |i| zip.read(&format!("{folder}data/{}", heap.storages[i].key)))
}

/// Reads the old format.
fn old(bytes: &[u8]) -> Result<Content> {
    let mut heap = Heap::default();
    let mut rest = &bytes[OLD_MAGIC.len()..];
    let version = pickled(&mut rest, &mut heap, "version")?;
    if !matches!(version, Value::Int(OLD_VERSION)) {
        bail!("an unknown version of the old torch.save format; save the file again with a newer PyTorch");
    }
    let machine = pickled(&mut rest, &mut heap, "facts about the machine")?;
    let is_big = |&(key, value): &_| matches!((key, value), (Value::Text("little_endian"), Value::Bool(false)));
    if heap.dict(machine).is_some_and(|facts| facts.iter().any(is_big)) {
        bail!("saved with another byte order; save it again on a little-endian machine");
    }
    let root = pickled(&mut rest, &mut heap, "tensors")?;
    let keys = pickled(&mut rest, &mut heap, "keys of storages")?;
    let mut found = vec![None; heap.storages.len()];
    for &key in heap.list(keys).unwrap_or_default() {
        let Value::Text(key) = key else { bail!("the key of a storage is not a string; {REMEDY}") };
        let Some(i) = heap.storage(key) else { bail!("storage {key:?} belongs to no tensor; {REMEDY}") };
        let storage = &heap.storages[i];
        let (claimed, begin) = rest.split_first_chunk::<8>().map_or((None, rest), |(n, rest)| (Some(*n), rest));
        let length = storage.count.checked_mul(bytes_of(storage.dtype));
        match length.and_then(|length| begin.split_at_checked(length)) {
            Some((content, behind)) if claimed == Some((storage.count as u64).to_le_bytes()) => {
                found[i] = Some(content);
                rest = behind;
            }
            _ => bail!(
                "storage {key:?} should have {} elements, but the file does not contain them; {REMEDY}",
                storage.count
            ),
        }
    }
    if !rest.is_empty() {
        bail!("{} bytes follow the last storage; {REMEDY}", rest.len());
    }
    collect(&heap, root, bytes.len(), |i| match found[i] {
        Some(content) => Ok(Cow::Borrowed(content)),
        None => bail!("storage {:?} is not in the file; {REMEDY}", heap.storages[i].key),
    })
}

/// Reads the next pickle of the old format.
fn pickled<'a>(rest: &mut &'a [u8], heap: &mut Heap<'a>, what: &str) -> Result<Value<'a>> {
    let (value, length) = pickle::run(rest, heap).at(what)?;
    *rest = &rest[length..];
    Ok(value)
}

fn bytes_of(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// Builds the tensors of the dictionary `root`. `content` returns the bytes of a storage by its index; `size` is the
/// uncompressed size of the file in bytes.
fn collect<'a>(
    heap: &Heap<'a>,
    root: Value<'a>,
    size: usize,
    content: impl Fn(usize) -> Result<Cow<'a, [u8]>>,
) -> Result<Content> {
    let (named, of_two) = state_dict(heap, root)?;
    // Views may repeat the same elements many times. Tied weights repeat them only two or three times, far below this
    // limit.
    let elements = named.iter().try_fold(0usize, |sum, &(_, i)| {
        let of_one = tensors::elements(&heap.views[i].shape)?;
        sum.checked_add(of_one)
    });
    if elements.is_none_or(|elements| elements > size) {
        bail!("its tensors have more elements in total than its {size} bytes can hold; {REMEDY}");
    }
    let mut loaded: Vec<Option<Cow<'a, [u8]>>> = vec![None; heap.storages.len()];
    let mut all = Vec::with_capacity(named.len());
    for (name, i) in named {
        let view = &heap.views[i];
        let storage = &heap.storages[view.storage];
        let place = || format!("tensor {name:?}");
        let bytes = match &mut loaded[view.storage] {
            Some(bytes) => bytes,
            empty => empty.insert(content(view.storage).at(place())?),
        };
        let raw = gather(view, storage, bytes).at(place())?;
        if let Some(values) = tensors::values(name, storage.dtype, &raw)? {
            all.push(NamedTensor { name: name.to_owned(), shape: view.shape.clone(), values });
        }
    }
    Ok(Content { tensors: all, of_two })
}

/// Names and view indices of tensors, and the keys of [`Content::of_two`].
type Named<'a> = (Vec<(&'a str, usize)>, Option<[&'static str; 2]>);

/// Finds the dictionary of tensors, which may be nested in others, and returns its names and views.
fn state_dict<'a>(heap: &Heap<'a>, root: Value<'a>) -> Result<Named<'a>> {
    let (mut at, mut of_two) = (root, None);
    // The limit guards against a dictionary that contains itself.
    for _ in 0..WRAPPERS.len() {
        let Some(entries) = heap.dict(at) else {
            bail!("no dictionary of tensors; save only the weights: torch.save(model.state_dict(), path)");
        };
        let within = |wrapper: &str| {
            let found = entries.iter().find(|(key, _)| matches!(key, Value::Text(text) if *text == wrapper));
            found.map(|&(_, value)| value).filter(|&value| heap.dict(value).is_some_and(|within| !within.is_empty()))
        };
        let mut found = WRAPPERS.iter().enumerate().filter_map(|(i, key)| Some((i, *key, within(key)?)));
        let Some((i, key, value)) = found.next() else { break };
        let other = found.next().filter(|_| i < AVERAGED);
        of_two = other.map(|(_, other, _)| [key, other]).or(of_two);
        at = value;
    }
    let mut named = Vec::new();
    let mut seen = HashSet::new();
    for &(key, value) in heap.dict(at).unwrap_or_default() {
        match (key, value) {
            (Value::Text(name), Value::Tensor(i)) if seen.insert(name) => named.push((name, i)),
            (Value::Text(name), Value::Tensor(_)) => bail!("tensor {name:?} appears twice; {REMEDY}"),
            (Value::Text(name), _) => {
                bail!("{name:?} is not a tensor; save only the weights: torch.save(model.state_dict(), path)")
            }
            _ => bail!(
                "a key of the dictionary of tensors is not a string; save only the weights: \
                 torch.save(model.state_dict(), path)"
            ),
        }
    }
    Ok((named, of_two))
}

/// Returns the bytes of the elements of a view, in row-major order, from the bytes of its storage.
fn gather<'b>(view: &View, storage: &Storage<'_>, bytes: &'b [u8]) -> Result<Cow<'b, [u8]>> {
    let View { offset, shape, strides, .. } = view;
    let (count, width) = (storage.count, bytes_of(storage.dtype));
    if Some(bytes.len()) != count.checked_mul(width) {
        bail!("its storage should have {count} elements of {width} bytes, but has {} bytes; {REMEDY}", bytes.len());
    }
    let elements: usize = shape.iter().product();
    if elements == 0 {
        return Ok(Cow::Borrowed(&[]));
    }
    let axes = || shape.iter().zip(strides);
    let last = axes().try_fold(*offset, |sum, (&n, &stride)| sum.checked_add((n - 1).checked_mul(stride)?));
    if last.is_none_or(|last| last >= count) {
        bail!(
            "shape {shape:?} with strides {strides:?} from element {offset} exceeds its storage of {count}; {REMEDY}"
        );
    }
    let mut dense = 1;
    let contiguous = axes().rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == dense;
        dense *= n;
        fits
    });
    if contiguous {
        return Ok(Cow::Borrowed(&bytes[offset * width..(offset + elements) * width]));
    }
    let mut all = memory::with_capacity(elements * width)?;
    let mut index = vec![0; shape.len()];
    let mut at = *offset;
    for _ in 0..elements {
        all.extend_from_slice(&bytes[at * width..(at + 1) * width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    Ok(Cow::Owned(all))
}
