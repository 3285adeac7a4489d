use super::DeviceArgs;
use super::rules::{RuleArgs, ShareArgs, save, scheme};
use crate::error::{At, Result};
use crate::hub::checkpoint;
use crate::multilevel::{Record, interpolate};
use std::path::PathBuf;

/// Mix a model with a smaller one: (1 - alpha) BIG + alpha x the de-coalesced SMALL
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the larger model
    big: PathBuf,
    /// Folder of the smaller model
    small: PathBuf,
    /// Weight of the smaller model, from 0 to 1
    #[arg(long)]
    alpha: f64,
    /// Scheme; default: that of vcycle.json
    #[arg(long)]
    scheme: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    shares: ShareArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for the result, which must not exist
    #[arg(long)]
    out: PathBuf,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let record = Record::read(&self.small)?;
        let scheme = scheme(&self.scheme, &record)?;
        let rules = self.shares.over(self.rules.over(record.as_ref().map(|r| r.rules).unwrap_or_default()))?;
        let mut device = self.device.open()?;
        let (model, big) = checkpoint::load(&self.big, &mut *device)?;
        let (_, small) = checkpoint::load(&self.small, &mut *device)?;
        interpolate(&mut *device, &big, &small, self.alpha, &scheme, &rules).at("interpolate")?;
        save(&self.out, &model, &big, &mut *device, &self.big, None)
    }
}
