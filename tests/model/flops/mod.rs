//! Promise: the FLOP counts follow from the mathematics: for every operation, for a training step of each family, and
//! for a whole run, whose total is the sum of its steps, operators and searches. Every expected number is derived here
//! by hand, never taken from the code under test.

mod operations;
mod runs;
mod steps;
