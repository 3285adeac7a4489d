//! Printed commands, command-line values, and warnings about doubtful runs.

use super::*;

const RUN: &str = "[model]\nfamily = \"gpt\"\nlayers = 1\nheads = 1\nhead_size = 4\ncontext = 32\n[data]\ntext = \"text.txt\"\ntokenizer = \
                   \"byte\"\n[train]\nbatch = 2\neval_every = 1\neval_batches = 1\n[[levels]]\ntrain = { steps = 2, lr = 1e-3 \
                   }\n[scratch]\nsteps = 1\nlr = 1e-3\n";

fn workplace() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..200).map(|i| format!("jetty and fjord {i}, ember's lagoon\n")).collect();
    write(dir.path(), "text.txt", text);
    write(dir.path(), "run.toml", RUN);
    dir
}

/// The command after `try:` works in a shell as printed, and its prompt is the beginning of the run's own text.
#[test]
fn printed_commands_work_in_a_shell() {
    let dir = workplace();
    let at = dir.path();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    let done = command.args(["train", "run.toml", "--out", "my run's"]).current_dir(at).output().unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    let line = out.lines().find_map(|line| line.strip_prefix("try: vcycle ")).unwrap_or_else(|| panic!("{out}"));
    assert!(line.starts_with(r"generate 'my run'\''s/vcycle/model' --prompt "), "{line}");
    let script = format!("{} {line} --tokens 3", env!("CARGO_BIN_EXE_vcycle"));
    let done = Command::new("sh").args(["-c", &script]).current_dir(at).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && text.starts_with("jetty and fjord"), "{line}: {text}");
}

#[test]
fn the_baseline_can_be_removed() {
    let dir = workplace();
    for (name, change) in [("a", "scratch=none"), ("b", "scratch=false")] {
        ok(dir.path(), &format!("train run.toml --out {name} --set {change}"));
        assert!(dir.path().join(name).join("vcycle/model").exists() && !dir.path().join(name).join("scratch").exists());
    }
    refused(dir.path(), "train run.toml --out c --set scratch=3", &["scratch"]);
}

#[test]
fn compare_lists_the_keys_that_differ() {
    let dir = workplace();
    let at = dir.path();
    ok(at, "train run.toml --out one");
    ok(at, "train run.toml --out two --set train.batch=4 --set levels.0.train.lr=2e-3");
    let (output, _) = ok(at, "compare one two");
    assert!(output.contains("note: configurations differ in train.batch: 2 (one), 4 (two)"), "{output}");
    assert!(output.contains("configurations differ in levels.0.train.lr: 0.001 (one), 0.002 (two)"), "{output}");
    assert_eq!(output.matches("configurations differ").count(), 2, "{output}");
    assert!(!ok(at, "compare one").0.contains("configurations differ"));
}

#[test]
fn a_missing_tmpdir_is_reported_and_not_created() {
    let dir = workplace();
    let at = dir.path();
    ok(at, "train run.toml --out run --set scratch=none");
    let nowhere = at.join("nowhere");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    let command = command.args(["eval", "run/vcycle/model", "--data", "text.txt"]).env("TMPDIR", &nowhere);
    let done = command.current_dir(at).output().unwrap();
    let error = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(2) && error.contains("TMPDIR") && !nowhere.exists(), "{error}");
}

#[test]
fn bench_keeps_measurements_with_other_labels() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let bench = |label: &str| {
        ok(
            at,
            &format!("bench layernorm --shape 2x3 --device reference --rounds 1 --seconds 0{label} --json all.jsonl"),
        )
    };
    let labels = || -> Vec<Value> {
        let text = fs::read_to_string(at.join("all.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["label"].clone()).collect()
    };
    bench("");
    bench(" --label a");
    bench(" --label b");
    assert_eq!(labels(), [Value::Null, Value::Null, "a".into(), "a".into(), "b".into(), "b".into()]);
    bench(" --label a");
    bench("");
    assert_eq!(labels(), ["b".into(), "b".into(), "a".into(), "a".into(), Value::Null, Value::Null]);
    write(at, "all.jsonl", "a list of mine\n");
    refused(at, "bench layernorm --shape 2x3 --json all.jsonl", &["all.jsonl", "line 1"]);
    assert_eq!(fs::read_to_string(at.join("all.jsonl")).unwrap(), "a list of mine\n");
}

/// `--set` accepts keys as error messages and as TOML write them.
#[test]
fn set_accepts_keys_in_every_spelling() {
    let dir = workplace();
    let at = dir.path();
    refused(at, "train run.toml --out no --set levels.0.train.lr=-1", &["levels[0]: train"]);
    for (out, key) in
        [("a", "levels[0].train.steps"), ("b", "\"levels\".0.train.'steps'"), ("c", "levels.0.train.steps")]
    {
        ok(at, &format!("train run.toml --out {out} --set {key}=3"));
        assert!(fs::read_to_string(at.join(out).join("config.toml")).unwrap().contains("steps = 3"), "{key}");
    }
    refused(at, "train run.toml --out no --set levels[1].train.steps=3", &["\"1\" is not an index into a list of 1"]);
    refused(at, "train run.toml --out no --set levels.0.train.lr=0,001", &["0,001", "levels.train.lr"]);
    let set = "--set levels.0.train.warmup=50";
    refused(at, &format!("train run.toml --out no {set}"), &["warmup of 50 steps exceeds the 2 steps"]);
    let (code, _, output) =
        vcycle(at, "train run.toml --out no --set levels.0.train.steps=20 --set levels.0.train.lr=1e9");
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("diverged") && output.contains("lower the learning rate"), "{output}");
}

/// Prompts, separators and prefixes may begin with a dash. Text that the tokenizer does not know is reported.
#[test]
fn values_that_begin_with_a_dash_are_not_options() {
    let dir = workplace();
    let at = dir.path();
    write(at, "notes.txt", "---\n- one of the notes\n- two of them\n".repeat(40));
    ok(at, "data prepare notes.txt --tokenizer byte --separator --- --out a");
    ok(at, "data prepare notes.txt --tokenizer byte --document-prefix - --out b");
    let (_, notes) =
        ok(at, "train run.toml --out run --set data.text=notes.txt --set data.tokenizer=char --set scratch=none");
    assert!(!notes.contains("does not know"), "{notes}");
    let (out, notes) = ok(at, "generate run/vcycle/model --tokens 1 --temperature 0 --prompt -two");
    assert!(out.starts_with("-two") && notes.is_empty(), "{out}{notes}");
    let (_, notes) = ok(at, "generate run/vcycle/model --tokens 1 --prompt QUtX");
    assert!(
        notes.contains("warning: 3 of 4 tokens (75.00 %) stand for text that the tokenizer does not know"),
        "{notes}"
    );
    let (_, notes) = ok(at, "eval run/vcycle/model --data text.txt");
    assert!(notes.contains("stand for text that the tokenizer does not know"), "{notes}");
    refused(at, "generate run/vcycle/model --prompt -two --temperature -1", &["a temperature of -1 is not possible"]);
}
