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

/// Make a larger model of a smaller one, of the shape that it was coalesced from or of another model
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the smaller model
    small: PathBuf,
    /// Folder of a model (its config.json is enough) with the shape of the result; default: what vcycle.json says
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
                        "{place}: the head size is {head_size} but the smaller model's {}; give a model of the same family",
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
                        "{place}: parent.head_size is {} but the model beside it has heads of {}; coalesce again, or give \
                         --like BIG",
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
        // Before memory is taken for a model that the scheme may not reach.
        scheme.resolve(ModelShape::of(big.table()), shape).at(&place)?;
        let store = Store::new(big.table().clone(), &mut *device)?;
        decoalesce(&mut *device, &small, &store, &scheme, &rules).at("decoalesce")?;
        save(&self.up.out, (&*big, &store, form), &mut *device, &self.small, None)
    }
}

/// Whether the larger model is what the smaller one becomes: the result takes nothing else from it.
fn agree(like: &dyn Model, big: &dyn Model) -> Result<()> {
    let tensors = |model: &dyn Model| -> BTreeSet<_> {
        let params = model.table().params.iter().flat_map(Param::published);
        params.map(|part| format!("{} of {:?}", part.name, part.shape)).collect()
    };
    let (theirs, ours) = (tensors(like), tensors(big));
    if let Some(other) = theirs.difference(&ours).next() {
        bail!("it has {other}, which the de-coalesced model has not; give a model of the same family");
    }
    if let Some(other) = ours.difference(&theirs).next() {
        bail!("it has no {other}, which the de-coalesced model has; give a model of the same family");
    }
    let eps = |model: &dyn Model| match model.family() {
        Family::Gpt(c) => c.eps,
        Family::Bert(c) => c.eps,
        Family::Deit(c) => c.eps,
    };
    if eps(like) != eps(big) {
        bail!("its norms add {:e} but the smaller model's {:e}; give a model of the same family", eps(like), eps(big));
    }
    Ok(())
}
