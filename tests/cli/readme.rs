//! Promise: the commands in the README run as written, one after another, and print what the README shows.
//!
//! A block of `sh` contains commands. In a block of `console`, lines that begin with `$ ` are commands and the others
//! are their output, where `...` stands for output that is left out. Every command must either run here or be in
//! [`ELSEWHERE`].

use std::fs;
use std::path::Path;
use std::process::Command;

/// Commands that this test does not run, and what does.
const ELSEWHERE: &[(&str, &str)] = &[("cargo test --release", "runs this test; a step of .ci/run")];

/// The main job, which takes minutes. Here it runs with [`FEW_STEPS`].
const MAIN_JOB: &str = "cargo run --release -- train configs/gpt-sotu.toml";

const FEW_STEPS: [&str; 8] = [
    "levels.0.before={steps=2, lr=8e-3, decay=\"constant\"}",
    "levels.0.train.steps=2",
    "levels.1.train.steps=2",
    "levels.1.train.warmup=0",
    "scratch.steps=2",
    "scratch.warmup=0",
    "train.eval_every=2",
    "train.eval_batches=1",
];

/// A command of the README with the output that is shown below it.
struct Example {
    command: String,
    output: Vec<String>,
}

/// Returns the commands of a Markdown text, in order.
fn examples(text: &str) -> Vec<Example> {
    let mut all: Vec<Example> = Vec::new();
    let mut language = None;
    for line in text.lines() {
        match (language, line.strip_prefix("```")) {
            (None, Some(name)) => {
                assert!(
                    ["sh", "console"].contains(&name),
                    "a block of {name:?}: use sh or console, so that it is tested"
                );
                language = Some(name);
            }
            (Some(_), Some(_)) => language = None,
            (Some("sh"), None) if !line.is_empty() => {
                all.push(Example { command: line.to_owned(), output: Vec::new() });
            }
            (Some("console"), None) => match line.strip_prefix("$ ") {
                Some(command) => all.push(Example { command: command.to_owned(), output: Vec::new() }),
                None => all.last_mut().expect("a command above the output").output.push(line.to_owned()),
            },
            _ => {}
        }
    }
    all
}

/// Splits a command at spaces outside of double quotes.
fn split(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in command.split('"').enumerate() {
        match number % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// Returns the arguments with which `vcycle` runs a command.
fn arguments(command: &str) -> Vec<String> {
    let words = split(command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut arguments: Vec<String> = match words[..] {
        ["vcycle", ref rest @ ..] | ["cargo", "run", "--release", "--", ref rest @ ..] => {
            rest.iter().map(|word| (*word).to_owned()).collect()
        }
        _ => panic!("README.md: `{command}` is not tested: make this test run it, or add it to ELSEWHERE"),
    };
    if command == MAIN_JOB {
        arguments.extend(FEW_STEPS.iter().flat_map(|change| ["--set".to_owned(), (*change).to_owned()]));
    }
    arguments
}

/// Whether a word of the README stands for a word of the output. Numbers stand for each other, because times differ
/// from run to run and the last digits of losses from machine to machine. So do the two limits of a roofline.
fn stands_for(shown: &str, real: &str) -> bool {
    let number = |word: &str| word.trim_matches(|c: char| "(),;:".contains(c)).parse::<f64>().is_ok();
    let limit = |word: &str| ["memory", "arithmetic"].contains(&word);
    shown == real || number(shown) && number(real) || limit(shown) && limit(real)
}

/// Returns the first line of `shown` that `real` does not contain, word for word, after the lines above it.
fn missing<'a>(shown: &'a [String], real: &str) -> Option<&'a str> {
    let real: Vec<&str> = real.split_whitespace().collect();
    let mut from = 0;
    for line in shown {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if words.last() == Some(&"...") {
            words.pop();
        }
        if words.is_empty() {
            continue;
        }
        let here = |at: &usize| words.iter().zip(&real[*at..]).all(|(shown, real)| stands_for(shown, real));
        match (from..=real.len().saturating_sub(words.len())).filter(|at| at + words.len() <= real.len()).find(here) {
            Some(at) => from = at + words.len(),
            None => return Some(line),
        }
    }
    None
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copied");
        }
    }
}

#[test]
fn the_commands_of_the_readme_print_what_it_shows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = examples(&fs::read_to_string(root.join("README.md")).expect("README.md"));
    assert!(all.len() > 5 && all[0].command == MAIN_JOB, "README.md: {} commands", all.len());
    for (command, _) in ELSEWHERE {
        assert!(all.iter().any(|example| example.command == *command), "ELSEWHERE: README.md has no `{command}`");
    }
    // Not in the folder of the project, where runs would remain. A package has no docs/results.
    let dir = tempfile::tempdir().expect("a folder");
    let recorded = "docs/results/bench-cpu";
    for folder in ["configs", "data", recorded].iter().filter(|folder| root.join(folder).exists()) {
        copy(&root.join(folder), &dir.path().join(folder));
    }
    for Example { command, output } in &all {
        let without_emulator = command.contains("kernels check") && !cfg!(emulated);
        let without_records = command.contains("docs/results") && !dir.path().join(recorded).exists();
        if without_emulator || without_records || ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == command) {
            continue;
        }
        let arguments = arguments(command);
        let done = Command::new(env!("CARGO_BIN_EXE_vcycle")).args(&arguments).current_dir(dir.path()).output();
        let done = done.expect("the binary runs");
        // Progress goes to standard error, before the results.
        let real = [&done.stderr, &done.stdout].map(|part| String::from_utf8_lossy(part).into_owned()).concat();
        assert!(done.status.success(), "`{command}` fails:\n{real}");
        match arguments.iter().position(|word| word == "--prompt") {
            // The text depends on the model, which has had only a few steps here.
            Some(at) => {
                let prompt = arguments[at + 1].as_str();
                assert!(
                    output.first().is_some_and(|line| line.starts_with(prompt)),
                    "README.md: output of `{command}`"
                );
                assert!(real.contains(prompt), "`{command}` does not continue the prompt:\n{real}");
            }
            None => {
                if let Some(line) = missing(output, &real) {
                    panic!("README.md shows, as output of `{command}`:\n{line}\nbut the output is:\n{real}");
                }
            }
        }
    }
}

#[test]
fn shown_output_is_compared_word_by_word() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let real = "note: read\nloss 5.25 after 3 steps, 1.0 s\nmodel: a/b (loss 5.2)\n";
    assert_eq!(missing(&lines("...\nloss 5.29 after 3 steps, ...\nmodel: a/b (loss 5.1)"), real), None);
    assert_eq!(missing(&lines("model: a/b\nloss 5.25"), real), Some("loss 5.25"));
    assert_eq!(missing(&lines("loss five"), real), Some("loss five"));
    assert_eq!(missing(&lines("model: a/b (loss 5.2) and more"), real), Some("model: a/b (loss 5.2) and more"));
    let found = examples("text\n```sh\nvcycle info\n```\n```console\n$ vcycle eval \"a b\"\nloss\n```\n");
    assert_eq!(found.iter().map(|example| example.output.len()).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(arguments(&found[1].command), ["eval", "a b"]);
}
