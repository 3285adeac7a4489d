//! The tensors of a model folder, in whichever form its maker saved them.

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
/// An entry for each tensor; the largest published models have a hundred thousand.
const INDEX_BYTES: u64 = 64 << 20;

/// Tensors, and the file that holds them or says which files do.
#[derive(Debug)]
pub struct Weights {
    pub path: PathBuf,
    pub tensors: Vec<NamedTensor>,
    /// What wrappers of the model put into the tensors' names, and was taken out of them.
    pub wrappers: Vec<&'static str>,
    /// What else a person should know, each in a sentence.
    pub notes: Vec<String>,
}

/// What `torch.compile`, FSDP and activation checkpoints put into names wherever they wrap a module.
const WITHIN: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];
/// What `DataParallel` and `DistributedDataParallel` put before all of them.
const BEFORE: &str = "module.";
/// What a program calls the model that it trains, as those of Lightning do: counts only where all names have it.
const MEMBERS: [&str; 3] = ["_forward_module.", "model.", "net."];
/// Bytes that tell what a file is.
const MOST_MAGIC: u64 = 64;
/// How deep such names may lie in each other.
const MOST_MEMBERS: usize = 4;
/// What lies beside weights without being any: states of optimizers, schedules and random numbers, options, adapters.
const OTHERS: [&str; 9] = [
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
/// Weights of other libraries, and how transformers 4 reads them.
const FOREIGN: [(&str, &str); 2] = [("tf_model.h5", "from_tf=True"), ("flax_model.msgpack", "from_flax=True")];
/// What training scripts of timm call their files, the one to take first.
const TIMM: [&str; 3] = ["model_best.pth.tar", "last.pth.tar", "checkpoint.pth.tar"];

/// Takes wrappers out of the names; returns which.
fn unwrap(tensors: &mut [NamedTensor]) -> Vec<&'static str> {
    let mut found = Vec::new();
    // A wrapper may be around a whole program, and another one around the model in it.
    for _ in 0..MOST_MEMBERS {
        for tensor in tensors.iter_mut() {
            for wrapper in WITHIN {
                // Whole parts of names only.
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

/// Reads the weights of a folder, or of one file.
///
/// Of a folder, the first of these that is there: `model.safetensors`, `model.safetensors.index.json` with the files it
/// names, `pytorch_model.bin`, `pytorch_model.bin.index.json` with its files, timm's `model_best.pth.tar`, `last.pth.tar` or
/// `checkpoint.pth.tar`, the one `.safetensors`, `.bin`, `.pt`, `.pth`, `.ckpt` or `.pth.tar` file that is not known to be something
/// else. What `torch.compile`, parallel wrappers and Lightning put into the tensors' names is taken out.
///
/// # Errors
/// No weights, or several files that may be them; what [`tensors::read`] and [`torch::read`] refuse; an index that names a
/// file outside of the folder, or does not agree with the files. The message names the file and the tensor.
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

fn find(dir: &Path) -> Result<PathBuf> {
    for name in [WEIGHTS, INDEX, TORCH, TORCH_INDEX].into_iter().chain(TIMM) {
        let path = dir.join(name);
        // A link that leads nowhere is an error, not a reason to take another file.
        if std::fs::symlink_metadata(&path).is_ok() {
            return Ok(path);
        }
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_other = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        OTHERS.iter().any(|other| name.starts_with(other))
    };
    let mut found: Vec<PathBuf> =
        paths.filter(|path| (is_torch(path) || has_extension(path, &["safetensors"])) && !is_other(path)).collect();
    found.sort_unstable();
    let foreign = FOREIGN.iter().find(|(name, _)| dir.join(name).exists());
    match (found.as_slice(), foreign) {
        ([path], _) => Ok(path.clone()),
        ([], Some((name, how))) => bail!(
            "{}: {name} is not of PyTorch, and there is no {WEIGHTS} or {TORCH}; load it with transformers 4 \
             (from_pretrained, {how}) and save it with save_pretrained",
            dir.display()
        ),
        // The name that a model folder of this program has.
        ([], None) => bail!(
            "cannot read {}: No such file or directory; nor is there {TORCH} or another file of weights",
            dir.join(WEIGHTS).display()
        ),
        ([first, second, ..], _) => bail!(
            "{}: no {WEIGHTS} or {INDEX}, and both {} and {} may be the weights; rename the one to {WEIGHTS} or {TORCH}, or bring the \
             index of its parts",
            dir.display(),
            first.display(),
            second.display()
        ),
    }
}

fn has_extension(path: &Path, any: &[&str]) -> bool {
    path.extension().is_some_and(|found| any.iter().any(|extension| found == *extension))
}

fn is_torch(path: &Path) -> bool {
    let within = path.file_stem().is_some_and(|stem| has_extension(Path::new(stem), &["pt", "pth"]));
    has_extension(path, &["bin", "pt", "pth", "ckpt"]) || has_extension(path, &["tar"]) && within
}

fn one(path: &Path, notes: &mut Vec<String>) -> Result<Vec<NamedTensor>> {
    // People rename files: the content decides, and the name only where the content cannot.
    let mut begin = Vec::new();
    // Opening a pipe might never end. What cannot be read is told below.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        let _ = file.take(MOST_MAGIC).read_to_end(&mut begin);
    }
    let header = begin.get(8..).is_some_and(|header| header.starts_with(b"{"));
    if header || !is_torch(path) && !torch::begins(&begin) {
        return tensors::read(path);
    }
    let torch::Content { tensors, of_two } = torch::read_noting(path)?;
    if let Some([read, other]) = of_two {
        notes.push(format!(
            "{}: the averaged weights under {read} were read, as timm does, and not those under {other}",
            path.display()
        ));
    }
    Ok(tensors)
}

/// Where each tensor is, as an index says it.
#[derive(Deserialize)]
struct Index {
    weight_map: Map,
}

/// File names by tensor. A tensor that is named twice is an error here, where a map would keep the second.
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

/// A tensor that a model shares with another one may be named without being there, or be there without being named: writers keep one of
/// both, and some write the index before.
fn sharded(index: &Path, notes: &mut Vec<String>) -> Result<Vec<NamedTensor>> {
    let bytes = files::read(index, INDEX_BYTES)?;
    let Index { weight_map: Map(files_by_tensor) } = serde_json::from_slice(files::without_mark(&bytes))
        .map_err(|e| Error::new(format!("not an index of weights: {e}; download it again")))
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
        // Separators of every system: the folder may have been made on another one.
        if file.is_empty() || file.contains(['/', '\\', ':', '\0']) || file == "." || file == ".." {
            bail!(
                "{}: weight_map names {file:?} for tensor {:?}, and only files of the same folder are read; correct it",
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
                // It was skipped there.
                None if tensors::is_buffer(tensor) || may_be_shared(tensor) => {}
                None => bail!(
                    "{}: tensor {tensor:?} is not in {file}, where weight_map says; download both again",
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
