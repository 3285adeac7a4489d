//! The tensors of a model folder, in whichever form its maker saved them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::checkpoint::WEIGHTS;
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
}

/// What `torch.compile`, FSDP and activation checkpoints put into names wherever they wrap a module.
const WITHIN: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];
/// What `DataParallel` and `DistributedDataParallel` put before all of them.
const BEFORE: &str = "module.";
/// What training scripts of timm call their files, the one to take first.
const TIMM: [&str; 3] = ["model_best.pth.tar", "last.pth.tar", "checkpoint.pth.tar"];

/// Takes wrappers out of the names; returns which.
fn unwrap(tensors: &mut [NamedTensor]) -> Vec<&'static str> {
    let mut found = Vec::new();
    for tensor in tensors {
        let mut note = |wrapper| {
            if !found.contains(&wrapper) {
                found.push(wrapper);
            }
        };
        for wrapper in WITHIN {
            // Whole parts of names only.
            if tensor.name.split_inclusive('.').any(|part| part == wrapper) {
                tensor.name = tensor.name.split_inclusive('.').filter(|part| *part != wrapper).collect();
                note(wrapper);
            }
        }
        while let Some(rest) = tensor.name.strip_prefix(BEFORE) {
            tensor.name = rest.to_owned();
            note(BEFORE);
        }
    }
    found.sort_unstable();
    found
}

/// Reads the weights of a folder, or of one file.
///
/// Of a folder, the first of these that is there: `model.safetensors`, `model.safetensors.index.json` with the files it
/// names, `pytorch_model.bin`, `pytorch_model.bin.index.json` with its files, timm's `model_best.pth.tar`, `last.pth.tar` or
/// `checkpoint.pth.tar`, the one `.safetensors`, `.bin`, `.pt`, `.pth` or `.pth.tar` file. What `torch.compile` and parallel wrappers
/// put into the tensors' names is taken out.
///
/// # Errors
/// No weights, or several files that may be them; what [`tensors::read`] and [`torch::read`] refuse; an index that names a
/// file outside of the folder, or does not agree with the files. The message names the file and the tensor.
pub fn read(path: &Path) -> Result<Weights> {
    let path = if path.is_dir() { find(path)? } else { path.to_owned() };
    let mut tensors = match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if name.ends_with(".index.json") => sharded(&path)?,
        _ => one(&path)?,
    };
    let wrappers = unwrap(&mut tensors);
    Ok(Weights { path, tensors, wrappers })
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
    let mut found: Vec<PathBuf> =
        paths.filter(|path| is_torch(path) || has_extension(path, &["safetensors"])).collect();
    found.sort_unstable();
    match found.as_slice() {
        [path] => Ok(path.clone()),
        // The name that a model folder of this program has.
        [] => bail!(
            "cannot read {}: No such file or directory; nor is there {TORCH} or another file of weights",
            dir.join(WEIGHTS).display()
        ),
        [first, second, ..] => bail!(
            "{}: no {WEIGHTS}, and both {} and {} may be the weights; name the file",
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
    has_extension(path, &["bin", "pt", "pth"]) || has_extension(path, &["tar"]) && within
}

fn one(path: &Path) -> Result<Vec<NamedTensor>> {
    if is_torch(path) { torch::read(path) } else { tensors::read(path) }
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

fn sharded(index: &Path) -> Result<Vec<NamedTensor>> {
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
        for tensor in one(&path).at(index.display())? {
            found.insert(tensor.name.clone(), tensor);
        }
        for tensor in named {
            match found.remove(tensor) {
                Some(tensor) => all.push(tensor),
                // It was skipped there.
                None if tensors::is_buffer(tensor) => {}
                None => bail!(
                    "{}: tensor {tensor:?} is not in {file}, where weight_map says; download both again",
                    index.display()
                ),
            }
        }
        if let Some(other) = found.into_keys().min() {
            bail!("{}: tensor {other:?} of {file} is not in weight_map; download both again", index.display());
        }
    }
    Ok(all)
}
