//! The runs, and the data they are made on.

use super::check;
use std::fmt::Write;
use std::path::Path;

/// Tokens, a text, labelled texts and images.
pub fn write_data(dir: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("written");
    // Tokens of a vocabulary of 29 that follow from one another, by another rule in either file.
    let tokens = |count: usize, factor: usize| -> Vec<u8> {
        let token = |i: usize| ((i * i * factor + i / 7) % 29) as u16;
        (0..count).flat_map(|i| token(i).to_le_bytes()).collect()
    };
    write("train.bin", &tokens(700, 3));
    write("valid.bin", &tokens(101, 5));
    let text = (0..300).fold(String::new(), |mut text, i| {
        writeln!(text, "{}the {} of {}", if i % 6 == 0 { "== " } else { "" }, i * i % 97, i % 13).expect("memory");
        text
    });
    write("text.txt", text.as_bytes());
    for (name, count, factor) in [("train.tsv", 23, 7), ("valid.tsv", 11, 5)] {
        let rows = (0..count).fold(String::from("text\tsecond\tlabel\tvalue\n"), |mut rows, i| {
            let (a, b) = (i * factor % 31, i * i % 17);
            writeln!(rows, "it is {a}\tand {b}\t{}\t{}", u8::from(a > b), a as f64 / 8.0).expect("memory");
            rows
        });
        write(name, rows.as_bytes());
    }
    let images = (0..44).fold(String::new(), |mut images, i| {
        (0..36).for_each(|p| write!(images, "{},", (i * i * 7 + p * (i + 3)) % 256).expect("memory"));
        writeln!(images, "{}", i % 7).expect("memory");
        images
    });
    write("images.csv", images.as_bytes());
}

#[test]
fn gpt_two_levels() {
    check(
        r#"
        seed = 3
        model = { family = "gpt", layers = 2, heads = 2, head_size = 4, context = 8, init_std = 0.2 }
        data = { train = ["train.bin"], valid = ["valid.bin"], vocab = 29 }
        train = { batch = 4, eval_every = 3 }
        [[levels]]
        before = { steps = 5, lr = 1e-2, warmup = 2 }
        train = { steps = 7, lr = 5e-3 }
        [[levels]]
        layers = 1
        heads = 1
        alpha = 0.3
        train = { steps = 4, lr = 2e-2, decay = "linear" }
        [scratch]
        steps = 6
        lr = 4e-3
        "#,
    );
}
