use crate::gradients::rig::Rig;
use crate::gradients::support::floats;
use vcycle::tape::{Affine, LossOptions, Tape, Var};

/// Targets for five rows, of which one is not scored.
const TARGETS: [f64; 5] = [0.5, -1.25, f64::NAN, 2.0, 0.0];

fn of_rows(seed: u64, params: &[&[usize]]) -> Rig {
    let mut rig = Rig::with(seed, params);
    let targets = floats(&mut rig.device, &[5], &TARGETS);
    rig.inputs.push(targets);
    rig
}

#[test]
fn with_rows_that_are_not_scored_and_weight() {
    for weight in [1.0, 0.25] {
        // The predictions are a matrix product, whose memory the gradient may reuse, or a parameter, which must not be
        // overwritten.
        let mut rig = of_rows(1, &[&[5, 3], &[3, 1]]);
        rig.check(|t, p, i| {
            let y = t.linear(p[0], p[1], Affine::default());
            vec![t.squared_error(y, i[0], LossOptions { weight, ..LossOptions::default() })]
        });
        let mut rig = of_rows(2, &[&[5, 1]]);
        let gradients = rig
            .outcome(&|t, p, i| vec![t.squared_error(p[0], i[0], LossOptions { weight, ..LossOptions::default() })])
            .gradients;
        assert_eq!(gradients[0][2], 0.0, "the row without a target");
    }
}

#[test]
fn of_several_numbers_a_row() {
    let mut rig = Rig::with(3, &[&[4, 3]]);
    let targets = floats(&mut rig.device, &[4, 3], &[1.0, -2.0, 0.5, 0.0, 3.0, -0.5, 1.5, -1.0, 2.0, 0.7, -0.3, 0.1]);
    rig.inputs.push(targets);
    rig.check(|t, p, i| vec![t.squared_error(p[0], i[0], LossOptions::default())]);
}

/// The loss is the mean of squares over the four rows with a target.
#[test]
fn the_mean_of_squares() {
    let mut rig = of_rows(4, &[&[5, 1]]);
    let values = vcycle::device::read_floats(&mut rig.device, &rig.params[0].0).expect("values");
    let squares = values.iter().zip(TARGETS).filter(|(_, t)| !t.is_nan()).map(|(x, t)| (x - t) * (x - t));
    let want = squares.sum::<f64>() / 4.0;
    let record = |t: &mut Tape, p: &[Var], i: &[Var]| vec![t.squared_error(p[0], i[0], LossOptions::default())];
    let found = rig.evaluate(&record);
    // Allows for a few roundings of numbers below ten.
    assert!((found - want).abs() < 1e-14, "{found}, not {want}");
    let none = floats(&mut rig.device, &[5], &[f64::NAN; 5]);
    rig.inputs[0] = none;
    assert_eq!(rig.evaluate(&record), 0.0);
}
