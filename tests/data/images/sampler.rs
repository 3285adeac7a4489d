//! Image batches: patches, epochs, shares and labels, parts of a batch, validation.

use super::*;
use std::collections::HashSet;
use std::thread;
use vcycle::data::images::{AugmentConfig, ImageBatch, ImageSampler, PatchShape, ViewConfig};
use vcycle::data::tokens::sampler::IGNORED;

const GREY: PatchShape = PatchShape { image: 4, patch: 2, channels: 1, specials: 1 };

#[derive(Clone, Debug, PartialEq)]
struct Batch {
    patches: Vec<f32>,
    labels: Vec<i32>,
    others: Vec<i32>,
    share: Vec<f32>,
}

impl Batch {
    fn new(shape: PatchShape, rows: usize) -> Self {
        let patches = vec![f32::NAN; rows * shape.elements()];
        Batch { patches, labels: vec![-7; rows], others: vec![-7; rows], share: vec![f32::NAN; rows] }
    }

    fn fields(&mut self) -> ImageBatch<'_> {
        let Batch { patches, labels, others, share } = self;
        ImageBatch { patches, labels, others, share }
    }

    fn training(sampler: &ImageSampler, images: &Images, step: u64, rows: usize) -> Self {
        let mut batch = Batch::new(sampler.shape(), rows);
        sampler.training_batch(images, step, batch.fields()).expect("a batch");
        batch
    }

    fn row(&self, row: usize) -> &[f32] {
        let elements = self.patches.len() / self.labels.len();
        &self.patches[row * elements..][..elements]
    }
}

fn config(text: &str) -> AugmentConfig {
    toml::from_str(text).expect("a configuration")
}

fn sampler(seed: u64, shape: PatchShape, augment: &str) -> ImageSampler {
    ImageSampler::new(seed, [0, 1], shape, &config(augment), &ViewConfig::default()).expect("a sampler")
}

/// A configuration with all augmentations.
const ALL: &str = "padding = 1\nflip = 0.5\n[resized_crop]\n[randaugment]\ndeviation = 0.5\n\
                   [mixing]\nmixup = 0.8\ncutmix = 1.0\nby = 'pair'";

#[test]
fn patches_are_where_the_model_expects_them() {
    let dir = folder();
    for (shape, height) in [(GREY, 4), (PatchShape { image: 6, patch: 3, channels: 3, specials: 2 }, 6)] {
        let PatchShape { image, patch, channels, specials } = shape;
        let images = shard(&dir.path().join("a.images"), 1, [channels, height, height], 1);
        let view = ViewConfig { mean: vec![0.5], std: vec![0.25], centre: 1.0 };
        let sampler = ImageSampler::new(1, [0, 1], shape, &AugmentConfig::default(), &view).unwrap();
        let batch = Batch::training(&sampler, &images, 0, 1);
        assert_eq!((shape.rows(), shape.width()), (specials + 4, channels * patch * patch));
        let pixels = images.sample(0).0;
        for (i, &found) in batch.patches.iter().enumerate() {
            let (row, element) = (i / shape.width(), i % shape.width());
            let wanted = if row < specials {
                0.0
            } else {
                let (number, channel) = (row - specials, element / (patch * patch));
                let y = number / (image / patch) * patch + element / patch % patch;
                let x = number % (image / patch) * patch + element % patch;
                (f64::from(pixels[(channel * image + y) * image + x]) / 255.0 - 0.5) / 0.25
            };
            // Two multiplications and an addition of numbers up to 4, in f32.
            assert!(
                (f64::from(found) - wanted).abs() <= 4.0 * 3.0 * f64::from(f32::EPSILON),
                "{i}: {found}, not {wanted}"
            );
        }
    }
}

#[test]
fn each_channel_has_its_mean_and_deviation() {
    let dir = folder();
    let images = shard(&dir.path().join("a.images"), 4, [3, 4, 4], 1);
    let shape = PatchShape { channels: 3, ..GREY };
    let view = ViewConfig { mean: vec![0.1, 0.2, 0.3], std: vec![0.5, 1.0, 2.0], centre: 1.0 };
    let plain = Batch::training(&sampler(1, shape, ""), &images, 0, 4);
    let normal = ImageSampler::new(1, [0, 1], shape, &AugmentConfig::default(), &view).unwrap();
    let normal = Batch::training(&normal, &images, 0, 4);
    for (i, (&plain, &normal)) in plain.patches.iter().zip(&normal.patches).enumerate() {
        let channel = i % shape.width() / 4;
        let special = (i / shape.width()).is_multiple_of(shape.rows());
        let wanted = if special { 0.0 } else { (plain - [0.1, 0.2, 0.3][channel]) / [0.5, 1.0, 2.0][channel] };
        assert!((normal - wanted).abs() < 1e-6, "{i}: {normal}, not {wanted}");
    }
}

#[test]
fn epochs_have_each_image_once() {
    for (count, batch, world, repeats) in
        [(10, 4, 1, 1), (7, 3, 2, 1), (64, 8, 1, 2), (1, 4, 1, 1), (1000, 10, 1, 1), (5, 12, 3, 3)]
    {
        let augment = config(&format!("repeats = {repeats}"));
        let samplers: Vec<_> = (0..world)
            .map(|rank| ImageSampler::new(9, [rank, world], GREY, &augment, &ViewConfig::default()).unwrap())
            .collect();
        // The images of all steps and processes in order, without repetitions.
        let drawn: Vec<usize> = (0..4 * count as u64)
            .flat_map(|step| samplers.iter().map(move |sampler| (step, sampler)))
            .flat_map(|(step, sampler)| (0..batch / repeats).map(move |row| sampler.index(step, row, batch, count)))
            .collect();
        for epoch in drawn.chunks_exact(count) {
            assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), count);
        }
        if count >= 64 {
            assert_ne!(drawn[..count], drawn[count..2 * count], "each epoch has its own order");
            assert_ne!(drawn[..count], (0..count).collect::<Vec<_>>());
        }
        for step in 0..20 {
            for row in 0..batch {
                let index = |row| samplers[0].index(step, row, batch, count);
                assert_eq!(index(row), index(row % (batch / repeats)), "a repetition");
                assert!(
                    row % 2 == 0
                        || count == 1
                        || batch / repeats > count
                        || index(row) != index(row - 1)
                        || straddles(step, row, batch / repeats, world, count)
                );
            }
        }
    }
}

/// Whether rows `row - 1` and `row` belong to different epochs, so that they may show the same image.
fn straddles(step: u64, row: usize, images: usize, world: usize, count: usize) -> bool {
    let at = |row: usize| (step as usize * world * images + row % images) / count;
    at(row) != at(row - 1)
}

#[test]
fn orders_are_even() {
    // The position of an image in an epoch is uniform over many epochs: 500 expected, six standard deviations are 130.
    let sampler = sampler(4, GREY, "");
    let mut counts = [[0; 10]; 10];
    for epoch in 0..5000 {
        (0..10).for_each(|row| counts[row][sampler.index(epoch, row, 10, 10)] += 1);
    }
    assert!(counts.iter().flatten().all(|count| (370..630).contains(count)), "{counts:?}");
    // Resuming a run relies on these values never changing.
    assert_eq!([0, 1, 2].map(|step| sampler.index(step, 0, 8, 60_000)), [12_239, 196, 53_874]);
}

#[test]
fn a_batch_is_a_function_of_seed_step_and_row() {
    let dir = folder();
    let images = shard(&dir.path().join("a.images"), 40, [3, 12, 12], 7);
    let shape = PatchShape { image: 8, patch: 4, channels: 3, specials: 2 };
    let all = sampler(5, shape, ALL);
    let batch = Batch::training(&all, &images, 12, 11);
    assert!(batch.patches.iter().chain(&batch.share).all(|v| v.is_finite()));
    assert_eq!(Batch::training(&sampler(5, shape, ALL), &images, 12, 11), batch);
    assert_ne!(Batch::training(&all, &images, 13, 11), batch);
    assert_ne!(Batch::training(&sampler(6, shape, ALL), &images, 12, 11), batch);
    let other = ImageSampler::new(5, [1, 2], shape, &config(ALL), &ViewConfig::default()).unwrap();
    assert_ne!(Batch::training(&other, &images, 12, 11), batch);

    // Filled in parts by several threads, in any order.
    for rows in [2, 4, 6, 12] {
        let mut parted = Batch::new(shape, 11);
        thread::scope(|scope| {
            let parts: Vec<_> = parted.fields().parts(rows).enumerate().collect();
            for (part, fields) in parts.into_iter().rev() {
                let (all, images) = (&all, &images);
                scope.spawn(move || all.training_rows(images, 12, 11, part * rows, fields).unwrap());
            }
        });
        assert_eq!(parted, batch, "parts of {rows}");
    }
    let mut part = Batch::new(shape, 3);
    error_with(all.training_rows(&images, 0, 11, 4, part.fields()), &["rows 4..7 of a batch of 11", "even rows"]);
    error_with(all.training_rows(&images, 0, 11, 3, part.fields()), &["rows 3..6"]);
    error_with(all.training_rows(&images, 0, 11, 10, part.fields()), &["rows 10..13"]);
}

#[test]
fn without_augmentation_rows_are_the_images() {
    let dir = folder();
    let images = shard(&dir.path().join("a.images"), 9, [1, 4, 4], 5);
    let plain = sampler(3, GREY, "");
    let mut validation = Batch::new(GREY, 9);
    plain.validation_batch(&images, 0, validation.fields()).unwrap();
    // Augmentation with neutral values changes nothing either.
    let nothing = "flip = 0\n[resized_crop]\narea = [1, 1]\nratio = [1, 1]\n[mixing]\nmixup = 1.0\nprobability = 0.0";
    for sampler in [&plain, &sampler(3, GREY, nothing)] {
        for step in 0..5 {
            let batch = Batch::training(sampler, &images, step, 6);
            for row in 0..6 {
                let image = sampler.index(step, row, 6, 9);
                assert_eq!(batch.row(row), validation.row(image));
                let wanted = (image % 5) as i32;
                assert_eq!((batch.labels[row], batch.others[row], batch.share[row]), (wanted, wanted, 1.0));
            }
        }
    }
}

#[test]
fn flips_and_shifts_are_as_frequent_as_asked_for() {
    let dir = folder();
    let images = shard(&dir.path().join("a.images"), 1, [1, 4, 4], 1);
    let flipping = sampler(1, GREY, "flip = 0.25");
    let plain = Batch::training(&sampler(1, GREY, ""), &images, 0, 1);
    let flipped: usize = (0..500)
        .map(|step| Batch::training(&flipping, &images, step, 4))
        .map(|batch| (0..4).filter(|&row| batch.row(row) != plain.row(0)).count())
        .sum();
    // 500 of 2,000 expected, with a standard deviation of 19.
    assert!((384..616).contains(&flipped), "{flipped}");
    let shifting = sampler(1, GREY, "padding = 1");
    let seen: HashSet<Vec<u32>> = (0..200)
        .map(|step| Batch::training(&shifting, &images, step, 1))
        .map(|batch| batch.patches.iter().map(|v| v.to_bits()).collect())
        .collect();
    assert_eq!(seen.len(), 9, "three horizontal times three vertical offsets");
}

#[test]
fn shares_labels_and_pixels_of_a_mixture_belong_together() {
    let dir = folder();
    // Image i has class i and the value 10 i in every pixel, so a pixel identifies its class.
    let path = dir.path().join("a.images");
    let mut writer = ImageWriter::create(&path, [1, 4, 4]).unwrap();
    (0..20).for_each(|i| writer.push(&[10 * i as u8; 16], i).unwrap());
    writer.commit(&(0..20).map(|i| i.to_string()).collect::<Vec<_>>()).unwrap();
    let images = Images::open(&path).unwrap();
    for (mixing, blends, cuts) in [
        ("mixup = 0.8", true, false),
        ("cutmix = 1.0", false, true),
        ("mixup = 0.8\ncutmix = 1.0", true, true),
        ("mixup = 0.2\ncutmix = 0.5\nprobability = 0.5\nby = 'pair'", true, true),
    ] {
        let sampler = sampler(2, GREY, &format!("[mixing]\n{mixing}"));
        let (mut blended, mut cut, mut shares) = (0, 0, HashSet::new());
        for step in 0..60 {
            let batch = Batch::training(&sampler, &images, step, 7);
            for row in 0..7 {
                let partner = if row == 6 { 6 } else { row ^ 1 };
                let (label, other, share) = (batch.labels[row], batch.others[row], batch.share[row]);
                assert_eq!(label, sampler.index(step, row, 7, 20) as i32);
                assert!(other == label && share == 1.0 || other == batch.labels[partner] && row != 6);
                assert_eq!(share, batch.share[partner]);
                assert!((0.0..=1.0).contains(&share));
                let pixels = &batch.row(row)[GREY.width()..];
                let mean = pixels.iter().sum::<f32>() / 16.0;
                let wanted = (share * label as f32 + (1.0 - share) * other as f32) * 10.0 / 255.0;
                // The error of a sum of sixteen numbers below one.
                assert!((mean - wanted).abs() < 16.0 * f32::EPSILON, "{mean}, not {wanted}");
                let own = |v: &f32| [label, other].iter().any(|l| (v - *l as f32 * 10.0 / 255.0).abs() < 1e-6);
                if share < 1.0 && label != other {
                    if pixels.iter().all(own) { cut += 1 } else { blended += 1 }
                }
            }
            shares.insert(batch.share[..6].iter().map(|s| s.to_bits()).collect::<HashSet<_>>().len());
        }
        assert_eq!((blended > 0, cut > 0), (blends, cuts), "{mixing}");
        let by_pair = mixing.contains("pair");
        assert_eq!(shares.iter().any(|&count| count > 1), by_pair, "one share per batch, or one per pair");
    }
}

#[test]
fn repeated_images_are_changed_each_in_its_own_way() {
    let dir = folder();
    let images = shard(&dir.path().join("a.images"), 30, [1, 9, 9], 30);
    let sampler = sampler(2, GREY, "repeats = 3\n[resized_crop]");
    let batch = Batch::training(&sampler, &images, 0, 12);
    for row in 0..4 {
        assert_eq!(batch.labels[row], batch.labels[row + 4]);
        assert_eq!(batch.labels[row], batch.labels[row + 8]);
        assert_ne!(batch.row(row), batch.row(row + 4));
        assert_ne!(batch.row(row), batch.row(row + 8));
    }
    assert_eq!(batch.labels.iter().collect::<HashSet<_>>().len(), 4);
    let mut odd = Batch::new(GREY, 10);
    error_with(sampler.training_batch(&images, 0, odd.fields()), &["augment.repeats: 3", "batch of 10"]);
}

#[test]
fn validation_has_every_image_once() {
    let dir = folder();
    let all = sampler(5, GREY, ALL);
    for count in [0, 1, 3, 4, 9] {
        let images = shard(&dir.path().join("a.images"), count, [1, 4, 4], 10);
        let mut seen = Vec::new();
        for index in 0.. {
            let mut batch = Batch::new(GREY, 3);
            let scored = all.validation_batch(&images, index, batch.fields()).unwrap();
            assert_eq!(batch.labels.iter().filter(|&&label| label != IGNORED).count(), scored);
            assert_eq!((&batch.others, &batch.share[..]), (&batch.labels, &[1.0; 3][..]));
            for row in 0..3 {
                let image = index * 3 + row;
                let patches: f32 = batch.row(row).iter().sum();
                let wanted: f32 = match image < count {
                    true => images.sample(image).0.iter().map(|&v| f32::from(v)).sum::<f32>() / 255.0,
                    false => 0.0,
                };
                assert!((patches - wanted).abs() < 1e-4);
                assert_eq!(batch.labels[row], if image < count { image as i32 % 10 } else { IGNORED });
            }
            seen.extend(batch.labels.into_iter().filter(|&label| label != IGNORED));
            if scored == 0 {
                break;
            }
        }
        assert_eq!(seen, (0..count as i32).collect::<Vec<_>>());
        let mut far = Batch::new(GREY, 3);
        assert_eq!(all.validation_batch(&images, usize::MAX, far.fields()).unwrap(), 0);
        let mut rows = Batch::new(GREY, 2);
        assert_eq!(all.validation_rows(&images, 2, rows.fields()).unwrap(), count.saturating_sub(2).min(2));
    }
}

#[test]
fn validation_sees_the_centre() {
    let dir = folder();
    // A black image of 8 x 12 with a white 4 x 4 square in the middle.
    let mut pixels = vec![0; 96];
    (2..6).for_each(|y| pixels[y * 12 + 4..y * 12 + 8].fill(255));
    let path = dir.path().join("a.images");
    let mut writer = ImageWriter::create(&path, [1, 8, 12]).unwrap();
    writer.push(&pixels, 0).unwrap();
    writer.commit(&["white".to_owned()]).unwrap();
    let images = Images::open(&path).unwrap();
    for (centre, all_white) in [(0.5, true), (1.0, false)] {
        let view = ViewConfig { centre, ..ViewConfig::default() };
        let sampler = ImageSampler::new(1, [0, 1], GREY, &AugmentConfig::default(), &view).unwrap();
        let mut batch = Batch::new(GREY, 1);
        sampler.validation_batch(&images, 0, batch.fields()).unwrap();
        let patches = &batch.row(0)[GREY.width()..];
        assert_eq!(patches.iter().all(|&v| v == 1.0), all_white, "{patches:?}");
        assert_eq!(Batch::training(&sampler, &images, 0, 1).patches, batch.patches);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let dir = folder();
    let images = shard(&dir.path().join("a.images"), 5, [1, 4, 4], 5);
    let plain = sampler(1, GREY, "");
    let mut batch = Batch::new(GREY, 4);
    batch.share.pop();
    error_with(plain.training_batch(&images, 0, batch.fields()), &["4 labels", "3 shares", "5 x 4"]);
    batch.share.push(0.0);
    batch.patches.pop();
    error_with(plain.validation_batch(&images, 0, batch.fields()), &["79 patch elements"]);
    let colours = sampler(1, PatchShape { channels: 3, ..GREY }, "");
    let mut batch = Batch::new(colours.shape(), 4);
    error_with(colours.training_batch(&images, 0, batch.fields()), &["a.images", "1 channels", "channels = 3"]);
    let none = shard(&dir.path().join("none.images"), 0, [1, 4, 4], 5);
    let mut batch = Batch::new(GREY, 4);
    error_with(plain.training_batch(&none, 0, batch.fields()), &["none.images", "no image"]);

    let new = |shape, augment: &str, view: &str| {
        ImageSampler::new(1, [0, 1], shape, &config(augment), &toml::from_str::<ViewConfig>(view).unwrap())
    };
    for (shape, augment, view, parts) in [
        (PatchShape { patch: 3, ..GREY }, "", "", &["4 pixels", "patches of 3"][..]),
        (PatchShape { patch: 0, ..GREY }, "", "", &["patches of 0"]),
        (PatchShape { image: 0, ..GREY }, "", "", &["image: 0"]),
        (PatchShape { image: usize::MAX, ..GREY }, "", "", &["image: 1844"]),
        (PatchShape { channels: 2, ..GREY }, "", "", &["not 2"]),
        (GREY, "flip = 2.0", "", &["augment.flip: 2.0"]),
        (GREY, "padding = 4", "", &["augment.padding: 4"]),
        (GREY, "", "std = [0.0]", &["view.std: 0.0"]),
        (GREY, "", "mean = [nan]", &["view.mean: NaN"]),
        (GREY, "", "mean = [0.1, 0.2, 0.3]", &["view.mean: 3 numbers for 1 channels"]),
        (GREY, "", "std = []", &["view.std: 0 numbers"]),
        (GREY, "", "centre = 1.5", &["view.centre: 1.5"]),
    ] {
        error_with(new(shape, augment, view), parts);
    }
    error_with(ImageSampler::new(1, [2, 2], GREY, &config(""), &ViewConfig::default()), &["rank 2"]);
    assert!(toml::from_str::<ViewConfig>("center = 1.0").is_err());
}
