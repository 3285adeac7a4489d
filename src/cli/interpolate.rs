use super::rules::{WayUp, save};
use crate::error::{At, Result};
use crate::hub::checkpoint;
use crate::multilevel::interpolate;
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
    #[command(flatten)]
    up: WayUp,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let (_, scheme, rules) = self.up.read(&self.small)?;
        let mut device = self.up.device.open()?;
        let (model, big) = checkpoint::load(&self.big, &mut *device)?;
        let (_, small) = checkpoint::load(&self.small, &mut *device)?;
        interpolate(&mut *device, &big, &small, self.alpha, &scheme, &rules).at("interpolate")?;
        save(&self.up.out, &model, &big, &mut *device, &self.big, None)
    }
}
