//! The multi-level framework (Zou, Han, Deng, ICLR 2024, arXiv 2404.07999): the operators coalesce, de-coalesce and
//! interpolate.
//!
//! The operators are defined by the roles of the parameters ([`crate::model::params::Role`]), so they work for any
//! model family. A [`Scheme`] groups heads and layers, [`Rules`] give the weights of the group members, [`operators`]
//! turns both into one device operation, and a [`Record`] stores how a small model was coalesced.

pub mod methods;
pub mod operators;
pub mod record;
pub mod rules;
pub mod scheme;

pub use operators::{Quantity, coalesce, coalesce_as, decoalesce, interpolate, interpolate_as};
pub use record::Record;
pub use rules::{DepthRule, Rules, Shares, WidthRule};
pub use scheme::{Grouping, Scheme};
