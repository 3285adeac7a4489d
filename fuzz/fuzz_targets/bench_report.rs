//! Lines of measurements of vcycle and of peers, as `vcycle bench report` reads them. What is accepted is rendered.
//!
//! Sources: src/bench/report src/report/canvas.rs src/report/page.rs
#![no_main]

use harness::{Memory, run};
use vcycle::bench::report::Report;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 32, per_byte: 4096 }, |case| {
        let (first, second) = data.split_at(data.len() / 2);
        let all = case.file("all.jsonl", data);
        let halves = [case.file("a.jsonl", first), case.file("b.jsonl", second)];
        for paths in [&[all][..], &halves] {
            let Some(report) = case.accepted(Report::of(paths), ".jsonl") else { continue };
            assert!(report.markdown().starts_with("# "));
            report.write(&case.dir).unwrap_or_else(|e| panic!("cannot write a report on accepted lines: {e}"));
        }
    });
});
