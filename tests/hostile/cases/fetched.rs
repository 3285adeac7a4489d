//! Git LFS pointers and web pages in place of files, as failed downloads leave them.

use super::*;

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n\
    size 12345\n";
const PAGE: &str = "\n<!DOCTYPE html>\n<html><body>Not found</body></html>\n";

#[test]
fn lfs_pointers_and_web_pages_are_refused() {
    let dir = place("images");
    let at = dir.path();
    for name in ["a.txt", "a.jsonl", "vocab.txt", "tokenizer.json", "set/a/1.jpg", "t.bin"] {
        write(at, name, POINTER);
    }
    for args in [
        "data prepare a.txt --tokenizer byte --out o",
        "data prepare a.jsonl --tokenizer byte --out o",
        "data prepare run.toml --tokenizer uncased:vocab.txt --out o",
        "data prepare run.toml --tokenizer tokenizer.json --out o",
        "data show t.bin",
        "train run.toml --out o",
    ] {
        refused(at, args, &["Git LFS pointer", "git lfs pull"]);
    }
    for name in ["a.txt.gz", "vocab.txt", "tokenizer.json", "set/a/1.jpg"] {
        write(at, name, PAGE);
    }
    for args in [
        "data prepare a.txt.gz --tokenizer byte --out o",
        "data prepare run.toml --tokenizer uncased:vocab.txt --out o",
        "data prepare run.toml --tokenizer tokenizer.json --out o",
        "train run.toml --out o",
    ] {
        refused(at, args, &["web page", "download"]);
    }
    // A file named as a web page is an ordinary text.
    write(at, "page.html", PAGE.repeat(100));
    ok(at, "data prepare page.html --tokenizer byte --out o");
}

#[test]
fn lfs_pointers_in_model_folders_are_named() {
    let dir = place("nli-labels");
    let at = dir.path();
    for name in ["model.safetensors", "config.json"] {
        write(at, &format!("model/{name}"), POINTER);
        refused(at, "eval model --run run.toml", &[name, "Git LFS pointer"]);
    }
}
