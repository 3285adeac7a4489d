//! Any number of workers makes the same batches as one thread.

use super::*;
use std::sync::Arc;
use vcycle::config::Config;
use vcycle::data::loader::batch::{Field, Source};
use vcycle::data::loader::prefetch::Prefetch;
use vcycle::families;
use vcycle::families::Dataset;
use vcycle::families::deit::{ImageClasses, ImageData};

/// A vision transformer on test images, with all augmentations.
fn config(more: &str) -> Result<Config> {
    let text = format!(
        "[model]\nfamily = 'deit'\nlayers = 1\nheads = 1\nhead_size = 8\nimage = 8\npatch = 4\ndistilled = true\n\
         [data.images]\n{more}\ntrain = {{ files = {{ format = 'csv', file = 'none.csv' }} }}\n\
         [augment]\npadding = 1\nflip = 0.5\n[augment.resized_crop]\n[augment.randaugment]\n\
         [augment.mixing]\nmixup = 0.8\ncutmix = 1.0\nby = 'pair'\n\
         [train]\nbatch = 4\neval_every = 1\n[[levels]]\ntrain = {{ steps = 1, lr = 1e-3 }}"
    );
    families::parse(&text, &[])
}

fn source(dir: &TempDir) -> Arc<dyn Source> {
    let images = Arc::new(shard(&dir.path().join("some.images"), 40, [3, 9, 11], 5));
    let classes = ImageClasses::of(&images);
    let data = ImageData { train: Arc::clone(&images), valid: images, classes };
    data.source(&config("").expect("a configuration")).expect("a source")
}

/// Returns the fields with floats as bits.
fn bits(fields: &[Field]) -> Vec<Vec<u32>> {
    let of = |field: &Field| match field {
        Field::Ints(values) => values.iter().map(|v| *v as u32).collect(),
        Field::Floats(values) => values.iter().map(|v| v.to_bits()).collect(),
    };
    fields.iter().map(of).collect()
}

#[test]
fn batches_have_the_same_bits_for_any_number_of_workers() {
    let dir = folder();
    let source = source(&dir);
    // Fewer rows than one chunk, one chunk, two chunks, and several with a shorter, odd last one.
    for rows in [1, 4, 8, 16, 29] {
        let made = |step: u64| {
            let mut fields = source.allocate(rows).expect("memory");
            source.training_batch(step, &mut fields).expect("a batch");
            bits(&fields)
        };
        for workers in [1, 2, 3, 8] {
            let mut batches = Prefetch::new(Arc::clone(&source), rows, 5, workers).expect("threads");
            // Steps in order, then steps that were not prefetched.
            for step in (5..25).chain([3, 3, 2, 500, 501, 503, 502, 0]) {
                let found = batches.next(step).expect("a batch");
                assert!(bits(found) == made(step), "step {step} of {rows} rows by {workers} workers");
            }
        }
    }
}

#[test]
fn they_end_when_they_are_not_wanted_any_more() {
    let dir = folder();
    let source = source(&dir);
    for i in 0..40 {
        let mut batches = Prefetch::new(Arc::clone(&source), 29, i, 4).expect("threads");
        for step in i..i + i % 3 {
            batches.next(step).expect("a batch");
        }
        drop(batches);
        assert_eq!(Arc::strong_count(&source), 1, "the threads are gone");
    }
}

#[test]
fn what_is_wrong_comes_with_its_step() {
    let dir = folder();
    let images = Arc::new(shard(&dir.path().join("grey.images"), 4, [1, 8, 8], 2));
    let mut repeated = config("").expect("a configuration");
    repeated.augment.as_mut().expect("one").repeats = 3;
    let classes = ImageClasses::of(&images);
    let data = ImageData { train: Arc::clone(&images), valid: images, classes };
    let source = data.source(&repeated).expect("a source");
    for workers in [1, 3] {
        let mut batches = Prefetch::new(Arc::clone(&source), 16, 0, workers).expect("threads");
        for step in [0, 1, 1, 7] {
            error_with(batches.next(step), &["augment.repeats", "a batch of 16"]);
        }
    }
}

#[test]
fn their_number_is_a_key() {
    assert_eq!(config("workers = 3").expect("a configuration").data.workers(), 3);
    assert!((1..=16).contains(&config("").expect("a configuration").data.workers()));
    for wrong in [0, 257] {
        error_with(config(&format!("workers = {wrong}")), &["data.images.workers", "1..=256"]);
    }
    error_with(config("workers = 'all'"), &["workers"]);
}
