//! A run's configuration, read by dotted keys without the program's parser.

use toml::Value;

pub struct Config(pub Value);

impl Config {
    /// Finds the value at a dotted key, for example `levels.0.train.steps`.
    pub fn find(&self, key: &str) -> Option<&Value> {
        key.split('.').try_fold(&self.0, |at, part| part.parse::<usize>().map_or_else(|_| at.get(part), |i| at.get(i)))
    }

    pub fn number(&self, key: &str, default: f64) -> f64 {
        let value = self.find(key);
        value.and_then(|v| v.as_float().or(v.as_integer().map(|n| n as f64))).unwrap_or(default)
    }

    pub fn count(&self, key: &str, default: usize) -> usize {
        self.number(key, default as f64) as usize
    }

    pub fn text(&self, key: &str) -> &str {
        self.find(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn is(&self, key: &str, word: &str) -> bool {
        self.text(key) == word
    }

    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.find(key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// Deserializes the table or list at `key`.
    pub fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.find(key).map(|value| value.clone().try_into().unwrap_or_else(|e| panic!("{key}: {e}")))
    }
}
