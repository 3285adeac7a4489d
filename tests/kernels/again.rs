//! An activation that is recomputed together with its derivative has the bits of the forward pass, if nothing was
//! rounded in between.

use vcycle::device::ops::{Activation, Epilogue, Linear};
use vcycle::parity::harness::Harness;
use vcycle::tensor::DType;

/// Compares the bits of both. In f32 the pre-activation is saved without rounding. In bf16 that holds for K = 1 with a
/// factor of 1.
fn same_bits(harness: &mut Harness) {
    for (m, n, k) in [(67, 40, if harness.float == DType::BF16 { 1 } else { 9 }), (5, 3, 1)] {
        for kind in [Activation::GeluTanh, Activation::GeluErf, Activation::Tanh] {
            for in_place in [false, true] {
                // The first column goes from -20 to 20 down the rows; every other column adds a random number.
                let mut far = harness.random.floats(m * k);
                (0..m).for_each(|i| far[i * k] = 40.0 * (i as f64 / (m - 1) as f64 - 0.5));
                let (a, b) = (harness.floats((&[m, k], 0), &far), harness.floats((&[k, n], 0), &vec![1.0; k * n]));
                let [value, pre, out, apart] = [(); 4].map(|()| harness.output((&[m, n], 0)));
                let forward = Epilogue::Activate { kind, pre: Some(pre) };
                harness.prepare(Linear { epilogue: forward, ..Linear::product(a, b, value, (false, false)) });
                let again = if in_place { pre } else { apart };
                let backward = Epilogue::ActivateGrad { kind, pre, value: Some(again) };
                harness.prepare(Linear { epilogue: backward, ..Linear::product(a, b, out, (false, false)) });
                let [value, again] = [value, again].map(|t| harness.values(&t));
                harness.finish().expect("two products");
                let different = value.iter().zip(&again).find(|(value, again)| value.to_bits() != again.to_bits());
                assert_eq!(different, None, "{kind:?}, {m} x {n} x {k}, in place: {in_place}");
                let (large, small) = if kind == Activation::Tanh { (0.99, 0.5) } else { (5.0, 1e-3) };
                assert!(value.len() == m * n && value.iter().any(|v| *v > large));
                assert!(value.iter().any(|v| v.abs() < small));
                harness.clear();
            }
        }
    }
}

#[test]
fn cpu() {
    same_bits(&mut Harness::cpu(&[1, 3], true));
}

#[cfg(emulated)]
#[test]
fn emulator() {
    for float in [DType::F32, DType::BF16] {
        let mut harness = crate::emulated::harness();
        harness.float = float;
        same_bits(&mut harness);
    }
}
