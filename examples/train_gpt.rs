//! Trains a small GPT on one batch of random tokens until it knows them: `cargo run --release --example train_gpt`.

use vcycle::device;
use vcycle::error::Result;
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::optim::AdamW;
use vcycle::train::state::{Options, TrainState};

fn main() -> Result<()> {
    let mut device = device::open("cpu", 0)?;
    let (batch, time, vocab) = (8, 64, 256);
    let sizes = GptConfig { vocab, context: time, width: 64, heads: 4, layers: 2, ffn: 256, ..GptConfig::default() };
    let gpt = Gpt::new(sizes)?;
    let params = Store::new(gpt.table().clone(), &mut *device)?;
    params.initialise(&mut *device, 1)?;
    let optimizer = AdamW::default().clipped(1.0);
    let mut state = TrainState::new(&mut *device, Box::new(gpt), params, (batch, time), optimizer, Options::default())?;

    // Rows of `time + 1` tokens: every token is the label of the one before it.
    let random = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 24;
    let rows: Vec<Vec<i32>> = (0..batch).map(|b| (0..=time).map(|t| random(b * 1000 + t) as i32).collect()).collect();
    let ids: Vec<i32> = rows.iter().flat_map(|row| &row[..time]).copied().collect();
    let labels: Vec<i32> = rows.iter().flat_map(|row| &row[1..]).copied().collect();
    for step in 0..=200 {
        let report = state.step_tokens(&mut *device, &ids, &labels, 1e-3)?;
        if step % 20 == 0 {
            println!("step {step:>3}  loss {:.4}  gradient norm {:.3}", report.loss, report.grad_norm);
        }
    }
    Ok(())
}
