//! Mixup and CutMix: shares, rectangles, and the exchange of pixels.

use vcycle::data::images::mixing::{Mix, MixConfig};
use vcycle::data::random::Random;

const NONE: MixConfig = MixConfig {
    mixup: 0.0,
    cutmix: 0.0,
    probability: 1.0,
    switch: 0.5,
    by: vcycle::data::images::mixing::MixScope::Batch,
};

fn draws(config: MixConfig, size: usize) -> Vec<Mix> {
    (0..4000).map(|i| config.draw(size, &mut Random::new(3, [i, 0, 0]))).collect()
}

fn share_of<'a>(mixes: &'a [Mix], which: impl Fn(&Mix) -> bool + 'a) -> f64 {
    mixes.iter().filter(|mix| which(mix)).count() as f64 / mixes.len() as f64
}

#[test]
fn probabilities_and_the_switch() {
    assert_eq!(MixConfig::default(), NONE);
    assert!(draws(NONE, 8).iter().all(|&mix| mix == Mix::None));
    let blend = |mix: &Mix| matches!(mix, Mix::Blend { .. });
    let cut = |mix: &Mix| matches!(mix, Mix::Cut { .. });
    assert_eq!(share_of(&draws(MixConfig { mixup: 0.8, ..NONE }, 8), blend), 1.0);
    assert_eq!(share_of(&draws(MixConfig { cutmix: 1.0, ..NONE }, 8), cut), 1.0);
    let both = MixConfig { mixup: 0.8, cutmix: 1.0, probability: 0.6, switch: 0.25, ..NONE };
    // Six standard errors of 4,000 draws: 0.05.
    assert!((share_of(&draws(both, 8), blend) - 0.45).abs() < 0.05);
    assert!((share_of(&draws(both, 8), cut) - 0.15).abs() < 0.05);
}

#[test]
fn shares_follow_the_beta_distribution() {
    for alpha in [0.1, 0.8, 1.0, 3.0] {
        let shares: Vec<f64> =
            draws(MixConfig { mixup: alpha, ..NONE }, 8).iter().map(|mix| f64::from(mix.share(8))).collect();
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        let mean = shares.iter().sum::<f64>() / 4000.0;
        let variance = shares.iter().map(|share| (share - 0.5).powi(2)).sum::<f64>() / 4000.0;
        // Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)). The bounds are six standard errors: standard
        // deviations are at most 1/2, those of the squared distance at most 1/8.
        assert!((mean - 0.5).abs() < 0.048, "{alpha}: {mean}");
        assert!((variance - 0.25 / (2.0 * alpha + 1.0)).abs() < 0.012, "{alpha}: {variance}");
    }
}

/// A rectangle that is not clipped covers 1 - share of the image.
#[test]
fn a_rectangle_has_the_area_that_was_drawn() {
    const SIZE: usize = 1000;
    let (config, mut inside) = (MixConfig { cutmix: 0.7, ..NONE }, 0);
    for number in 0..400 {
        let Mix::Cut { left, right, top, bottom } = config.draw(SIZE, &mut Random::new(5, [number])) else {
            panic!("always cut")
        };
        // Draw the same random numbers again: whether to mix at all, then the share.
        let mut draws = Random::new(5, [number]);
        draws.chance(config.probability);
        let area = 1.0 - draws.beta(config.cutmix);
        if left > 0 && right < SIZE && top > 0 && bottom < SIZE {
            inside += 1;
            for side in [right - left, bottom - top] {
                // A side is an even number of pixels, so it is off by at most one pixel.
                assert!((side as f64 - area.sqrt() * SIZE as f64).abs() <= 1.0 + 1e-9, "{side} of {area}");
            }
        }
    }
    assert!(inside > 50, "{inside} rectangles lie inside");
}

#[test]
fn a_share_is_what_is_left_of_an_image() {
    for size in [1, 8, 28] {
        let mut seen = Vec::new();
        for mix in draws(MixConfig { cutmix: 1.0, ..NONE }, size) {
            let Mix::Cut { left, right, top, bottom } = mix else { panic!("{mix:?}") };
            assert!(left <= right && right <= size && top <= bottom && bottom <= size);
            let (mut one, mut other) = (vec![1; 3 * size * size], vec![2; 3 * size * size]);
            mix.exchange(&mut one, &mut other, size);
            assert!(one.iter().zip(&other).all(|(a, b)| a + b == 3));
            let own = one.iter().filter(|&&v| v == 1).count() as f32 / one.len() as f32;
            assert!((own - mix.share(size)).abs() < 1e-6);
            seen.push(f64::from(own));
        }
        if size > 1 {
            // A rectangle covers 1 - share of the image, or less if it is clipped, so on average more than half of the
            // image is left.
            let mean = seen.iter().sum::<f64>() / seen.len() as f64;
            assert!((0.55..0.85).contains(&mean), "{size}: {mean}");
        }
    }
    let mix = Mix::Cut { left: 1, right: 3, top: 0, bottom: 1 };
    let (mut one, mut other): (Vec<u8>, Vec<u8>) = ((0..9).collect(), (10..19).collect());
    mix.exchange(&mut one, &mut other, 3);
    assert_eq!(one, [0, 11, 12, 3, 4, 5, 6, 7, 8]);
    assert_eq!(other, [10, 1, 2, 13, 14, 15, 16, 17, 18]);
    assert_eq!(mix.share(3), 7.0 / 9.0);
    for mix in [Mix::None, Mix::Blend { share: 0.3 }] {
        let before = (one.clone(), other.clone());
        mix.exchange(&mut one, &mut other, 3);
        assert_eq!((&one, &other), (&before.0, &before.1));
    }
}
