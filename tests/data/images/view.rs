//! Crops and resizing.

use vcycle::data::images::augment::ResizedCrop;
use vcycle::data::images::view::{Crop, Resizer};
use vcycle::data::random::Random;

fn resized(pixels: &[u8], size: [usize; 2], crop: Crop, to: usize) -> Vec<u8> {
    let channels = pixels.len() / (size[0] * size[1]);
    let mut out = vec![7; channels * to * to];
    Resizer::default().resize(pixels, size, crop, to, &mut out);
    out
}

fn whole([height, width]: [usize; 2]) -> Crop {
    Crop { left: 0, top: 0, width, height }
}

#[test]
fn values_are_those_computed_by_hand() {
    // Upscaling by 2: output centres lie 1/4 and 3/4 of the way between input centres; at the edges only the edge pixel
    // counts.
    assert_eq!(resized(&[0, 100, 0, 100], [2, 2], whole([2, 2]), 4)[..4], [0, 25, 75, 100]);
    // Downscaling by 2: the triangle is two output pixels wide. From 0, 40, 80, 120: (3 x 0 + 3 x 40 + 80) / 7 and (40
    // + 3 x 80 + 3 x 120) / 7.
    let row = [0, 40, 80, 120].repeat(4);
    assert_eq!(resized(&row, [4, 4], whole([4, 4]), 2), [29, 91, 29, 91]);
    // The same along the other axis.
    let column: Vec<u8> = [0u8, 40, 80, 120].iter().flat_map(|&v| [v; 4]).collect();
    assert_eq!(resized(&column, [4, 4], whole([4, 4]), 2), [29, 29, 91, 91]);
    // To one pixel: the triangle is twice as wide as the image, with weights 5/8, 7/8, 7/8, 5/8.
    assert_eq!(resized(&row, [4, 4], whole([4, 4]), 1), [60]);
    assert_eq!(resized(&[9], [1, 1], whole([1, 1]), 3), [9; 9]);
}

#[test]
fn what_is_plain_stays_plain_and_what_fits_is_copied() {
    let mut resizer = Resizer::default();
    for (height, width, to) in [(5, 9, 4), (9, 5, 16), (224, 300, 28), (1, 50, 7), (3, 3, 3)] {
        let mut out = vec![0; 3 * to * to];
        let plain: Vec<u8> = [0u8, 77, 255].iter().flat_map(|&v| vec![v; height * width]).collect();
        resizer.resize(&plain, [height, width], whole([height, width]), to, &mut out);
        for (plane, wanted) in out.chunks(to * to).zip([0, 77, 255]) {
            assert!(plane.iter().all(|&v| v == wanted), "{height} x {width} to {to}");
        }
    }
    let image = crate::images::bytes(2 * 6 * 5, 3);
    let out = resized(&image, [6, 5], Crop { left: 2, top: 1, width: 3, height: 3 }, 3);
    for (i, &v) in out.iter().enumerate() {
        let (channel, y, x) = (i / 9, i / 3 % 3, i % 3);
        assert_eq!(v, image[channel * 30 + (y + 1) * 5 + x + 2]);
    }
}

#[test]
fn memory_of_earlier_crops_does_not_show() {
    let image = crate::images::bytes(3 * 40 * 30, 5);
    let crops = [
        whole([40, 30]),
        Crop { left: 3, top: 9, width: 20, height: 7 },
        Crop { left: 0, top: 0, width: 2, height: 31 },
    ];
    let mut resizer = Resizer::default();
    for crop in crops.into_iter().chain(crops).chain([crops[0]]) {
        for to in [8, 28] {
            let mut out = vec![0; 3 * to * to];
            resizer.resize(&image, [40, 30], crop, to, &mut out);
            assert_eq!(out, resized(&image, [40, 30], crop, to), "{crop:?} to {to}");
        }
    }
}

#[test]
fn centre_squares() {
    for (size, share, [left, top, side]) in [
        ([8, 8], 1.0, [0, 0, 8]),
        ([8, 12], 1.0, [2, 0, 8]),
        ([12, 8], 0.5, [2, 4, 4]),
        ([256, 256], 0.875, [16, 16, 224]),
        ([3, 3], 0.01, [1, 1, 1]),
    ] {
        assert_eq!(Crop::centre(size, share), Crop { left, top, width: side, height: side });
    }
}

#[test]
fn random_parts_have_the_areas_shapes_and_places_asked_for() {
    let crop = ResizedCrop { area: [0.25, 0.75], ratio: [0.5, 2.0] };
    let (mut areas, mut ratios, mut middles) = (Vec::new(), Vec::new(), Vec::new());
    let mut draws = Random::new(1, [2, 3, 4]);
    for _ in 0..4000 {
        let Crop { left, top, width, height } = crop.draw([1000, 1000], &mut draws);
        assert!(left + width <= 1000 && top + height <= 1000);
        areas.push((width * height) as f64 / 1e6);
        ratios.push((width as f64 / height as f64).ln());
        middles.push((left as f64 + width as f64 / 2.0) / 1000.0);
    }
    // Rounding a side of 354 pixels or more by half a pixel changes its length by 0.15 % at most.
    let bound = |values: &[f64], low: f64, high: f64| values.iter().all(|v| (low - 0.003..=high + 0.003).contains(v));
    assert!(bound(&areas, 0.25, 0.75) && bound(&ratios, 0.5f64.ln(), 2f64.ln()));
    // Six standard errors of 4,000 draws, whose deviations are at most 0.15 and 0.4.
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    assert!(mean(&ratios).abs() < 0.04, "{}", mean(&ratios));
    assert!((mean(&middles) - 0.5).abs() < 0.015, "{}", mean(&middles));
    // Large crops with extreme aspect ratios do not fit and are drawn again, so the mean area is below the middle, 0.5.
    assert!((0.4..0.5).contains(&mean(&areas)), "{}", mean(&areas));

    // The whole image, and an image that is far from every allowed aspect ratio.
    let whole = ResizedCrop { area: [1.0, 1.0], ratio: [1.0, 1.0] };
    assert_eq!(whole.draw([7, 7], &mut draws), Crop { left: 0, top: 0, width: 7, height: 7 });
    let square = whole.draw([100, 10], &mut draws);
    assert_eq!(square, Crop { left: 0, top: 45, width: 10, height: 10 });
    for size in [[1, 1], [1, 300], [2, 3]] {
        let Crop { left, top, width, height } = ResizedCrop::default().draw(size, &mut draws);
        assert!(width >= 1 && height >= 1 && left + width <= size[1] && top + height <= size[0]);
    }
}
