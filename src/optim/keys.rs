//! The keys of `[optimizer]`.

use super::{Config, OPTIMIZERS};
use crate::bail;
use crate::error::Result;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::BTreeMap;

/// Numbers by key, which an optimizer takes out of it.
#[derive(Debug, Default)]
pub struct Keys {
    given: BTreeMap<String, f64>,
    known: Vec<&'static str>,
}

impl Keys {
    /// Takes the number of a key, or `usual` where it is not given.
    pub fn take(&mut self, key: &'static str, usual: f64) -> f64 {
        self.known.push(key);
        self.given.remove(key).unwrap_or(usual)
    }

    /// Takes a decay rate.
    ///
    /// # Errors
    /// A number outside `0..1`.
    pub fn rate(&mut self, key: &'static str, usual: f64) -> Result<f64> {
        let rate = self.take(key, usual);
        if !(0.0..1.0).contains(&rate) {
            bail!("optimizer.{key}: {rate} is outside 0..1; {usual} is usual");
        }
        Ok(rate)
    }

    /// Takes a positive number; infinity is one.
    ///
    /// # Errors
    /// Another number.
    pub fn positive(&mut self, key: &'static str, usual: f64) -> Result<f64> {
        let value = self.take(key, usual);
        if value.is_nan() || value <= 0.0 {
            bail!("optimizer.{key}: {value} must be above 0; {usual:e} is usual");
        }
        Ok(value)
    }

    /// Takes a finite number that is not negative.
    ///
    /// # Errors
    /// Another number.
    pub fn not_negative(&mut self, key: &'static str, usual: f64) -> Result<f64> {
        let value = self.take(key, usual);
        if !(value >= 0.0 && value.is_finite()) {
            bail!("optimizer.{key}: {value} must be finite and not negative; 0 is none");
        }
        Ok(value)
    }
}

/// The table `[optimizer]` of a configuration: `name`, `clip` and the hyperparameters of the optimizer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// `None`: the first of [`OPTIMIZERS`].
    name: Option<String>,
    values: BTreeMap<String, f64>,
}

impl Table {
    /// Builds the optimizer.
    ///
    /// # Errors
    /// An unknown name, numbers out of range, keys that the optimizer does not have: by key.
    pub fn build(&self) -> Result<Config> {
        let name = self.name.as_deref().unwrap_or(OPTIMIZERS[0].0);
        let Some((_, build)) = OPTIMIZERS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = OPTIMIZERS.iter().map(|(known, _)| *known).collect();
            bail!("optimizer.name: {name:?} is unknown; use one of {}", known.join(", "))
        };
        let mut keys = Keys { given: self.values.clone(), known: vec!["name", "clip"] };
        let clip = keys.given.remove("clip").unwrap_or(1.0);
        if clip.is_nan() || clip <= 0.0 {
            bail!("optimizer.clip: {clip} must be above 0; inf is no clipping");
        }
        let optimizer = build(&mut keys)?;
        if let Some(key) = keys.given.keys().next() {
            bail!("optimizer.{key}: {name} has no such key; it has {}", keys.known.join(", "));
        }
        Ok(Config { optimizer, clip })
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "expected a number, or a name between quotes")]
        enum Entry {
            Number(f64),
            Name(String),
        }
        let mut table = Table::default();
        for (key, entry) in BTreeMap::<String, Entry>::deserialize(deserializer)? {
            match (key.as_str(), entry) {
                ("name", Entry::Name(name)) => table.name = Some(name),
                ("name", Entry::Number(_)) => return Err(D::Error::custom("optimizer.name must be a string")),
                (_, Entry::Number(value)) => drop(table.values.insert(key, value)),
                (_, Entry::Name(_)) => return Err(D::Error::custom(format!("optimizer.{key} must be a number"))),
            }
        }
        Ok(table)
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let config = self.build().map_err(serde::ser::Error::custom)?;
        let hyperparameters = config.optimizer.hyperparameters();
        let mut map = serializer.serialize_map(None)?;
        // The default goes without a name, as in configurations from before there was a choice.
        let name = config.optimizer.name();
        if name != OPTIMIZERS[0].0 {
            map.serialize_entry("name", name)?;
        }
        for (key, value) in hyperparameters.into_iter().chain([("clip", config.clip)]) {
            map.serialize_entry(key, &value)?;
        }
        map.end()
    }
}
