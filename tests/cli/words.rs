//! Docs, help, messages and comments use the field's words: none of the private ones that this project once had.

use std::path::{Path, PathBuf};
use std::{fs, process::Command};

/// Words that must not come back, in lower case. A space stands for any white space, and words end where they end here.
const FORBIDDEN: &[&str] = &["copy engine", "twin", "twins", "beyond reason", "goes not", "says not"];
/// Words before "works" that make it a noun.
const BEFORE_WORKS: &[&str] = &["the", "these", "those", "all", "of", "its", "their", "such", "each", "no", "other"];

fn files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path
            .extension()
            .is_some_and(|e| ["rs", "md", "cu", "cuh", "h", "toml", "sh", "py"].iter().any(|x| e == *x))
        {
            found.push(path);
        }
    }
}

/// The forbidden words in a text, with the words around them.
fn forbidden(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let bad = FORBIDDEN.iter().any(|phrase| {
            let mut phrase = phrase.split(' ').enumerate();
            phrase.all(|(n, part)| words.get(at + n) == Some(&part))
        });
        let noun = *word == "works" && at > 0 && BEFORE_WORKS.contains(&words[at - 1]);
        if bad || noun {
            found.push(words[at.saturating_sub(4)..(at + 5).min(words.len())].join(" "));
        }
    }
    found
}

#[test]
fn the_list_finds_what_it_should() {
    assert_eq!(forbidden("the Copy\n  engine, and a twin: it goes\nnot").len(), 3);
    assert_eq!(forbidden("each of the works of a block").len(), 1);
    assert!(forbidden("it works; it says nothing; between; copy the engine").is_empty());
}

#[test]
fn sources_and_docs_use_the_fields_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all =
        vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("Cargo.toml"), root.join("build.rs")];
    for folder in ["src", "kernels", "docs", "configs", "build", "benches", "examples", "tests"] {
        files(&root.join(folder), &mut all);
    }
    // History keeps its words; and this file has to have the list.
    let history = root.join("docs/results");
    all.retain(|path| !path.starts_with(&history) && !path.ends_with("tests/cli/words.rs"));
    assert!(all.len() > 300, "only {} files were found", all.len());
    let found: Vec<String> = all
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            forbidden(&text).into_iter().map(|words| format!("{}: {words}", path.display())).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn help_uses_the_fields_words() {
    let help = |args: &[&str]| {
        let done =
            Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).arg("--help").output().expect("the binary runs");
        assert!(done.status.success(), "{args:?}");
        String::from_utf8(done.stdout).expect("UTF-8")
    };
    let main = help(&[]);
    let commands: Vec<&str> = main
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let text = help(&[command]);
        assert!(forbidden(&text).is_empty(), "{command}: {:?}", forbidden(&text));
    }
}
