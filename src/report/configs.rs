//! Finds the keys in which the configurations of runs differ.

use super::run::BranchLog;
use crate::files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Largest number of keys that are listed.
const MOST: usize = 20;
/// Largest `config.toml` that is read, in bytes.
const BYTES: u64 = 1 << 20;

/// Returns a line for each key whose value differs between the runs that have a configuration:
/// `configurations differ in key: value (run), value (run)`.
pub fn differences(sides: &[BranchLog]) -> Vec<String> {
    let mut runs: BTreeMap<PathBuf, (String, BTreeMap<String, String>)> = BTreeMap::new();
    for side in sides {
        // The branches of a run share its configuration.
        let Some(dir) = side.path.parent().and_then(Path::parent) else { continue };
        let Ok(text) = files::read_text(&dir.join("config.toml"), BYTES) else { continue };
        let Ok(table) = toml::from_str::<toml::Table>(&text) else { continue };
        let mut keys = BTreeMap::new();
        flatten("", &toml::Value::Table(table), &mut keys);
        let name =
            side.name.strip_suffix("/vcycle").or_else(|| side.name.strip_suffix("/scratch")).unwrap_or(&side.name);
        runs.entry(dir.to_path_buf()).or_insert_with(|| (name.to_owned(), keys));
    }
    let keys: BTreeSet<&String> = runs.values().flat_map(|(_, keys)| keys.keys()).collect();
    let differs = |key: &&String| runs.values().map(|(_, keys)| keys.get(*key)).collect::<BTreeSet<_>>().len() > 1;
    let different: Vec<&String> = keys.into_iter().filter(differs).collect();
    let line = |key: &&String| {
        let values = runs.values().map(|(name, keys)| {
            let value = keys.get(*key).map_or("left out", String::as_str);
            format!("{value} ({name})")
        });
        format!("configurations differ in {key}: {}", values.collect::<Vec<_>>().join(", "))
    };
    let mut lines: Vec<String> = different.iter().take(MOST).map(line).collect();
    if different.len() > MOST {
        lines.push(format!("configurations differ in {} more keys", different.len() - MOST));
    }
    lines
}

/// Collects dotted keys and their values as TOML.
fn flatten(prefix: &str, value: &toml::Value, all: &mut BTreeMap<String, String>) {
    let mut below = |name: &str, value| {
        let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        flatten(&key, value, all);
    };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(name, value)| below(name, value)),
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().enumerate().for_each(|(number, value)| below(&number.to_string(), value));
        }
        other => drop(all.insert(prefix.to_owned(), other.to_string())),
    }
}
