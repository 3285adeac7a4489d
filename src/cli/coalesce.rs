use super::DeviceArgs;
use super::rules::{RuleArgs, note, save};
use crate::bail;
use crate::error::{At, Result};
use crate::hub::checkpoint::{self, Loaded};
use crate::model::store::Store;
use crate::multilevel::scheme::ModelShape;
use crate::multilevel::{Record, Rules, Scheme, coalesce};
use std::path::PathBuf;

/// Coalesce a model into a smaller one, and record how in its vcycle.json
#[derive(clap::Args)]
pub struct Args {
    /// Folder with config.json and model.safetensors
    model: PathBuf,
    /// Scheme file with the groups of heads and layers to merge
    #[arg(long, required_unless_present_any = ["layers", "heads"])]
    scheme: Option<PathBuf>,
    /// Layers of the smaller model; the default scheme merges neighbours
    #[arg(long)]
    layers: Option<usize>,
    /// Heads of the smaller model, N; the default scheme merges head i with head i + N
    #[arg(long)]
    heads: Option<usize>,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for the smaller model; must not exist
    #[arg(long)]
    out: PathBuf,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let scheme = self.scheme.as_deref().map_or(Ok(Scheme::default()), Scheme::read)?;
        let mut device = self.device.open()?;
        let Loaded { model, store: big, form, unused, notes } = checkpoint::load(&self.model, &mut *device)?;
        note(&self.model, &notes, &unused);
        let shape = ModelShape::of(model.table());
        let (layers, heads) = scheme.small();
        let layers = self.layers.or(layers).unwrap_or(shape.layers);
        let heads = self.heads.or(heads).unwrap_or(shape.heads);
        scheme.resolve(shape, ModelShape { layers, heads, ..shape }).at("coalesce")?;
        if (layers, heads) == (shape.layers, shape.heads) {
            bail!(
                "{layers} layers and {heads} heads are the model's own; give a smaller --layers or --heads, or a scheme"
            );
        }
        let small = model.resized(layers, heads).at("coalesce")?;
        let store = Store::new(small.table().clone(), &mut *device)?;
        let rules = self.rules.over(Rules::default());
        coalesce(&mut *device, &big, &store, &scheme, &rules).at("coalesce")?;
        let record = Record::new(scheme, rules, shape);
        save(&self.out, (&*small, &store, form), &mut *device, &self.model, Some(&record))
    }
}
