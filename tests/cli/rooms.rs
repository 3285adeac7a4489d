//! Promise: the rooms (folders of `src/`) know only rooms below them, files can be read in one sitting, and the trainer has
//! no struct that nobody can hold in their head.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines.
const LINES: usize = 500;
/// Most fields of a struct in `src/train`.
const FIELDS: usize = 12;

fn files(below: &str, extensions: &[&str]) -> Vec<PathBuf> {
    fn walk(dir: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, extensions, found);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known)) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(below), extensions, &mut found);
    found.sort();
    found
}

/// Returns the text without comments and unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source");
    let text = text.split("#[cfg(test)]\nmod tests {").next().expect("a first part");
    text.lines().map(|line| line.split("//").next().expect("a first part")).collect::<Vec<_>>().join("\n")
}

/// Returns the rooms that a text names: `crate::room` and `crate::{room, ...}`.
fn named(text: &str) -> BTreeSet<String> {
    let identifier = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut rooms = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => {
                rooms.insert(identifier(rest));
            }
            // Nested groups may add names that are no rooms, which do no harm.
            Some(group) => {
                let end = group.find(';').unwrap_or(group.len());
                rooms.extend(group[..end].split([',', '{', '}']).map(|part| identifier(part.trim())));
            }
        }
    }
    rooms
}

#[test]
fn rooms_know_only_rooms_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files("src", &["rs"]) {
        let inside = path.strip_prefix(&root).expect("below src");
        if inside == Path::new("lib.rs")
            || inside == Path::new("main.rs")
            || inside.iter().any(|part| part == "tests.rs")
        {
            continue;
        }
        let room = inside.iter().next().expect("a room").to_string_lossy().trim_end_matches(".rs").to_owned();
        let mut others = named(&code(&path));
        others.remove(&room);
        graph.entry(room).or_default().extend(others);
    }
    assert!(graph.len() > 15, "only {:?} were found", graph.keys());
    let rooms: BTreeSet<String> = graph.keys().cloned().collect();
    graph.values_mut().for_each(|others| others.retain(|other| rooms.contains(other)));
    assert!(graph["cli"].contains("run") && graph["tape"].contains("device"), "uses are found");
    // Rooms that know no other are the lowest: take them away until none is left.
    while !graph.is_empty() {
        let lowest: Vec<String> =
            graph.iter().filter(|(_, others)| others.is_empty()).map(|(room, _)| room.clone()).collect();
        assert!(!lowest.is_empty(), "these rooms know each other in a circle, or one that does: {graph:#?}");
        for room in &lowest {
            graph.remove(room);
            for others in graph.values_mut() {
                others.remove(room);
            }
        }
    }
}

#[test]
fn a_file_is_read_in_one_sitting() {
    let mut all = files("src", &["rs"]);
    all.extend(files("tests", &["rs"]));
    all.extend(files("kernels", &["cu", "cuh", "h", "c"]));
    all.extend(files("build", &["rs"]));
    assert!(all.len() > 400, "only {} files were found", all.len());
    let long: Vec<String> = all
        .iter()
        .map(|path| (path, fs::read_to_string(path).expect("a source").lines().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "more than {LINES} lines; split them: {long:?}");
}

#[test]
fn structs_of_the_trainer_are_small() {
    let mut seen = 0;
    for path in files("src/train", &["rs"]) {
        let text = code(&path);
        for part in text.split("struct ").skip(1) {
            let Some((head, body)) = part.split_once(" {\n") else { continue };
            let body = body.split("\n}").next().expect("a first part");
            let field = |line: &&str| line.starts_with("    ") && !line.starts_with("     ") && line.contains(": ");
            let fields = body.lines().filter(field).count();
            seen += 1;
            assert!(fields <= FIELDS, "{}: {head} has {fields} fields; divide it", path.display());
        }
    }
    assert!(seen > 10, "only {seen} structs were found");
}
