//! Width `exact` and depth `identity` keep the function: logits to 1e-5, in f64 to 1e-13.

use super::forward::run;
use super::support::{Variant, devices, distance, load};
use vcycle::device;
use vcycle::model::Model;
use vcycle::model::store::Store;
use vcycle::multilevel::{DepthRule, Rules, Scheme, Shares, WidthRule, decoalesce};

#[test]
fn weights_and_logits_are_the_published_ones() {
    for mut device in devices() {
        let variant = Variant::open("strided");
        let small = variant.gpt("small");
        let coal = load(&small, &variant.tensors("coal.safetensors").expect("weights"), &mut *device);
        let ids = variant.integers("inputs.safetensors", "input_ids");
        let before = run(&mut *device, &small, &coal, &ids, [2, 16]).logits;
        for (case, config, depth) in [
            ("width", "exact/config.width.json", None),
            ("width_depth", "config.big.json", variant.scheme.depth_scheme.clone()),
        ] {
            let big = variant.config(config);
            let scheme = Scheme { depth_scheme: depth, ..variant.scheme.clone() };
            for shares in [Shares::Equal, Shares::Random { seed: 5 }] {
                let rules = Rules { width: WidthRule::Exact, depth: DepthRule::Identity, shares };
                let grown = Store::new(big.table().clone(), &mut *device).expect("memory");
                decoalesce(&mut *device, &coal, &grown, &scheme, &rules).expect("decoalesce");
                let stored = variant.tensors(&format!("exact/{case}.safetensors")).expect("weights");
                if shares == Shares::Equal {
                    for (i, param) in big.table().params.iter().enumerate() {
                        let ours = device::read_floats(&mut *device, &grown.tensor(i)).expect("weights");
                        let error = distance(&ours, &stored[&param.name()].1);
                        assert!(error <= 1e-6, "{case} {} is off by {error:e}", param.name());
                    }
                }
                let after = run(&mut *device, &big, &grown, &ids, [2, 16]).logits;
                let published = variant.tensors(&format!("exact/{case}.out.safetensors")).expect("outputs");
                assert!(distance(&after, &published["logits"].1) <= 1e-5, "{case} {shares:?}: published logits");
                let change = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                let allowed = if device.name() == "reference" { 1e-13 } else { 1e-5 };
                assert!(change <= allowed, "{case} {shares:?} on {}: logits moved by {change:e}", device.name());
            }
        }
    }
}
