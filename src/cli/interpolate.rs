use super::rules::{WayUp, note, save};
use crate::bail;
use crate::data::labelled::classes;
use crate::error::{At, Result};
use crate::hub::checkpoint::{self, Loaded};
use crate::multilevel::interpolate;
use std::path::PathBuf;

/// Interpolate between a model and a smaller one: (1 - alpha) x BIG + alpha x de-coalesced SMALL
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
        let Loaded { model, store: big, form, unused, notes } = checkpoint::load(&self.big, &mut *device)?;
        note(&self.big, &notes, &unused);
        let Loaded { store: small, form: of_small, unused, notes, .. } = checkpoint::load(&self.small, &mut *device)?;
        note(&self.small, &notes, &unused);
        if let (Some(ours), Some(theirs)) = (form.classes(), of_small.classes())
            && ours != theirs
        {
            bail!(
                "the classes of {} are {}, those of {} are {}; give models with the same classes in the same order",
                self.big.display(),
                classes::list(ours),
                self.small.display(),
                classes::list(theirs)
            );
        }
        interpolate(&mut *device, &big, &small, self.alpha, &scheme, &rules).at("interpolate")?;
        save(&self.up.out, (&*model, &big, form), &mut *device, &self.big, None)
    }
}
