//! Promise: what the system withholds or changes under a run ends it with a sentence and exit code 2, and loses nothing; what
//! killed processes leave is removed by the next one.
#![cfg(target_os = "linux")]

mod leftovers;
mod limits;
mod mapped;
mod support;
