//! The files of a run that `report` and `compare` read: the metrics of both branches, `run.json` and `config.toml`,
//! separated by lines `%%`.
//!
//! Sources: src/report src/runlog/mod.rs
#![no_main]

use harness::{Memory, run, texts};
use std::path::PathBuf;
use vcycle::report::compare::{Comparison, choose};
use vcycle::report::run::Run;
use vcycle::report::{curves, html};
use vcycle::runlog::Metrics;

const FILES: [&str; 4] = ["run/vcycle/metrics.jsonl", "run/scratch/metrics.jsonl", "run/run.json", "run/config.toml"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 32, per_byte: 4096 }, |case| {
        let files: Vec<PathBuf> = FILES.iter().zip(texts(data)).map(|(name, text)| case.file(name, text)).collect();
        let dir = case.dir.join("run");
        for side in ["vcycle", "scratch"] {
            case.accepted(Metrics::finished(&dir.join(side)), "metrics.jsonl");
        }
        if let Some(run) = case.accepted(Run::read(&dir), "run") {
            let page = html::render(&run).unwrap_or_else(|e| panic!("cannot render a run that was accepted: {e}"));
            numbers(&page);
        }
        for paths in [vec![dir], files.into_iter().take(2).collect()] {
            let Some((sides, baselines)) = case.accepted(choose(&paths, &[]), "run") else { continue };
            let Some(comparison) = case.accepted(Comparison::of(&sides, &baselines), "run") else { continue };
            assert!(!comparison.to_string().is_empty());
            let json = serde_json::to_string(&comparison).expect("JSON");
            assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
            let picture = curves::held_out(&sides.iter().collect::<Vec<_>>(), &baselines);
            numbers(&picture.svg().unwrap_or_else(|e| panic!("cannot plot a comparison: {e}")));
        }
    });
});

/// Checks that no coordinate in a picture is NaN or infinite.
fn numbers(picture: &str) {
    for bad in ["=\"NaN", "=\"inf", "=\"-inf", ",NaN", "NaN,", ",inf ", " inf,"] {
        for (at, _) in picture.match_indices(bad) {
            let begin = picture[..at].rfind('<').unwrap_or(0);
            // Outside of a tag these are letters of a text, not a coordinate.
            let within = picture[begin..at].contains('>');
            assert!(within, "{}", &picture[begin..(at + 40).min(picture.len())]);
        }
    }
}
