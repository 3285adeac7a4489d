//! Helpers shared by all readers of `config.json`: reading the file, and typed access to its keys.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;

/// The largest size of any one dimension.
const MAX_SIZE: usize = 1 << 31;
/// Largest number of parameters of a model. It keeps sizes in bytes from overflowing.
const MAX_PARAMETERS: u128 = 1 << 40;

/// Reads and parses a file. `what` names the expected kind of model in errors, for example "a BERT model".
pub(super) fn read(path: &Path, what: &str) -> Result<Value> {
    let bytes = files::read(path, 16 << 20)?;
    serde_json::from_slice(files::strip_bom(&bytes))
        .map_err(|e| Error::new(format!("not JSON: {e}; give the config.json of {what}")))
        .at(path.display())
}

/// Writes an indented JSON file atomically.
pub(super) fn write(path: &Path, value: &Value) -> Result<()> {
    files::write_atomic(path, |out| out.write_all(format!("{value:#}\n").as_bytes()))
}

/// Returns the top-level object of a parsed file.
pub(super) fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        _ => bail!("expected a JSON object; give the config.json of {what}"),
    }
}

/// Returns a whole number that may be absent.
pub(super) fn size(map: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    let Some(value) = map.get(key) else {
        return Ok(None);
    };
    match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
        Some(n) => Ok(Some(n)),
        None => bail!("{key} is {value}; it must be a positive integer"),
    }
}

/// Returns a whole number that must be present.
pub(super) fn required_size(map: &Map<String, Value>, key: &str) -> Result<usize> {
    match size(map, key)? {
        Some(n) => Ok(n),
        None => bail!("missing key {key}; set it to a positive integer"),
    }
}

/// Returns a number, or `default` if it is absent.
pub(super) fn number(map: &Map<String, Value>, key: &str, default: f64) -> Result<f64> {
    let Some(value) = map.get(key) else {
        return Ok(default);
    };
    match value.as_f64() {
        Some(number) => Ok(number),
        None => bail!("{key} is {value}; it must be a number"),
    }
}

/// Returns a string that may be absent.
pub(super) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => bail!("{key} is {other}; it must be a string"),
    }
}

/// Returns the names of the exact GELU in `transformers`.
pub(super) fn gelu() -> [Value; 2] {
    [json!("gelu"), json!("gelu_python")]
}

/// Fails if a key is present with a value that is not in `implemented`. `null` counts as a value.
pub(super) fn only(map: &Map<String, Value>, key: &str, implemented: &[Value]) -> Result<()> {
    match map.get(key) {
        Some(value) if !implemented.iter().any(|one| same(one, value)) => {
            let list = implemented.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
            bail!("{key} is {value}, but only {list} is supported; use a checkpoint that does not change this setting")
        }
        _ => Ok(()),
    }
}

/// Whether two values are equal. Numbers are compared by value, so that 0 equals 0.0.
fn same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().zip(other.as_f64()).is_some_and(|(a, b)| a == b)
}

/// Fails if attention heads were pruned from the checkpoint.
pub(super) fn not_pruned(map: &Map<String, Value>) -> Result<()> {
    match map.get("pruned_heads") {
        Some(Value::Object(heads)) if !heads.is_empty() => {
            bail!("pruned_heads is not empty, but pruned models are not supported; use the full checkpoint")
        }
        _ => Ok(()),
    }
}

/// Returns the number of classes: `num_labels`, else the number of entries in `id2label`, else 2, the default of
/// `transformers`.
pub(super) fn labels(map: &Map<String, Value>) -> Result<usize> {
    let count = if map.get("num_labels").is_some_and(Value::is_null) { None } else { size(map, "num_labels")? };
    match (count, map.get("id2label")) {
        (Some(n), _) => Ok(n),
        (None, Some(Value::Object(names))) => Ok(names.len()),
        (None, None | Some(Value::Null)) => Ok(2),
        (None, Some(other)) => bail!("id2label is {other}; it must be an object with the name of each class"),
    }
}

/// Returns the keys with default class names, from which `transformers` derives the number of classes.
pub(super) fn label_names(labels: usize) -> [(&'static str, Value); 2] {
    let name = |i: usize| format!("LABEL_{i}");
    let by_id: Map<String, Value> = (0..labels).map(|i| (i.to_string(), name(i).into())).collect();
    let by_name: Map<String, Value> = (0..labels).map(|i| (name(i), i.into())).collect();
    [("id2label", by_id.into()), ("label2id", by_name.into())]
}

/// Fails if a size is 0 or larger than [`MAX_SIZE`].
pub(super) fn check_sizes(sizes: &[(&str, usize)]) -> Result<()> {
    for &(key, size) in sizes {
        if size == 0 {
            bail!("{key} is 0; it must be a positive integer");
        }
        if size > MAX_SIZE {
            bail!("{key} is {size}, above the limit of {MAX_SIZE}; use a smaller number");
        }
    }
    Ok(())
}

/// Fails if there are more than [`MAX_PARAMETERS`] parameters. `keys` lists the keys that determine their number.
pub(super) fn check_parameters(parameters: u128, keys: &str) -> Result<()> {
    if parameters > MAX_PARAMETERS {
        bail!("{keys} give {parameters} parameters, above the limit of {MAX_PARAMETERS}; reduce them");
    }
    Ok(())
}

/// Fails if a value is not positive and finite.
pub(super) fn check_positive(key: &str, value: f64) -> Result<()> {
    if !(value.is_finite() && value > 0.0) {
        bail!("{key} is {value}; it must be a positive number, such as 1e-5");
    }
    Ok(())
}

/// Fails if a value is negative or not finite.
pub(super) fn check_not_negative(key: &str, value: f64) -> Result<()> {
    if !(value.is_finite() && value >= 0.0) {
        bail!("{key} is {value}; it must be a non-negative number, such as 0.02");
    }
    Ok(())
}

/// Fails if a dropout probability is not in `[0, 1)`, before or after rounding to f32.
pub(super) fn check_probability(key: &str, value: f64) -> Result<()> {
    if !(0.0..1.0).contains(&value) || value as f32 >= 1.0 {
        bail!("{key} is {value}; a dropout probability must be at least 0 and below 1");
    }
    Ok(())
}

/// Returns the shortest decimal that reads back as this f32, instead of its long f64 expansion.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
