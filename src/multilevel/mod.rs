//! The multi-level framework (Zou, Han, Deng, ICLR 2024, arXiv 2404.07999): coalesce, de-coalesce, interpolate, over the
//! roles of a model's parameters. Nothing here knows a model by name.

pub mod operators;
pub mod record;
pub mod rules;
pub mod scheme;

pub use operators::{Quantity, coalesce, coalesce_as, decoalesce, interpolate, interpolate_as};
pub use record::Record;
pub use rules::{DepthRule, Rules, Shares, WidthRule};
pub use scheme::{Grouping, Scheme};
