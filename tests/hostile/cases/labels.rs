//! Labels of texts are matched with a checkpoint's classes by name, and missing labels are noticed. The checkpoint in
//! `nli-labels` was made by its `make.py` with transformers 5.24, and the labels are its own predictions, so that the
//! accuracy is 1 and the loss is the one that `make.py` prints.

use vcycle::data::labelled::classes::{Checkpoint, Origin, matched};

use super::*;

const LOSS: f64 = 0.2367;

#[track_caller]
fn perfect(dir: &Path, run: &str) -> String {
    let (out, notes) = ok(dir, &format!("eval model --run {run}"));
    assert_eq!((printed(&out, "loss:"), printed(&out, "accuracy:")), (LOSS, 1.0), "{notes}");
    notes
}

/// Changes the labels of `dev.tsv`.
fn relabel(dir: &Path, map: impl Fn(&str) -> String) {
    let text = fs::read_to_string(dir.join("dev.tsv")).unwrap();
    let lines = text.lines().enumerate().map(|(i, line)| {
        let (texts, label) = line.rsplit_once('\t').unwrap();
        let label = if i == 0 { label.to_owned() } else { map(label) };
        format!("{texts}\t{label}\n")
    });
    let lines: String = lines.collect();
    fs::write(dir.join("dev.tsv"), lines).unwrap();
}

fn names(model: &Path) -> [Value; 3] {
    let config = json(&model.join("config.json"));
    ["0", "1", "2"].map(|number| config["id2label"][number].clone())
}

const NAMES: [&str; 3] = ["entailment", "neutral", "contradiction"];

#[test]
fn a_checkpoints_classes_are_matched_by_name_and_kept() {
    let dir = place("nli-labels");
    let at = dir.path();
    let notes = perfect(at, "run.toml");
    assert!(notes.contains("3 classes: entailment, neutral, contradiction"), "{notes}");
    // Models trained or derived from it have the same classes.
    ok(at, "train run.toml --out run");
    ok(at, "coalesce model --layers 1 --out small");
    ok(at, "decoalesce small --out grown");
    ok(at, "interpolate model small --alpha 0.5 --out mixed");
    for model in ["run/vcycle/model", "small", "grown", "mixed"] {
        assert_eq!(names(&at.join(model)), NAMES, "{model}");
        let numbers = json(&at.join(model).join("config.json"))["label2id"].clone();
        assert_eq!(numbers, serde_json::json!({"entailment": 0, "neutral": 1, "contradiction": 2}));
    }
    // Models with different classes cannot be interpolated.
    let path = at.join("small/config.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"0\": \"entailment\"", "\"0\": \"neutral\"");
    fs::write(&path, text.replace("\"1\": \"neutral\"", "\"1\": \"entailment\"")).unwrap();
    refused(at, "interpolate model small --alpha 0.5 --out other", &["entailment, neutral", "neutral, entailment"]);
}

/// Upper case, numbers as in GLUE's files, an order set by the configuration, and a checkpoint without class names.
#[test]
fn labels_are_matched_in_other_forms() {
    let dir = place("nli-labels");
    let at = dir.path();
    let classes = |run: &str, names: &[&str]| {
        let text = fs::read_to_string(at.join("run.toml")).unwrap();
        write(at, run, text.replace("label = ", &format!("classes = {names:?}\nlabel = ")));
    };
    let number = |label: &str| NAMES.iter().position(|name| *name == label).unwrap();
    classes("ordered.toml", &["contradiction", "entailment", "neutral"]);
    assert!(perfect(at, "ordered.toml").contains("data.task.classes lists the classes in another order"));
    relabel(at, str::to_uppercase);
    perfect(at, "run.toml");
    relabel(at, |label| number(&label.to_lowercase()).to_string());
    perfect(at, "run.toml");
    // Numbers, with a checkpoint whose classes have the generic names LABEL_0 and so on.
    let config = fs::read_to_string(at.join("model/config.json")).unwrap();
    let generic: Value = serde_json::from_str(&config).unwrap();
    let mut bare = generic.clone();
    for (i, name) in NAMES.iter().enumerate() {
        let label = format!("LABEL_{i}");
        bare["id2label"][i.to_string()] = label.clone().into();
        bare["label2id"].as_object_mut().unwrap().remove(*name);
        bare["label2id"][label] = i.into();
    }
    fs::write(at.join("model/config.json"), bare.to_string()).unwrap();
    perfect(at, "run.toml");
    // Names, with the same checkpoint: the assumed order is reported, and the configuration may set it.
    relabel(at, |number| NAMES[number.parse::<usize>().unwrap()].to_owned());
    let (out, notes) = ok(at, "eval model --run run.toml");
    assert!(notes.contains("does not name its classes") && printed(&out, "accuracy:") < 1.0, "{notes}");
    classes("ordered.toml", &NAMES);
    perfect(at, "ordered.toml");
    ok(at, "train ordered.toml --out run");
    assert_eq!(names(&at.join("run/vcycle/model")), NAMES);
}

/// A checkpoint with generic class names (`LABEL_0` and so on) or without names does not define an order of classes.
/// The data is still accepted, and the assumed order is reported until the configuration sets it.
#[test]
fn the_assumed_order_of_unnamed_classes_is_reported() {
    let dir = place("nli-labels");
    let at = dir.path();
    let path = at.join("model/config.json");
    let mut config = json(&path);
    for generated in [true, false] {
        for (i, key) in ["id2label", "label2id"].into_iter().enumerate() {
            let names =
                (0..3).map(|n| [(n.to_string(), format!("LABEL_{n}").into()), (format!("LABEL_{n}"), n.into())]);
            let names: serde_json::Map<String, Value> = names.map(|pair| pair[i].clone()).collect();
            config[key] = if generated { names.into() } else { Value::Null };
        }
        config["num_labels"] = 3.into();
        fs::write(&path, config.to_string()).unwrap();
        let (out, notes) = ok(at, "eval model --run run.toml");
        let order = "labels in alphabetical order: contradiction, entailment, neutral";
        assert!(notes.contains("does not name its classes") && notes.contains(order), "{generated}: {notes}");
        assert!(printed(&out, "accuracy:") < 1.0);
        let text = fs::read_to_string(at.join("run.toml")).unwrap();
        write(at, "ordered.toml", text.replace("label = ", &format!("classes = {NAMES:?}\nlabel = ")));
        assert!(!perfect(at, "ordered.toml").contains("does not name"));
    }
    // Numeric labels need no note, since they are class numbers. Image folders are treated like labels.
    relabel(at, |label| NAMES.iter().position(|name| *name == label).unwrap().to_string());
    assert!(!perfect(at, "run.toml").contains("does not name"));
    let folders = ["cat", "dog"].map(str::to_owned).to_vec();
    let note = |origin, fixed| matched(folders.clone(), origin, Some(Checkpoint { names: &[], fixed })).unwrap().note;
    assert!(note(Origin::Folders, true).is_some_and(|note| note.contains("folders") && note.contains("cat, dog")));
    assert_eq!([note(Origin::Given("names"), true), note(Origin::Folders, false)], [None, None]);
}

#[test]
fn unknown_class_names_are_reported() {
    let dir = place("nli-labels");
    let at = dir.path();
    relabel(at, |label| label.replace("neutral", "unrelated"));
    let parts = ["unrelated is not among those", "entailment, neutral, contradiction", "data.task.classes"];
    refused(at, "eval model --run run.toml", &parts);
    let (_, notes) = ok(at, "train run.toml --out run");
    assert!(notes.contains("unrelated is not among"), "{notes}");
    assert_eq!(names(&at.join("run/vcycle/model")), ["contradiction", "entailment", "unrelated"]);
    // By order, if the configuration sets it.
    let text = fs::read_to_string(at.join("run.toml")).unwrap();
    let classes = r#"classes = ["entailment", "unrelated", "contradiction"]"#;
    write(at, "ordered.toml", text.replace("label = ", &format!("{classes}\nlabel = ")));
    assert!(perfect(at, "ordered.toml").contains("matching them by order"));
}

/// A table of forty rows, with `label` for that of row 6 and every tenth after it.
fn table(header: &str, label: &str) -> String {
    let row = |i: usize| format!("jetty number {i}\t{}\n", if i % 10 == 5 { label } else { ["no", "yes"][i % 2] });
    format!("{header}{}", (0..40).map(row).collect::<String>())
}

fn run(dir: &Path, table: &str, columns: &str) {
    write(dir, "t.tsv", table);
    let model = "[model]\nfamily = \"bert\"\nlayers = 1\nheads = 2\nhead_size = 4\ncontext = 24\n";
    let data = format!("[data]\ntokenizer = \"byte\"\n[data.task]\ntrain = \"t.tsv\"\nvalid = \"t.tsv\"\n{columns}\n");
    let rest = "[train]\nbatch = 4\neval_every = 1\n[[levels]]\ntrain = { steps = 1, lr = 1e-3 }\n";
    write(dir, "run.toml", format!("{model}{data}{rest}"));
    let _ = fs::remove_dir_all(dir.join("run"));
}

const NAMED: &str = "sentence = \"sentence\"\nlabel = \"label\"";
const HEADER: &str = "sentence\tlabel\n";

#[test]
fn missing_labels_are_errors_or_counted() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for label in ["", "-", " "] {
        run(at, &table(HEADER, label), NAMED);
        refused(at, "train run.toml --out run", &["t.tsv: line 7", "the label is missing", "skip_unlabelled"]);
        let (_, notes) = ok(at, "train run.toml --out run --set data.task.skip_unlabelled=true");
        assert!(notes.contains("4 of 40 examples have no label (the first in line 7)"), "{notes}");
        assert!(notes.contains("using 36 labelled texts to train on, 36 held out: 2 classes: no, yes"), "{notes}");
    }
    // A line that ends before its label, as two lines of QQP do.
    run(at, &table(HEADER, "no").replace("jetty number 9\tyes\n", "jetty number 9\n"), NAMED);
    refused(at, "train run.toml --out run", &["t.tsv: line 11: 1 columns"]);
    let (_, notes) = ok(at, "train run.toml --out run --set data.task.skip_unlabelled=true");
    assert!(notes.contains("1 of 40 examples have no label (the first in line 11)"), "{notes}");
    // A minus is a label if plus is one, too, or if the configuration lists it as a class.
    let signs = table(HEADER, "-").replace("\tno\n", "\t+\n");
    run(at, &signs, NAMED);
    assert!(ok(at, "train run.toml --out run").1.contains("3 classes: +, -, yes"));
    run(at, &table(HEADER, "-"), &format!("{NAMED}\nclasses = [\"no\", \"yes\", \"-\"]"));
    assert!(ok(at, "train run.toml --out run").1.contains("3 classes: no, yes, -"));
}

#[test]
fn an_undeclared_header_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let by_number = "sentence = 1\nlabel = 2";
    let numbers = |text: String| text.replace("\tno\n", "\t0\n").replace("\tyes\n", "\t1\n");
    for text in [table(HEADER, "no"), numbers(table(HEADER, "no"))] {
        run(at, &text, by_number);
        let (_, notes) = ok(at, "train run.toml --out run");
        assert!(notes.contains("t.tsv: warning: line 1 has the label \"label\""), "{notes}");
        for (header, examples) in [("true", "using 40"), ("false", "using 41")] {
            let _ = fs::remove_dir_all(at.join("run"));
            let (_, notes) = ok(at, &format!("train run.toml --out run --set data.task.header={header}"));
            assert!(notes.contains(examples) && !notes.contains("warning"), "{notes}");
        }
    }
    run(at, &table("", "no"), by_number);
    assert!(!ok(at, "train run.toml --out run").1.contains("warning"));
}

#[test]
fn tables_of_other_programs_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    // Integers with a decimal point, as some programs write a column with missing values, are the same labels.
    let row = |i: usize| format!("jetty {i}\t{}\n", ["0", "1", "0.0", "1.0"][i % 4]);
    run(at, &format!("{HEADER}{}", (0..40).map(row).collect::<String>()), NAMED);
    assert!(ok(at, "train run.toml --out run").1.contains("held out: 2 classes\n"));
    // A carriage return, a no-break space and a line separator within a line are text.
    run(at, &table(HEADER, "no").replace("jetty", "jetty\r\u{a0}\u{2028}x"), NAMED);
    assert!(ok(at, "train run.toml --out run").1.contains("using 40 labelled texts"));
    run(at, &table(HEADER, "no").replace("jetty", "\"jetty\nmore\""), NAMED);
    refused(at, "train run.toml --out run", &["t.tsv: line 2", "a quoted text continues in the next line"]);
    run(at, &table(HEADER, "no").replace('\t', ","), NAMED);
    refused(at, "train run.toml --out run", &["t.tsv", "columns must be separated by tabs, not commas"]);
}
