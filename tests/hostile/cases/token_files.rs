//! Token files of other programs, files without tokens, and folders that hold both splits.

use super::*;

use vcycle::data::tokens::Tokens;
use vcycle::data::tokens::formats::Format;
use vcycle::data::tokens::sampler::check_length;
use vcycle::data::tokens::shard::Shard;

/// Twenty thousand tokens of GPT-2's vocabulary.
fn tokens() -> Vec<u32> {
    (0..20_000u32).map(|i| i.wrapping_mul(2_654_435_761).rotate_left(9) % 50_257).collect()
}

fn narrow(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|&t| (t as u16).to_le_bytes()).collect()
}

/// A one-dimensional array as `numpy.save` writes it.
fn npy(kind: &str, count: usize, bytes: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({count},), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), bytes].concat()
}

fn read(path: &Path) -> Vec<u32> {
    let shard = Shard::open_any(path, Some(50_257)).unwrap();
    (0..shard.len()).map(|i| shard.token(i)).collect()
}

#[track_caller]
fn no_tokens(path: &Path, parts: &[&str]) {
    let error = Shard::open_any(path, Some(50_257)).map(drop).expect_err("an error").to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} are not in: {error}");
}

#[test]
fn numpy_arrays_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let tokens = tokens();
    let wide: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    for (kind, bytes) in [("<u2", narrow(&tokens)), ("<u4", wide.clone()), ("<i4", wide.clone())] {
        let path = write(at, "a.npy", npy(kind, tokens.len(), &bytes));
        assert_eq!(Shard::open_any(&path, Some(50_257)).unwrap().format(), Format::Npy);
        assert_eq!(read(&path), tokens, "{kind}");
    }
    let (output, _) = ok(at, "data show a.npy");
    assert!(output.contains("NumPy") && output.contains("20,000"), "{output}");
    no_tokens(&write(at, "b.npy", npy("<i8", 5, &[0; 40])), &["b.npy", "<i8", ".astype"]);
    no_tokens(&write(at, "c.npy", npy("<u2", 5, &[0; 8])), &["c.npy", "5 tokens", "8 bytes"]);
    no_tokens(&write(at, "d.npy", b"\x93NUMPY\x01\0\xff\xff"), &["d.npy", "damaged header"]);
}

/// A file without a header is read as two-byte tokens, and nearly all bytes are valid ones: runs once trained on these
/// files.
#[test]
fn files_that_are_not_tokens_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let tokens = tokens();
    assert_eq!(read(&write(at, "u16.bin", narrow(&tokens))), tokens);
    let wide: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    no_tokens(&write(at, "u32.bin", &wide), &["u32.bin", "4 bytes each", "numpy.save"]);
    let long: Vec<u8> = tokens.iter().flat_map(|&t| u64::from(t).to_le_bytes()).collect();
    no_tokens(&write(at, "i64.bin", &long), &["i64.bin", "8 bytes each"]);
    // Larger ids, as Llama 3 has, and small ids, as of characters.
    for scale in [1, 1000] {
        let other: Vec<u8> = tokens.iter().flat_map(|&t| (t * 2 / scale).to_le_bytes()).collect();
        no_tokens(&write(at, "u32.bin", &other), &["u32.bin", "4 bytes each"]);
    }
    for text in ["it is a truth universally known, ".repeat(300), "\u{feff}的一是不了在人有我他".repeat(400)]
    {
        no_tokens(&write(at, "a.txt", &text), &["a.txt", "text, not tokens", "data.text"]);
    }
    for (name, begin) in [("a.npz", &b"PK\x03\x04"[..]), ("a.parquet", b"PAR1"), ("a.idx", b"MMIDIDX\0\0")] {
        no_tokens(&write(at, name, [begin, &narrow(&tokens)].concat()), &[name, "not a token file"]);
    }
    // All ids of a character vocabulary are small, which is valid.
    let characters: Vec<u32> = tokens.iter().map(|t| t % 65).collect();
    assert_eq!(read(&write(at, "char.bin", narrow(&characters))), characters);
}

/// A shorter context is suggested only where it helps: no context is short enough for a single token.
#[test]
fn errors_for_too_few_tokens_suggest_what_helps() {
    let dir = tempfile::tempdir().unwrap();
    for (count, advice) in [(0, "give more text"), (1, "give more text"), (2, "at most 1"), (5, "at most 4")] {
        let path = write(dir.path(), "few.bin", narrow(&tokens()[..count]));
        let shards = [Shard::open_any(&path, Some(50_257)).unwrap()];
        let error = check_length(&shards, 5).expect_err("too few").to_string();
        assert!(error.contains("few.bin") && error.contains(advice), "{count}: {error}");
        assert_eq!(error.contains("context"), count > 1, "{error}");
    }
}

/// llm.c and nanoGPT write both splits into one folder.
#[test]
fn a_folder_with_both_splits_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let file = narrow(&tokens());
    let open = |paths: &[&str]| Tokens::open(&paths.iter().map(|path| at.join(path)).collect::<Vec<_>>(), Some(50_257));
    for (folder, names) in [
        ("llmc", ["fineweb_train_000001.bin", "fineweb_train_000002.bin", "fineweb_val_000000.bin"]),
        ("nano", ["train.bin", "train-2.bin", "val.bin"]),
    ] {
        names.iter().for_each(|name| drop(write(at, &format!("{folder}/{name}"), &file)));
        let error = open(&[folder]).map(drop).unwrap_err().to_string();
        assert!(error.contains("both splits") && error.contains("*train*.bin"), "{error}");
        assert_eq!(open(&[&format!("{folder}/*train*.bin")]).unwrap().len(), 40_000);
        assert_eq!(
            open(&[&format!("{folder}/*val*.bin"), &format!("{folder}/train.bin")]).map(|t| t.len()).ok(),
            (folder == "nano").then_some(40_000)
        );
        assert!(open(&[&format!("{folder}/*test*.bin")]).is_err());
    }
    let set = "--set data.train=[\"nano/*.bin\"] --set data.valid=[\"nano/val.bin\"]";
    let run = "[model]\nfamily='gpt'\nlayers=1\nheads=1\nhead_size=4\ncontext=16\n[data]\nvocab=50257\n[train]\nbatch=1\neval_every=1\neval_batches=1\n[[levels]]\ntrain={steps=1,lr=0}\n";
    write(at, "run.toml", run);
    let (_, output) = ok(at, &format!("train run.toml --out run {set}"));
    assert!(output.contains("data.train and data.valid both have nano/val.bin"), "{output}");
}
