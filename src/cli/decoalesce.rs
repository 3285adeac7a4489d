use super::rules::{WayUp, note, save};
use crate::bail;
use crate::error::{At, Result};
use crate::hub::checkpoint::{self, Loaded};
use crate::model::params::Param;
use crate::model::store::Store;
use crate::model::{Family, Model};
use crate::multilevel::scheme::ModelShape;
use crate::multilevel::{Record, decoalesce};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// De-coalesce a model into a larger one, with the shape that it was coalesced from or that of another model
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the smaller model
    small: PathBuf,
    /// Folder of a model with the shape of the result (its config.json is enough) [default: as in SMALL/vcycle.json]
    #[arg(long)]
    like: Option<PathBuf>,
    #[command(flatten)]
    up: WayUp,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let (record, scheme, rules) = self.up.read(&self.small)?;
        let mut device = self.up.device.open()?;
        let Loaded { model, store: small, form, unused, notes } = checkpoint::load(&self.small, &mut *device)?;
        note(&self.small, &notes, &unused);
        let shape = ModelShape::of(model.table());
        let (place, layers, heads) = match (&self.like, &record) {
            (Some(like), _) => {
                let place = format!("--like {}", like.display());
                let like = checkpoint::load_config(like)?;
                let ModelShape { layers, heads, head_size } = ModelShape::of(like.table());
                if head_size != shape.head_size {
                    bail!(
                        "{place}: its head size is {head_size}, but that of the smaller model is {}; give a model with \
                         the same head size",
                        shape.head_size
                    );
                }
                agree(&*like, &*model.resized(layers, heads).at(&place)?).at(&place)?;
                (place, layers, heads)
            }
            (None, Some(Record { parent, .. })) => {
                let place = self.small.join(Record::FILE).display().to_string();
                if parent.head_size != shape.head_size {
                    bail!(
                        "{place}: parent.head_size is {}, but the head size of the model next to it is {}; coalesce \
                         again, or give --like BIG",
                        parent.head_size,
                        shape.head_size
                    );
                }
                (place, parent.layers, parent.heads)
            }
            (None, None) => bail!(
                "{} has no {}, so the shape of the result is unknown; give --like BIG",
                self.small.display(),
                Record::FILE
            ),
        };
        let big = model.resized(layers, heads).at(&place)?;
        // Check the scheme before allocating the larger model.
        scheme.resolve(ModelShape::of(big.table()), shape).at(&place)?;
        let store = Store::new(big.table().clone(), &mut *device)?;
        decoalesce(&mut *device, &small, &store, &scheme, &rules).at("decoalesce")?;
        save(&self.up.out, (&*big, &store, form), &mut *device, &self.small, None)
    }
}

/// Checks that the model of `--like` has the tensors and the eps of the de-coalesced model.
fn agree(like: &dyn Model, big: &dyn Model) -> Result<()> {
    let tensors = |model: &dyn Model| -> BTreeSet<_> {
        let params = model.table().params.iter().flat_map(Param::published);
        params.map(|part| format!("{} of {:?}", part.name, part.shape)).collect()
    };
    let (theirs, ours) = (tensors(like), tensors(big));
    if let Some(other) = theirs.difference(&ours).next() {
        bail!("it has {other}, but the de-coalesced model does not; give a model of the same family");
    }
    if let Some(other) = ours.difference(&theirs).next() {
        bail!("it has no {other}, but the de-coalesced model does; give a model of the same family");
    }
    let eps = |model: &dyn Model| match model.family() {
        Family::Gpt(c) => c.eps,
        Family::Bert(c) => c.eps,
        Family::Deit(c) => c.eps,
    };
    if eps(like) != eps(big) {
        bail!(
            "its LayerNorm eps is {:e}, but that of the smaller model is {:e}; give a model with the same eps",
            eps(like),
            eps(big)
        );
    }
    Ok(())
}
