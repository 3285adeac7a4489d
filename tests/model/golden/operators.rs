//! Coalescing (C), de-coalescing (D) and interpolation (I) with the rule `paper`, for all eight variants: weights to
//! 1e-6.

use super::support::{FAMILIES, MODELS, VARIANTS, Variant, compare_checks, devices, distance, published};
use vcycle::device::{self, Device};
use vcycle::model::store::Store;
use vcycle::multilevel::{Rules, coalesce, decoalesce, interpolate};

/// The tolerance for weights that are sums of a few f32 products of size 1.
const TOLERANCE: f64 = 1e-6;

/// Returns all five models of a variant, in the order of [`MODELS`].
pub fn models(variant: &Variant, device: &mut dyn Device) -> Vec<Store> {
    let rules = Rules::default();
    let (big, small) = (variant.net("big"), variant.net("small"));
    let src = variant.source(device);
    let coal = Store::new(small.model().table().clone(), device).expect("memory");
    coalesce(device, &src, &coal, &variant.scheme, &rules).expect("coalesce");
    let deco = Store::new(big.model().table().clone(), device).expect("memory");
    decoalesce(device, &coal, &deco, &variant.scheme, &rules).expect("decoalesce");
    let mut all = vec![src.clone(), coal.clone(), deco];
    for alpha in [0.25, 0.5] {
        let mixed = Store::new(big.model().table().clone(), device).expect("memory");
        device.copy(&src.flat(), &mixed.flat()).expect("copy");
        interpolate(device, &mixed, &coal, alpha, &variant.scheme, &rules).expect("interpolate");
        all.push(mixed);
    }
    all
}

#[test]
fn weights_match_the_published_ones() {
    for mut device in devices() {
        for (family, name) in FAMILIES.iter().flat_map(|family| VARIANTS.map(|name| (*family, name))) {
            let variant = Variant::open(family, name);
            for (model, store) in MODELS.iter().zip(models(&variant, &mut *device)) {
                let stored = variant.tensors(&format!("{model}.safetensors"));
                for (i, param) in store.table.params.iter().enumerate() {
                    let ours = device::read_floats(&mut *device, &store.tensor(i)).expect("weights");
                    published(param, &ours, |tensor, ours| {
                        let what = format!("{family}/{name}/{model} {tensor} on {}", device.name());
                        if let Some(stored) = &stored {
                            let error = distance(ours, &stored[tensor].1);
                            assert!(error <= TOLERANCE, "{what}: {error:e}");
                        } else if let Some(checks) = &variant.checks {
                            compare_checks(&what, ours, &checks[*model]["weights"][tensor], TOLERANCE);
                        } else {
                            panic!("{what}: the fixture holds neither weights nor checks");
                        }
                    });
                }
            }
        }
    }
}
