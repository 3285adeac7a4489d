//! Promise: when a run cannot get a resource, or its files change while it uses them, it exits with an error message
//! and code 2 and loses nothing. What killed processes leave behind is removed by the next process.

mod leftovers;
mod limits;
mod mapped;
pub mod support;
