//! Promise: the published implementation's numbers, to the tolerances of its own f32 arithmetic (`tests/golden/README.md`).

mod exact;
mod forward;
mod hub;
mod operators;
mod support;
mod trace;
