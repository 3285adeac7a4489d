//! JSON that the program itself writes. The first byte selects the input: the files of a run that `report` and `compare`
//! read (the metrics of both runs, `run.json` and `config.toml`, separated by lines `%%`); measurements that
//! `bench-report` reads; or `vcycle.json` and a scheme, separated by a line `%%`.
//!
//! Sources: src/report src/runlog src/bench/report src/multilevel/record.rs src/multilevel/scheme.rs src/multilevel/rules.rs
#![no_main]

use harness::{Case, Memory, choice, run, same, texts};
use std::path::PathBuf;
use vcycle::bench::report::Report;
use vcycle::multilevel::scheme::{Groups, ModelShape};
use vcycle::multilevel::{Record, Scheme};
use vcycle::report::compare::{Comparison, choose};
use vcycle::report::run::Run;
use vcycle::report::{curves, html};
use vcycle::runlog::Metrics;

const FILES: [&str; 4] = ["run/vcycle/metrics.jsonl", "run/scratch/metrics.jsonl", "run/run.json", "run/config.toml"];

/// Larger models take too long.
const MOST: usize = 1 << 12;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = choice(data) else { return };
    let (mib, per_byte) = if which % 3 == 2 { (4, 256) } else { (32, 4096) };
    run(data, Memory { mib, per_byte }, |case| match which % 3 {
        0 => left(case, data),
        1 => measured(case, data),
        _ => grown(case, data),
    });
});

/// The files of a run.
fn left(case: &Case, data: &[u8]) {
    let files: Vec<PathBuf> = FILES.iter().zip(texts(data)).map(|(name, text)| case.file(name, text)).collect();
    let dir = case.dir.join("run");
    for side in ["vcycle", "scratch"] {
        case.accepted(Metrics::finished(&dir.join(side)), "metrics.jsonl");
    }
    if let Some(run) = case.accepted(Run::read(&dir), "run") {
        let page = html::render(&run).unwrap_or_else(|e| panic!("no page of a run that was read: {e}"));
        numbers(&page);
    }
    for paths in [vec![dir], files.into_iter().take(2).collect()] {
        let Some((sides, baselines)) = case.accepted(choose(&paths, &[]), "run") else { continue };
        let Some(comparison) = case.accepted(Comparison::of(&sides, &baselines), "run") else { continue };
        assert!(!comparison.to_string().is_empty());
        let json = serde_json::to_string(&comparison).expect("JSON");
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        let picture = curves::held_out(&sides.iter().collect::<Vec<_>>(), &baselines);
        numbers(&picture.svg().unwrap_or_else(|e| panic!("no picture of a comparison: {e}")));
    }
}

/// Checks that no coordinate in a picture is NaN or infinite.
fn numbers(picture: &str) {
    for bad in ["=\"NaN", "=\"inf", "=\"-inf", ",NaN", "NaN,", ",inf ", " inf,"] {
        for (at, _) in picture.match_indices(bad) {
            let begin = picture[..at].rfind('<').unwrap_or(0);
            // Text may contain these letters.
            let within = picture[begin..at].contains('>');
            assert!(within, "{}", &picture[begin..(at + 40).min(picture.len())]);
        }
    }
}

/// Benchmark measurements.
fn measured(case: &Case, data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    let all = case.file("all.jsonl", data);
    let halves = [case.file("a.jsonl", first), case.file("b.jsonl", second)];
    for paths in [&[all][..], &halves] {
        let Some(report) = case.accepted(Report::of(paths), ".jsonl") else { continue };
        assert!(report.markdown().starts_with("# "));
        report.write(&case.dir).unwrap_or_else(|e| panic!("no report of what was read: {e}"));
    }
}

/// The `vcycle.json` of a model that was made from another one, and a scheme.
fn grown(case: &Case, data: &[u8]) {
    let parts = texts(data);
    case.file("vcycle.json", parts[0]);
    if let Some(Some(record)) = case.accepted(Record::read(&case.dir), "vcycle.json") {
        record.write(&case.dir).expect("written");
        same("the record", &Record::read(&case.dir).expect("it was just written"), &Some(record.clone()));
        resolved(case, &record.scheme, record.parent);
    }
    let path = case.file("scheme.json", parts.get(1).copied().unwrap_or_default());
    if let Some(scheme) = case.accepted(Scheme::read(&path), "scheme.json") {
        for parent in
            [ModelShape { layers: 2, heads: 4, head_size: 4 }, ModelShape { layers: 5, heads: 1, head_size: 2 }]
        {
            resolved(case, &scheme, parent);
        }
    }
}

/// Resolves the scheme for several sizes of the small model.
fn resolved(case: &Case, scheme: &Scheme, big: ModelShape) {
    if big.layers > MOST || big.heads > MOST {
        return;
    }
    let (layers, heads) = scheme.small();
    for small in [
        ModelShape { layers: layers.unwrap_or(big.layers), heads: heads.unwrap_or(big.heads), ..big },
        ModelShape { layers: big.layers / 2, heads: big.heads / 2, ..big },
        ModelShape { layers: 1, heads: 1, ..big },
    ] {
        let Some(grouping) = case.accepted(scheme.resolve(big, small), "") else { continue };
        for (groups, from, to) in [(grouping.width, big.heads, small.heads), (grouping.depth, big.layers, small.layers)]
        {
            match groups {
                Some(groups) => whole(&groups, from, to),
                None => same("units", &from, &to),
            }
        }
    }
}

/// Checks that every unit is in exactly one group.
fn whole(groups: &Groups, big: usize, small: usize) {
    same("sizes", &(groups.big(), groups.len()), &(big, small));
    let mut all: Vec<usize> = (0..groups.len()).flat_map(|g| groups.members(g).to_vec()).collect();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..big));
    assert!((0..groups.len()).all(|g| groups.members(g).iter().all(|&unit| groups.group_of(unit) == g)));
}
