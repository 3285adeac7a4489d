//! Promise: what the system withholds or changes under a run ends it with a sentence and exit code 2, and loses nothing; what
//! killed processes leave is removed by the next one.

mod leftovers;
mod limits;
mod mapped;
pub mod support;
