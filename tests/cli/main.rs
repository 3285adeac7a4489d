//! The commands: their output, help, reports and pages, and their errors on bad input.

mod bad_input;
mod bench;
mod bench_report;
mod commands;
mod figures;
mod gpu_suite;
mod readme;
mod report;
mod rooms;
mod tensorboard;
mod words;
mod xml;
