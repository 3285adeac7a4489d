//! Promise: metrics equal their definitions, computed by hand, and every mean of an evaluation is a mean over items,
//! however they are batched.

use std::path::Path;
use std::process::Command;
use vcycle::data::loader::batch::{Field, Source};
use vcycle::data::tokens::shard::{Shard, write_shard};
use vcycle::device::Device;
use vcycle::device::cpu::Cpu;
use vcycle::error::Result;
use vcycle::eval::Forward;
use vcycle::eval::held_out::held_out;
use vcycle::eval::metrics::{MetricsAccumulator, TaskMetrics};
use vcycle::eval::perplexity::perplexity;
use vcycle::families;
use vcycle::hub::checkpoint;
use vcycle::model::Model;
use vcycle::model::deit::{Deit, DeitConfig, Distillation};
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;

/// Equal up to the rounding of a few dozen operations on numbers of about 1.
fn close(found: f64, wanted: f64) {
    assert!((found - wanted).abs() <= 64.0 * f64::EPSILON * wanted.abs().max(1.0), "{found}, not {wanted}");
}

/// Equal up to the f32 rounding of a loss: a logarithm of a sum of exponentials, and a mean of a few.
fn close_loss(found: f64, wanted: f64) {
    assert!((found - wanted).abs() <= 16.0 * f64::from(f32::EPSILON) * wanted.abs(), "{found}, not {wanted}");
}

/// Returns scores of which `class` has the highest.
fn row(classes: usize, class: usize) -> Vec<f32> {
    (0..classes).map(|c| if c == class { 2.0 } else { 0.5 * c as f32 / classes as f32 }).collect()
}

/// Returns accuracy, F1 and Matthews correlation of predictions that arrive in batches of three. The last batch is
/// padded with rows that must not count.
fn classes(count: usize, predicted: &[usize], labels: &[i32]) -> (f64, Option<f64>, f64) {
    let mut agreement = MetricsAccumulator::Classes { classes: count, predicted: Vec::new(), labels: Vec::new() };
    for (predicted, labels) in predicted.chunks(3).zip(labels.chunks(3)) {
        let rest = 3 - labels.len();
        let scores: Vec<f32> = predicted.iter().chain(&vec![0; rest]).flat_map(|&class| row(count, class)).collect();
        let given = Field::Ints(labels.iter().chain(&vec![0; rest]).copied().collect());
        let unused = Field::Ints(vec![1; 3]);
        agreement.add(&scores, &[unused.clone(), unused, given], labels.len());
    }
    match agreement.measures().expect("measures") {
        TaskMetrics::Classes { accuracy, f1, matthews } => (accuracy, f1, matthews),
        other => panic!("{other:?}"),
    }
}

/// Of classes with equal scores the first one is predicted, even if a class before it has a lower score.
#[test]
fn ties_are_resolved_to_the_first_class() {
    let mut agreement = MetricsAccumulator::Classes { classes: 3, predicted: Vec::new(), labels: Vec::new() };
    agreement.add(&[0.5, 0.5, 0.1, 0.2, 0.7, 0.7], &[Field::Ints(vec![0, 1])], 2);
    let TaskMetrics::Classes { accuracy, .. } = agreement.measures().expect("measures") else {
        panic!("expected metrics of classes")
    };
    close(accuracy, 1.0);
}

/// Ten examples, two of class 1: 1 true positive, 1 false negative, 2 false positives, 6 true negatives. As defined in
/// `sklearn.metrics`: accuracy is (TP + TN) / n; F1 of class 1 is 2 TP / (2 TP + FP + FN) (of class 0 it would be
/// 12 / 15); Matthews correlation is (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)).
#[test]
fn metrics_of_two_unbalanced_classes() {
    let labels = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let predicted = [1, 0, 1, 1, 0, 0, 0, 0, 0, 0];
    let (accuracy, f1, matthews) = classes(2, &predicted, &labels);
    close(accuracy, 7.0 / 10.0);
    close(f1.expect("two classes"), 2.0 / 5.0);
    close(matthews, (6.0 - 2.0) / (3.0f64 * 2.0 * 8.0 * 7.0).sqrt());
}

/// Three classes with the confusion matrix [[4, 0, 0], [2, 1, 1], [1, 1, 4]] (rows: labels, columns: predictions). With
/// s = 14 examples, c = 9 correct, t = (4, 4, 6) by label and p = (7, 2, 5) by prediction,
/// `sklearn.metrics.matthews_corrcoef` is (c s - t p) / sqrt((s^2 - p p) (s^2 - t t)). F1 is only defined for two
/// classes.
#[test]
fn metrics_of_three_classes() {
    let labels = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2];
    let predicted = [0, 0, 0, 0, 0, 0, 1, 2, 0, 1, 2, 2, 2, 2];
    let (accuracy, f1, matthews) = classes(3, &predicted, &labels);
    close(accuracy, 9.0 / 14.0);
    assert_eq!(f1, None);
    close(matthews, (9.0 * 14.0 - (28.0 + 8.0 + 30.0)) / ((196.0 - 78.0) * (196.0 - 68.0f64)).sqrt());
}

/// For x = (2, 4, 4, 7, 13) and y = (1, 3, 2, 2, 7), whose means are 6 and 3: `scipy.stats.pearsonr` is
/// 37 / sqrt(74 22), from the differences (-4, -2, -2, 1, 7) and (-2, 0, -1, -1, 4). `scipy.stats.spearmanr` is the
/// correlation of the ranks (1, 2.5, 2.5, 4, 5) and (1, 4, 2.5, 2.5, 5), where ties share their mean rank: 7.25 / 9.5.
/// (The formula that uses squared differences of ranks would give 0.775.)
#[test]
fn correlations_of_numbers_with_ties() {
    let (predicted, labels) = ([2.0f32, 4.0, 4.0, 7.0, 13.0], [1.0f32, 3.0, 2.0, 2.0, 7.0]);
    let mut agreement = MetricsAccumulator::Values { predicted: Vec::new(), labels: Vec::new() };
    agreement.add(&predicted[..3], &[Field::Floats(labels[..3].to_vec())], 3);
    // A batch of three with only two examples; the last row is padding.
    agreement.add(&[7.0, 13.0, 99.0], &[Field::Floats(vec![2.0, 7.0, -99.0])], 2);
    let TaskMetrics::Values { pearson, spearman } = agreement.measures().expect("measures") else {
        panic!("expected metrics of numbers")
    };
    close(pearson, 37.0 / (74.0f64 * 22.0).sqrt());
    close(spearman, 7.25 / 9.5);
}

/// Seven classes with decreasing scores, so that the label is its own rank: of the ranks 0, 4, 5, 6, 0 and 1, two are
/// within top 1 and four within top 5 (five would be within top 6).
#[test]
fn top_1_and_top_5_of_seven_classes() {
    let labels = [0, 4, 5, 6, 0, 1];
    let mut agreement = MetricsAccumulator::Images { hits: [0; 2], images: 0 };
    let falling = || (0..7).map(|class| -(class as f32));
    for batch in labels.chunks(4) {
        // The padding rows have label 0, which would count as correct.
        let given = batch.iter().chain(&[0; 4]).take(4).copied().collect();
        let scores: Vec<f32> = (0..4).flat_map(|_| falling()).collect();
        let fields =
            [Field::Floats(vec![0.0]), Field::Ints(given), Field::Ints(vec![6; 4]), Field::Floats(vec![1.0; 4])];
        agreement.add(&scores, &fields, batch.len());
    }
    assert_eq!(agreement.measures().expect("measures"), TaskMetrics::Images { top1: 2.0 / 6.0, top5: 4.0 / 6.0 });
    // Of classes with equal scores the first ones rank higher.
    for (label, top1, top5) in [(0, 1.0, 1.0), (1, 0.0, 1.0), (4, 0.0, 1.0), (5, 0.0, 0.0), (6, 0.0, 0.0)] {
        let mut agreement = MetricsAccumulator::Images { hits: [0; 2], images: 0 };
        agreement.add(&[0.25; 7], &[Field::Floats(vec![0.0]), Field::Ints(vec![label])], 1);
        assert_eq!(agreement.measures().expect("measures"), TaskMetrics::Images { top1, top5 }, "{label}");
    }
}

/// A source of fixed batches of held-out examples, each with the number of scored labels.
struct Fixed {
    batches: Vec<(Vec<Field>, usize)>,
}

impl Source for Fixed {
    fn allocate(&self, _rows: usize) -> Result<Vec<Field>> {
        Ok(self.batches[0].0.clone())
    }

    fn training_batch(&self, _step: u64, _fields: &mut [Field]) -> Result<()> {
        unreachable!("this source is only evaluated")
    }

    fn describe(&self) -> String {
        "examples".into()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        let Some((batch, scored)) = self.batches.get(index) else { return Ok(None) };
        fields.clone_from_slice(batch);
        Ok(Some(*scored))
    }
}

/// Returns a store in which all parameters are zero except those with the given names and values.
fn zeros(model: &dyn Model, device: &mut dyn Device, values: &[(&str, Vec<f32>)]) -> Store {
    let store = Store::new(model.table().clone(), device).expect("memory");
    for (stem, values) in values {
        let at = model.table().find(stem, None).expect("a parameter");
        store.write(device, at, values).expect("written");
    }
    store
}

/// Returns the loss of each possible label, given these scores.
fn losses(scores: &[f32]) -> Vec<f64> {
    let sum = scores.iter().map(|&score| f64::from(score).exp()).sum::<f64>().ln();
    scores.iter().map(|&score| sum - f64::from(score)).collect()
}

/// Eight images with label 0, then labels 5 and 4 in a batch that is half full; scores fall from 6 to 0 whatever the
/// image. A mean of the three batch means would give the last two images the weight of four.
#[test]
fn a_half_full_last_batch_of_images_is_weighted_by_its_images() {
    let device = &mut Cpu::new(1);
    let deit = Deit::new(DeitConfig {
        image: 4,
        patch: 2,
        channels: 1,
        classes: 7,
        width: 8,
        heads: 2,
        layers: 1,
        ffn: 16,
        eps: 1e-6,
        init_std: 0.02,
        distillation: Distillation::None,
        dropout: 0.0,
        drop_path: 0.0,
    })
    .expect("sizes that fit");
    let scores: Vec<f32> = (0..7).rev().map(|score| score as f32).collect();
    let store = zeros(&deit, device, &[("head.bias", scores.clone())]);
    let batch = |labels: [i32; 4], scored| {
        let others = labels.map(|label| label.max(0)).to_vec();
        let patches = Field::Floats(vec![0.5; 4 * 5 * 4]);
        (vec![patches, Field::Ints(labels.to_vec()), Field::Ints(others), Field::Floats(vec![1.0; 4])], scored)
    };
    let source = Fixed { batches: vec![batch([0; 4], 4), batch([0; 4], 4), batch([5, 4, -100, -100], 2)] };
    let found = held_out(device, &deit, &store, &source, (4, 5).into()).expect("scores");
    let each = losses(&scores);
    assert_eq!(found.scored, 10);
    close_loss(found.loss, (8.0 * each[0] + each[5] + each[4]) / 10.0);
    assert_eq!(found.measures, Some(TaskMetrics::Images { top1: 0.8, top5: 0.9 }));
}

/// Returns a GPT with a vocabulary of 7 that predicts the same scores at every position.
fn gpt(device: &mut dyn Device, scores: &[f32]) -> (Gpt, Store) {
    let gpt = Gpt::new(GptConfig {
        vocab: 7,
        context: 4,
        width: 8,
        heads: 2,
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
    .expect("sizes that fit");
    // The last norm outputs (1, 0, ..), so that the tied head returns the first column of the embeddings.
    let words = scores.iter().flat_map(|&score| [score, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).collect();
    let mut first = vec![0.0; 8];
    first[0] = 1.0;
    let norm = "transformer.ln_f";
    let values = [
        ("transformer.wte.weight", words),
        (&format!("{norm}.weight"), vec![0.0; 8]),
        (&format!("{norm}.bias"), first),
    ];
    let store = zeros(&gpt, device, &values);
    (gpt, store)
}

const SCORES: [f32; 7] = [5.0, -3.0, 0.5, 1.0, 0.0, 2.0, -1.0];

/// Twelve likely tokens, then a last batch with room for 12 tokens that has two unlikely ones.
#[test]
fn a_nearly_empty_last_batch_of_tokens_is_weighted_by_its_tokens() {
    let device = &mut Cpu::new(1);
    let (gpt, store) = gpt(device, &SCORES);
    let each = losses(&SCORES);
    let batch = |labels: Vec<i32>| {
        let scored = labels.iter().filter(|&&label| label >= 0).count();
        (vec![Field::Ints(vec![3; 12]), Field::Ints(labels)], scored)
    };
    let last = [vec![1, 6], vec![-100; 10]].concat();
    let source = Fixed { batches: vec![batch(vec![0; 12]), batch(last)] };
    let found = held_out(device, &gpt, &store, &source, (3, 4).into()).expect("a loss");
    assert_eq!((found.scored, found.measures), (14, None));
    close_loss(found.loss, (12.0 * each[0] + each[1] + each[6]) / 14.0);

    // `perplexity` on the same tokens from a file. The first token is not scored, since nothing precedes it.
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("tokens.bin");
    let tokens: Vec<u32> = [vec![0; 13], vec![1, 6]].concat();
    write_shard(&path, &tokens, 7).expect("written");
    let shard = Shard::open(&path).expect("a shard");
    let mut forward = Forward::new(device, &gpt, &store, (3, 4)).expect("memory");
    for stride in [4, 2, 1] {
        let found = perplexity(device, &mut forward, &shard, (3, 4), stride).expect("a loss");
        assert_eq!(found.tokens, 14);
        close_loss(found.loss, (12.0 * each[0] + each[1] + each[6]) / 14.0);
    }
}

/// The held-out loss in a run's metrics is the mean over all tokens, although the last batch has fewer tokens, with
/// larger losses. The same holds with micro-batches.
#[test]
fn a_run_weights_all_held_out_tokens_equally() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    // Tokens 0 to 4 in turn. After two batches of 6 x 8, the held-out tokens end with 21 tokens that training never
    // sees.
    let seen = |count: usize| (0..count as u32).map(|i| i % 5);
    write_shard(&at.join("train.bin"), &seen(2000).collect::<Vec<_>>(), 16).expect("written");
    let valid: Vec<u32> = seen(2 * 48 + 1).chain((0..21).map(|i| 5 + i % 11)).collect();
    write_shard(&at.join("valid.bin"), &valid, 16).expect("written");
    let config = r#"
[model]
family = "gpt"
layers = 1
heads = 2
head_size = 8
context = 8
[data]
train = ["train.bin"]
valid = ["valid.bin"]
[train]
batch = 6
eval_every = 10
[[levels]]
train = { steps = 20, lr = 1e-2 }
"#;
    std::fs::write(at.join("run.toml"), config).expect("written");
    for accumulate in [1, 3] {
        let out = format!("run{accumulate}");
        let set = format!("train.accumulate={accumulate}");
        let args = ["train", "run.toml", "--device", "cpu", "--threads", "1", "--quiet", "--out", &out, "--set", &set];
        let done =
            Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(at).output().expect("the binary runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let (reported, tokens) = last_loss(&at.join(&out));
        assert_eq!(tokens, 2 * 48 + 21);

        // Evaluate the final model on the same tokens, window by window.
        let device = &mut Cpu::new(1);
        let loaded = checkpoint::load(&at.join(&out).join("vcycle/model"), device).expect("a model");
        let changes = [
            format!("data.train=[\"{}\"]", at.join("train.bin").display()),
            format!("data.valid=[\"{}\"]", at.join("valid.bin").display()),
        ];
        let read = families::read(&at.join("run.toml"), &changes).expect("a configuration");
        let source = families::open(&read, at, &mut |_| {}).expect("data").source(&read).expect("a source");
        let mut windows = Vec::new();
        let mut fields = source.allocate(1).expect("memory");
        while let Some(scored) = source.held_out_batch(windows.len(), &mut fields).expect("tokens") {
            let one = Fixed { batches: vec![(fields.clone(), scored)] };
            let found = held_out(device, &*loaded.model, &loaded.store, &one, (1, 8).into()).expect("a loss");
            windows.push((found.loss, scored as f64));
        }
        assert_eq!(windows.len(), 15);
        let mean = |windows: &[(f64, f64)]| {
            windows.iter().map(|(loss, scored)| loss * scored).sum::<f64>() / windows.iter().map(|w| w.1).sum::<f64>()
        };
        close_loss(reported, mean(&windows));
        // Otherwise the test would show nothing.
        let batches: Vec<f64> = windows.chunks(6 / accumulate).map(mean).collect();
        let of_batches = batches.iter().sum::<f64>() / batches.len() as f64;
        assert!(of_batches > 1.05 * reported, "{of_batches} and {reported}");
    }
}

/// Returns the loss and the number of tokens of a run's last evaluation.
fn last_loss(run: &Path) -> (f64, u64) {
    let text = std::fs::read_to_string(run.join("vcycle/metrics.jsonl")).expect("metrics");
    let mut lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let last = lines.rfind(|line| line["event"] == "eval").expect("an evaluation");
    (last["valid_loss"].as_f64().expect("a loss"), last["tokens"].as_u64().expect("a number"))
}
