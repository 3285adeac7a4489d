//! Each row of each step in each process gets its own random numbers, derived from the seed.

use std::collections::HashSet;

use super::support::*;
use vcycle::data::images::shard::ImageWriter;
use vcycle::data::images::{AugmentConfig, ImageBatch, ImageSampler, Images, PatchShape, ViewConfig};
use vcycle::data::labelled::{Classification, ClassifyBatch, ClassifyConfig, Column};
use vcycle::data::loader::batch::Field;
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::masking::{MaskedBatch, Masking, MaskingConfig};
use vcycle::data::tokens::sampler::Sampler;
use vcycle::data::tokens::shard::{Shard, write_shard};

const SEEDS: [u64; 3] = [1, 2, u64::MAX];
const WORLD: usize = 3;
const STEPS: u64 = 4;
const ROWS: usize = 8;

/// All combinations of seed, rank and step.
fn everywhere() -> impl Iterator<Item = (u64, usize, u64)> {
    let pairs = SEEDS.into_iter().flat_map(|seed| (0..WORLD).map(move |rank| (seed, rank)));
    pairs.flat_map(|(seed, rank)| (0..STEPS).map(move |step| (seed, rank, step)))
}

const BATCHES: usize = SEEDS.len() * WORLD * STEPS as usize;

#[test]
fn text_windows_differ_in_every_row() {
    // With 2^60 tokens, no two random starts are equal.
    let starts: HashSet<usize> = everywhere()
        .flat_map(|(seed, rank, step)| {
            let sampler = Sampler { seed, rank, world: WORLD };
            (0..ROWS).map(move |row| sampler.start(step, row, ROWS, 1 << 60, 8))
        })
        .collect();
    assert_eq!(starts.len(), BATCHES * ROWS);
    // Batches hold the tokens at those starts.
    let folder = Folder::new();
    let path = folder.path().join("tokens.bin");
    let ids: Vec<u32> = (0..60_000).collect();
    write_shard(&path, &ids, 60_000).expect("written");
    let shard = Shard::open(&path).expect("a shard");
    let (mut ids, mut labels) = (vec![0; ROWS * 8], vec![0; ROWS * 8]);
    for (seed, rank, step) in everywhere() {
        let sampler = Sampler { seed, rank, world: WORLD };
        sampler.training_batch(&shard, step, ROWS, 8, &mut ids, &mut labels).expect("a batch");
        let begins = (0..ROWS).map(|row| sampler.start(step, row, ROWS, 60_000, 8) as i32);
        assert!(ids.chunks(8).map(|ids| ids[0]).eq(begins));
    }
}

#[test]
fn masks_differ_in_every_row() {
    let folder = Folder::new();
    let tokenizer = Tokenizer::load(&words(&folder, 5000)).expect("a tokenizer");
    let path = folder.path().join("tokens.bin");
    let context = 66;
    // A file with a single window, where only the masks can differ, and one with many windows.
    for (size, windows) in [(64, 1), (5000, 4937)] {
        let ids: Vec<u32> = (5..5 + size).collect();
        write_shard(&path, &ids, 5005).expect("written");
        let shards = [Shard::open(&path).expect("a shard")];
        let mut masking = Masking::new(MaskingConfig::default(), &tokenizer, context).expect("masking");
        let special = tokenizer.special_tokens().expect("special tokens");
        let (mut places, mut begins) = (HashSet::new(), HashSet::new());
        for (seed, rank, step) in everywhere() {
            let slots = masking.slots();
            let mut fields = [context, context, context, slots, slots].map(|each| vec![0; ROWS * each]);
            let [ids, types, mask, positions, labels] = &mut fields;
            let mut batch = MaskedBatch { ids, types, mask, positions, labels, next: &mut [] };
            let sampler = Sampler { seed, rank, world: WORLD };
            masking.training_batch(&sampler, &shards[..], step, (ROWS, ROWS), &mut batch).expect("a batch");
            for row in masked_rows(&fields.map(Field::Ints), (context, ROWS), special) {
                places.insert(row.scored.iter().map(|(at, _)| *at).collect::<Vec<_>>());
                begins.insert(row.segments[0][0]);
            }
        }
        // 10 of 64 positions: no two random choices are equal.
        assert_eq!(places.len(), BATCHES * ROWS, "{windows} windows");
        // 288 draws of 4,937 windows: about eight are expected to repeat.
        assert!(begins.len() >= (BATCHES * ROWS - 25).min(windows), "only {} different starts", begins.len());
    }
}

fn images(folder: &Folder, count: usize) -> Images {
    let path = folder.path().join(format!("{count}.images"));
    let mut writer = ImageWriter::create(&path, [1, 64, 64]).expect("a writer");
    for image in 0..count {
        let pixels: Vec<u8> = (0..64 * 64).map(|i: usize| ((i * i * 31 + i * 7 + image * 131) >> 3) as u8).collect();
        writer.push(&pixels, image).expect("an image");
    }
    let names: Vec<String> = (0..count).map(|i| i.to_string()).collect();
    writer.commit(&names).expect("a shard");
    Images::open(&path).expect("images")
}

/// A training batch of images: the patches of each row, the labels, and the mixing shares.
fn batch(images: &Images, augment: &str, (seed, rank, step): (u64, usize, u64)) -> (Vec<Vec<u8>>, Vec<i32>, Vec<f32>) {
    let shape = PatchShape { image: 16, patch: 4, channels: 1, specials: 1 };
    let augment: AugmentConfig = toml::from_str(augment).expect("settings");
    let sampler = ImageSampler::new(seed, [rank, WORLD], shape, &augment, &ViewConfig::default()).expect("a sampler");
    let mut patches = vec![0.0; ROWS * shape.elements()];
    let (mut labels, mut others, mut share) = (vec![0; ROWS], vec![0; ROWS], vec![0.0; ROWS]);
    let out = ImageBatch { patches: &mut patches, labels: &mut labels, others: &mut others, share: &mut share };
    sampler.training_batch(images, step, out).expect("a batch");
    let row = |row: &[f32]| row.iter().map(|v| (v * 255.0).round() as u8).collect();
    (patches.chunks(shape.elements()).map(row).collect(), labels, share)
}

#[test]
fn image_orders_and_augmentations_differ() {
    let folder = Folder::new();
    let one = images(&folder, 1);
    // One image with a new random crop each time. A few crops may coincide.
    let crops: HashSet<Vec<u8>> = everywhere().flat_map(|at| batch(&one, "resized_crop = {}", at).0).collect();
    assert!(crops.len() + 3 >= BATCHES * ROWS, "{} different crops of {}", crops.len(), BATCHES * ROWS);
    // One mixing share for each pair, or one for each process's batch.
    for (by, each) in [("pair", ROWS / 2), ("batch", 1)] {
        let mixing = format!("mixing = {{ mixup = 1.0, by = {by:?} }}");
        let shares: HashSet<u32> = everywhere().flat_map(|at| batch(&one, &mixing, at).2).map(f32::to_bits).collect();
        assert_eq!(shares.len(), BATCHES * each, "by {by}");
    }
    // The processes together see each image once per epoch. Each epoch and each seed has its own order.
    let many = images(&folder, ROWS * WORLD * 2);
    let mut orders = HashSet::new();
    for seed in SEEDS {
        for epoch in 0..STEPS {
            let places = (2 * epoch..2 * epoch + 2).flat_map(|step| (0..WORLD).map(move |rank| (seed, rank, step)));
            let order: Vec<i32> = places.flat_map(|at| batch(&many, "", at).1).collect();
            assert_eq!(order.iter().collect::<HashSet<_>>().len(), many.len(), "an image occurs twice in an epoch");
            orders.insert(order);
        }
    }
    assert_eq!(orders.len(), SEEDS.len() * STEPS as usize);
}

#[test]
fn labelled_text_orders_differ() {
    let folder = Folder::new();
    let tokenizer = Tokenizer::from_spec("byte", "").and_then(Tokenizer::with_special_tokens).expect("a tokenizer");
    let count = ROWS * WORLD * 2;
    let lines: String = (0..count).map(|i| format!("{i}\tx\n")).collect();
    let columns = ClassifyConfig {
        sentence: Column::Number(2),
        second: None,
        label: Column::Number(1),
        header: None,
        classes: None,
        regression: false,
        skip_unlabelled: false,
    };
    let data = Classification::open(&folder.file("a.tsv", lines), &columns, None, &tokenizer, 3).expect("examples");
    let mut orders = HashSet::new();
    for seed in SEEDS {
        for epoch in 0..STEPS {
            let mut order = Vec::new();
            for (step, rank) in (2 * epoch..2 * epoch + 2).flat_map(|step| (0..WORLD).map(move |rank| (step, rank))) {
                let [mut ids, mut types, mut mask] = [vec![0; ROWS * 3], vec![0; ROWS * 3], vec![0; ROWS * 3]];
                let mut classes = vec![0; ROWS];
                let (ids, types, mask) = (&mut ids[..], &mut types[..], &mut mask[..]);
                let mut out = ClassifyBatch { ids, types, mask, classes: &mut classes, values: &mut [] };
                let sampler = Sampler { seed, rank, world: WORLD };
                data.training_batch(&sampler, step, ROWS, &mut out).expect("a batch");
                order.extend(classes);
            }
            assert_eq!(order.iter().collect::<HashSet<_>>().len(), count, "an example occurs twice in an epoch");
            orders.insert(order);
        }
    }
    assert_eq!(orders.len(), SEEDS.len() * STEPS as usize);
}
