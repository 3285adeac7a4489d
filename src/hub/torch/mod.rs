//! Tensors of `pytorch_model.bin`, `.pt` and `.pth` files, without PyTorch and without running anything that they hold.
//!
//! Two forms are read. Since PyTorch 1.6 it is a zip archive: `data.pkl` describes the tensors, `data/KEY` are the
//! numbers of storages. Before, it was a row of pickles: a magic number, a version, facts about the machine, the tensors,
//! the keys of the storages; and then the storages in that order, each a count of 64 bits and its numbers.

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

/// The first pickle of the old form.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const OLD_VERSION: i64 = 1001;

/// Under which keys training scripts keep the weights beside what else they save, the first one first: as timm does, which takes
/// averaged weights where there are any. `module` is DeepSpeed's.
const WRAPPERS: [&str; 6] = ["state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "module"];
/// How many of them are of averaged weights.
const AVERAGED: usize = 2;

/// Reads every tensor of a file of `torch.save`, in the order of its dictionary.
///
/// The dictionary may lie under `state_dict`, `model`, `model_state_dict` or `module` of another one; averaged weights, under
/// `state_dict_ema` or `model_ema`, come first. Views and tied tensors become
/// tensors of their own. Types convert as in [`tensors::read`], and the same buffers are skipped.
///
/// # Errors
/// When the file is no such file or is damaged, asks for any function beside those that make tensors, holds other
/// things than tensors, or a value that is not finite. The message names the file and the tensor.
pub fn read(path: &Path) -> Result<Vec<NamedTensor>> {
    Ok(read_noting(path)?.tensors)
}

/// Whether a file begins as one of `torch.save` does.
pub(super) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(zip::MAGIC) || bytes.starts_with(OLD_MAGIC)
}

/// What a file holds.
pub(super) struct Content {
    pub tensors: Vec<NamedTensor>,
    /// The keys of two sets of weights: the one that was read, and the other.
    pub of_two: Option<[&'static str; 2]>,
}

/// As [`read`], and says which of two sets of weights it is.
pub(super) fn read_noting(path: &Path) -> Result<Content> {
    let bytes = files::read(path, u64::MAX)?;
    parse(&bytes).at(path.display())
}

fn parse(bytes: &[u8]) -> Result<Content> {
    if bytes.starts_with(zip::MAGIC) {
        archive(bytes)
    } else if bytes.starts_with(OLD_MAGIC) {
        old(bytes)
    } else if bytes.trim_ascii_start().starts_with(b"<") {
        bail!("this is a web page and not the weights; download the file itself")
    } else {
        bail!("neither a zip archive nor a row of pickles, as torch.save writes them; save the weights again")
    }
}

fn archive(bytes: &[u8]) -> Result<Content> {
    const PICKLE: &str = "data.pkl";
    let zip = Zip::open(bytes)?;
    let mut folders = zip.names().filter_map(|n| n.strip_suffix(PICKLE)).filter(|n| n.is_empty() || n.ends_with('/'));
    let (Some(folder), None) = (folders.next(), folders.next()) else {
        bail!("a zip archive without one {PICKLE}, so not one of torch.save; name the file with the weights");
    };
    if zip.contains(&format!("{folder}constants.pkl")) {
        bail!("a TorchScript program; save its weights alone: torch.save(model.state_dict(), path)");
    }
    let order = format!("{folder}byteorder");
    if zip.contains(&order) && *zip.read(&order)? != *b"little" {
        bail!("saved on a machine with another order of bytes; save it again on one with little-endian numbers");
    }
    let description = zip.read(&format!("{folder}{PICKLE}"))?;
    let mut heap = Heap::default();
    let (root, _) = pickle::run(&description, &mut heap).at(PICKLE)?;
    collect(&heap, root, zip.size(), |i| zip.read(&format!("{folder}data/{}", heap.storages[i].key)))
}

fn old(bytes: &[u8]) -> Result<Content> {
    let mut heap = Heap::default();
    let mut rest = &bytes[OLD_MAGIC.len()..];
    let version = pickled(&mut rest, &mut heap, "version")?;
    if !matches!(version, Value::Int(OLD_VERSION)) {
        bail!("an unknown version of the old form of torch.save; save it again with a newer PyTorch");
    }
    let machine = pickled(&mut rest, &mut heap, "facts about the machine")?;
    let is_big = |&(key, value): &_| matches!((key, value), (Value::Text("little_endian"), Value::Bool(false)));
    if heap.dict(machine).is_some_and(|facts| facts.iter().any(is_big)) {
        bail!("saved on a machine with another order of bytes; save it again on one with little-endian numbers");
    }
    let root = pickled(&mut rest, &mut heap, "tensors")?;
    let keys = pickled(&mut rest, &mut heap, "keys of storages")?;
    let mut found = vec![None; heap.storages.len()];
    for &key in heap.list(keys).unwrap_or_default() {
        let Value::Text(key) = key else { bail!("a key of a storage is no text; {REMEDY}") };
        let Some(i) = heap.storage(key) else { bail!("storage {key:?} belongs to no tensor; {REMEDY}") };
        let storage = &heap.storages[i];
        let (claimed, begin) = rest.split_first_chunk::<8>().map_or((None, rest), |(n, rest)| (Some(*n), rest));
        let length = storage.count.checked_mul(bytes_of(storage.dtype));
        match length.and_then(|length| begin.split_at_checked(length)) {
            Some((content, behind)) if claimed == Some((storage.count as u64).to_le_bytes()) => {
                found[i] = Some(content);
                rest = behind;
            }
            _ => bail!("storage {key:?} should have {} elements, which are not there; {REMEDY}", storage.count),
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

/// The next pickle of the old form.
fn pickled<'a>(rest: &mut &'a [u8], heap: &mut Heap<'a>, what: &str) -> Result<Value<'a>> {
    let (value, length) = pickle::run(rest, heap).at(what)?;
    *rest = &rest[length..];
    Ok(value)
}

fn bytes_of(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// The tensors of the dictionary `root`; `content` has the bytes of a storage by its number. `size`: bytes that hold them.
fn collect<'a>(
    heap: &Heap<'a>,
    root: Value<'a>,
    size: usize,
    content: impl Fn(usize) -> Result<Cow<'a, [u8]>>,
) -> Result<Content> {
    let (named, of_two) = state_dict(heap, root)?;
    // Views may show the same numbers again and again; tied weights do so two or three times.
    let elements = named.iter().try_fold(0usize, |sum, &(_, i)| {
        let of_one = tensors::elements(&heap.views[i].shape)?;
        sum.checked_add(of_one)
    });
    if elements.is_none_or(|elements| elements > size) {
        bail!("its tensors have more elements together than its {size} bytes could hold; {REMEDY}");
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

/// Names and views of tensors, and the keys of [`Content::of_two`].
type Named<'a> = (Vec<(&'a str, usize)>, Option<[&'static str; 2]>);

/// Names and views of the dictionary of tensors, which may lie in others.
fn state_dict<'a>(heap: &Heap<'a>, root: Value<'a>) -> Result<Named<'a>> {
    let (mut at, mut of_two) = (root, None);
    // A dictionary may hold itself.
    for _ in 0..WRAPPERS.len() {
        let Some(entries) = heap.dict(at) else {
            bail!("no dictionary of tensors; save the weights alone: torch.save(model.state_dict(), path)");
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
            (Value::Text(name), Value::Tensor(_)) => bail!("tensor {name:?} is there twice; {REMEDY}"),
            (Value::Text(name), _) => {
                bail!("{name:?} is no tensor; save the weights alone: torch.save(model.state_dict(), path)")
            }
            _ => bail!(
                "a key of the dictionary of tensors is no text; save the weights alone: torch.save(model.state_dict(), path)"
            ),
        }
    }
    Ok((named, of_two))
}

/// The elements of a view in row-major order, out of the bytes of its storage.
fn gather<'b>(view: &View, storage: &Storage<'_>, bytes: &'b [u8]) -> Result<Cow<'b, [u8]>> {
    let View { offset, shape, strides, .. } = view;
    let (count, width) = (storage.count, bytes_of(storage.dtype));
    if Some(bytes.len()) != count.checked_mul(width) {
        bail!("its storage should have {count} elements of {width} bytes and has {} bytes; {REMEDY}", bytes.len());
    }
    let elements: usize = shape.iter().product();
    if elements == 0 {
        return Ok(Cow::Borrowed(&[]));
    }
    let axes = || shape.iter().zip(strides);
    let last = axes().try_fold(*offset, |sum, (&n, &stride)| sum.checked_add((n - 1).checked_mul(stride)?));
    if last.is_none_or(|last| last >= count) {
        bail!("shape {shape:?} with strides {strides:?} from element {offset} leaves its storage of {count}; {REMEDY}");
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
