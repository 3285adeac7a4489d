//! IDX, CIFAR and CSV files: correct content, errors for invalid files, and one cached shard for each set of files and
//! options.

use super::*;
use std::cell::RefCell;
use std::io::Write;
use vcycle::data::images::LabelColumn;
use vcycle::data::images::formats::{Cifar10, Cifar100, Cifar100Labels, Csv, Idx};

fn idx(kind: u8, sizes: &[u32], elements: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, kind, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(elements);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Writes a file plain and in each compressed form.
fn forms(dir: &TempDir, name: &str, bytes: &[u8]) -> [PathBuf; 3] {
    [
        file(dir, name, bytes),
        file(dir, &format!("{name}.gz"), gzip(bytes)),
        file(dir, &format!("{name}.zst"), zstd(bytes)),
    ]
}

#[test]
fn idx_files_are_read() {
    let dir = folder();
    let pixels = bytes(5 * 4 * 3, 0);
    let images = forms(&dir, "i.idx", &idx(8, &[5, 4, 3], &pixels));
    let labels = forms(&dir, "l.idx", &idx(8, &[5], &[0, 3, 1, 0, 2]));
    for (images, labels) in images.into_iter().zip(labels) {
        let read = read(&dir, ImageFiles::Idx(Idx { images, labels })).unwrap();
        assert_eq!((read.len(), read.channels(), read.size(), read.classes()), (5, 1, [4, 3], 4));
        assert_eq!(read.names(), ["0", "1", "2", "3"]);
        for (i, label) in [0, 3, 1, 0, 2].into_iter().enumerate() {
            assert_eq!(read.sample(i), (&pixels[12 * i..12 * (i + 1)], label));
        }
    }
}

#[test]
fn idx_files_that_are_none_are_errors() {
    let dir = folder();
    let pixels = bytes(5 * 4 * 3, 0);
    let good = (idx(8, &[5, 4, 3], &pixels), idx(8, &[5], &[0, 3, 1, 0, 2]));
    let mut longer = good.0.clone();
    longer.push(1);
    for (images, labels, parts) in [
        (Vec::new(), good.1.clone(), &["i.idx", "not an IDX file"][..]),
        (b"P5 4 3 255".to_vec(), good.1.clone(), &["i.idx", "not an IDX file"]),
        (idx(13, &[5, 4, 3], &pixels), good.1.clone(), &["i.idx", "type 0x0d"]),
        (good.1.clone(), good.0.clone(), &["i.idx", "1 dimensions", "swapped"]),
        (idx(8, &[5, 4], &pixels), good.1.clone(), &["i.idx", "2 dimensions"]),
        (good.0[..9].to_vec(), good.1.clone(), &["i.idx", "header is truncated"]),
        (idx(8, &[5, 0, 3], &[]), good.1.clone(), &["i.idx", "0 x 3 pixels"]),
        (idx(8, &[5, u32::MAX, u32::MAX], &[]), good.1.clone(), &["i.idx", "4294967295 x"]),
        (idx(8, &[5, 4, 3], &pixels[..59]), good.1.clone(), &["i.idx: image 4 of 5", "ends inside"]),
        (longer, good.1.clone(), &["i.idx", "continues after the last of 5"]),
        (idx(8, &[0, 4, 3], &[]), idx(8, &[0], &[]), &["i.idx", "no image"]),
        (good.0.clone(), idx(8, &[4], &[0, 1, 2, 3]), &["i.idx", "5 images", "l.idx has 4 labels"]),
        (good.0.clone(), idx(8, &[5], &[0, 1, 2, 3]), &["l.idx", "ends before label 4"]),
        (good.0.clone(), idx(8, &[5], &[0; 6]), &["l.idx", "continues"]),
    ] {
        let files = ImageFiles::Idx(Idx { images: file(&dir, "i.idx", images), labels: file(&dir, "l.idx", labels) });
        error_with(read(&dir, files), parts);
    }
    let files = ImageFiles::Idx(Idx { images: file(&dir, "i.idx", &good.0), labels: file(&dir, "l.idx", &good.1) });
    let told = ImageSpec { classes: Some(3), ..ImageSpec::new(files.clone()) };
    error_with(prepared(&dir, &told), &["i.idx: image 1", "label 3 is not below 3"]);
    let none = ImageFiles::Idx(Idx { images: dir.path().join("none"), labels: file(&dir, "l.idx", &good.1) });
    error_with(read(&dir, none), &["cannot read", "none"]);
    let broken =
        ImageFiles::Idx(Idx { images: file(&dir, "i.gz", &gzip(&good.0)[..30]), labels: file(&dir, "l.idx", &good.1) });
    error_with(read(&dir, broken), &["i.gz", "corrupt gzip"]);
    let left: Vec<_> = fs::read_dir(dir.path().join("cache")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "failed preparations left {left:?}");
}

/// Records of labels and 3,072 pixels.
fn records(labels: &[&[u8]]) -> Vec<u8> {
    labels.iter().enumerate().flat_map(|(i, labels)| [labels, &bytes(3072, i)[..]].concat()).collect()
}

#[test]
fn cifar_files_are_read() {
    let dir = folder();
    let ten = records(&[&[9], &[0], &[4]]);
    for path in forms(&dir, "ten.bin", &ten) {
        let more = file(&dir, "more.bin", records(&[&[1]]));
        let images = read(&dir, ImageFiles::Cifar10(Cifar10 { files: vec![path, more] })).unwrap();
        assert_eq!((images.len(), images.channels(), images.size(), images.classes()), (4, 3, [32, 32], 10));
        assert_eq!((&images.names()[9][..], &images.names()[0][..]), ("truck", "airplane"));
        for (i, (seed, label)) in [(0, 9), (1, 0), (2, 4), (0, 1)].into_iter().enumerate() {
            assert_eq!(images.sample(i), (&bytes(3072, seed)[..], label));
        }
    }
    let hundred = file(&dir, "hundred.bin", records(&[&[19, 99], &[3, 0]]));
    for (labels, classes, wanted) in [(Cifar100Labels::Fine, 100, [99, 0]), (Cifar100Labels::Coarse, 20, [19, 3])] {
        let images = read(&dir, ImageFiles::Cifar100(Cifar100 { files: vec![hundred.clone()], labels })).unwrap();
        assert_eq!((images.len(), images.classes()), (2, classes));
        assert_eq!([0, 1].map(|i| images.sample(i).1), wanted);
        assert_eq!(images.sample(1).0, bytes(3072, 1));
    }
}

#[test]
fn cifar_files_that_are_none_are_errors() {
    let dir = folder();
    let ten = |bytes: Vec<u8>| read(&dir, ImageFiles::Cifar10(Cifar10 { files: vec![file(&dir, "ten.bin", bytes)] }));
    error_with(ten(Vec::new()), &["ten.bin", "empty"]);
    error_with(ten(records(&[&[1], &[10]])), &["ten.bin: record 1", "label 10 is not below 10"]);
    let cut = records(&[&[1], &[2]]);
    error_with(ten(cut[..cut.len() - 1].to_vec()), &["ten.bin: record 1", "3072 of", "3073 bytes"]);
    let hundred = file(&dir, "hundred.bin", records(&[&[3, 4], &[3, 100]]));
    let labels = Cifar100Labels::Coarse;
    error_with(
        read(&dir, ImageFiles::Cifar100(Cifar100 { files: vec![hundred], labels })),
        &["hundred.bin: record 1", "label 100"],
    );
    error_with(read(&dir, ImageFiles::Cifar10(Cifar10 { files: Vec::new() })), &["name at least one"]);
    let told = ImageFiles::Cifar10(Cifar10 { files: vec![file(&dir, "ten.bin", records(&[&[1]]))] });
    let told = |classes, names: Option<usize>| {
        let names = names.map(|count| vec!["name".to_owned(); count]);
        prepared(&dir, &ImageSpec { classes, names, ..ImageSpec::new(told.clone()) })
    };
    error_with(told(Some(9), None), &["classes: 9", "have 10"]);
    error_with(told(None, Some(9)), &["names: 9 for 10 classes"]);
    assert_eq!(told(Some(10), Some(10)).unwrap().names()[3], "name");
}

#[test]
fn tables_are_read() {
    let dir = folder();
    let table = "0, 8,16,4,1\r\n\n16,0,0,1,0\n1,2,3,4,12";
    let wanted = [([0, 128, 255, 64], 1), ([255, 0, 0, 16], 0), ([16, 32, 48, 64], 12)];
    for file in forms(&dir, "t.csv", table.as_bytes()) {
        let images = read(&dir, ImageFiles::Csv(Csv { file, maximum: None, label: LabelColumn::Last })).unwrap();
        assert_eq!((images.len(), images.channels(), images.size(), images.classes()), (3, 1, [2, 2], 13));
        for (i, (pixels, label)) in wanted.into_iter().enumerate() {
            assert_eq!(images.sample(i), (&pixels[..], label));
        }
    }
    // White is 255 if a value is above 16 or if the maximum is given.
    for (table, maximum) in [("0,8,16,17,1", None), ("0,8,16,17,1", Some(255))] {
        let images =
            read(&dir, ImageFiles::Csv(Csv { file: file(&dir, "t.csv", table), maximum, label: LabelColumn::Last }))
                .unwrap();
        assert_eq!(images.sample(0), (&[0, 8, 16, 17][..], 1));
    }
    // Longer than one read buffer.
    let long: String = (0..40_000).map(|i| format!("{},1,2,16,{}\n", i % 17, i % 7)).collect();
    let images = read(
        &dir,
        ImageFiles::Csv(Csv { file: file(&dir, "long.csv", long), maximum: None, label: LabelColumn::Last }),
    )
    .unwrap();
    assert_eq!(images.len(), 40_000);
    assert!((0..40_000).all(|i| images.sample(i).1 == (i % 7) as i32));
    assert!((0..40_000).all(|i| u32::from(images.sample(i).0[0]) == ((i % 17) as u32 * 255 + 8) / 16));
}

#[test]
fn the_digits_of_this_project_are_read() {
    let dir = folder();
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits.csv.gz");
    let images = read(&dir, ImageFiles::Csv(Csv { file: table, maximum: None, label: LabelColumn::Last })).unwrap();
    assert_eq!((images.len(), images.channels(), images.size(), images.classes()), (1797, 1, [8, 8], 10));
    let mut counts = [0; 10];
    (0..1797).for_each(|i| counts[images.sample(i).1 as usize] += 1);
    // From scikit-learn's documentation and `zcat data/digits.csv.gz | cut -d, -f65 | sort | uniq -c`.
    assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    // The first image begins with 0, 0, 5, 13, 9, 1.
    assert_eq!(images.sample(0).0[..6], [0, 0, 80, 207, 143, 16]);
    assert!((0..1797).flat_map(|i| images.sample(i).0).any(|&v| v == 255));
}

#[test]
fn tables_that_are_none_are_errors() {
    let dir = folder();
    for (table, maximum, parts) in [
        ("1,2,c,4,label\n1,2,3,4,0", None, &["t.csv: line 1, column 3", "\"c\"", "0 to 255"][..]),
        ("1,2,3,4,0\n1,2,-3,4,0", None, &["t.csv: line 2, column 3", "-3"]),
        ("1,2,3,256,0", None, &["t.csv: line 1, column 4", "256"]),
        ("1,2,3,17,0", Some(16), &["t.csv: line 1, column 4", "0 to 16"]),
        ("1,2,3,4,0\n\n1,2,3,4,65536", None, &["t.csv: line 3, column 5", "65536"]),
        ("1,2,3,4,", None, &["t.csv: line 1, column 5"]),
        ("1,2,3,0", None, &["t.csv: line 1", "3 values"]),
        ("7", None, &["t.csv: line 1", "0 values"]),
        ("1,2,3,4,0\n1,0", None, &["t.csv: line 2", "1 values", "have 4"]),
        ("1,2,3,4,0", Some(0), &["maximum: 0"]),
        ("", None, &["t.csv", "empty"]),
        (" \n\n", None, &["t.csv", "whitespace"]),
    ] {
        error_with(
            read(&dir, ImageFiles::Csv(Csv { file: file(&dir, "t.csv", table), maximum, label: LabelColumn::Last })),
            parts,
        );
    }
    let endless = file(&dir, "t.csv", "1,".repeat(1 << 20));
    error_with(
        read(&dir, ImageFiles::Csv(Csv { file: endless, maximum: None, label: LabelColumn::Last })),
        &["t.csv: line 1", "longer than"],
    );
}

#[test]
fn grey_is_repeated_and_colours_become_luma() {
    let dir = folder();
    let grey =
        ImageFiles::Csv(Csv { file: file(&dir, "t.csv", "0,20,40,255,3"), maximum: None, label: LabelColumn::Last });
    let images = prepared(&dir, &ImageSpec { channels: Some(3), ..ImageSpec::new(grey.clone()) }).unwrap();
    assert_eq!(images.sample(0).0, [0, 20, 40, 255].repeat(3));
    error_with(prepared(&dir, &ImageSpec { channels: Some(2), ..ImageSpec::new(grey) }), &["channels: 2"]);

    let mut record = vec![5; 1];
    record.extend([255, 0, 0].into_iter().chain([10; 1021]));
    record.extend([0, 255, 0].into_iter().chain([10; 1021]));
    record.extend([0, 0, 255].into_iter().chain([10; 1021]));
    let colours = ImageFiles::Cifar10(Cifar10 { files: vec![file(&dir, "ten.bin", record)] });
    let images = prepared(&dir, &ImageSpec { channels: Some(1), ..ImageSpec::new(colours) }).unwrap();
    // 0.299, 0.587 and 0.114 of 255.
    assert_eq!(images.sample(0).0[..4], [76, 150, 29, 10]);
}

#[test]
fn a_shard_is_made_once_and_again_when_it_must() {
    let dir = folder();
    let notes = RefCell::new(Vec::new());
    let cache = dir.path().join("cache");
    let prepared = |spec: &ImageSpec| {
        notes.borrow_mut().clear();
        let images = prepare(spec, &cache, &mut |note| notes.borrow_mut().push(note.to_owned())).unwrap();
        let said = notes.borrow().join("; ");
        (images, said)
    };
    let table = file(&dir, "t.csv", "0,1,2,3,1");
    let spec = ImageSpec::new(ImageFiles::Csv(Csv { file: table.clone(), maximum: None, label: LabelColumn::Last }));
    let (first, said) = prepared(&spec);
    assert!(said.starts_with("reading"), "{said}");
    let path = first.path().to_owned();
    let (again, said) = prepared(&spec);
    assert!(said.starts_with("using") && said.contains("1 images of 2 classes, 1 x 2 x 2"), "{said}");
    assert_eq!((again.path(), again.sum()), (&*path, first.sum()));

    // A damaged shard is written again.
    let mut bytes = fs::read(&path).unwrap();
    bytes[64] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    let (repaired, said) = prepared(&spec);
    assert!(said.contains("again") && said.contains("damaged"), "{said}");
    assert_eq!((repaired.sum(), repaired.sample(0)), (first.sum(), first.sample(0)));

    // Other options and other content give other shards.
    let mut paths = vec![path];
    for other in [
        ImageSpec { channels: Some(3), ..spec.clone() },
        ImageSpec { classes: Some(7), ..spec.clone() },
        ImageSpec { names: Some(vec!["a".to_owned(), "b".to_owned()]), ..spec.clone() },
        ImageSpec::new(ImageFiles::Csv(Csv { file: table.clone(), maximum: Some(255), label: LabelColumn::Last })),
    ] {
        paths.push(prepared(&other).0.path().to_owned());
    }
    fs::write(&table, "0,1,2,4,1").unwrap();
    paths.push(prepared(&spec).0.path().to_owned());
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 6);
}

#[test]
fn specifications_are_read_from_toml() {
    let spec: ImageSpec = toml::from_str(
        "channels = 3\nnames = ['a']\n[files]\nformat = 'cifar100'\nfiles = ['a.bin']\nlabels = 'coarse'",
    )
    .unwrap();
    let files = ImageFiles::Cifar100(Cifar100 { files: vec!["a.bin".into()], labels: Cifar100Labels::Coarse });
    assert_eq!(spec, ImageSpec { channels: Some(3), classes: None, names: Some(vec!["a".to_owned()]), files });
    for wrong in [
        "[files]\nformat = 'bmp'",
        "[files]\nformat = 'csv'\nfile = 'a'\nsize = 3",
        "size = 1\n[files]\nformat='csv'\nfile='a'",
    ] {
        assert!(toml::from_str::<ImageSpec>(wrong).is_err(), "{wrong}");
    }
}
