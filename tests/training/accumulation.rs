//! Promise: a step in n micro-batches equals a step on the whole batch: up to rounding, the same loss, gradient norm
//! and weights, step after step, however the scored items are distributed over the micro-batches.

use proptest::prelude::*;
use vcycle::data::loader::batch::Field;
use vcycle::device;
use vcycle::model::bert::{Bert, BertConfig, BertHead, Norm};
use vcycle::model::deit::{Deit, DeitConfig, Distillation};
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::model::{BatchShape, Model};
use vcycle::optim::AdamW;
use vcycle::train::state::{Options, StepReport, TrainState};

const BATCH: usize = 4;
const TIME: usize = 8;
const STEPS: usize = 6;
const LR: f64 = 1e-2;

fn gpt() -> Gpt {
    Gpt::new(GptConfig {
        vocab: 29,
        context: TIME,
        width: 8,
        heads: 2,
        layers: 2,
        ffn: 32,
        eps: 1e-5,
        init_std: 0.3,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    })
    .expect("sizes that fit")
}

/// Trains with `micro` micro-batches per step. Returns the reports of the steps, the initial weights and the final
/// weights.
fn train(name: &str, micro: usize, eps: f64) -> (Vec<StepReport>, Vec<f64>, Vec<f64>) {
    let mut device = device::open(name, 2).expect("a device");
    let device = &mut *device;
    let model = Box::new(gpt());
    let params = Store::new(model.table().clone(), device).expect("memory");
    params.initialise(device, 5).expect("written");
    let before = device::read_floats(device, &params.flat()).expect("values");
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, eps, weight_decay: 0.1 }.clipped(1.0);
    let batch = (BATCH / micro, TIME);
    let mut train_state = TrainState::new(device, model, params, batch, optimizer, Options::default()).expect("memory");
    let reports = (0..STEPS as i32).map(|step| {
        let ids: Vec<i32> = (0..(BATCH * TIME) as i32).map(|i| (i * i + step * 5) % 29).collect();
        let labels: Vec<i32> = ids.iter().map(|id| (id * 3 + 1) % 29).collect();
        train_state.step_tokens(device, &ids, &labels, LR).expect("a step")
    });
    let reports = reports.collect();
    let after = device::read_floats(device, &train_state.params.flat()).expect("values");
    (reports, before, after)
}

fn compare(device: &str, eps: f64, tolerance: f64) {
    let (whole, before, after) = train(device, 1, eps);
    let largest = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let moved = largest(&before, &after);
    assert!(moved > 1e3 * tolerance, "the weights moved by only {moved:e}, too little for this test");
    for micro in [2, 4] {
        let (parts, _, weights) = train(device, micro, eps);
        for (step, (a, b)) in whole.iter().zip(&parts).enumerate() {
            for (what, a, b) in [("loss", a.loss, b.loss), ("norm", a.grad_norm, b.grad_norm)] {
                let error = (a - b).abs() / a.abs();
                assert!(error <= tolerance, "{device}, {micro} micro-batches, step {step}: {what} is {b}, not {a}");
            }
        }
        let error = largest(&after, &weights);
        assert!(error <= tolerance, "{device}, {micro} micro-batches: weights differ by {error:e}");
    }
}

#[test]
fn micro_batches_match_the_whole_batch_on_the_reference() {
    compare("reference", 1e-8, 1e-10);
}

/// Sums of 32 tokens' gradients in a different order differ by up to 32 x 2^-24 = 2e-6 of their size, and later steps
/// start from weights that already differ. AdamW divides by the typical size of a gradient. An eps as large as the
/// gradients keeps it from scaling an element whose gradient is pure rounding error up to a full step, so that weights
/// of size 1 differ by no more than that.
#[test]
fn micro_batches_match_the_whole_batch_on_the_cpu() {
    compare("cpu", 1.0, 32.0 / (1 << 24) as f64);
}

/// A batch of any family, from which any range of rows can be cut as a micro-batch.
struct Rows {
    model: Box<dyn Fn() -> Box<dyn Model>>,
    shape: BatchShape,
    /// Returns the fields of a range of rows as one micro-batch.
    fields: Box<dyn Fn(std::ops::Range<usize>) -> Vec<Field>>,
}

/// The random numbers of a test case, generated from its seed.
struct Draws(u64);

impl Draws {
    fn below(&mut self, choices: usize) -> usize {
        // Knuth's MMIX generator; its high bits are good enough for test data.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % choices
    }

    fn ints(&mut self, count: usize, choices: usize) -> Vec<i32> {
        (0..count).map(|_| self.below(choices) as i32).collect()
    }

    /// Returns labels, a third of which are ignored; in one case out of four all of them are.
    fn labels(&mut self, count: usize, choices: usize) -> Vec<i32> {
        let none = self.below(4) == 0;
        let mut label = || if none || self.below(3) == 0 { -100 } else { self.below(choices) as i32 };
        (0..count).map(|_| label()).collect()
    }
}

const VOCAB: usize = 29;

fn gpt_rows(batch: usize, draws: &mut Draws) -> Rows {
    let rows: Vec<_> = (0..batch).map(|_| (draws.ints(TIME, VOCAB), draws.labels(TIME, VOCAB))).collect();
    let fields = move |range: std::ops::Range<usize>| {
        let (ids, labels): (Vec<_>, Vec<_>) = rows[range].iter().cloned().unzip();
        vec![Field::Ints(ids.concat()), Field::Ints(labels.concat())]
    };
    let shape = BatchShape { batch, time: TIME, scored: 0 };
    Rows { model: Box::new(|| Box::new(gpt())), shape, fields: Box::new(fields) }
}

/// Rows for BERT with any trainable head: masked tokens, masked tokens with sentence pairs, classes, or regression.
fn bert_rows(batch: usize, head: BertHead, draws: &mut Draws) -> Rows {
    const SLOTS: usize = 3;
    struct Row {
        tokens: [Vec<i32>; 3],
        slots: Vec<(i32, i32)>,
        class: i32,
        value: f32,
    }
    let row = |draws: &mut Draws| {
        let length = 1 + draws.below(TIME);
        let mask = (0..TIME).map(|at| i32::from(at < length)).collect();
        let labels = draws.labels(SLOTS, VOCAB);
        let slots = labels.into_iter().map(|label| (draws.below(length) as i32, label)).collect();
        let value = if draws.below(3) == 0 { f32::NAN } else { draws.below(50) as f32 / 10.0 };
        Row { tokens: [draws.ints(TIME, VOCAB), draws.ints(TIME, 2), mask], slots, class: draws.labels(1, 2)[0], value }
    };
    let rows: Vec<Row> = (0..batch).map(|_| row(draws)).collect();
    let fields = move |range: std::ops::Range<usize>| {
        let rows = &rows[range];
        let of = |part: usize| Field::Ints(rows.iter().flat_map(|row| row.tokens[part].clone()).collect());
        let mut fields = vec![of(0), of(1), of(2)];
        if matches!(head, BertHead::Masked | BertHead::Pretraining) {
            // Positions are counted within the micro-batch.
            let positions = rows.iter().enumerate();
            let positions = positions.flat_map(|(i, row)| row.slots.iter().map(move |s| s.0 + (i * TIME) as i32));
            fields.push(Field::Ints(positions.collect()));
            fields.push(Field::Ints(rows.iter().flat_map(|row| row.slots.iter().map(|s| s.1)).collect()));
        }
        match head {
            BertHead::Masked => {}
            BertHead::Classify { labels: 1 } => {
                fields.push(Field::Floats(rows.iter().map(|row| row.value).collect()));
            }
            _ => fields.push(Field::Ints(rows.iter().map(|row| row.class).collect())),
        }
        fields
    };
    let model = move || {
        let config = BertConfig {
            vocab: VOCAB,
            context: TIME,
            types: 2,
            width: 8,
            heads: 2,
            layers: 1,
            ffn: 16,
            eps: 1e-12,
            init_std: 0.3,
            dropout_hidden: 0.0,
            dropout_attention: 0.0,
            pad: 0,
            norm: Norm::Post,
            head,
        };
        Box::new(Bert::new(config).expect("sizes that fit")) as Box<dyn Model>
    };
    Rows { model: Box::new(model), shape: BatchShape { batch, time: TIME, scored: SLOTS }, fields: Box::new(fields) }
}

fn deit_rows(batch: usize, distillation: Distillation, draws: &mut Draws) -> Rows {
    let config = move || DeitConfig {
        image: 4,
        patch: 2,
        channels: 1,
        classes: 5,
        width: 8,
        heads: 2,
        layers: 1,
        ffn: 16,
        eps: 1e-6,
        init_std: 0.3,
        distillation,
        dropout: 0.0,
        drop_path: 0.0,
    };
    let elements = config().tokens() * config().pixels();
    let pixels = |draws: &mut Draws| (0..elements).map(|_| draws.below(200) as f32 / 100.0 - 1.0).collect::<Vec<_>>();
    let row = |draws: &mut Draws| {
        (pixels(draws), draws.labels(1, 5)[0], draws.below(5) as i32, draws.below(10) as f32 / 10.0)
    };
    let rows: Vec<_> = (0..batch).map(|_| row(draws)).collect();
    let fields = move |range: std::ops::Range<usize>| {
        let rows = &rows[range];
        vec![
            Field::Floats(rows.iter().flat_map(|row| row.0.clone()).collect()),
            Field::Ints(rows.iter().map(|row| row.1).collect()),
            Field::Ints(rows.iter().map(|row| row.2).collect()),
            Field::Floats(rows.iter().map(|row| row.3).collect()),
        ]
    };
    let model = move || Box::new(Deit::new(config()).expect("sizes that fit")) as Box<dyn Model>;
    Rows { model: Box::new(model), shape: BatchShape { batch, time: 0, scored: 0 }, fields: Box::new(fields) }
}

/// Returns the loss and the gradients of one step in micro-batches of `micro` rows each.
fn step(rows: &Rows, micro: usize) -> (f64, Vec<f64>) {
    let mut device = device::open("reference", 1).expect("a device");
    let device = &mut *device;
    let model = (rows.model)();
    let params = Store::new(model.table().clone(), device).expect("memory");
    params.initialise(device, 5).expect("written");
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }.clipped(f64::INFINITY);
    let shape = BatchShape { batch: micro, ..rows.shape };
    let mut train_state = TrainState::new(device, model, params, shape, optimizer, Options::default()).expect("memory");
    let mut fields: Vec<Field> = Vec::new();
    for first in (0..rows.shape.batch).step_by(micro) {
        for (number, part) in (rows.fields)(first..first + micro).into_iter().enumerate() {
            match (fields.get_mut(number), part) {
                (Some(Field::Ints(all)), Field::Ints(part)) => all.extend(part),
                (Some(Field::Floats(all)), Field::Floats(part)) => all.extend(part),
                (_, part) => fields.push(part),
            }
        }
    }
    let report = train_state.step(device, &fields, 0.0).expect("a step");
    (report.loss, device::read_floats(device, &train_state.grads().flat()).expect("gradients"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Losses and gradients are means over all scored items of the batch, whichever micro-batches they are in, even if
    /// a micro-batch has none. In f64, sums of some hundred terms in a different order differ by less than 1e-12 of
    /// their size.
    #[test]
    fn loss_and_gradients_are_those_of_the_whole_batch(seed in any::<u64>(), family in 0..7usize, batch in 1..7usize) {
        let draws = &mut Draws(seed);
        let rows = match family {
            0 => gpt_rows(batch, draws),
            1 => bert_rows(batch, BertHead::Masked, draws),
            2 => bert_rows(batch, BertHead::Pretraining, draws),
            3 => bert_rows(batch, BertHead::Classify { labels: 2 }, draws),
            4 => bert_rows(batch, BertHead::Classify { labels: 1 }, draws),
            5 => deit_rows(batch, Distillation::None, draws),
            _ => deit_rows(batch, Distillation::Head, draws),
        };
        let (loss, gradients) = step(&rows, batch);
        let size = gradients.iter().fold(1.0f64, |most, g| most.max(g.abs()));
        for micro in (1..batch).filter(|micro| batch.is_multiple_of(*micro)) {
            let (parts, found) = step(&rows, micro);
            let error = (parts - loss).abs();
            prop_assert!(error <= 1e-12 * loss.abs().max(1.0), "{micro} of {batch} rows: loss {parts}, not {loss}");
            for (i, (a, b)) in gradients.iter().zip(&found).enumerate() {
                prop_assert!((a - b).abs() <= 1e-12 * size, "{micro} of {batch} rows: gradient {i} is {b}, not {a}");
            }
        }
    }
}
