//! Behaviour that only a separate process shows: signals, kills, locks and resource limits of the operating system.
//! Every test here starts the `vcycle` binary.

#[cfg(target_os = "linux")]
mod resources;
#[cfg(target_os = "linux")]
mod run_folder;
#[cfg(target_os = "linux")]
mod signals;
