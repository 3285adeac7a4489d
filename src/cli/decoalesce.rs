use super::rules::{WayUp, save};
use crate::bail;
use crate::error::{At, Result};
use crate::hub::checkpoint;
use crate::model::Model;
use crate::model::gpt::GptConfig;
use crate::model::store::Store;
use crate::multilevel::scheme::ModelShape;
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
    #[command(flatten)]
    up: WayUp,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let (record, scheme, rules) = self.up.read(&self.small)?;
        let mut device = self.up.device.open()?;
        let (model, small) = checkpoint::load(&self.small, &mut *device)?;
        let shape = ModelShape::of(model.table());
        let (place, layers, heads) = match (&self.like, &record) {
            (Some(like), _) => {
                let place = format!("--like {}", like.display());
                let like = checkpoint::load_config(like)?.config;
                agree(&like, &model.config).at(&place)?;
                (place, like.layers, like.heads)
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
        save(&self.up.out, &*big, &store, &mut *device, &self.small, None)
    }
}

/// Whether the larger model differs in layers and heads alone: the result takes nothing else from it.
fn agree(big: &GptConfig, small: &GptConfig) -> Result<()> {
    let sizes = |c: &GptConfig| {
        [
            ("head size", c.width / c.heads),
            ("vocabulary", c.vocab),
            ("context", c.context),
            ("inner size per head", c.ffn / c.heads),
        ]
    };
    for ((what, big), (_, small)) in sizes(big).into_iter().zip(sizes(small)) {
        if big != small {
            bail!("the {what} is {big} but the smaller model's {small}; give a model of the same family");
        }
    }
    if big.eps != small.eps {
        bail!(
            "layer_norm_epsilon is {:e} but the smaller model's {:e}; give a model of the same family",
            big.eps,
            small.eps
        );
    }
    Ok(())
}
