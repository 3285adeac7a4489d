//! Whole runs of the program, in which the training split follows one pattern and the held-out split another. The
//! losses in `metrics.jsonl` and of `vcycle eval --run` must be those of the held-out items, which the test cuts itself
//! and scores in f64.

use std::fs;
use std::path::Path;

use super::support::*;
use vcycle::data::loader::batch::Field;
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::masking::{MaskedBatch, Masking, MaskingConfig};
use vcycle::data::tokens::sampler::IGNORED;
use vcycle::data::tokens::shard::{Shard, write_shard};
use vcycle::device::Device;
use vcycle::device::ops::StepState;
use vcycle::device::read_scalar;
use vcycle::device::reference::Reference;
use vcycle::families;
use vcycle::hub::checkpoint;
use vcycle::model::feed::Inputs;
use vcycle::model::store::Store;
use vcycle::model::{BatchShape, Model};
use vcycle::tape::{Mode, Tape};

const CONTEXT: usize = 16;

/// The items of a split, each as a batch of one row.
struct Items {
    /// The input fields of each item.
    each: Vec<Vec<Field>>,
    /// Number of scored positions of a masked row.
    slots: usize,
}

/// The mean loss of a model over all labels, and the number of labels.
struct Score {
    loss: f64,
    labels: usize,
}

/// Scores the first `most` items one by one.
fn score(device: &mut dyn Device, (model, store): (&dyn Model, &Store), items: &Items, most: usize) -> Score {
    let shape = BatchShape { batch: 1, time: CONTEXT, scored: items.slots };
    let float = device.float();
    let state = StepState::tensor(device.alloc(size_of::<StepState>()).expect("memory"));
    let mut inputs = Inputs::new(device, model, shape, float).expect("memory");
    let (mut tape, mut vars) = (Tape::new(float, state), Vec::new());
    let (mut total, mut labels, mut second_total) = (0.0, 0, 0.0);
    let items = &items.each[..most.min(items.each.len())];
    for fields in items {
        inputs.write(device, fields, 0).expect("written");
        tape.begin(Mode::Evaluate);
        store.declare_frozen(&mut tape, &mut vars);
        let given = inputs.declare(&mut tape);
        let ((first, second), _) = model.evaluation(&mut tape, &vars, given);
        [Some(first), second].into_iter().flatten().for_each(|loss| tape.keep(loss));
        tape.run(device).expect("computed");
        let mut read = |loss| read_scalar(device, &tape.value(loss).expect("a value")).expect("a loss");
        let scored = match &fields[..] {
            [_, labels] | [_, _, _, _, labels, ..] => {
                labels.as_ints().iter().filter(|&&label| label != IGNORED).count()
            }
            _ => 1,
        };
        total += read(first) * scored as f64;
        second_total += second.map_or(0.0, read);
        labels += scored;
    }
    // The first loss is a mean over its labels; the second, of next-sentence prediction, over rows.
    Score { loss: total / labels as f64 + second_total / items.len() as f64, labels }
}

/// The configuration of a run, and both splits as the test cuts them.
struct Task {
    folder: Folder,
    /// The family's keys in `[model]`.
    model: &'static str,
    /// The data's sections of the configuration.
    data: String,
    train: Items,
    valid: Items,
}

impl Task {
    fn text(&self, (batch, accumulate, eval_batches): (usize, usize, usize), steps: u64) -> String {
        format!(
            "seed = 3\n[model]\n{}\nlayers = 1\nheads = 2\nhead_size = 8\ninit_std = 0.2\n{}\n[train]\nbatch = {batch}\naccumulate = \
             {accumulate}\neval_batches = {eval_batches}\neval_every = 40\n[[levels]]\ntrain = {{ steps = {steps}, lr = 1e-2 }}\n",
            self.model, self.data
        )
    }

    /// Runs the configuration and returns the records of `metrics.jsonl`.
    fn run(&self, config: &str, out: &str, options: &[&str]) -> Vec<serde_json::Value> {
        let config = self.folder.file(&format!("{out}.toml"), config);
        let args = ["train", &config.display().to_string(), "--quiet", "--threads", "1", "--out", out];
        self.folder.vcycle(&[&args[..], options].concat());
        let metrics = self.folder.path().join(out).join("vcycle/metrics.jsonl");
        let metrics = fs::read_to_string(metrics).expect("metrics");
        metrics.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    /// Runs the configuration. Returns step, loss and number of labels of each evaluation.
    fn train(&self, config: &str, out: &str, options: &[&str]) -> Vec<(u64, f64, usize)> {
        let number = |record: &serde_json::Value, key: &str| record[key].as_u64().expect("a number");
        let of = |record: &serde_json::Value| {
            let loss = record["valid_loss"].as_f64().expect("a loss");
            (number(record, "step"), loss, number(record, "tokens") as usize)
        };
        self.run(config, out, options).iter().filter(|record| record["event"] == "eval").map(of).collect()
    }

    /// For data that is drawn in epochs: the loss of a step on a batch of all training items must be the mean over
    /// exactly these items.
    fn check_first_epoch(&self) {
        let device = &mut Reference::default();
        let config = self.text((self.train.each.len(), 1, 0), 1);
        let records = self.run(&config, "epoch", &[]);
        let step = records.iter().find(|record| record["event"] == "step").expect("a step");
        let (model, store) = self.initial(&config, device, 3);
        let wanted = score(device, (&*model, &store), &self.train, usize::MAX);
        self.compare((1, step["loss"].as_f64().expect("a loss"), wanted.labels), &wanted);
    }

    /// The initial model of a run.
    fn initial(&self, config: &str, device: &mut dyn Device, seed: u64) -> (Box<dyn Model>, Store) {
        let config = families::parse(config, &[]).expect("a configuration");
        let facts = self.folder.open(&config).facts();
        let model = families::build(&config, facts).expect("models").remove(0);
        let store = Store::of(device.float(), model.table().clone(), device).expect("memory");
        store.initialise(device, seed).expect("weights");
        (model, store)
    }

    fn check(&self) {
        let device = &mut Reference::default();
        // Evaluations of a part and of all; batch sizes that do not divide the data, exceed it, or are split into
        // micro-batches.
        for (number, (batch, accumulate, eval_batches)) in
            [(5, 1, 0), (6, 2, 0), (400, 2, 0), (2, 1, 3), (4, 2, 2), (400, 4, 1)].into_iter().enumerate()
        {
            let config = self.text((batch, accumulate, eval_batches), 1);
            let found = self.train(&config, &format!("short-{number}"), &[]);
            let (model, store) = self.initial(&config, device, 3);
            let most = if eval_batches == 0 { usize::MAX } else { eval_batches * batch };
            self.compare(found[0], &score(device, (&*model, &store), &self.valid, most));
            let other = score(device, (&*model, &store), &self.train, most);
            assert!((other.loss - found[0].1).abs() > 1e-3, "both splits have the same loss");
        }
        // The seed decides the initial weights.
        let config = self.text((5, 1, 0), 1);
        let losses: Vec<f64> = ["4", "5", "4"]
            .into_iter()
            .enumerate()
            .map(|(number, seed)| {
                let found = self.train(&config, &format!("seed-{number}"), &["--seed", seed])[0];
                let (model, store) = self.initial(&config, device, seed.parse().expect("a seed"));
                self.compare(found, &score(device, (&*model, &store), &self.valid, usize::MAX));
                found.1
            })
            .collect();
        assert!(losses[0] == losses[2] && (losses[0] - losses[1]).abs() > 1e-3, "{losses:?}");

        // After training, the training loss is clearly below the held-out loss.
        let config = self.text((7, 1, 0), 120);
        let all = self.train(&config, "long", &[]);
        assert_eq!(all.iter().map(|(step, ..)| *step).collect::<Vec<_>>(), [0, 40, 80, 120]);
        let dir = Path::new("long/vcycle/model");
        let trained = checkpoint::load(&self.folder.path().join(dir), device).expect("a model");
        let valid = score(device, (&*trained.model, &trained.store), &self.valid, usize::MAX);
        self.compare(all[3], &valid);
        let train = score(device, (&*trained.model, &trained.store), &self.train, usize::MAX);
        assert!(
            train.loss + 0.3 < valid.loss,
            "training loss {}, held-out loss {}: nothing was learned",
            train.loss,
            valid.loss
        );
        for batch in [7, 3, 1000] {
            let wanted = valid.loss;
            let args = ["eval", "long/vcycle/model", "--run", "long.toml", "--batch"];
            let output = self.folder.vcycle(&[&args[..], &[&batch.to_string()]].concat());
            let number = |what: &str| -> f64 {
                let line =
                    output.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {output}"));
                line.split_whitespace()
                    .nth(if what == "loss:" { 1 } else { 2 })
                    .and_then(|n| n.parse().ok())
                    .expect("a number")
            };
            assert_eq!(number("labels scored:"), all[3].2 as f64);
            // The loss is printed with four decimals.
            assert!((number("loss:") - wanted).abs() <= 0.5e-4 + rounding(wanted), "{output} and {wanted}");
        }
    }

    fn compare(&self, (step, loss, labels): (u64, f64, usize), wanted: &Score) {
        assert_eq!(labels, wanted.labels, "labels at step {step}");
        let off = (loss - wanted.loss).abs();
        assert!(off <= rounding(wanted.loss), "step {step}: loss {loss} instead of {}, off by {off:e}", wanted.loss);
    }
}

/// Tolerance of a loss in f32 against one in f64: some hundred operations, each with a relative error of 2^-24, on
/// numbers about as large as the loss.
fn rounding(loss: f64) -> f64 {
    100.0 * (loss + 1.0) * 2f64.powi(-24)
}

/// Cuts a text into windows of `CONTEXT` tokens, so that each token but the first is predicted once.
fn next_tokens(text: &str) -> Items {
    let tokens = bytes(text);
    let window = |begin: usize| {
        let padded = |from: usize, by: i32| {
            let part = &tokens[from.min(tokens.len())..(from + CONTEXT).min(tokens.len())];
            part.iter().copied().chain(std::iter::repeat(by)).take(CONTEXT).collect()
        };
        vec![Field::Ints(padded(begin, 0)), Field::Ints(padded(begin + 1, IGNORED))]
    };
    // A last window of one token would predict nothing.
    Items { each: (0..tokens.len() - 1).step_by(CONTEXT).map(window).collect(), slots: 0 }
}

/// A text of 18 documents, every third of which follows the second pattern; and the text of both splits.
fn patterns() -> (String, [String; 2]) {
    let (mut all, mut splits) = (String::new(), [String::new(), String::new()]);
    for document in 0..18 {
        let split = usize::from(document % 3 == 2);
        let text = format!("== {}\n", ["abcdabcd", "zyxwzyxw"][split].repeat(7));
        all.push_str(&text);
        splits[split].push_str(&text);
    }
    (all, splits)
}

fn text_data(folder: &Folder, text: &str) -> String {
    let path = folder.file("text.txt", text);
    format!("[data]\ntext = {}\ntokenizer = \"byte\"\ndocument_prefix = \"== \"\nheld_out_every = 3", quoted(&path))
}

#[test]
fn gpt_losses_are_those_of_held_out_text() {
    let folder = Folder::new();
    let (text, splits) = patterns();
    let data = text_data(&folder, &text);
    let [train, valid] = splits.map(|split| next_tokens(&split));
    Task { folder, model: "family = \"gpt\"\ncontext = 16", data, train, valid }.check();
}

fn masked(next_sentence: bool) {
    let folder = Folder::new();
    let (text, splits) = patterns();
    let tokenizer = Tokenizer::from_spec("byte", "").and_then(Tokenizer::with_special_tokens).expect("a tokenizer");
    // Made with the masks of a run, from windows of a file that the test writes.
    let items = |text: &String| {
        let path = folder.path().join("split.bin");
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        write_shard(&path, &tokens, tokenizer.vocab_size()).expect("written");
        let shards = [Shard::open(&path).expect("a shard")];
        let config = MaskingConfig { next_sentence, ..MaskingConfig::default() };
        let mut masking = Masking::new(config, &tokenizer, CONTEXT).expect("masking");
        let (slots, windows) = (masking.slots(), masking.held_out(&shards[..]).expect("windows"));
        assert_eq!(windows.len(), text.len().div_ceil(CONTEXT - if next_sentence { 3 } else { 2 }));
        let each = (0..windows.len()).map(|number| {
            let sizes = [CONTEXT, CONTEXT, CONTEXT, slots, slots, usize::from(next_sentence)];
            let mut fields = sizes.map(|each| vec![0; each]);
            let [ids, types, mask, positions, labels, next] = &mut fields;
            let mut batch = MaskedBatch { ids, types, mask, positions, labels, next };
            masking.held_out_batch(&shards[..], &windows, number, (1, 1), &mut batch).expect("a batch");
            fields.into_iter().filter(|field| !field.is_empty()).map(Field::Ints).collect()
        });
        Items { each: each.collect(), slots }
    };
    let [train, valid] = [items(&splits[0]), items(&splits[1])];
    let data = format!("{}\n[masking]\nnext_sentence = {next_sentence}", text_data(&folder, &text));
    Task { folder, model: "family = \"bert\"\ncontext = 16", data, train, valid }.check();
}

#[test]
fn masked_losses_are_those_of_held_out_text() {
    masked(false);
}

#[test]
fn pair_losses_are_those_of_held_out_text() {
    masked(true);
}

#[test]
fn labelled_losses_are_those_of_held_out_texts() {
    let folder = Folder::new();
    let tokenizer = Tokenizer::from_spec("byte", "").and_then(Tokenizer::with_special_tokens).expect("a tokenizer");
    let special = tokenizer.special_tokens().expect("special tokens");
    // Two of three held-out labels are the opposite of what the training split teaches.
    let example = |i: usize, held_out: bool| {
        let text = ["ab", "cd"][i % 2].repeat(1 + i % 5);
        (text, (i + usize::from(held_out && !i.is_multiple_of(3))) % 2)
    };
    let split =
        |held_out: bool, count: usize| -> Vec<(String, usize)> { (0..count).map(|i| example(i, held_out)).collect() };
    let lines =
        |split: &[(String, usize)]| split.iter().map(|(text, label)| format!("{text}\t{label}\n")).collect::<String>();
    let (train, valid) = (split(false, 40), split(true, 23));
    let files = [folder.file("train.tsv", lines(&train)), folder.file("valid.tsv", lines(&valid))];
    let data = format!(
        "[data]\ntokenizer = \"byte\"\n[data.task]\ntrain = {}\nvalid = {}\nsentence = 1\nlabel = 2",
        quoted(&files[0]),
        quoted(&files[1])
    );
    let items = |split: &[(String, usize)]| {
        let item = |(text, label): &(String, usize)| {
            let ids = [vec![special.cls as i32], bytes(text), vec![special.sep as i32]].concat();
            let fill = |values: Vec<i32>, by: i32| {
                Field::Ints(values.into_iter().chain(std::iter::repeat(by)).take(CONTEXT).collect())
            };
            let length = ids.len();
            let label = Field::Ints(vec![*label as i32]);
            vec![fill(ids, special.pad as i32), fill(Vec::new(), 0), fill(vec![1; length], 0), label]
        };
        Items { each: split.iter().map(item).collect(), slots: 0 }
    };
    let (train, valid) = (items(&train), items(&valid));
    let task = Task { folder, model: "family = \"bert\"\ncontext = 16", data, train, valid };
    task.check();
    task.check_first_epoch();
}

/// An image of 4 x 4 pixels and its label. Held-out images have labels that contradict the training split.
fn image(number: usize, held_out: bool) -> ([u8; 16], usize) {
    let class = number % 3;
    let pixels =
        std::array::from_fn(
            |i| if i % 4 == class { 200 + (number * 7 + i) as u8 % 50 } else { (number + i) as u8 % 30 },
        );
    (pixels, if held_out { (class + 1) % 3 } else { class })
}

fn image_items(images: &[([u8; 16], usize)]) -> Items {
    let item = |(pixels, label): &([u8; 16], usize)| {
        // A class token, then patches of 2 x 2 in reading order.
        let mut patches = vec![0.0; 4];
        for (y, x) in [(0, 0), (0, 2), (2, 0), (2, 2)] {
            patches.extend(
                [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)].map(|(y, x)| f32::from(pixels[4 * y + x]) / 255.0),
            );
        }
        let label = Field::Ints(vec![*label as i32]);
        vec![Field::Floats(patches), label.clone(), label, Field::Floats(vec![1.0])]
    };
    Items { each: images.iter().map(item).collect(), slots: 0 }
}

fn csv(folder: &Folder, name: &str, images: &[([u8; 16], usize)]) -> String {
    let line = |(pixels, label): &([u8; 16], usize)| {
        pixels.iter().map(|pixel| format!("{pixel},")).collect::<String>() + &format!("{label}\n")
    };
    let path = folder.file(name, images.iter().map(line).collect::<String>());
    format!("files = {{ format = \"csv\", file = {}, maximum = 255 }}", quoted(&path))
}

#[test]
fn image_losses_are_those_of_held_out_images() {
    let model = "family = \"deit\"\nimage = 4\npatch = 2";
    let folder = Folder::new();
    let train: Vec<_> = (0..40).map(|i| image(i, false)).collect();
    let valid: Vec<_> = (0..23).map(|i| image(100 + i, true)).collect();
    let tables = [csv(&folder, "train.csv", &train), csv(&folder, "valid.csv", &valid)];
    let data = format!("[data.images.train]\n{}\n[data.images.valid]\n{}", tables[0], tables[1]);
    let task = Task { folder, model, data, train: image_items(&train), valid: image_items(&valid) };
    task.check();
    task.check_first_epoch();

    let folder = Folder::new();
    let all: Vec<_> = (0..69).map(|i| image(i, i % 4 == 0)).collect();
    let table = csv(&folder, "all.csv", &all);
    let split = |held_out: bool| {
        let of_split = |(number, _): &(usize, &_)| (number % 4 == 0) == held_out;
        image_items(&all.iter().enumerate().filter(of_split).map(|(_, image)| *image).collect::<Vec<_>>())
    };
    let data = format!("[data.images]\nheld_out_every = 4\n[data.images.train]\n{table}");
    let task = Task { folder, model, data, train: split(false), valid: split(true) };
    task.check();
    task.check_first_epoch();
}
