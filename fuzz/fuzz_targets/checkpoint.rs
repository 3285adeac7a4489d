//! A checkpoint and the files that belong to it: `state.json`, the tensors, `metrics.jsonl`, `config.toml`. The target
//! adds correct checksums and gives the folder the name that the state requires, since mutation would never find these.
//!
//! Sources: src/train/checkpoint.rs src/runlog/mod.rs src/train/settings.rs src/run/folder.rs src/runlog/tensorboard.rs src/config/mod.rs
#![no_main]

use harness::{Memory, parts, run};
use serde_json::{Value, json};
use std::sync::OnceLock;
use vcycle::data::fingerprint::Fingerprint;
use vcycle::device::Device;
use vcycle::device::cpu::Cpu;
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::optim::{AdamW, State};
use vcycle::run::folder::RunFolder;
use vcycle::runlog::Branch;
use vcycle::runlog::Metrics;
use vcycle::train::checkpoint::{Checkpoint, newest_state};
use vcycle::train::settings::{changes, check_run};

fn model() -> &'static Gpt {
    static MODEL: OnceLock<Gpt> = OnceLock::new();
    MODEL.get_or_init(|| {
        Gpt::new(GptConfig {
            vocab: 9,
            context: 4,
            width: 4,
            heads: 1,
            layers: 1,
            ffn: 16,
            eps: 1e-5,
            init_std: 0.02,
            dropout_embedding: 0.0,
            dropout_attention: 0.0,
            dropout_residual: 0.0,
            bos: None,
            eos: None,
            tied: true,
        })
        .expect("a model")
    })
}

fn sum(bytes: &[u8]) -> String {
    let mut print = Fingerprint::default();
    print.add(bytes);
    print.hex()
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let parts = parts(data);
    let &[state, tensors, metrics, config, ..] = parts.as_slice() else { return };
    run(data, Memory { mib: 16, per_byte: 4096 }, |case| {
        let parsed: Value = serde_json::from_slice(state).unwrap_or_default();
        let number = |key: &str| parsed["at"][key].as_u64().unwrap_or(1);
        let name = format!("stage-{}-step-{:08}", number("stage"), number("step"));
        let within = format!("run/vcycle/checkpoints/{name}");
        let sums = json!({"state.json": sum(state), "tensors.safetensors": sum(tensors)}).to_string();
        for (file, bytes) in [("state.json", state), ("tensors.safetensors", tensors), ("sums.json", sums.as_bytes())] {
            case.file(&format!("{within}/{file}"), bytes);
        }
        case.file("run/vcycle/metrics.jsonl", metrics);
        case.file("run/vcycle/tensorboard/events.out.tfevents.vcycle", metrics);
        case.file("run/config.toml", config);
        let (run, branch_dir, dir) = (case.dir.join("run"), case.dir.join("run/vcycle"), case.dir.join(&within));
        let opened = case.accepted(RunFolder::open(&run), "run");
        if let Some(Some((_, state))) = case.accepted(newest_state(&branch_dir), "run") {
            if let Some((_, config, _)) = &opened {
                case.accepted(check_run(&run, config), "");
                for branch in Branch::ALL {
                    case.accepted(changes(&dir, &state, config, branch), "");
                }
            }
            case.accepted(Metrics::resume(&branch_dir, &state.resume_point()), "metrics.jsonl");
        }
        let Some(checkpoint) = case.accepted(Checkpoint::read(&dir), "run") else { return };
        let mut device = Cpu::new(1);
        let params = Store::new(model().table().clone(), &mut device).expect("memory");
        let mut optimizer = State::new(&AdamW::default(), model().table(), &mut device).expect("memory");
        for level in 1..=2 {
            case.accepted(checkpoint.restore(level, &params, None, &mut device), "run");
            let done = checkpoint.restore(level, &params, Some(&mut optimizer), &mut device);
            if case.accepted(done, "run").is_some() {
                let finite = |store: &Store, device: &mut dyn Device| {
                    (0..store.table.params.len())
                        .all(|i| store.read(device, i).expect("values").iter().all(|v| v.is_finite()))
                };
                assert!(finite(&params, &mut device));
                optimizer.tensors().for_each(|(_, store)| assert!(finite(store, &mut device)));
            }
        }
    });
});
