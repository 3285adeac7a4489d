//! Class names in a `config.json`: `id2label` in `transformers`, `label_names` in timm.

use serde_json::{Map, Value, json};

/// The key in timm. `transformers` ignores it.
const TIMM: &str = "label_names";

/// Returns the names of `count` classes in the order of their numbers, or `None` if no key names all of them.
///
/// As in `transformers`, `label2id` is used only if there is no `id2label`.
pub(super) fn read(map: &Map<String, Value>, count: usize) -> Option<Vec<String>> {
    let timm = || map.get(TIMM).or_else(|| map.get("pretrained_cfg")?.get(TIMM));
    let names = match (map.get("id2label"), map.get("label2id")) {
        (Some(Value::Object(names)), _) => by_number(names),
        (None | Some(Value::Null), Some(Value::Object(numbers))) => by_name(numbers),
        _ => match timm()? {
            Value::Array(names) => names.iter().map(text).collect(),
            Value::Object(names) => by_number(names),
            _ => None,
        },
    };
    names.filter(|names| names.len() == count)
}

fn by_number(names: &Map<String, Value>) -> Option<Vec<String>> {
    (0..names.len()).map(|number| names.get(&number.to_string()).and_then(text)).collect()
}

fn by_name(numbers: &Map<String, Value>) -> Option<Vec<String>> {
    let mut names = vec![None; numbers.len()];
    for (name, number) in numbers {
        let place = number.as_u64().and_then(|number| names.get_mut(usize::try_from(number).ok()?))?;
        *place = Some(name.clone());
    }
    names.into_iter().collect()
}

/// Converts a name, which is a number in some files.
fn text(name: &Value) -> Option<String> {
    match name {
        Value::String(name) => Some(name.clone()),
        Value::Number(name) => Some(name.to_string()),
        _ => None,
    }
}

/// Writes the names into a `config.json`: over those of [`keys::label_names`](super::keys::label_names) if it has them,
/// else under the key of timm.
pub(super) fn put(json: &mut Value, names: &[String]) {
    if json.get("id2label").is_none() {
        json[TIMM] = names.into();
        return;
    }
    let by_number: Map<String, Value> =
        names.iter().enumerate().map(|(number, name)| (number.to_string(), json!(name))).collect();
    // If a name appears twice, the last number is kept, as in transformers.
    let by_name: Map<String, Value> =
        names.iter().enumerate().map(|(number, name)| (name.clone(), json!(number))).collect();
    json["id2label"] = by_number.into();
    json["label2id"] = by_name.into();
}
