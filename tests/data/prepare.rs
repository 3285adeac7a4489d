//! The cache of prepared data: what is reused, what is prepared again, and that no temporary files are left.

use super::*;
use crate::text::compressed;

fn spec(text: &Path, tokenizer: &str) -> DataSpec {
    DataSpec {
        text: text.to_owned(),
        tokenizer: tokenizer.to_owned(),
        held_out: by_prefix("== ", 4),
        field: "text".to_owned(),
    }
}

/// Returns the data and all notes, one per line.
fn prepared(spec: &DataSpec, cache: &Path) -> (Dataset, String) {
    let notes = RefCell::new(String::new());
    let data = prepare(spec, cache, &mut |note| {
        notes.borrow_mut().push_str(note);
        notes.borrow_mut().push('\n');
    });
    (data.unwrap(), notes.into_inner())
}

fn tokens(shard: &Shard) -> Vec<u32> {
    (0..shard.len()).map(|i| shard.token(i)).collect()
}

#[test]
fn prepared_data_is_the_split_text() {
    let dir = folder();
    let text = file(&dir, "talks.v1.txt.zst", compressed(&documents()));
    let cache = dir.path().join("deep/cache");
    for tokenizer in ["char", "byte", "bpe:300"] {
        let spec = spec(&text, tokenizer);
        let (data, notes) = prepared(&spec, &cache);
        let (train, valid) = split(&documents(), &spec.held_out).unwrap();
        assert_eq!(data.tokenizer.decode(&tokens(&data.train)).unwrap(), train);
        assert_eq!((data.train_bytes, data.valid_bytes), (train.len() as u64, valid.len() as u64));
        if tokenizer != "char" {
            assert_eq!(data.tokenizer.decode(&tokens(&data.valid)).unwrap(), valid);
        }
        assert_eq!(data.train.vocab_size(), data.tokenizer.vocab_size());
        let name = data.dir.file_name().unwrap().to_str().unwrap();
        let hash = name.strip_prefix("talks-v1-").unwrap();
        assert!(hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        for part in ["reading ", "talks.v1.txt.zst", &format!("training {tokenizer} on "), "training tokens"] {
            assert!(notes.contains(part), "{part:?} is not in {notes}");
        }
    }
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 3, "something temporary is left");
}

#[test]
fn preparing_twice_reuses_and_any_change_does_not() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let text = file(&dir, "a.txt", documents());
    let first = spec(&text, "byte");
    let (data, _) = prepared(&first, &cache);
    let written = |name: &str| fs::metadata(data.dir.join(name)).unwrap().modified().unwrap();
    let before = written("train.bin");
    let (again, notes) = prepared(&first, &cache);
    assert!(notes.starts_with("using ") && notes.lines().count() == 1, "{notes}");
    assert_eq!((again.dir.as_path(), written("train.bin")), (data.dir.as_path(), before));
    assert_eq!(tokens(&again.train), tokens(&data.train));

    let saved = data.dir.join("tokenizer.json");
    let copy = file(&dir, "t.json", fs::read(saved).unwrap());
    let mut folders = HashSet::from([data.dir.clone()]);
    let mut fresh = |spec: &DataSpec| assert!(folders.insert(prepared(spec, &cache).0.dir));
    fresh(&spec(&text, "char"));
    fresh(&DataSpec { held_out: by_prefix("== ", 5), ..first.clone() });
    fresh(&DataSpec { held_out: by_size(5), ..first.clone() });
    fresh(&spec(&text, copy.to_str().unwrap()));
    Tokenizer::from_spec("char", &documents()).unwrap().save(&copy).unwrap();
    fresh(&spec(&text, copy.to_str().unwrap()));
    fs::write(&text, documents().replace("fox", "cat")).unwrap();
    fresh(&first);
}

#[test]
fn damage_is_noted_and_repaired() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let spec = spec(&file(&dir, "a.txt", documents()), "bpe:300");
    let (data, _) = prepared(&spec, &cache);
    let good = tokens(&data.train);
    let at = |name: &str| data.dir.join(name);
    let flip = |name: &str| {
        let mut bytes = fs::read(at(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        // Write a new file: the mapped one must not change under `data`.
        fs::remove_file(at(name)).unwrap();
        fs::write(at(name), bytes).unwrap();
    };
    let check = |what: &str, part: &str| {
        let (repaired, notes) = prepared(&spec, &cache);
        assert!(notes.contains("training bpe:300"), "{what}: {notes}");
        assert!(notes.contains(part), "{what}: {part:?} is not in {notes}");
        assert_eq!(tokens(&repaired.train), good, "{what}");
        assert!(prepared(&spec, &cache).1.starts_with("using "), "{what}");
    };
    for name in ["train.bin", "valid.bin", "tokenizer.json"] {
        flip(name);
        check(name, "preparing the data again");
        fs::remove_file(at(name)).unwrap();
        check(name, name);
        fs::remove_file(at(name)).unwrap();
        fs::write(at(name), "").unwrap();
        check(name, name);
    }
    fs::write(at("data.json"), "{").unwrap();
    check("data.json cut", "data.json");
    let facts = fs::read_to_string(at("data.json")).unwrap();
    fs::write(at("data.json"), facts.replace("\"format\": 1", "\"format\": 0")).unwrap();
    check("data.json format", "damaged");
    fs::remove_file(at("data.json")).unwrap();
    check("data.json gone", "reading");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "something temporary is left");
}

#[test]
fn preparing_at_once_agrees() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let text = file(&dir, "a.txt", documents());
    let (spec, cache) = (&spec(&text, "bpe:280"), cache.as_path());
    let all: Vec<(Vec<u32>, Vec<u32>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6).map(|_| scope.spawn(|| prepared(spec, cache).0)).collect();
        workers.into_iter().map(|w| w.join().unwrap()).map(|data| (tokens(&data.train), tokens(&data.valid))).collect()
    });
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_dir(cache).unwrap().count(), 1, "something temporary is left");
}

#[test]
fn failures_leave_nothing_behind() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let text = file(&dir, "a.txt", documents());
    let fail = |spec: &DataSpec, cache: &Path, parts: &[&str]| {
        error_with(prepare(spec, cache, &mut |_| ()), parts);
    };
    fail(&spec(&text, "word"), &cache, &["unknown tokenizer `word`", "bpe:N"]);
    fail(&spec(&text, "none.json"), &cache, &["none.json"]);
    fail(&spec(&dir.path().join("none.txt"), "byte"), &cache, &["none.txt"]);
    let sparse = DataSpec { held_out: by_prefix("== ", 99), ..spec(&text, "byte") };
    fail(&sparse, &cache, &["a.txt", "12 documents", "at most 12"]);
    fail(&spec(&text, "byte"), &text, &["cannot create folder", "a.txt"]);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "something temporary is left");
}
