//! A matrix product has the same bits whether its residual is in the output or in other memory, which depends on the
//! memory plan.

use vcycle::device::ops::Linear;
use vcycle::parity::harness::Harness;

#[test]
fn in_place_and_separate_have_the_same_bits_on_cpu() {
    let mut harness = Harness::cpu(&[1, 3], true);
    // The larger ones have more than one run of 512 and more than one strip of 384 columns.
    for (m, n, k) in [(5, 3, 1), (67, 40, 700), (230, 390, 1030)] {
        let [a, b, x] = [&[m, k], &[k, n], &[m, n]].map(|dims| harness.random.floats(dims[0] * dims[1]));
        let bias = harness.random.floats(n);
        let (a, b, bias) =
            (harness.floats((&[m, k], 0), &a), harness.floats((&[k, n], 0), &b), harness.floats((&[n], 0), &bias));
        let [elsewhere, there] = [(); 2].map(|()| harness.floats((&[m, n], 0), &x));
        let apart = harness.output((&[m, n], 0));
        for (residual, out) in [(elsewhere, apart), (there, there)] {
            let product = Linear::product(a, b, out, (false, false));
            harness.prepare(Linear { bias: Some(bias), residual: Some(residual), ..product });
        }
        let [apart, there] = [apart, there].map(|t| harness.values(&t));
        harness.finish().expect("two products");
        let different = apart.iter().zip(&there).find(|(apart, there)| apart.to_bits() != there.to_bits());
        assert_eq!(different, None, "{m} x {n} x {k}");
        assert!(apart.iter().zip(x).any(|(out, x)| *out != x), "a product was added");
        harness.clear();
    }
}
