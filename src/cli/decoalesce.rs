use super::DeviceArgs;
use super::rules::{RuleArgs, ShareArgs, save, scheme};
use crate::bail;
use crate::error::{At, Result};
use crate::hub::checkpoint;
use crate::model::Model;
use crate::model::store::Store;
use crate::multilevel::{Record, decoalesce};
use std::path::PathBuf;

/// Make a larger model of a smaller one, of the shape that it was coalesced from or of another model
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the smaller model
    small: PathBuf,
    /// Folder of a model (its config.json is enough) with the shape of the result; default: what vcycle.json says
    #[arg(long)]
    like: Option<PathBuf>,
    /// Scheme; default: that of vcycle.json
    #[arg(long)]
    scheme: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    shares: ShareArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for the larger model, which must not exist
    #[arg(long)]
    out: PathBuf,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let record = Record::read(&self.small)?;
        let scheme = scheme(&self.scheme, &record)?;
        let rules = self.shares.over(self.rules.over(record.as_ref().map(|r| r.rules).unwrap_or_default()))?;
        let mut device = self.device.open()?;
        let (model, small) = checkpoint::load(&self.small, &mut *device)?;
        let (layers, heads) = match (&self.like, &record) {
            (Some(like), _) => {
                let like = checkpoint::load_config(like)?;
                (like.config.layers, like.config.heads)
            }
            (None, Some(record)) => (record.parent.layers, record.parent.heads),
            (None, None) => bail!(
                "{} has no {}, so the shape of the result is unknown; give --like BIG",
                self.small.display(),
                Record::FILE
            ),
        };
        let big = model.resized(layers, heads)?;
        let store = Store::new(big.table().clone(), &mut *device)?;
        decoalesce(&mut *device, &small, &store, &scheme, &rules).at("decoalesce")?;
        save(&self.out, &*big, &store, &mut *device, &self.small, None)
    }
}
