//! Logits of a model folder as JSON, for `transformers_roundtrip.py`.
//!
//! `cargo run --release --example logits -- MODEL IDS.json OUT.json [COPY]`: reads `{"input_ids": [[..], ..]}` (rows of one
//! length), writes `{"input_ids": .., "logits": [[[..]]]}`; with COPY, saves the model there again, as this crate writes it.

use std::path::Path;
use vcycle::error::{Error, Result};
use vcycle::eval::Forward;
use vcycle::hub::checkpoint;
use vcycle::{bail, device, files};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(model), Some(ids), Some(out)) = (args.first(), args.get(1), args.get(2)) else {
        bail!("usage: logits MODEL IDS.json OUT.json [COPY]")
    };
    let text = std::fs::read_to_string(ids).map_err(|e| Error::io("read", Path::new(ids), e))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::new(format!("{ids}: {e}")))?;
    let rows: Vec<Vec<i32>> =
        serde_json::from_value(json["input_ids"].clone()).map_err(|e| Error::new(format!("{ids}: input_ids: {e}")))?;
    let dims = [rows.len(), rows.first().map_or(0, Vec::len)];
    if dims.contains(&0) || rows.iter().any(|row| row.len() != dims[1]) {
        bail!("{ids}: input_ids must be rows of one length");
    }
    let mut cpu = device::open("cpu", 0)?;
    let (gpt, store) = checkpoint::load_gpt(Path::new(model), &mut *cpu)?;
    let mut forward = Forward::new(&mut *cpu, &gpt, &store, (dims[0], dims[1]))?;
    let logits = forward.logits(&mut *cpu, &rows.concat(), dims)?;
    let rows_of_logits: Vec<&[f32]> = logits.chunks_exact(gpt.config.vocab).collect();
    let nested: Vec<&[&[f32]]> = rows_of_logits.chunks_exact(dims[1]).collect();
    let result = serde_json::json!({ "input_ids": rows, "logits": nested });
    files::write_atomic(Path::new(out), |file| Ok(serde_json::to_writer(file, &result)?))?;
    if let Some(copy) = args.get(3) {
        files::write_dir_atomic(Path::new(copy), |dir| checkpoint::save(dir, &gpt, &store, &mut *cpu))?;
    }
    Ok(())
}
