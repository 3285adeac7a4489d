//! The operations of RandAugment against values computed by hand.

use vcycle::data::images::randaugment::Operation;

fn applied(operation: Operation, strength: f64, pixels: &[u8], size: usize) -> Vec<u8> {
    let mut pixels = pixels.to_vec();
    operation.apply(strength, &mut pixels, size, &mut Vec::new());
    pixels
}

#[test]
fn without_strength_nothing_changes() {
    for (channels, size) in [(1, 8), (3, 7), (3, 1), (1, 2)] {
        let image = crate::images::bytes(channels * size * size, 2);
        for operation in Operation::ALL {
            if !matches!(operation, Operation::AutoContrast | Operation::Equalize) {
                assert_eq!(applied(operation, 0.0, &image, size), image, "{operation:?}");
            }
        }
        assert_eq!(applied(Operation::Identity, 1.0, &image, size), image);
    }
}

#[test]
fn every_other_operation_changes_something() {
    let image: Vec<u8> = crate::images::bytes(3 * 400, 2).iter().map(|v| v / 2 + 20).collect();
    for operation in &Operation::ALL[1..] {
        for strength in [-1.0, 1.0] {
            assert_ne!(applied(*operation, strength, &image, 20), image, "{operation:?} {strength}");
        }
    }
}

#[test]
fn values_are_spread() {
    assert_eq!(applied(Operation::AutoContrast, 1.0, &[50, 62, 101, 150], 2), [0, 31, 130, 255]);
    assert_eq!(applied(Operation::AutoContrast, 1.0, &[50; 4], 2), [50; 4]);
    // Each channel separately.
    let colours = [[0, 0, 0, 1], [9, 10, 9, 10], [0, 255, 3, 4]].concat();
    let wanted = [[0, 0, 0, 255], [0, 255, 0, 255], [0, 255, 3, 4]].concat();
    assert_eq!(applied(Operation::AutoContrast, 1.0, &colours, 2), wanted);

    // 1,024 pixels: 511 with value 10, 256 with 20, 257 with 30. A step is (1,024 - 257) / 255 = 3 pixels, and the sum
    // starts at half a step (1): the new values are 1 / 3, (1 + 511) / 3, and (1 + 511 + 256) / 3 = 256, clamped to
    // 255.
    let image: Vec<u8> = [vec![10; 511], vec![20; 256], vec![30; 257]].concat();
    let wanted: Vec<u8> = [vec![0; 511], vec![170; 256], vec![255; 257]].concat();
    assert_eq!(applied(Operation::Equalize, 1.0, &image, 32), wanted);
    // The step is less than one pixel, so nothing changes.
    assert_eq!(applied(Operation::Equalize, 1.0, &[1, 2, 3, 4], 2), [1, 2, 3, 4]);
    assert_eq!(applied(Operation::Equalize, 1.0, &[9; 1024], 32), [9; 1024]);
}

#[test]
fn values_lose_bits_or_are_inverted() {
    let image = [0, 15, 16, 127, 128, 200, 254, 255, 77];
    assert_eq!(applied(Operation::Posterize, 1.0, &image, 3), [0, 0, 16, 112, 128, 192, 240, 240, 64]);
    assert_eq!(applied(Operation::Posterize, -0.25, &image, 3), [0, 14, 16, 126, 128, 200, 254, 254, 76]);
    assert_eq!(applied(Operation::Solarize, 0.5, &image, 3), [0, 15, 16, 127, 127, 55, 1, 0, 77]);
    assert_eq!(applied(Operation::Solarize, -1.0, &image, 3), image.map(|v| 255 - v));
}

#[test]
fn enhancing_goes_from_the_degenerate_image_through_this_one() {
    // Factors 1.9 and 0.1.
    assert_eq!(applied(Operation::Brightness, 1.0, &[0, 10, 100, 200], 2), [0, 19, 190, 255]);
    assert_eq!(applied(Operation::Brightness, -1.0, &[0, 10, 100, 200], 2), [0, 1, 10, 20]);
    // The mean is 100.
    assert_eq!(applied(Operation::Contrast, 1.0, &[50, 90, 100, 160], 2), [5, 81, 100, 214]);
    assert_eq!(applied(Operation::Contrast, -1.0, &[50, 90, 100, 160], 2), [95, 99, 100, 106]);
    // The luma is 0.299 x 100 + 0.587 x 50 + 0.114 x 200 = 82.05, rounded to 82.
    let colours: Vec<u8> = [100u8, 50, 200].iter().flat_map(|&v| [v; 4]).collect();
    let wanted: Vec<u8> = [116u8, 21, 255].iter().flat_map(|&v| [v; 4]).collect();
    assert_eq!(applied(Operation::Colour, 1.0, &colours, 2), wanted);
    assert_eq!(applied(Operation::Colour, 1.0, &[1, 2, 3, 4], 2), [1, 2, 3, 4], "grey has no colour");
    // A pixel of 139 on black: smoothed 139 x 5 / 13 = 53.46, rounded to 53; then 53 + 1.9 (139 - 53) and 53 + 0.1 (139
    // - 53).
    let dot = [0, 0, 0, 0, 139, 0, 0, 0, 0];
    assert_eq!(applied(Operation::Sharpness, 1.0, &dot, 3), [0, 0, 0, 0, 216, 0, 0, 0, 0]);
    assert_eq!(applied(Operation::Sharpness, -1.0, &dot, 3), [0, 0, 0, 0, 62, 0, 0, 0, 0]);
}

#[test]
fn images_move_turn_and_lean() {
    // A translation by 1/3 of the side is one pixel: the pixel at x comes from x + 1.
    let strength = 331.0 / 150.0 / 3.0;
    let image = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    assert_eq!(applied(Operation::TranslateX, strength, &image, 3), [2, 3, 0, 5, 6, 0, 8, 9, 0]);
    assert_eq!(applied(Operation::TranslateX, -strength, &image, 3), [0, 1, 2, 0, 4, 5, 0, 7, 8]);
    assert_eq!(applied(Operation::TranslateY, strength, &image, 3), [4, 5, 6, 7, 8, 9, 0, 0, 0]);
    // Rows at distance 1 from the centre are sheared by 0.3 pixels.
    let image = [0, 100, 200, 0, 100, 200, 0, 100, 200];
    assert_eq!(applied(Operation::ShearX, 1.0, &image, 3), [0, 70, 170, 0, 100, 200, 30, 130, 140]);
    let columns = [0, 0, 0, 100, 100, 100, 200, 200, 200];
    assert_eq!(applied(Operation::ShearY, 1.0, &columns, 3), [0, 0, 30, 70, 100, 130, 170, 200, 140]);
    // A smooth image that is rotated back and forth is restored, except for clipped corners and smoothing.
    let size = 41;
    let smooth: Vec<u8> = (0..size * size).map(|i| (100.0 + 50.0 * ((i % size) as f64 / 9.0).sin()) as u8).collect();
    let back = applied(Operation::Rotate, -0.8, &applied(Operation::Rotate, 0.8, &smooth, size), size);
    let turned = applied(Operation::Rotate, 0.8, &smooth, size);
    let far = |a: &[u8]| {
        let inner = (0..size * size).filter(|i| i % size / 11 == 1 && i / size / 11 == 1);
        inner.map(|i| a[i].abs_diff(smooth[i])).max().unwrap()
    };
    // Bilinear interpolation of a curve with second derivative 50 / 81 is off by 0.08, along both axes and in both
    // rotations. Values are also rounded twice by up to one half, and truncated when the image is built.
    assert!(far(&back) <= 2, "{}", far(&back));
    assert!(far(&turned) > 4, "{}", far(&turned));
}
