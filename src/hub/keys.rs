//! What every `config.json` has in common: reading it, and keys of a kind.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;

/// The largest size of any one dimension.
const MAX_SIZE: usize = 1 << 31;
/// The most parameters a model may have, so that sizes in bytes never overflow.
const MAX_PARAMETERS: u128 = 1 << 40;

/// A parsed file. `what`: whose config.json it should be, as "a BERT model".
pub(super) fn read(path: &Path, what: &str) -> Result<Value> {
    let bytes = files::read(path, 16 << 20)?;
    serde_json::from_slice(files::without_mark(&bytes))
        .map_err(|e| Error::new(format!("not JSON: {e}; give the config.json of {what}")))
        .at(path.display())
}

/// Writes a file, indented, whole or not at all.
pub(super) fn write(path: &Path, value: &Value) -> Result<()> {
    files::write_atomic(path, |out| out.write_all(format!("{value:#}\n").as_bytes()))
}

pub(super) fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        _ => bail!("expected a JSON object; give the config.json of {what}"),
    }
}

pub(super) fn size(map: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    let Some(value) = map.get(key) else {
        return Ok(None);
    };
    match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
        Some(n) => Ok(Some(n)),
        None => bail!("{key} is {value}; give a positive whole number"),
    }
}

pub(super) fn required_size(map: &Map<String, Value>, key: &str) -> Result<usize> {
    match size(map, key)? {
        Some(n) => Ok(n),
        None => bail!("missing key {key}; add it as a positive whole number"),
    }
}

pub(super) fn number(map: &Map<String, Value>, key: &str, default: f64) -> Result<f64> {
    let Some(value) = map.get(key) else {
        return Ok(default);
    };
    match value.as_f64() {
        Some(number) => Ok(number),
        None => bail!("{key} is {value}; give a number"),
    }
}

/// A text that may be absent.
pub(super) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => bail!("{key} is {other}; give a text in quotes"),
    }
}

/// What `transformers` calls the exact GELU.
pub(super) fn gelu() -> [Value; 2] {
    [json!("gelu"), json!("gelu_python")]
}

/// Refuses any value of a key but this one. `null` is refused too unless it is the one.
pub(super) fn only(map: &Map<String, Value>, key: &str, implemented: &[Value]) -> Result<()> {
    match map.get(key) {
        Some(value) if !implemented.iter().any(|one| same(one, value)) => {
            let list = implemented.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
            bail!("{key} is {value}, and only {list} is implemented; give a checkpoint without this variation")
        }
        _ => Ok(()),
    }
}

/// Equal as numbers, too: 0 and 0.0 are.
fn same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().zip(other.as_f64()).is_some_and(|(a, b)| a == b)
}

/// Refuses checkpoints from which heads were removed.
pub(super) fn not_pruned(map: &Map<String, Value>) -> Result<()> {
    match map.get("pruned_heads") {
        Some(Value::Object(heads)) if !heads.is_empty() => {
            bail!("pruned_heads is not empty, and pruned models are not implemented; give the full checkpoint")
        }
        _ => Ok(()),
    }
}

/// The number of classes: `num_labels`, else as many as `id2label` has, else the two that `transformers` takes.
pub(super) fn labels(map: &Map<String, Value>) -> Result<usize> {
    let told = if map.get("num_labels").is_some_and(Value::is_null) { None } else { size(map, "num_labels")? };
    match (told, map.get("id2label")) {
        (Some(n), _) => Ok(n),
        (None, Some(Value::Object(names))) => Ok(names.len()),
        (None, None | Some(Value::Null)) => Ok(2),
        (None, Some(other)) => bail!("id2label is {other}; give an object with the name of each class"),
    }
}

/// Names of classes, from which `transformers` takes their number.
pub(super) fn label_names(labels: usize) -> [(&'static str, Value); 2] {
    let name = |i: usize| format!("LABEL_{i}");
    let by_id: Map<String, Value> = (0..labels).map(|i| (i.to_string(), name(i).into())).collect();
    let by_name: Map<String, Value> = (0..labels).map(|i| (name(i), i.into())).collect();
    [("id2label", by_id.into()), ("label2id", by_name.into())]
}

/// Refuses sizes of zero and beyond reason.
pub(super) fn check_sizes(sizes: &[(&str, usize)]) -> Result<()> {
    for &(key, size) in sizes {
        if size == 0 {
            bail!("{key} is 0; give a positive whole number");
        }
        if size > MAX_SIZE {
            bail!("{key} is {size}, more than the limit {MAX_SIZE}; give a smaller number");
        }
    }
    Ok(())
}

/// Refuses more parameters than memory could ever have. `keys`: what they follow from.
pub(super) fn check_parameters(parameters: u128, keys: &str) -> Result<()> {
    if parameters > MAX_PARAMETERS {
        bail!("{keys} give {parameters} parameters, more than the limit {MAX_PARAMETERS}; reduce them");
    }
    Ok(())
}

pub(super) fn check_positive(key: &str, value: f64) -> Result<()> {
    if !(value.is_finite() && value > 0.0) {
        bail!("{key} is {value}; give a positive number such as 1e-5");
    }
    Ok(())
}

pub(super) fn check_not_negative(key: &str, value: f64) -> Result<()> {
    if !(value.is_finite() && value >= 0.0) {
        bail!("{key} is {value}; give a number that is not negative, such as 0.02");
    }
    Ok(())
}

/// Refuses what is no probability, before or after it becomes an f32.
pub(super) fn check_probability(key: &str, value: f64) -> Result<()> {
    if !(0.0..1.0).contains(&value) || value as f32 >= 1.0 {
        bail!("{key} is {value}; give a dropout probability of at least 0 and below 1");
    }
    Ok(())
}

/// The shortest decimal that reads back as this f32, rather than its long f64 expansion.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
