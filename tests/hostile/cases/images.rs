//! Truncated and broken image files, and folders as classes of a checkpoint.

use super::*;

#[test]
fn broken_images_are_named_or_counted() {
    let dir = place("images");
    let at = dir.path();
    for (name, file) in [("set/a/good.png", "rgb.png"), ("set/b/good.png", "rgb.png"), ("set/a/trunc.jpg", "trunc.jpg")]
    {
        write(at, name, fs::read(at.join(file)).unwrap());
    }
    refused(at, "train run.toml --out run", &["data.images.train: set/a/trunc.jpg", "truncated", "skip_broken"]);
    fs::remove_file(at.join("set/a/trunc.jpg")).unwrap();
    let png = fs::read(at.join("rgb.png")).unwrap();
    write(at, "set/b/cut.png", &png[..png.len() / 2]);
    refused(at, "train run.toml --out run", &["set/b/cut.png", "cannot decode"]);
    write(at, "set/a/zero.jpg", "");
    refused(at, "train run.toml --out run", &["set/a/zero.jpg", "the file is empty"]);
    write(at, "set/a/text.png", "this is text\nin two lines");
    let skip = "--set data.images.train.files.skip_broken=true --set data.images.valid.files.skip_broken=true";
    let (_, notes) = ok(at, &format!("train run.toml --out run {skip}"));
    assert!(notes.contains("3 files skipped") && notes.contains("using 2 images to train on"), "{notes}");
}

/// Folders are matched to a checkpoint's classes by name, in any order, and the checkpoint's classes are kept.
#[test]
fn folders_are_matched_to_a_checkpoints_classes() {
    let dir = place("images");
    let at = dir.path();
    let classes = ["ant", "bee", "cat"];
    // Each class has a different colour.
    for (i, name) in classes.iter().enumerate() {
        let mut image = image::RgbImage::new(64, 64);
        image.pixels_mut().for_each(|pixel| pixel.0[i] = 255);
        fs::create_dir_all(at.join("set").join(name)).unwrap();
        image.save(at.join("set").join(name).join("0.png")).unwrap();
    }
    ok(at, "train run.toml --out run --set levels.0.train.steps=30 --set levels.0.train.lr=1e-2 --set train.batch=3");
    let model = at.join("run/vcycle/model");
    let names = |model: &Path| json(&model.join("config.json"))["label_names"].clone();
    assert_eq!(names(&model), serde_json::json!(classes));
    let scored = |at: &Path, run: &str| ok(at, &format!("eval run/vcycle/model --run {run}"));
    let whole = scored(at, "run.toml").0;
    assert_eq!(printed(&whole, "top-1:"), 100.0);
    // Renaming a class in both the folder and the model changes the folder order, but not the scores.
    let renamed = |from: &str, to: &str| fs::rename(at.join("set").join(from), at.join("set").join(to)).unwrap();
    let with_names = |names: [&str; 3]| {
        let mut config = json(&model.join("config.json"));
        config["label_names"] = serde_json::json!(names);
        fs::write(model.join("config.json"), config.to_string()).unwrap();
    };
    // Rename ant to zebra: the last folder, but the first class of the model.
    renamed("ant", "zebra");
    with_names(["Zebra", "bee", "cat"]);
    assert_eq!(scored(at, "run.toml").0, whole);
    // A class without images is kept; a class that the model does not have is refused.
    fs::remove_dir_all(at.join("set/bee")).unwrap();
    let (out, notes) = scored(at, "run.toml");
    assert_eq!(printed(&out, "top-1:"), 100.0);
    assert!(notes.contains("2 of the checkpoint's 3 classes"), "{notes}");
    renamed("cat", "dog");
    refused(at, "eval run/vcycle/model --run run.toml", &["data.images", "dog is not among those", "Zebra, bee, cat"]);
}
