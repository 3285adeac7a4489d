//! `vcycle.json`: how a small model came about, beside the model itself.

use super::rules::Rules;
use super::scheme::{ModelShape, Scheme};
use crate::bail;
use crate::error::Result;
use crate::files::{read_text, write_atomic};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What `decoalesce` and `interpolate` must know of the coalescing before them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 1.
    pub format: u32,
    pub scheme: Scheme,
    /// Random shares are a function of the seed that stands here.
    pub rules: Rules,
    /// The model that was coalesced.
    pub parent: ModelShape,
}

impl Record {
    pub const FILE: &'static str = "vcycle.json";

    pub fn new(scheme: Scheme, rules: Rules, parent: ModelShape) -> Self {
        Record { format: 1, scheme, rules, parent }
    }

    /// The record beside a model; `None` when the model was not coalesced.
    ///
    /// # Errors
    /// A file that is no record.
    pub fn read(model: &Path) -> Result<Option<Self>> {
        let path = model.join(Self::FILE);
        if matches!(std::fs::symlink_metadata(&path), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let text = read_text(&path, 16 << 20)?;
        match serde_json::from_str::<Record>(&text) {
            Ok(record) if record.format == 1 => Ok(Some(record)),
            Ok(record) => bail!("{}: format {} is not known here; coalesce again", path.display(), record.format),
            Err(e) => bail!("{}: {e}; coalesce again, or give --like and --scheme and remove the file", path.display()),
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, model: &Path) -> Result<()> {
        write_atomic(&model.join(Self::FILE), |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n")
        })
    }
}
