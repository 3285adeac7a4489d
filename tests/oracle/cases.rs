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

/// What level 1 has in common with the levels below must not be told apart by its numbers: every stage has its own rate and length.
#[test]
fn gpt_two_levels() {
    check(
        r#"
        seed = 3
        model = { family = "gpt", layers = 2, heads = 2, head_size = 4, context = 8, init_std = 0.2 }
        data = { train = ["train.bin"], valid = ["valid.bin"], vocab = 29 }
        train = { batch = 4, eval_every = 3 }
        optimizer = { clip = 0.5, weight_decay = 0.2 }
        [[levels]]
        before = { steps = 5, lr = 1e-2, warmup = 2 }
        train = { steps = 7, lr = 5e-3 }
        [[levels]]
        layers = 1
        heads = 1
        alpha = 0.3
        train = { steps = 4, lr = 2e-2, decay = "linear", floor = 0.2 }
        [scratch]
        steps = 6
        lr = 4e-3
        "#,
    );
}

#[test]
fn gpt_three_levels_with_everything_on() {
    check(
        r#"
        seed = 11
        model = { family = "gpt", layers = 4, heads = 4, head_size = 3, context = 10, init_std = 0.15, dropout = 0.2, tied = false }
        data = { train = ["train.bin"], valid = ["valid.bin"], vocab = 29 }
        train = { batch = 4, accumulate = 2, recompute = true, eval_every = 2, eval_batches = 2 }
        optimizer = { beta1 = 0.8, beta2 = 0.9, eps = 1e-6, weight_decay = 0.05, clip = 0.7 }
        rules = { width = "exact", depth = "split", shares = "random" }
        [[levels]]
        before = { steps = 3, lr = 8e-3, decay = "constant" }
        train = { steps = 5, lr = 6e-3, warmup = 4, decay = "wsd", cooldown = 0.4, schedule = "continue", optimizer = "transfer" }
        [[levels]]
        width_scheme = [[0, 3], [2, 1]]
        depth_scheme = [[0], [1, 3, 2]]
        alpha = "search"
        before = { steps = 4, lr = 1.2e-2, warmup = 1, decay = "linear", optimizer = "transfer" }
        train = { steps = 4, lr = 9e-3, warmup = 2, decay = "cosine", optimizer = "rewarm" }
        [[levels]]
        layers = 1
        heads = 1
        alpha = 0.8
        train = { steps = 5, lr = 2e-2, optimizer = "transfer" }
        [scratch]
        steps = 5
        lr = 7e-3
        warmup = 2
        decay = "wsd"
        optimizer = "rewarm"
        "#,
    );
}

#[test]
fn gpt_whose_moments_come_from_either_side() {
    for alpha in ["0.4", "0.7"] {
        check(&format!(
            r#"
            seed = 5
            model = {{ family = "gpt", layers = 3, heads = 3, head_size = 2, context = 8, init_std = 0.3 }}
            data = {{ train = ["train.bin"], valid = ["valid.bin"], vocab = 29 }}
            train = {{ batch = 2, eval_every = 4 }}
            rules = {{ depth = "identity" }}
            optimizer = {{ clip = inf }}
            [[levels]]
            before = {{ steps = 2, lr = 1e-2, warmup = 1 }}
            train = {{ steps = 4, lr = 7e-3, optimizer = "transfer", schedule = "continue", decay = "cosine", warmup = 3 }}
            [[levels]]
            layers = 2
            heads = 2
            depth_scheme = [[0, 2], [1]]
            alpha = {alpha}
            train = {{ steps = 6, lr = 1.5e-2, decay = "constant" }}
            "#
        ));
    }
}

/// Evaluations of the first stage reach the target too, and do not end it.
#[test]
fn gpt_that_reaches_its_target() {
    check(
        r#"
        seed = 8
        model = { family = "gpt", layers = 2, heads = 2, head_size = 4, context = 8, init_std = 0.2 }
        data = { train = ["train.bin"], valid = ["valid.bin"], vocab = 29 }
        train = { batch = 4, eval_every = 2, eval_batches = 3, target_loss = 3.535 }
        [[levels]]
        before = { steps = 10, lr = 2e-2 }
        train = { steps = 12, lr = 1.5e-2 }
        [[levels]]
        layers = 1
        alpha = 0.9
        train = { steps = 2, lr = 2e-2, decay = "linear" }
        [scratch]
        steps = 12
        lr = 2e-2
        "#,
    );
}

#[test]
fn bert_of_masked_text() {
    check(
        r#"
        seed = 7
        model = { family = "bert", layers = 4, heads = 2, head_size = 4, context = 12, init_std = 0.2, dropout = 0.1 }
        data = { text = "text.txt", tokenizer = "byte", document_prefix = "== ", held_out_every = 8 }
        masking = { rate = 0.25 }
        train = { batch = 4, accumulate = 2, recompute = true, eval_every = 3 }
        rules = { depth = "identity", shares = "random" }
        [[levels]]
        before = { steps = 4, lr = 1e-2, warmup = 2 }
        train = { steps = 5, lr = 6e-3, optimizer = "transfer" }
        [[levels]]
        depth_scheme = [[0, 2], [1, 3]]
        heads = 1
        alpha = 0.6
        train = { steps = 6, lr = 8e-3, warmup = 1, decay = "linear", optimizer = "transfer" }
        [scratch]
        steps = 3
        lr = 5e-3
        "#,
    );
}

#[test]
fn bert_of_pairs_with_norms_first() {
    check(
        r#"
        seed = 8
        model = { family = "bert", layers = 2, heads = 4, head_size = 2, context = 16, init_std = 0.2, dropout = 0.1, norm = "pre" }
        data = { text = "text.txt", tokenizer = "char" }
        masking = { next_sentence = true, whole_words = true }
        train = { batch = 4, accumulate = 2, recompute = true, eval_every = 2 }
        rules = { width = "exact", depth = "split" }
        [[levels]]
        before = { steps = 3, lr = 1e-2 }
        train = { steps = 4, lr = 7e-3, decay = "wsd", cooldown = 0.5 }
        [[levels]]
        layers = 1
        heads = 2
        alpha = "search"
        train = { steps = 3, lr = 1e-2, decay = "constant" }
        "#,
    );
}

#[test]
fn bert_of_labelled_texts() {
    for (label, more) in [("label", ""), ("value", ", regression = true")] {
        check(&format!(
            r#"
            seed = 9
            model = {{ family = "bert", layers = 2, heads = 2, head_size = 4, context = 14, init_std = 0.5, dropout = 0.15 }}
            data.tokenizer = "bpe:280"
            data.task = {{ train = "train.tsv", valid = "valid.tsv", sentence = "text", second = "second", label = "{label}"{more} }}
            train = {{ batch = 4, accumulate = 2, eval_every = 3 }}
            [[levels]]
            before = {{ steps = 4, lr = 1e-2 }}
            train = {{ steps = 5, lr = 2e-2, warmup = 1 }}
            [[levels]]
            layers = 1
            alpha = 0.7
            train = {{ steps = 3, lr = 1e-2 }}
            "#
        ));
    }
}

#[test]
fn deit_with_everything_on() {
    check(
        r#"
        seed = 10
        model = { family = "deit", layers = 3, heads = 2, head_size = 4, image = 6, patch = 3, init_std = 0.2, dropout = 0.1, drop_path = 0.4, distilled = true }
        data.images = { train = { files = { format = "csv", file = "images.csv" } }, held_out_every = 4 }
        augment = { padding = 1, flip = 0.5, mixing = { mixup = 0.4 } }
        view = { mean = [0.4], std = [0.3] }
        train = { batch = 4, accumulate = 2, recompute = true, label_smoothing = 0.1, eval_every = 3, eval_batches = 5 }
        [[levels]]
        before = { steps = 4, lr = 1e-2, warmup = 1 }
        train = { steps = 5, lr = 2e-2 }
        [[levels]]
        layers = 1
        heads = 1
        alpha = "search"
        train = { steps = 3, lr = 1.5e-2, decay = "linear" }
        [scratch]
        steps = 4
        lr = 1e-2
        "#,
    );
}

#[test]
fn deit_without_dropout() {
    check(
        r#"
        seed = 12
        model = { family = "deit", layers = 2, heads = 2, head_size = 4, image = 6, patch = 2, init_std = 0.2, drop_path = 0.3 }
        data.images = { train = { files = { format = "csv", file = "images.csv" } }, held_out_every = 3 }
        augment = { mixing = { cutmix = 1.0, mixup = 0.2, probability = 0.7, by = "pair" } }
        train = { batch = 3, label_smoothing = 0.2, eval_every = 2 }
        [[levels]]
        before = { steps = 3, lr = 1e-2 }
        train = { steps = 3, lr = 2e-2 }
        [[levels]]
        layers = 1
        alpha = 0.25
        train = { steps = 4, lr = 1.5e-2 }
        "#,
    );
}

/// Micro-batches that score different numbers of tokens, because only whole words are chosen: the loss of a step is the mean over
/// all of its tokens.
#[test]
fn bert_of_whole_words_in_micro_batches() {
    check(
        r#"
        model = { family = "bert", layers = 2, heads = 2, head_size = 4, context = 16, init_std = 0.2 }
        data = { text = "text.txt", tokenizer = "char" }
        masking = { whole_words = true, rate = 0.3 }
        train = { batch = 4, accumulate = 4, eval_every = 3 }
        [[levels]]
        train = { steps = 6, lr = 1e-2 }
        "#,
    );
}
