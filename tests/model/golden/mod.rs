//! Promise: results equal those of the published implementation, within the tolerance of its f32 arithmetic
//! (`tests/golden/README.md`).

mod exact;
mod forward;
mod hub;
mod operators;
mod support;
mod trace;
