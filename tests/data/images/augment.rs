//! The augmentation configuration, flips and shifts.

use super::*;
use vcycle::data::images::AugmentConfig;
use vcycle::data::images::augment::{flip, shift};

#[test]
fn nothing_is_the_default() {
    let nothing: AugmentConfig = toml::from_str("").unwrap();
    assert_eq!(nothing, AugmentConfig::default());
    nothing.check(1, "augment").unwrap();
    assert_eq!(toml::from_str::<AugmentConfig>(&toml::to_string(&nothing).unwrap()).unwrap(), nothing);
    let all: AugmentConfig = toml::from_str(
        "padding = 2\nflip = 0.5\nrepeats = 3\n[resized_crop]\narea = [0.5, 1]\n[randaugment]\ndeviation = 0.5\n\
         [mixing]\nmixup = 0.8\ncutmix = 1.0\nprobability = 0.9\nswitch = 0.3\nby = 'pair'",
    )
    .unwrap();
    all.check(28, "augment").unwrap();
    assert_eq!(all.randaugment.unwrap().operations, 2);
    assert_eq!(all.resized_crop.unwrap().ratio, [3.0 / 4.0, 4.0 / 3.0]);
    for unknown in [
        "flips = 1",
        "[randaugment]\nn = 2",
        "[mixing]\nalpha = 1",
        "[resized_crop]\nscale = [0, 1]",
        "[mixing]\nby = 'row'",
    ] {
        assert!(toml::from_str::<AugmentConfig>(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn numbers_out_of_range_are_errors_by_key() {
    for (text, parts) in [
        ("flip = 1.5", &["a.flip: 1.5", "0.0..=1.0"][..]),
        ("flip = nan", &["a.flip: NaN"]),
        ("padding = 28", &["a.padding: 28", "28 pixels"]),
        ("repeats = 0", &["a.repeats: 0"]),
        ("[resized_crop]\narea = [0.0, 1.0]", &["a.resized_crop.area: 0.0"]),
        ("[resized_crop]\narea = [0.5, 1.1]", &["a.resized_crop.area: 1.1"]),
        ("[resized_crop]\narea = [0.5, 0.4]", &["a.resized_crop.area", "from 0.5 to 0.4"]),
        ("[resized_crop]\nratio = [0.0, 1.0]", &["a.resized_crop.ratio: 0.0"]),
        ("[resized_crop]\nratio = [1.0, inf]", &["a.resized_crop.ratio: inf"]),
        ("[randaugment]\noperations = 0", &["a.randaugment.operations: 0"]),
        ("[randaugment]\nmagnitude = 11.0", &["a.randaugment.magnitude: 11.0"]),
        ("[randaugment]\ndeviation = -1.0", &["a.randaugment.deviation: -1.0"]),
        ("[mixing]\nmixup = -1.0", &["a.mixing.mixup: -1.0"]),
        ("[mixing]\ncutmix = nan", &["a.mixing.cutmix: NaN"]),
        ("[mixing]\nprobability = 2.0", &["a.mixing.probability: 2.0"]),
        ("[mixing]\nswitch = -0.1", &["a.mixing.switch: -0.1"]),
    ] {
        error_with(toml::from_str::<AugmentConfig>(text).unwrap().check(28, "a"), parts);
    }
}

#[test]
fn flips_and_shifts() {
    let mut image: Vec<u8> = (1..=18).collect();
    flip(&mut image, 3);
    assert_eq!(image, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10, 15, 14, 13, 18, 17, 16]);
    let moved = |offsets| {
        let mut image: Vec<u8> = (1..=18).collect();
        shift(&mut image, 3, offsets, &mut Vec::new());
        image
    };
    assert_eq!(moved([0, 0]), (1..=18).collect::<Vec<u8>>());
    assert_eq!(moved([1, 0]), [0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14, 0, 16, 17]);
    assert_eq!(moved([-2, 1]), [0, 0, 0, 3, 0, 0, 6, 0, 0, 0, 0, 0, 12, 0, 0, 15, 0, 0]);
    assert_eq!(moved([0, -2]), [7, 8, 9, 0, 0, 0, 0, 0, 0, 16, 17, 18, 0, 0, 0, 0, 0, 0]);
}
