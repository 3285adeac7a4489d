//! Maps the tensor names in files to the names in the parameter tables of the models, and back.
//!
//! The tables use the names of `GPT2LMHeadModel` and `BertForPreTraining` in `transformers`, and of `VisionTransformer`
//! in timm. Files may omit a prefix, use the names of older versions or, for vision transformers, those of
//! `transformers`, which stores queries, keys and values in separate tensors.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::checkpoint::CONFIG;
use super::tensors::{NamedTensor, is_buffer};
use crate::bail;
use crate::error::{Error, Result};

/// The naming scheme of a file. If the tensors of a vision transformer match several schemes, the last one listed here
/// is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Names {
    /// `GPT2LMHeadModel`: `transformer.h.0...`.
    Gpt2,
    /// `GPT2Model`: `h.0...`.
    Gpt2Bare,
    /// `BertForMaskedLM` and others with a head: `bert.encoder...`, `cls...`.
    Bert,
    /// `BertModel`: `encoder...`.
    BertBare,
    /// timm's `VisionTransformer`: `blocks.0...`.
    Timm,
    /// `ViTForImageClassification`: `vit.encoder...`.
    Vit,
    /// `DeiTForImageClassification`: `deit.encoder...`, `classifier...`.
    Deit,
    /// `DeiTForImageClassificationWithTeacher`: `deit.encoder...`, `cls_classifier...`, `distillation_classifier...`.
    DeitWithTeacher,
}

/// Model families. The files of a family share one table of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// GPT-2.
    Gpt2,
    /// BERT.
    Bert,
    /// ViT and DeiT.
    Vit,
}

/// The tensors of a model, selected from those of a file.
#[derive(Debug)]
pub struct Selected {
    /// The tensors under their names in the table, in table order.
    pub tensors: Vec<NamedTensor>,
    /// Names in the file of tensors of heads that the model does not have, sorted. Callers should report them.
    pub unused: Vec<String>,
    /// The naming scheme of the file.
    pub names: Names,
}

/// Prefixes of the layers in `transformers` and in timm. In the tables below, a trailing dot stands for `.weight` and
/// `.bias`. `transformers` 5 uses other names in memory but writes these to files; it reads both.
const VIT_LAYERS: [&str; 2] = ["encoder.layer.", "blocks."];
const VIT_IN_LAYER: [(&str, &str); 6] = [
    ("layernorm_before.", "norm1."),
    ("attention.output.dense.", "attn.proj."),
    ("layernorm_after.", "norm2."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("attention.attention.", "attn.qkv."),
];
/// Prefix of the layers in the in-memory names of `transformers` 5, which `torch.save(model.state_dict())` writes.
const VIT_LAYERS_5: &str = "layers.";
const VIT_IN_LAYER_5: [(&str, &str); 6] = [
    ("layernorm_before.", "norm1."),
    ("attention.o_proj.", "attn.proj."),
    ("layernorm_after.", "norm2."),
    ("mlp.fc1.", "mlp.fc1."),
    ("mlp.fc2.", "mlp.fc2."),
    ("attention.", FUSED),
];
const VIT_OUTSIDE: [(&str, &str); 5] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.distillation_token", "dist_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("layernorm.", "norm."),
];
const VIT_HEAD: [(&str, &str); 1] = [("classifier.", "head.")];
const TEACHER_HEADS: [(&str, &str); 2] = [("cls_classifier.", "head."), ("distillation_classifier.", "head_dist.")];
const FUSED: &str = "attn.qkv.";
const PARTS: [&str; 3] = ["query.", "key.", "value."];
const PARTS_5: [&str; 3] = ["q_proj.", "k_proj.", "v_proj."];

impl Family {
    /// Returns the prefixes of tensors that never have the prefix of the encoder.
    fn heads(self) -> &'static [&'static str] {
        match self {
            Family::Gpt2 => &["lm_head.", "score.", "classifier.", "multiple_choice_head."],
            Family::Bert => &["cls.", "classifier.", "qa_outputs."],
            Family::Vit => &[],
        }
    }

    /// Whether a tensor, by its name in the table, belongs to a head that models may ignore.
    fn is_optional(self, name: &str) -> bool {
        let optional: &[&str] = match self {
            // Heads of `GPT2ForSequenceClassification` and similar models, which GPT-2 as a language model does not
            // need.
            Family::Gpt2 => &["score.", "classifier.", "multiple_choice_head."],
            Family::Bert => &["cls.", "classifier.", "qa_outputs.", "bert.pooler."],
            Family::Vit => &["pooler."],
        };
        optional.iter().any(|head| name.starts_with(head))
    }

    /// Returns the tied tensors that some files store twice, as pairs of the second name and the name in the table.
    fn tied(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Family::Gpt2 => &[("lm_head.weight", "transformer.wte.weight")],
            Family::Bert => &[
                ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
                ("cls.predictions.decoder.bias", "cls.predictions.bias"),
            ],
            Family::Vit => &[],
        }
    }

    /// Whether a tensor, by its name in the table, belongs to a head, which a model may initialise anew.
    fn is_head(self, name: &str) -> bool {
        let heads: &[&str] = match self {
            Family::Gpt2 => &[],
            Family::Bert => &["cls.", "classifier.", "bert.pooler."],
            Family::Vit => &["head.", "head_dist."],
        };
        heads.iter().any(|head| name.starts_with(head))
    }

    /// Returns the naming scheme of a file with these tensor names.
    fn names<'a>(self, mut names: impl Iterator<Item = &'a str>) -> Names {
        match self {
            Family::Gpt2 if names.any(|n| n.starts_with("transformer.")) => Names::Gpt2,
            Family::Gpt2 => Names::Gpt2Bare,
            Family::Bert if names.any(|n| n.starts_with("bert.")) => Names::Bert,
            Family::Bert => Names::BertBare,
            Family::Vit => {
                let kind = |n: &str| match n {
                    _ if TEACHER_HEADS.iter().any(|(head, _)| n.starts_with(head)) => Names::DeitWithTeacher,
                    _ if n.starts_with("deit.") || n.ends_with("distillation_token") => Names::Deit,
                    _ if n.starts_with("vit.") => Names::Vit,
                    _ => Names::Timm,
                };
                names.map(kind).max().unwrap_or(Names::Timm)
            }
        }
    }
}

/// Maps the name of a tensor in a file to a name in the table and, for a part of a fused tensor, the index of the part.
fn place(family: Family, name: &str) -> (String, Option<usize>) {
    let prefixed = |prefix: &str| {
        let has = name.starts_with(prefix) || family.heads().iter().any(|head| name.starts_with(head));
        if has { name.to_owned() } else { format!("{prefix}{name}") }
    };
    match family {
        Family::Gpt2 => (prefixed("transformer."), None),
        Family::Bert => {
            let name = prefixed("bert.");
            let renamed = [(".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")];
            let found = renamed.iter().find_map(|(old, new)| Some(format!("{}{new}", name.strip_suffix(old)?)));
            (found.unwrap_or(name), None)
        }
        Family::Vit => vit_place(name),
    }
}

/// Whether a model of any family may tie this tensor to another one, so that a file may contain only one of the two.
pub(super) fn may_be_shared(name: &str) -> bool {
    let pairs = [Family::Gpt2, Family::Bert].into_iter().flat_map(Family::tied);
    pairs.flat_map(|&(second, first)| [second, first]).any(|shared| {
        let bare = ["transformer.", "bert."].iter().find_map(|prefix| shared.strip_prefix(prefix)).unwrap_or(shared);
        name.strip_suffix(bare).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

/// Does [`place`] for vision transformers.
fn vit_place(name: &str) -> (String, Option<usize>) {
    let [theirs, ours] = VIT_LAYERS;
    let bare = name.strip_prefix("vit.").or_else(|| name.strip_prefix("deit.")).unwrap_or(name);
    let forms = [(theirs, &VIT_IN_LAYER, PARTS), (VIT_LAYERS_5, &VIT_IN_LAYER_5, PARTS_5)];
    let layers = |form: &(&str, _, _)| bare.strip_prefix(form.0).and_then(|rest| rest.split_once('.'));
    let found = forms.into_iter().find_map(|form| Some((layers(&form)?, form)));
    if let Some(((layer, rest), (_, table, parts))) = found {
        let Some((fused, timm)) = table.iter().find_map(|(hf, timm)| Some((rest.strip_prefix(hf)?, timm))) else {
            return (bare.to_owned(), None);
        };
        if *timm != FUSED {
            return (format!("{ours}{layer}.{timm}{fused}"), None);
        }
        let part = parts.iter().enumerate().find_map(|(i, part)| Some((i, fused.strip_prefix(part)?)));
        return match part {
            Some((i, kind)) => (format!("{ours}{layer}.{FUSED}{kind}"), Some(i)),
            None => (bare.to_owned(), None),
        };
    }
    let outside = VIT_OUTSIDE.iter().chain(&VIT_HEAD).chain(&TEACHER_HEADS);
    let found = outside.into_iter().find_map(|(hf, timm)| Some(format!("{timm}{}", bare.strip_prefix(hf)?)));
    (found.unwrap_or_else(|| bare.to_owned()), None)
}

/// Selects the tensors of a table, given by `wanted` as names and shapes, from those of a file.
///
/// Buffers are skipped. If a file stores tied weights twice, both copies must be equal. Heads that the model does not
/// have are left out and listed in [`Selected::unused`].
///
/// # Errors
/// A tensor is missing, is unknown, appears twice, has another shape, or differs from the one it is tied to. The
/// message uses the name in the file if the file has the tensor.
pub fn select(family: Family, tensors: Vec<NamedTensor>, wanted: &[(String, Vec<usize>)]) -> Result<Selected> {
    let PartialLoad { tensors, unused, names } = find(family, tensors, wanted, |_| false)?;
    Ok(Selected { tensors: tensors.into_iter().flatten().collect(), unused, names })
}

/// The tensors of a model that is initialised from a file but may have different heads.
#[derive(Debug)]
pub struct PartialLoad {
    /// The tensors under their names in the table, in table order. `None` for a tensor of a head that the file does not
    /// have in this shape.
    pub tensors: Vec<Option<NamedTensor>>,
    /// Names in the file of tensors of heads that the model does not have, or has in another shape, sorted.
    pub unused: Vec<String>,
    /// The naming scheme of the file.
    pub names: Names,
}

/// Selects tensors like [`select`], but tensors of heads may be missing, or have another shape and are then left out.
///
/// # Errors
/// Fails like [`select`], except for tensors of heads.
pub fn begin(family: Family, tensors: Vec<NamedTensor>, wanted: &[(String, Vec<usize>)]) -> Result<PartialLoad> {
    find(family, tensors, wanted, |name| family.is_head(name))
}

/// Selects the tensors in `wanted`. Those that satisfy `may_be_new` may be missing or have another shape.
fn find(
    family: Family,
    tensors: Vec<NamedTensor>,
    wanted: &[(String, Vec<usize>)],
    may_be_new: impl Fn(&str) -> bool,
) -> Result<PartialLoad> {
    let names = family.names(tensors.iter().map(|t| t.name.as_str()));
    let mut left = canonical(family, tensors)?;
    let is_wanted: HashSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    for &(second, first) in family.tied() {
        let has_head = family != Family::Bert || is_wanted.contains("cls.predictions.bias");
        if is_wanted.contains(second) || !has_head {
            continue;
        }
        let Some(copy) = left.remove(second) else { continue };
        match left.get(first) {
            Some(tensor) if tensor.values == copy.values => {}
            Some(tensor) => {
                let remedy = match family {
                    Family::Gpt2 => {
                        format!("if the model has an untied head, set tie_word_embeddings to false in {CONFIG}")
                    }
                    _ => "an untied head is not supported; tie the weights".to_owned(),
                };
                bail!("{} differs from {}, to which the model ties it; {remedy}", copy.name, tensor.name)
            }
            // The file has only the second one of the two.
            None => drop(left.insert(first.to_owned(), copy)),
        }
    }
    let (mut found, mut missing, mut replaced) = (Vec::with_capacity(wanted.len()), Vec::new(), Vec::new());
    for (name, shape) in wanted {
        match left.remove(name) {
            None if may_be_new(name) => found.push(None),
            Some(tensor) if tensor.shape != *shape && may_be_new(name) => {
                replaced.push(tensor.name);
                found.push(None);
            }
            None => missing.push(name.clone()),
            Some(tensor) if tensor.shape != *shape => bail!(
                "{} has shape {:?}, but {CONFIG} requires {shape:?}; does it belong to these weights?",
                tensor.name,
                tensor.shape
            ),
            Some(tensor) => found.push(Some(NamedTensor { name: name.clone(), ..tensor })),
        }
    }
    if !missing.is_empty() {
        if missing.iter().all(|name| family.is_head(name)) {
            bail!(
                "these are the weights of a model without a head: {} are missing; to train from them with a new head, \
                 set model.from",
                missing.join(", ")
            );
        }
        return Err(listed("missing tensors", missing));
    }
    let is_left = |name: &str| family.is_optional(name) || may_be_new(name);
    let (optional, unknown): (Vec<_>, Vec<_>) = left.into_iter().partition(|(name, _)| is_left(name));
    let in_file = |left: Vec<(String, NamedTensor)>, mut names: Vec<String>| {
        names.extend(left.into_iter().map(|(_, tensor)| tensor.name));
        names.sort_unstable();
        names
    };
    if !unknown.is_empty() {
        return Err(listed("tensors that this model does not have", in_file(unknown, Vec::new())));
    }
    Ok(PartialLoad { tensors: found, unused: in_file(optional, replaced), names })
}

/// Returns the tensors by their names in the table. Each tensor keeps its name in the file.
fn canonical(family: Family, tensors: Vec<NamedTensor>) -> Result<HashMap<String, NamedTensor>> {
    let mut all: HashMap<String, NamedTensor> = HashMap::new();
    let mut parts: BTreeMap<String, [Option<NamedTensor>; 3]> = BTreeMap::new();
    for tensor in tensors.into_iter().filter(|t| !is_buffer(&t.name)) {
        let (name, part) = place(family, &tensor.name);
        let taken = match part {
            Some(part) => parts.entry(name).or_default()[part].replace(tensor),
            None => all.insert(name, tensor),
        };
        if let Some(other) = taken {
            bail!("{} appears twice: under its old and new name, or with and without a prefix; keep one", other.name);
        }
    }
    for (name, parts) in parts {
        let joined = join(&name, parts)?;
        if all.insert(name, joined).is_some() {
            bail!("queries, keys and values appear twice: fused and separate; keep one");
        }
    }
    Ok(all)
}

/// Fuses queries, keys and values into one tensor.
fn join(name: &str, parts: [Option<NamedTensor>; 3]) -> Result<NamedTensor> {
    if let Some((there, known)) = parts.iter().enumerate().find_map(|(i, part)| Some((i, part.as_ref()?))) {
        let lacking = (0..PARTS.len()).filter(|&i| parts[i].is_none());
        let other = |i: usize| known.name.replace(PARTS[there], PARTS[i]).replace(PARTS_5[there], PARTS_5[i]);
        let lacking: Vec<String> = lacking.map(other).collect();
        if !lacking.is_empty() {
            return Err(listed("missing tensors", lacking));
        }
    }
    let mut parts = parts.into_iter().flatten();
    let Some(mut whole) = parts.next() else { bail!("{name} has no parts") };
    for part in parts {
        if part.shape.is_empty() || part.shape.get(1..) != whole.shape.get(1..) {
            bail!(
                "{} has shape {:?}, but {} has {:?}; both must have one shape",
                part.name,
                part.shape,
                whole.name,
                whole.shape
            );
        }
        whole.shape[0] = whole.shape[0].saturating_add(part.shape[0]);
        whole.values.extend(part.values);
    }
    Ok(whole)
}

impl Names {
    /// Converts the tensors of a table to the names and shapes of this scheme.
    ///
    /// # Errors
    /// A tensor has no name in this scheme, or the first axis of a fused tensor cannot be split into three equal parts.
    pub fn publish(self, tensors: Vec<NamedTensor>) -> Result<Vec<NamedTensor>> {
        let mut all = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let bare = |prefix: &str| tensor.name.strip_prefix(prefix).unwrap_or(&tensor.name).to_owned();
            match self {
                Names::Gpt2 | Names::Bert | Names::Timm => all.push(tensor),
                Names::Gpt2Bare => all.push(NamedTensor { name: bare("transformer."), ..tensor }),
                Names::BertBare => all.push(NamedTensor { name: bare("bert."), ..tensor }),
                Names::Vit => publish_vit("vit.", &VIT_HEAD, tensor, &mut all)?,
                Names::Deit => publish_vit("deit.", &VIT_HEAD, tensor, &mut all)?,
                Names::DeitWithTeacher => publish_vit("deit.", &TEACHER_HEADS, tensor, &mut all)?,
            }
        }
        Ok(all)
    }
}

/// Converts one tensor to the names of `transformers` and appends the result to `all`.
fn publish_vit(prefix: &str, heads: &[(&str, &str)], tensor: NamedTensor, all: &mut Vec<NamedTensor>) -> Result<()> {
    let [theirs, ours] = VIT_LAYERS;
    let Some((layer, rest)) = tensor.name.strip_prefix(ours).and_then(|rest| rest.split_once('.')) else {
        let renamed = |table: &[(&str, &str)], prefix: &str| {
            table.iter().find_map(|(hf, timm)| Some(format!("{prefix}{hf}{}", tensor.name.strip_prefix(timm)?)))
        };
        let Some(name) = renamed(heads, "").or_else(|| renamed(&VIT_OUTSIDE, prefix)) else {
            bail!("{} has no name in transformers; save the model in the timm format", tensor.name);
        };
        all.push(NamedTensor { name, ..tensor });
        return Ok(());
    };
    let found = VIT_IN_LAYER.iter().find_map(|(hf, timm)| Some((hf, *timm == FUSED, rest.strip_prefix(timm)?)));
    let Some((hf, fused, kind)) = found else {
        bail!("{} has no name in transformers; save the model in the timm format", tensor.name);
    };
    let name = |part: &str| format!("{prefix}{theirs}{layer}.{hf}{part}{kind}");
    if !fused {
        all.push(NamedTensor { name: name(""), ..tensor });
        return Ok(());
    }
    let Some(rows) = tensor.shape.first().filter(|n| n.is_multiple_of(3)).map(|n| n / 3) else {
        bail!("{} has shape {:?}, which cannot be split into queries, keys and values", tensor.name, tensor.shape);
    };
    let elements = tensor.values.len() / 3;
    for (i, part) in PARTS.iter().enumerate() {
        let mut shape = tensor.shape.clone();
        shape[0] = rows;
        let values = tensor.values[i * elements..(i + 1) * elements].to_vec();
        all.push(NamedTensor { name: name(part), shape, values });
    }
    Ok(())
}

/// Builds an error with a list of names.
fn listed(what: &str, names: Vec<String>) -> Error {
    let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
    Error::new(format!("{what}: {shown}{more}; does {CONFIG} belong to these weights?"))
}
