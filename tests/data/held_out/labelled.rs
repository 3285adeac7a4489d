//! BERT, fine-tuned on labelled texts: single texts and pairs, classification and regression.

use super::support::*;
use vcycle::config::Config;
use vcycle::data::loader::batch::Field;
use vcycle::data::tokenizer::vocabulary::SpecialTokens;
use vcycle::data::tokens::sampler::IGNORED;

const CONTEXT: usize = 24;

/// An example: its texts, and 1000 times its label.
type Example = (Vec<String>, i64);

fn bert(data: &str, sizes: Sizes) -> Config {
    config(&format!("family = \"bert\"\ncontext = {CONTEXT}"), data, sizes)
}

/// The rows of a batch that have a label.
fn rows(fields: &[Field], special: SpecialTokens) -> Vec<Example> {
    let rows = fields[0].as_ints().chunks(CONTEXT).zip(fields[2].as_ints().chunks(CONTEXT)).enumerate();
    let row = |(row, (ids, mask)): (usize, (&[i32], &[i32]))| {
        let label = match &fields[3] {
            Field::Ints(classes) => (classes[row] != IGNORED).then(|| i64::from(classes[row]) * 1000)?,
            Field::Floats(values) => {
                (!values[row].is_nan()).then(|| (f64::from(values[row]) * 1000.0).round() as i64)?
            }
        };
        let length = mask.iter().filter(|&&mask| mask == 1).count();
        let texts = segments(&ids[..length], special).into_iter();
        Some((texts.map(|text| text.into_iter().map(|id| char::from(id as u8)).collect()).collect(), label))
    };
    rows.filter_map(row).collect()
}

fn check(folder: &Folder, data: &str, [train, valid]: &[Vec<Example>; 2], sentinels: i64) {
    let special = folder.open(&bert(data, USUAL));
    let special = special.tokenizer().expect("a tokenizer").special_tokens().expect("special tokens");
    for (batch, accumulate) in ALL_SIZES {
        let sizes = Sizes { batch, accumulate, ..USUAL };
        let source = folder.source(&bert(data, sizes));
        let all = held_out(&*source, sizes.rows());
        let found: Vec<Example> = all.iter().flat_map(|(fields, _)| rows(fields, special)).collect();
        assert!(found == *valid, "batches of {batch}: {found:?}");
        for (fields, scored) in &all {
            assert_eq!(rows(fields, special).len(), *scored);
        }
    }
    let wanted = counts(train.clone());
    for seed in [1, 2, 3] {
        for batch in [5, train.len(), 2 * train.len() + 1] {
            let source = folder.source(&bert(data, Sizes { seed, batch, accumulate: 1 }));
            let all: Vec<Example> = training(&*source, batch, 30).flat_map(|fields| rows(&fields, special)).collect();
            assert_eq!(all.len(), 30 * batch, "a row without an example");
            for (texts, label) in &all {
                assert!(!texts.iter().any(|text| bytes(text).into_iter().any(is_sentinel)), "{texts:?} is held out");
                assert!(*label < sentinels, "{label} is held out");
            }
            // Each example occurs once in every epoch.
            for epoch in all.chunks_exact(train.len()) {
                assert!(counts(epoch.iter().cloned()) == wanted, "{epoch:?}");
            }
            read_ahead(&source, batch, &[1, 3]);
        }
    }
    seed_orders(folder, |sizes| bert(data, sizes), batches);
}

/// Builds the examples of both splits, with one text each, or two with `pairs`. Labels are classes 0 to 2, or numbers
/// with `regression`. Half of the held-out examples have class 3 instead, and held-out numbers start at 100.
fn splits(pairs: bool, regression: bool) -> [Vec<Example>; 2] {
    let texts = Texts::new(90, 2, 3, "");
    let texts = Texts { documents: texts.documents.iter().map(|text| text.trim().to_owned()).collect(), ..texts };
    let [train, valid] = texts.splits();
    let split = |texts: Vec<&str>, first: i64| -> Vec<Example> {
        let each = if pairs { 2 } else { 1 };
        let example = |(number, texts): (usize, &[&str])| {
            let label = match regression {
                true => first + number as i64 * 250,
                false if first > 0 && number % 2 == 0 => 3000,
                false => (number * 7 % 3) as i64 * 1000,
            };
            (texts.iter().map(|text| (*text).to_owned()).collect(), label)
        };
        texts.chunks_exact(each).enumerate().map(example).collect()
    };
    [split(train, -2000), split(valid, 100_000)]
}

#[test]
fn labelled_files_in_every_format() {
    let folder = Folder::new();
    for (number, (names, pairs, regression, header)) in [
        (["train.tsv", "valid.tsv"], false, false, true),
        (["train.tsv.gz", "valid.tsv.zst"], true, false, true),
        (["train.txt.zst", "valid.tsv.gz"], false, true, false),
        (["train.tsv", "valid.tsv"], true, true, false),
    ]
    .into_iter()
    .enumerate()
    {
        let splits = splits(pairs, regression);
        let file = |name: &str, examples: &[Example]| {
            let mut content = if header { "mark\tone\ttwo\tmore\n".to_owned() } else { String::new() };
            for (texts, label) in examples {
                let label = if regression { (*label as f64 / 1000.0).to_string() } else { (label / 1000).to_string() };
                let second = texts.get(1).map_or("-", String::as_str);
                content += &format!("{label}\t{}\t{second}\tQQQ\n", texts[0]);
            }
            folder.file(&format!("{number}/{name}"), content)
        };
        let files = [file(names[0], &splits[0]), file(names[1], &splits[1])];
        let columns = match header {
            true => ["\"one\"", "\"two\"", "\"mark\""],
            false => ["2", "3", "1"],
        };
        let classes = if regression { "" } else { "\nclasses = [\"0\", \"1\", \"2\", \"3\"]" };
        let second = if pairs { format!("second = {}\n", columns[1]) } else { String::new() };
        let data = format!(
            "[data]\ntokenizer = \"byte\"\n[data.task]\ntrain = {}\nvalid = {}\nsentence = {}\n{second}label = {}\nregression = \
             {regression}{classes}",
            quoted(&files[0]),
            quoted(&files[1]),
            columns[0],
            columns[2]
        );
        check(&folder, &data, &splits, if regression { 100_000 } else { 3000 });
    }
}
