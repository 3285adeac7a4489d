//! The test cases, one configuration `runs/NAME.toml` each, and the data that they train on.

use super::check;
use std::fmt::Write;
use std::path::Path;

/// Writes the data files that the configurations name: token files, a text, labelled texts and images.
pub fn write_data(dir: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("written");
    // Tokens from a vocabulary of 29, computed by a different formula in each of the two files.
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

macro_rules! cases {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(include_str!(concat!("runs/", stringify!($name), ".toml")));
            }
        )*
    };
}

cases! {
    gpt_two_levels
    gpt_three_levels_with_everything_on
    gpt_whose_moments_stay
    gpt_whose_moments_come_from_below
    gpt_that_reaches_its_target
    bert_of_masked_text
    bert_of_pairs_with_norms_first
    bert_of_whole_words_in_micro_batches
    bert_of_labelled_texts
    bert_of_texts_with_numbers
    deit_with_everything_on
    deit_without_dropout
}

/// Every configuration in `runs` has a test.
#[test]
fn every_run_is_checked() {
    let files =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/training/oracle/runs")).expect("a folder");
    let names = files.map(|file| file.expect("a file").path().file_stem().expect("a name").to_owned());
    let text = include_str!("cases.rs");
    names.for_each(|name| assert!(text.contains(&format!("\n    {}\n", name.display())), "{}", name.display()));
}
