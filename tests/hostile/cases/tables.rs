//! Tables of images and of labelled texts in the forms that programs write, with unusual labels.

use super::*;

/// Sixty images of 8 x 8 pixels with values up to 16, in three classes; each with its label.
fn digits() -> Vec<(String, usize)> {
    let pixel =
        |i: usize, at: usize| if (8..56).contains(&at) && at / 8 % 3 == i % 3 { 1 + (i * 7 + at) % 16 } else { 0 };
    let values = |i: usize| (0..64).map(|at| pixel(i, at).to_string()).collect::<Vec<_>>().join(",");
    (0..60).map(|i| (values(i), i % 3)).collect()
}

const CSV: &str = "[model]\nfamily='deit'\nlayers=1\nheads=1\nhead_size=8\nimage=8\npatch=4\n[data.images.train.files]\n\
    format='csv'\nfile='t.csv'\n[train]\nbatch=4\neval_every=10\n[[levels]]\ntrain={steps=2,lr=1e-3}\n";

/// Trains on the table. Returns the line with the final held-out loss, and the notes.
#[track_caller]
fn loss(at: &Path, table: &str, set: &str) -> (String, String) {
    write(at, "t.csv", table);
    let _ = fs::remove_dir_all(at.join("run"));
    let (out, notes) = ok(at, &format!("train run.toml --out run{set}"));
    (out.lines().find(|line| line.starts_with("model: ")).expect("a loss").to_owned(), notes)
}

#[test]
fn image_tables_are_read_in_many_forms() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write(at, "run.toml", CSV);
    let lines = |line: &dyn Fn(&str, usize) -> String| digits().iter().map(|(v, l)| line(v, *l)).collect::<String>();
    let plain = lines(&|values, label| format!("{values},{label}\n"));
    let (wanted, notes) = loss(at, &plain, "");
    assert!(!notes.contains("warning"), "{notes}");
    let names: Vec<String> = (0..64).map(|i| format!("pixel{i}")).collect();
    let numbers: Vec<String> = (0..65).map(|i| i.to_string()).collect();
    for (form, table) in [
        ("carriage returns and trailing blank lines", plain.replace('\n', "\r\n") + "\r\n\r\n"),
        ("header", format!("{},label\n{plain}", names.join(","))),
        ("header of numbers", format!("{}\n{plain}", numbers.join(","))),
        ("quotes", lines(&|values, label| format!("\"{}\",\"{label}\"\n", values.replace(',', "\",\"")))),
        (
            "numbers with a decimal point",
            lines(&|values, label| format!("{}.0,{label}.0\n", values.replace(',', ".0,"))),
        ),
    ] {
        assert_eq!(loss(at, &table, "").0, wanted, "{form}");
    }
    // The label comes first, as in MNIST's CSV files. The last pixel is always black, so if it were taken as the label,
    // all images would have class 0.
    let first = lines(&|values, label| format!("{label},{values}\n"));
    write(at, "t.csv", &first);
    refused(at, "train run.toml --out no", &["data.images.train", "class 0", "label = \"first\""]);
    let set = " --set data.images.train.files.label=first";
    assert_eq!(loss(at, &first, set).0, wanted);
    assert_eq!(loss(at, &format!("label,{}\n{first}", names.join(",")), set).0, wanted);
    let (_, notes) = loss(at, &lines(&|values, label| format!("{values},{}\n", label + 1)), "");
    assert!(notes.contains("no image has the label 0") && notes.contains("4 classes"), "{notes}");
    for (table, parts) in [
        (plain.replace(',', ";"), &["t.csv: line 1", "separated by commas"][..]),
        (plain.replace('\n', ",\n"), &["t.csv: line 1, column 66", "ends with a comma"]),
    ] {
        write(at, "t.csv", table);
        refused(at, "train run.toml --out no", parts);
    }
}

/// Browsers may decompress a download but keep its name.
#[test]
fn compression_is_detected_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let images: Vec<u8> = [&[0, 0, 8, 3, 0, 0, 0, 40, 0, 0, 0, 8, 0, 0, 0, 8][..], &[9; 40 * 64]].concat();
    let labels: Vec<u8> = [0, 0, 8, 1, 0, 0, 0, 40].into_iter().chain((0..40).map(|i| i % 4)).collect();
    let run = CSV.replace("format='csv'\nfile='t.csv'", "format='idx'\nimages='i.gz'\nlabels='l.gz'");
    write(at, "run.toml", run);
    for (name, bytes) in [("i", &images), ("l", &labels)] {
        write(at, &format!("{name}.gz"), bytes);
        write(at, name, texts::gzip(bytes));
    }
    let wanted = ok(at, "train run.toml --out named").0.replace("named", "run");
    let set = "--set data.images.train.files.images=i --set data.images.train.files.labels=l";
    assert_eq!(ok(at, &format!("train run.toml --out run {set}")).0, wanted);
}

const TSV: &str = "[model]\nfamily='bert'\nlayers=1\nheads=1\nhead_size=8\ncontext=16\n[data]\ntokenizer='char'\n[data.task]\n\
    train='train.tsv'\nvalid='valid.tsv'\nsentence='sentence'\nlabel='label'\n[train]\nbatch=4\neval_every=10\n[[levels]]\n\
    train={steps=1,lr=1e-3}\n";

#[test]
fn unusual_labels_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write(at, "run.toml", TSV);
    let table = |from: usize, label: &dyn Fn(usize) -> usize| {
        let line = |i: usize| format!("film {i} was {}\t{}\n", ["good", "bad"][i % 2], label(i % 2));
        "sentence\tlabel\n".to_owned() + &(from..from + 30).map(line).collect::<String>()
    };
    let notes = |train: String, valid: String| {
        write(at, "train.tsv", train);
        write(at, "valid.tsv", valid);
        let _ = fs::remove_dir_all(at.join("run"));
        ok(at, "train run.toml --out run").1
    };
    let plain = notes(table(0, &|l| l), table(30, &|l| l));
    assert!(plain.contains("using 30 labelled texts to train on, 30 held out: 2 classes"), "{plain}");
    assert!(!plain.contains("warning"), "{plain}");
    // Line ends of classic Mac OS.
    assert_eq!(notes(table(0, &|l| l).replace('\n', "\r"), table(30, &|l| l).replace('\n', "\r")), plain);
    let from_one = notes(table(0, &|l| l + 1), table(30, &|l| l + 1));
    assert!(
        from_one.contains("train.tsv: warning: no example has the label 0; ") && from_one.contains("3 classes"),
        "{from_one}"
    );
    let gaps = notes(table(0, &|l| l * 4), table(30, &|l| l * 4));
    assert!(gaps.contains("no example has the label 1, 2, 3; "), "{gaps}");
    let seen = notes(table(0, &|l| l), table(20, &|l| l));
    assert!(seen.contains("warning: 10 of 30 held-out examples have the same text as a training example"), "{seen}");
    let textless = notes(table(0, &|l| l) + " \t1\n\t0\n", table(30, &|l| l));
    assert!(
        textless.contains("train.tsv: warning: 2 of 32 examples have an empty text; the first is in line 32"),
        "{textless}"
    );
}
