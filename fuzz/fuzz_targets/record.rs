//! `vcycle.json` and a scheme, separated by a line `%%`.
//!
//! Sources: src/multilevel/record.rs src/multilevel/scheme.rs src/multilevel/rules.rs
#![no_main]

use harness::{Memory, run, same, texts};
use vcycle::multilevel::scheme::{Groups, ModelShape};
use vcycle::multilevel::{Record, Scheme};

/// Models with more layers or heads are not resolved, to save time.
const MOST: usize = 1 << 12;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 4, per_byte: 256 }, |case| {
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
    });
});

fn resolved(case: &harness::Case, scheme: &Scheme, big: ModelShape) {
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
