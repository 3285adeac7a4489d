//! The width rule `exact` and the depth rule `identity` preserve the function: logits to 1e-5, in f64 to 1e-13.

use super::forward::run;
use super::support::{FAMILIES, Variant, devices, distance, load, published};
use vcycle::device;
use vcycle::model::store::Store;
use vcycle::multilevel::{DepthRule, Rules, Scheme, Shares, WidthRule, decoalesce};

#[test]
fn weights_and_logits_match_the_published_ones() {
    for (mut device, family) in FAMILIES.iter().flat_map(|family| devices().into_iter().map(move |d| (d, *family))) {
        let variant = Variant::open(family, "strided");
        let small = variant.net("small");
        let coal = load(small.model(), &variant.tensors("coal.safetensors").expect("weights"), &mut *device);
        let batch = variant.batch("inputs.safetensors", 0);
        let before = run(&mut *device, &small, &coal, &batch).logits;
        let most = before.iter().fold(0.0, |most: f64, logit| most.max(logit.abs()));
        for (case, config, depth) in [
            ("width", "exact/config.width.json", None),
            ("width_depth", "config.big.json", variant.scheme.depth_scheme.clone()),
        ] {
            let big = variant.config(config);
            let table = big.model().table();
            let depth_mapped = depth.is_some();
            let scheme = Scheme { depth_scheme: depth, ..variant.scheme.clone() };
            for shares in [Shares::Equal, Shares::Random { seed: 5 }] {
                let rules = Rules { width: WidthRule::Exact, depth: DepthRule::Identity, shares };
                let grown = Store::new(table.clone(), &mut *device).expect("memory");
                decoalesce(&mut *device, &coal, &grown, &scheme, &rules).expect("decoalesce");
                let stored = variant.tensors(&format!("exact/{case}.safetensors")).expect("weights");
                if shares == Shares::Equal {
                    for (i, param) in table.params.iter().enumerate() {
                        let ours = device::read_floats(&mut *device, &grown.tensor(i)).expect("weights");
                        published(param, &ours, |name, ours| {
                            let error = distance(ours, &stored[name].1);
                            assert!(error <= 1e-6, "{family} {case} {name} is off by {error:e}");
                        });
                    }
                }
                let after = run(&mut *device, &big, &grown, &batch).logits;
                let published = variant.tensors(&format!("exact/{case}.out.safetensors")).expect("outputs");
                assert!(distance(&after, &published["logits"].1) <= 1e-5, "{family} {case} {shares:?}: logits");
                let change = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                // In a post-norm model, each of the four norms of identity layers divides its normalised input by
                // sqrt(1 + eps).
                let norms = if family == "bert" && depth_mapped { 4.0 * 1e-12 / 2.0 * most } else { 0.0 };
                let allowed = if device.name() == "reference" { 1e-13 + norms } else { 1e-5 };
                assert!(change <= allowed, "{family} {case} {shares:?} on {}: off by {change:e}", device.name());
            }
        }
    }
}
