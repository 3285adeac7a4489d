//! Reads the tensors of a model folder in any published format.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::checkpoint::WEIGHTS;
use super::names::may_be_shared;
use super::tensors::{self, NamedTensor};
use super::torch;
use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;

const INDEX: &str = "model.safetensors.index.json";
const TORCH: &str = "pytorch_model.bin";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
/// Largest size of an index file in bytes. It has an entry for each tensor; the largest published models have 100,000.
const INDEX_BYTES: u64 = 64 << 20;

/// The tensors of a model folder.
#[derive(Debug)]
pub struct Weights {
    /// The file that contains the tensors, or the index of the files that do.
    pub path: PathBuf,
    /// The tensors, with wrappers removed from their names.
    pub tensors: Vec<NamedTensor>,
    /// Name parts of model wrappers that were removed from the tensor names, for example `module.`.
    pub wrappers: Vec<&'static str>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Name parts that `torch.compile`, FSDP and activation checkpointing insert wherever they wrap a module.
const WITHIN: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];
/// Prefix that `DataParallel` and `DistributedDataParallel` add to all names.
const BEFORE: &str = "module.";
/// Attributes that hold the model in training programs such as those of Lightning. Removed only if all names begin with
/// one.
const MEMBERS: [&str; 3] = ["_forward_module.", "model.", "net."];
/// Number of bytes that identify the format of a file.
const MAGIC_BYTES: u64 = 64;
/// Largest number of nested wrappers.
const MAX_NESTING: usize = 4;
/// Prefixes of files next to the weights that are not weights: states of optimizers, schedulers and random number
/// generators, options, adapters.
const NOT_WEIGHTS: [&str; 9] = [
    "training_args",
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "adapter_model",
    "onnx_model",
    "trainer_state",
];
/// Weight files of other frameworks, and the option of transformers 4 that reads them.
const FOREIGN: [(&str, &str); 2] = [("tf_model.h5", "from_tf=True"), ("flax_model.msgpack", "from_flax=True")];
/// File names used by timm's training scripts, in order of preference.
const TIMM: [&str; 3] = ["model_best.pth.tar", "last.pth.tar", "checkpoint.pth.tar"];

/// Removes the parts of wrappers from the names. Returns which ones it found.
fn unwrap(tensors: &mut [NamedTensor]) -> Vec<&'static str> {
    let mut found = Vec::new();
    // Wrappers may be nested: one around the training program, another around its model.
    for _ in 0..MAX_NESTING {
        for tensor in tensors.iter_mut() {
            for wrapper in WITHIN {
                // Only match whole name parts.
                if tensor.name.split_inclusive('.').any(|part| part == wrapper) {
                    tensor.name = tensor.name.split_inclusive('.').filter(|part| *part != wrapper).collect();
                    found.push(wrapper);
                }
            }
            let rest = tensor.name.trim_start_matches(BEFORE).len();
            if rest < tensor.name.len() {
                tensor.name.drain(..tensor.name.len() - rest);
                found.push(BEFORE);
            }
        }
        let member = |member: &&str| tensors.iter().all(|tensor| tensor.name.starts_with(member));
        let Some(member) = MEMBERS.into_iter().find(member).filter(|_| !tensors.is_empty()) else { break };
        tensors.iter_mut().for_each(|tensor| drop(tensor.name.drain(..member.len())));
        found.push(member);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Reads the weights of a folder, or a single file.
///
/// In a folder, it reads the first of these that exists: `model.safetensors`; `model.safetensors.index.json` with its
/// files; `pytorch_model.bin`; `pytorch_model.bin.index.json` with its files; timm's `model_best.pth.tar`,
/// `last.pth.tar` or `checkpoint.pth.tar`; the only `.safetensors`, `.bin`, `.pt`, `.pth`, `.ckpt` or `.pth.tar` file
/// that is not known to be something else. Name parts that `torch.compile`, parallel wrappers and Lightning add to
/// tensor names are removed.
///
/// # Errors
/// There are no weights, or several files that may be the weights; [`tensors::read`] or [`torch::read`] rejects a file;
/// an index names a file outside of the folder, or does not match the files. The message names the file and the tensor.
pub fn read(path: &Path) -> Result<Weights> {
    let path = if path.is_dir() { find(path)? } else { path.to_owned() };
    let mut notes = Vec::new();
    let mut tensors = match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if name.ends_with(".index.json") => sharded(&path, &mut notes)?,
        _ => one(&path, &mut notes)?,
    };
    let wrappers = unwrap(&mut tensors);
    Ok(Weights { path, tensors, wrappers, notes })
}

/// Finds the weight file or index of a folder.
fn find(dir: &Path) -> Result<PathBuf> {
    for name in [WEIGHTS, INDEX, TORCH, TORCH_INDEX].into_iter().chain(TIMM) {
        let path = dir.join(name);
        // A dangling link is an error, not a reason to read another file.
        if std::fs::symlink_metadata(&path).is_ok() {
            return Ok(path);
        }
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_other = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        NOT_WEIGHTS.iter().any(|other| name.starts_with(other))
    };
    let mut found: Vec<PathBuf> =
        paths.filter(|path| (is_torch(path) || has_extension(path, &["safetensors"])) && !is_other(path)).collect();
    found.sort_unstable();
    let foreign = FOREIGN.iter().find(|(name, _)| dir.join(name).exists());
    match (found.as_slice(), foreign) {
        ([path], _) => Ok(path.clone()),
        ([], Some((name, how))) => bail!(
            "{}: {name} does not contain PyTorch weights, and there is no {WEIGHTS} or {TORCH}; load it with \
             transformers 4 (from_pretrained with {how}) and save it with save_pretrained",
            dir.display()
        ),
        // Name the file that this program writes.
        ([], None) => bail!(
            "cannot read {}: No such file or directory; there is no {TORCH} or other weight file either",
            dir.join(WEIGHTS).display()
        ),
        ([first, second, ..], _) => bail!(
            "{}: no {WEIGHTS} or {INDEX}, and both {} and {} may be the weights; rename one of them to {WEIGHTS} or \
             {TORCH}, or add the index of the shards",
            dir.display(),
            first.display(),
            second.display()
        ),
    }
}

/// Whether a path has one of these extensions.
fn has_extension(path: &Path, any: &[&str]) -> bool {
    path.extension().is_some_and(|found| any.iter().any(|extension| found == *extension))
}

/// Whether a path has an extension of `torch.save` files.
fn is_torch(path: &Path) -> bool {
    let within = path.file_stem().is_some_and(|stem| has_extension(Path::new(stem), &["pt", "pth"]));
    has_extension(path, &["bin", "pt", "pth", "ckpt"]) || has_extension(path, &["tar"]) && within
}

/// Reads the tensors of one file.
fn one(path: &Path, notes: &mut Vec<String>) -> Result<Vec<NamedTensor>> {
    // Files may be renamed, so the content decides on the format. The extension is used only if the content is
    // inconclusive.
    let mut begin = Vec::new();
    // Opening a pipe could block forever. Read errors are reported by the reader below.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        let _ = file.take(MAGIC_BYTES).read_to_end(&mut begin);
    }
    let header = begin.get(8..).is_some_and(|header| header.starts_with(b"{"));
    if header || !is_torch(path) && !torch::begins(&begin) {
        return tensors::read(path);
    }
    let torch::Content { tensors, of_two } = torch::read_with_source(path)?;
    if let Some([read, other]) = of_two {
        notes.push(format!(
            "{}: using the averaged weights under {read}, as timm does, not those under {other}",
            path.display()
        ));
    }
    Ok(tensors)
}

/// An index of sharded weights.
#[derive(Deserialize)]
struct Index {
    weight_map: Map,
}

/// File names by tensor. Unlike in a plain map, a tensor that appears twice is an error.
struct Map(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = Map;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with the file of each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Map, A::Error> {
                let mut files = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if files.contains_key(&tensor) {
                        return Err(A::Error::custom(format!("tensor {tensor:?} appears twice")));
                    }
                    files.insert(tensor, file);
                }
                Ok(Map(files))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}

/// Reads all files of an index.
///
/// A tied tensor may be in the index but not in the files, or the other way round: writers drop one of two tied
/// tensors, some of them after writing the index.
fn sharded(index: &Path, notes: &mut Vec<String>) -> Result<Vec<NamedTensor>> {
    let bytes = files::read(index, INDEX_BYTES)?;
    let Index { weight_map: Map(files_by_tensor) } = serde_json::from_slice(files::strip_bom(&bytes))
        .map_err(|e| Error::new(format!("not an index of weight files: {e}; download it again")))
        .at(index.display())?;
    let folder = index.parent().unwrap_or(Path::new(""));
    let mut tensors_by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in &files_by_tensor {
        tensors_by_file.entry(file).or_default().push(tensor);
    }
    if tensors_by_file.is_empty() {
        bail!("{}: weight_map names no tensor; download it again", index.display());
    }
    let mut all = Vec::with_capacity(files_by_tensor.len());
    for (file, named) in tensors_by_file {
        // Reject the path separators of all systems: the folder may come from another one.
        if file.is_empty() || file.contains(['/', '\\', ':', '\0']) || file == "." || file == ".." {
            bail!(
                "{}: weight_map names {file:?} for tensor {:?}, but only files in the same folder are read; correct it",
                index.display(),
                named[0]
            );
        }
        let path = folder.join(file);
        let mut found: HashMap<String, NamedTensor> = HashMap::new();
        for tensor in one(&path, notes).at(index.display())? {
            found.insert(tensor.name.clone(), tensor);
        }
        for tensor in named {
            match found.remove(tensor) {
                Some(tensor) => all.push(tensor),
                // The reader skipped it, or the file has only the other one of two tied tensors.
                None if tensors::is_buffer(tensor) || may_be_shared(tensor) => {}
                None => bail!(
                    "{}: tensor {tensor:?} is not in {file}, contrary to weight_map; download both again",
                    index.display()
                ),
            }
        }
        let (shared, other): (Vec<_>, Vec<_>) = found.into_values().partition(|tensor| may_be_shared(&tensor.name));
        all.extend(shared);
        if let Some(other) = other.into_iter().map(|tensor| tensor.name).min() {
            bail!("{}: tensor {other:?} of {file} is not in weight_map; download both again", index.display());
        }
    }
    Ok(all)
}
