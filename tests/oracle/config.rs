//! A run's configuration, by dotted keys.

use serde::de::DeserializeOwned;
use toml::Value;

pub struct Config(pub Value);

impl Config {
    /// `levels.0.train.steps`, for instance.
    pub fn find(&self, key: &str) -> Option<&Value> {
        key.split('.').try_fold(&self.0, |at, part| match at {
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            table => table.get(part),
        })
    }

    pub fn number(&self, key: &str, default: f64) -> f64 {
        match self.find(key) {
            Some(Value::Integer(n)) => *n as f64,
            Some(Value::Float(x)) => *x,
            _ => default,
        }
    }

    pub fn count(&self, key: &str, default: usize) -> usize {
        self.number(key, default as f64) as usize
    }

    pub fn is(&self, key: &str, word: &str) -> bool {
        self.text(key) == Some(word)
    }

    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.find(key).and_then(Value::as_bool).unwrap_or(default)
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.find(key)?.as_str()
    }

    /// A table or list as what it describes.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.find(key).map(|value| value.clone().try_into().unwrap_or_else(|e| panic!("{key}: {e}")))
    }
}
