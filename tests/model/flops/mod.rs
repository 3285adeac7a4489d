//! Promise: FLOPs are counted as the mathematics says: of every operation, of a training step of each family, and of a whole run, whose
//! total is its steps, its operators and its searches. Every expected number is worked out here by hand; nothing asks the code under
//! test for one.

mod operations;
mod runs;
mod steps;
