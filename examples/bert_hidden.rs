//! Hidden states of a BERT, for `bert_hidden.py`.
//!
//! `cargo run --release --example bert_hidden -- MODEL IN.json OUT.safetensors`: reads `input_ids`, `token_type_ids` and
//! `attention_mask`, each rows of one length, and writes `last_hidden_state` `[B, T, C]`.

use std::path::Path;
use vcycle::data::loader::batch::Field;
use vcycle::device::ops::StepState;
use vcycle::error::{Error, Result};
use vcycle::hub::{checkpoint, tensors};
use vcycle::model::bert::{Bert, BertConfig, BertHead, Tokens};
use vcycle::model::feed::Inputs;
use vcycle::model::{BatchShape, Family, Model};
use vcycle::tape::{Mode, Tape};
use vcycle::{bail, device};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, out] = &args[..] else { bail!("usage: bert_hidden MODEL IN.json OUT.safetensors") };
    let text = std::fs::read_to_string(input).map_err(|e| Error::io("read", Path::new(input), e))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::new(format!("{input}: {e}")))?;
    let rows = |key: &str| -> Result<Vec<Vec<i32>>> {
        serde_json::from_value(json[key].clone()).map_err(|e| Error::new(format!("{input}: {key}: {e}")))
    };
    let all = [rows("input_ids")?, rows("token_type_ids")?, rows("attention_mask")?];
    let (batch, time) = (all[0].len(), all[0].first().map_or(0, Vec::len));
    if batch * time == 0 || all.iter().any(|rows| rows.len() != batch || rows.iter().any(|row| row.len() != time)) {
        bail!("{input}: all three must be as many rows of one length");
    }
    let mut cpu = device::open("cpu", 0)?;
    let loaded = checkpoint::load(Path::new(model), &mut *cpu)?;
    let Family::Bert(config) = loaded.model.family() else { bail!("{model}: not a BERT") };
    // The encoder takes the same inputs whatever stands on it.
    let encoder = Bert::new(BertConfig { head: BertHead::None, ..config.clone() })?;
    let float = cpu.float();
    let mut inputs = Inputs::new(&mut *cpu, &encoder, BatchShape::from((batch, time)), float)?;
    let fields = all.map(|rows| Field::Ints(rows.concat()));
    inputs.micro_batches(&fields)?;
    inputs.write(&mut *cpu, &fields, 0)?;
    let state = StepState::tensor(cpu.alloc(size_of::<StepState>())?);
    let (mut tape, mut vars) = (Tape::new(cpu.float(), state), Vec::new());
    tape.begin(Mode::Evaluate);
    loaded.store.declare_frozen(&mut tape, &mut vars);
    let given = inputs.declare(&mut tape);
    let tokens = Tokens { ids: given[0], types: given[1], mask: given[2] };
    let hidden = encoder.hidden(&mut tape, &vars[..encoder.table().params.len()], tokens, false, |_, _| {});
    tape.keep(hidden);
    tape.run(&mut *cpu)?;
    let values = device::read_f32(&mut *cpu, &tape.value(hidden)?)?;
    tensors::write(Path::new(out), &[("last_hidden_state", vec![batch, time, config.width], values)])
}
