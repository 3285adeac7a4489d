//! The names of classes in a `config.json`: `id2label` of `transformers`, `label_names` of timm.

use serde_json::{Map, Value, json};

/// The key of timm, which `transformers` ignores.
const TIMM: &str = "label_names";

/// The names of `count` classes in the order of their numbers; `None`: no key names each of them.
///
/// As in `transformers`, `label2id` counts only where there is no `id2label`.
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

/// Some files have numbers for names.
fn text(name: &Value) -> Option<String> {
    match name {
        Value::String(name) => Some(name.clone()),
        Value::Number(name) => Some(name.to_string()),
        _ => None,
    }
}

/// Puts names into a `config.json` that has those of [`keys::label_names`](super::keys::label_names), or none.
pub(super) fn put(json: &mut Value, names: &[String]) {
    if json.get("id2label").is_none() {
        json[TIMM] = names.into();
        return;
    }
    let by_number: Map<String, Value> =
        names.iter().enumerate().map(|(number, name)| (number.to_string(), json!(name))).collect();
    // Of a name that is there twice the last number stays, as in transformers.
    let by_name: Map<String, Value> =
        names.iter().enumerate().map(|(number, name)| (name.clone(), json!(number))).collect();
    json["id2label"] = by_number.into();
    json["label2id"] = by_name.into();
}
