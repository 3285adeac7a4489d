//! Promise: a run keeps exactly the checkpoints that its configuration requests, and a checkpoint is only restored into
//! the layout that it was saved from.

use std::path::Path;
use std::process::Command;
use vcycle::data::tokens::shard::write_shard;
use vcycle::device::cpu::Cpu;
use vcycle::model::params::{Axis, Fan, Init, Kind, Param, ParamTable, Role};
use vcycle::model::store::Store;
use vcycle::runlog::Position;
use vcycle::train::checkpoint::{Checkpoint, Part, State, prune, save};

/// Returns a parameter `[rows, columns]` whose rows have the given role.
fn param(name: &str, role: Role, rows: usize, columns: usize) -> Param {
    let axes = vec![Axis::new(Fan::Out, &[(role, rows)]), Axis::new(Fan::In, &[(Role::Embed, columns)])];
    Param::new(name, axes, Kind::Plain, Init::Normal(1.0))
}

fn table(params: Vec<Param>) -> ParamTable {
    ParamTable::new(params, 1, 1, 1).expect("a table")
}

/// Returns a state at this stage, level and step. Its last evaluation had `loss`, at this step if `valid_here`, else at
/// an earlier one.
fn state([stage, level, step]: [usize; 3], loss: f64, valid_here: bool, parts: &[Part<'_>]) -> State {
    State {
        settings: None,
        at: Position { stage, level, step: step as u64, ..Position::default() },
        stage_step: step as u64,
        passes: 0,
        valid_loss: loss,
        valid_here,
        waited: 0.0,
        metrics_bytes: 0,
        tensorboard_bytes: 0,
        data: String::new(),
        levels: parts.iter().map(Part::saved).collect(),
        operations: Vec::new(),
    }
}

/// Returns the checkpoints of a branch as sorted pairs of stage and step.
fn checkpoints_of(branch: &Path) -> Vec<(usize, usize)> {
    let name = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().expect("text");
        let (stage, step) = name.strip_prefix("stage-").and_then(|rest| rest.split_once("-step-")).expect("a name");
        (stage.parse().expect("a number"), step.parse().expect("a number"))
    };
    let entries = std::fs::read_dir(branch.join("checkpoints")).expect("a folder");
    let mut all: Vec<_> = entries.map(|entry| name(entry.expect("an entry"))).collect();
    all.sort_unstable();
    all
}

#[test]
fn pruning_keeps_the_best_of_level_1_and_the_last_checkpoints() {
    // The 0.5 of level 2 is the loss of another model; the loss at step 8 is from an earlier evaluation. Of the two
    // losses of 2.0 the first counts as the best.
    let saves = [
        ([1, 1, 2], 4.0, true),
        ([2, 2, 4], 0.5, true),
        ([3, 1, 6], 2.5, true),
        ([3, 1, 8], 1.5, false),
        ([3, 1, 10], 2.0, true),
        ([3, 1, 12], 2.0, true),
        ([3, 1, 14], 3.0, true),
        ([3, 1, 16], 3.5, true),
    ];
    let all: Vec<_> = saves.iter().map(|([stage, _, step], ..)| (*stage, *step)).collect();
    for (keep_last, keep_best, wanted) in [
        (1, false, vec![(3, 16)]),
        (1, true, vec![(3, 10), (3, 16)]),
        (2, true, vec![(3, 10), (3, 14), (3, 16)]),
        // The best is among the last ones, so that no additional checkpoint is kept.
        (4, true, vec![(3, 10), (3, 12), (3, 14), (3, 16)]),
        (100, false, all),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let device = &mut Cpu::new(1);
        let store = Store::new(table(vec![param("w", Role::Embed, 3, 8)]), device).expect("memory");
        for (at, loss, valid_here) in saves {
            let parts = [Part { level: at[1], params: &store, optimizer: None }];
            save(dir.path(), &state(at, loss, valid_here, &parts), &parts, device, |_, _| Ok(())).expect("saved");
        }
        prune(dir.path(), keep_last, keep_best);
        assert_eq!(checkpoints_of(dir.path()), wanted, "keep_last {keep_last}, keep_best {keep_best}");
    }
}

/// A run whose held-out loss falls and then rises: training and held-out data have the same tokens in opposite order.
/// The model first learns which tokens occur, then their order.
#[test]
fn a_run_keeps_its_best_and_last_checkpoints() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    let tokens = |order: fn(u32) -> u32| (0..2000).map(|i| order(i % 4)).collect::<Vec<_>>();
    write_shard(&at.join("train.bin"), &tokens(|i| i), 16).expect("written");
    write_shard(&at.join("valid.bin"), &tokens(|i| 3 - i), 16).expect("written");
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
batch = 4
eval_every = 4
eval_batches = 4
checkpoint_every = 2
keep_best = true
keep_last = 2
[[levels]]
train = { steps = 60, lr = 1e-2, decay = "constant" }
"#;
    std::fs::write(at.join("run.toml"), config).expect("written");
    let args = ["train", "run.toml", "--device", "cpu", "--threads", "1", "--quiet", "--out", "out"];
    let done = Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(at).output().expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = std::fs::read_to_string(at.join("out/vcycle/metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let evals: Vec<(usize, f64)> = lines
        .filter(|line| line["event"] == "eval")
        .map(|line| (line["step"].as_u64().expect("a step") as usize, line["valid_loss"].as_f64().expect("a loss")))
        .collect();
    let best = evals.iter().min_by(|a, b| a.1.total_cmp(&b.1)).expect("evaluations").0;
    assert!(best > 4 && best < 56, "the best evaluation must be neither the first nor the last: {evals:?}");
    assert_eq!(checkpoints_of(&at.join("out/vcycle")), [(1, best), (1, 58), (1, 60)]);
    // That checkpoint contains the model.
    assert!(at.join(format!("out/vcycle/checkpoints/stage-1-step-{best:08}/model/model.safetensors")).is_file());
}

/// Layouts with the same number of elements in memory (and, in most cases, the same names): restoring into a different
/// one would put weights in the wrong places.
#[test]
fn a_checkpoint_is_only_restored_into_its_own_layout() {
    let plain = |rows, columns| vec![param("w", Role::Embed, rows, columns)];
    let two = |a, b| vec![param("a", a, 100, 8), param("b", b, 100, 8)];
    for (what, from, to) in [
        ("rows and columns swapped", plain(8, 64), plain(64, 8)),
        // Both take 64 elements, with rows of 8.
        ("fewer rows", plain(8, 8), plain(5, 8)),
        // Both have rows of 8 elements in memory.
        ("fewer columns", plain(8, 8), plain(8, 5)),
        // The same number of elements, in rows of 8 within the same memory.
        ("rows and columns swapped, with padded rows", plain(4, 3), plain(3, 4)),
        // The rows of a vocabulary are padded to a multiple of 128, so the second parameter has a different offset.
        ("another offset", two(Role::Vocab, Role::Class), two(Role::Class, Role::Vocab)),
        ("another name", plain(8, 8), vec![param("u", Role::Embed, 8, 8)]),
        ("another order", vec![param("a", Role::Embed, 8, 8), param("b", Role::Embed, 8, 8)], {
            vec![param("b", Role::Embed, 8, 8), param("a", Role::Embed, 8, 8)]
        }),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let device = &mut Cpu::new(1);
        let (from, to) = (table(from), table(to));
        assert_eq!(from.elements(), to.elements(), "{what}");
        let saved = Store::new(from.clone(), device).expect("memory");
        saved.initialise(device, 3).expect("written");
        let parts = [Part { level: 1, params: &saved, optimizer: None }];
        save(dir.path(), &state([1, 1, 2], 1.0, true, &parts), &parts, device, |_, _| Ok(())).expect("saved");
        let checkpoint = Checkpoint::read(&dir.path().join("checkpoints/stage-1-step-00000002")).expect("whole");
        let other = Store::new(to, device).expect("memory");
        let error = checkpoint.restore(1, &other, None, device).expect_err(what).to_string();
        assert!(error.contains("level 1 was saved for a model of different sizes"), "{what}: {error}");
        let read = |store: &Store, device: &mut Cpu| vcycle::device::read_f32(device, &store.flat()).expect("values");
        assert!(read(&other, device).iter().all(|value| *value == 0.0), "{what}: something was written");
        let same = Store::new(from, device).expect("memory");
        checkpoint.restore(1, &same, None, device).expect("the same layout");
        assert_eq!(read(&same, device), read(&saved, device));
    }
}
