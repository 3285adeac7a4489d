//! `vcycle.json`: a record of how a small model was coalesced, stored in the model's folder.

use super::rules::Rules;
use super::scheme::{ModelShape, Scheme};
use crate::bail;
use crate::error::Result;
use crate::files::{read_text, write_atomic};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What `decoalesce` and `interpolate` must know about the preceding coalescing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The format version: 1.
    pub format: u32,
    /// The groups of heads and layers.
    pub scheme: Scheme,
    /// The rules, including the seed of random shares.
    pub rules: Rules,
    /// The shape of the model that was coalesced.
    pub parent: ModelShape,
}

impl Record {
    /// The name of the file.
    pub const FILE: &'static str = "vcycle.json";

    /// Creates a record in the current format.
    pub fn new(scheme: Scheme, rules: Rules, parent: ModelShape) -> Self {
        Record { format: 1, scheme, rules, parent }
    }

    /// Reads the record in a model folder. Returns `None` if there is none, that is, if the model was not coalesced.
    ///
    /// # Errors
    /// The file cannot be read or is not a valid record.
    pub fn read(model: &Path) -> Result<Option<Self>> {
        let path = model.join(Self::FILE);
        if matches!(std::fs::symlink_metadata(&path), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let text = read_text(&path, 16 << 20)?;
        match serde_json::from_str::<Record>(&text) {
            Ok(record) if record.format == 1 => Ok(Some(record)),
            Ok(record) => {
                bail!("{}: format {} is not supported by this version; coalesce again", path.display(), record.format)
            }
            Err(e) => bail!("{}: {e}; coalesce again, or give --like and --scheme and remove the file", path.display()),
        }
    }

    /// Writes the record into a model folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, model: &Path) -> Result<()> {
        write_atomic(&model.join(Self::FILE), |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n")
        })
    }
}
