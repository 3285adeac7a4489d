//! Promise: `vcycle train --memory` prints the memory that a run then takes.

use std::process::Command;
use vcycle::config::Config;
use vcycle::device::cpu::Cpu;
use vcycle::device::ops::StepState;
use vcycle::families;
use vcycle::model::store::Store;
use vcycle::train::memory_estimate::MemoryEstimate;
use vcycle::train::state::{Options, TrainState};

const VOCAB: usize = 60;

/// Returns the bytes of one line of the estimate, for each level.
fn line<'a>(estimate: &'a MemoryEstimate, what: &str) -> &'a [usize] {
    &estimate.lines.iter().find(|line| line.what == what).unwrap_or_else(|| panic!("no line {what}")).bytes
}

#[test]
fn the_estimate_matches_what_training_allocates() {
    for changes in [&[][..], &["train.recompute=true"], &["train.accumulate=2", "model.dropout=0.1"]] {
        let changes: Vec<String> = changes.iter().map(|s| s.to_string()).collect();
        let config = Config::read("configs/gpt-tiny.toml".as_ref(), &changes).expect("a configuration");
        let all = families::build(&config, VOCAB).expect("levels");
        let mut device = Cpu::new(2);
        let estimate = MemoryEstimate::new(&config, &all, &device).expect("an estimate");
        let (mut idle, batch) = (0, config.train.batch / config.train.accumulate);
        for (i, level) in all.into_iter().enumerate() {
            let elements = level.table().elements();
            let params = Store::new(level.table().clone(), &mut device).expect("memory");
            params.initialise(&mut device, 1).expect("written");
            let options = Options { seed: 1, recompute: config.train.recompute, ..Options::default() };
            let sizes = (batch, config.model.context);
            let mut train_state =
                TrainState::new(&mut device, level, params, sizes, config.optimizer().expect("an optimizer"), options)
                    .expect("memory");
            let tokens = vec![1; batch * config.model.context];
            train_state.step_tokens(&mut device, &tokens, &tokens, 1e-3).expect("a step");
            assert_eq!(line(&estimate, "activations")[i], train_state.activation_bytes(), "{changes:?}, level {i}");
            assert_eq!(line(&estimate, "parameters")[i], 4 * elements);
            assert_eq!(line(&estimate, "optimizer state")[i], 8 * elements);
            assert_eq!(line(&estimate, "idle levels")[i], idle);
            assert!(line(&estimate, "inputs and other")[i] > 2 * 4 * tokens.len() + StepState::WORDS);
            idle += 4 * elements;
        }
    }
}

#[test]
fn the_command_prints_a_table_and_trains_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("run");
    let command = ["train", "configs/gpt-tiny.toml", "--memory", "--quiet", "--out", &out.display().to_string()];
    let done = Command::new(env!("CARGO_BIN_EXE_vcycle")).args(command).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(["level 2", "gradients", "about"].iter().all(|word| text.contains(word)), "{text}");
    // The lines add up to the total, up to the two printed decimals.
    let number = |line: &str| line.split_whitespace().rev().nth(1).and_then(|n| n.parse::<f64>().ok());
    let rows: Vec<f64> = text.lines().skip(1).filter_map(number).collect();
    let (all, parts) = rows.split_last().expect("rows");
    assert!((parts.iter().sum::<f64>() - all).abs() < 0.05, "{text}");
    assert!(!out.exists(), "a run folder was created");
}
