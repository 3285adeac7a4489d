//! Run configurations: a TOML text, followed by changes of `--set`, separated by lines `%%`. What is accepted is
//! written and read back, as for a resumed run, and the models of its levels are built.
//!
//! Sources: src/config/mod.rs src/config/data.rs src/config/levels.rs src/config/schedule.rs src/families/build.rs src/data/images/augment.rs src/data/images/mixing.rs src/data/images/source.rs src/data/images/view.rs src/data/images/randaugment.rs src/data/tokens/masking.rs src/data/labelled/mod.rs src/multilevel
#![no_main]

use harness::{Memory, run, same, texts};
use vcycle::families;

/// Models with a larger size are not built, to save time.
const SMALL: usize = 64;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(data) = str::from_utf8(data) else { return };
    run(data.as_bytes(), Memory { mib: 16, per_byte: 4096 }, |case| {
        let parts = texts(data.as_bytes());
        let part = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        let path = case.file("run.toml", parts[0]);
        let changes: Vec<String> = parts[1..].iter().copied().map(part).collect();
        let Some(config) = case.accepted(families::read(&path, &changes), "run.toml") else { return };
        let written = toml::to_string(&config).expect("a configuration can be written");
        let again = families::parse(&written, &[])
            .unwrap_or_else(|e| panic!("a written configuration is rejected: {e}\n{written}"));
        same("written again", &toml::to_string(&again).expect("as before"), &written);
        let _ = (families::shape(&config).is_ok(), config.optimizer(), config.rules(), config.masking());
        let model = &config.model;
        let sizes = [model.layers, model.heads, model.head_size, model.context, model.image.unwrap_or(0)];
        if model.from.is_none() && sizes.iter().all(|&size| size <= SMALL) {
            case.accepted(families::build(&config, 256), "").inspect(|all| assert_eq!(all.len(), config.levels.len()));
        }
    });
});
