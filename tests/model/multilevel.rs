//! Promise: for every rule and every scheme that it admits, C(D(x)) = x. The function-preserving rules preserve the
//! function. With random shares copies diverge in training, with equal ones they stay equal. Schemes that a rule does
//! not admit are rejected with the reason. Moments are mapped like gradients, by the transposed operators.

use proptest::prelude::*;
use vcycle::device::ops::StepState;
use vcycle::device::{self, Device};
use vcycle::model::EachLoss;
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::multilevel::scheme::ModelShape;
use vcycle::multilevel::{
    DepthRule, Quantity, Rules, Scheme, Shares, WidthRule, coalesce, coalesce_as, decoalesce, interpolate,
    interpolate_as,
};
use vcycle::optim::AdamW;
use vcycle::tape::{Mode, Tape};
use vcycle::tensor::DType;
use vcycle::train::state::{Options, TrainState};

const VOCAB: usize = 29;
const TIME: usize = 8;

fn gpt(layers: usize, heads: usize, head_size: usize) -> Gpt {
    let width = heads * head_size;
    Gpt::new(GptConfig {
        vocab: VOCAB,
        context: TIME,
        width,
        heads,
        layers,
        ffn: 4 * width,
        eps: 1e-5,
        init_std: 0.3,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    })
    .expect("sizes that fit")
}

/// Returns a store with random values everywhere, also in norms and biases.
fn random(device: &mut dyn Device, model: &dyn Model, seed: u64) -> Store {
    let store = empty(device, model);
    store.initialise(device, seed).expect("written");
    for (i, param) in model.table().params.iter().enumerate().filter(|(_, p)| p.axes.len() == 1) {
        let mut z = seed.wrapping_add(i as u64);
        let values: Vec<f32> = (0..param.numel())
            .map(|_| {
                z = z.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (z >> 40) as f32 / (1u64 << 24) as f32 + 0.25
            })
            .collect();
        store.write(device, i, &values).expect("written");
    }
    store
}

fn empty(device: &mut dyn Device, model: &dyn Model) -> Store {
    Store::new(model.table().clone(), device).expect("memory")
}

fn all_values(device: &mut dyn Device, store: &Store) -> Vec<Vec<f64>> {
    (0..store.table.params.len()).map(|i| device::read_floats(device, &store.tensor(i)).expect("values")).collect()
}

fn largest_difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

fn logits(device: &mut dyn Device, gpt: &Gpt, store: &Store) -> Vec<f64> {
    let ids = device::alloc_tensor(device, DType::I32, &[1, TIME]).expect("memory");
    let tokens: Vec<i32> = (0..TIME as i32).map(|t| (t * 7 + 3) % VOCAB as i32).collect();
    device.write(&ids, bytemuck::cast_slice(&tokens)).expect("written");
    let state = StepState::tensor(device.alloc(size_of::<StepState>()).expect("memory"));
    let mut tape = Tape::new(device.float(), state);
    tape.begin(Mode::Evaluate);
    let ids = tape.input(ids);
    let mut vars = Vec::new();
    store.declare_frozen(&mut tape, &mut vars);
    let hidden = gpt.hidden(&mut tape, &vars, ids, false, |_, _| {});
    let out = gpt.logits(&mut tape, &vars, hidden);
    tape.keep(out);
    tape.run(device).expect("a forward pass");
    device::read_floats(device, &tape.value(out).expect("kept")).expect("values")
}

fn all_rules() -> Vec<Rules> {
    let mut all = Vec::new();
    for width in [WidthRule::Paper, WidthRule::Exact] {
        for depth in [DepthRule::Copy, DepthRule::Split, DepthRule::Identity] {
            for shares in [Shares::Equal, Shares::Random { seed: 11 }] {
                all.push(Rules { width, depth, shares });
            }
        }
    }
    all
}

/// Generates partitions of `0..n` into non-empty groups, from random assignments.
fn partition(n: usize) -> impl Strategy<Value = Vec<Vec<usize>>> {
    proptest::collection::vec(0..n, n).prop_map(move |group_of| {
        let mut groups: Vec<Vec<usize>> = vec![Vec::new(); n];
        group_of.iter().enumerate().for_each(|(unit, &g)| groups[g].push(unit));
        groups.retain(|g| !g.is_empty());
        groups
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn coalescing_undoes_decoalescing(width in partition(5), depth in partition(4), seed in 0u64..1000) {
        let mut device = device::open("reference", 1).expect("a device");
        let (big, small) = (gpt(4, 5, 2), gpt(depth.len(), width.len(), 2));
        // As many groups as units would only reorder the units, which the operators reject.
        let scheme = Scheme {
            width_scheme: (width.len() < 5).then_some(width),
            depth_scheme: (depth.len() < 4).then_some(depth),
            head_size: None,
        };
        let x = random(&mut *device, &small, seed);
        let want = all_values(&mut *device, &x);
        for rules in all_rules() {
            let (grown, back) = (empty(&mut *device, &big), empty(&mut *device, &small));
            match decoalesce(&mut *device, &x, &grown, &scheme, &rules) {
                Err(reason) => {
                    let text = reason.to_string();
                    prop_assert!(text.contains("exact") || text.contains("identity"), "{text}");
                    // Coalescing rejects what de-coalescing rejects.
                    prop_assert!(coalesce(&mut *device, &grown, &back, &scheme, &rules).is_err());
                }
                Ok(_) => {
                    coalesce(&mut *device, &grown, &back, &scheme, &rules).expect("the same scheme");
                    let error = largest_difference(&want, &all_values(&mut *device, &back));
                    // f64 sums of at most 5 x 4 products of values near 1.
                    prop_assert!(error < 1e-13, "{rules:?}: {error:e}");
                }
            }
        }
    }
}

/// Returns the inner product, and the sum of the magnitudes of its terms.
fn inner(a: &[Vec<f64>], b: &[Vec<f64>]) -> (f64, f64) {
    let products = a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| x * y);
    products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
}

/// Asserts that `<a, b>` equals `<c, d>`: sums of at most 1e4 products, each with an error of a few eps, which may
/// cancel.
fn assert_adjoint([a, b, c, d]: [&[Vec<f64>]; 4], case: &str) {
    let ((left, size), (right, _)) = (inner(a, b), inner(c, d));
    assert!(size > 1.0 && (left - right).abs() <= 1e-12 * size, "{case}: {left} and {right}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn gradients_are_mapped_by_the_transposed_operators(
        width in partition(4),
        depth in partition(3),
        seed in 0u64..1000,
    ) {
        let mut device = device::open("reference", 1).expect("a device");
        let device = &mut *device;
        let (big, small) = (gpt(3, 4, 2), gpt(depth.len(), width.len(), 2));
        let scheme = Scheme {
            width_scheme: (width.len() < 4).then_some(width),
            depth_scheme: (depth.len() < 3).then_some(depth),
            head_size: None,
        };
        let (x, y) = (random(device, &big, seed), random(device, &small, seed + 1));
        let (xs, ys) = (all_values(device, &x), all_values(device, &y));
        let (to_big, to_small) = (empty(device, &big), empty(device, &small));
        for rules in all_rules() {
            if coalesce(device, &x, &to_small, &scheme, &rules).is_err() {
                continue;
            }
            let coalesced = all_values(device, &to_small);
            interpolate_as(Quantity::Gradients, device, &to_big, &y, 1.0, &scheme, &rules).expect("admitted");
            assert_adjoint([&all_values(device, &to_big), &xs, &ys, &coalesced], &format!("up, {rules:?}"));
            // Coalescing gradients is the transpose of de-coalescing with equal shares, even if the rule has random
            // ones.
            let equal = Rules { shares: Shares::Equal, ..rules };
            decoalesce(device, &y, &to_big, &scheme, &equal).expect("admitted");
            let grown = all_values(device, &to_big);
            coalesce_as(Quantity::Gradients, device, &x, &to_small, &scheme, &rules).expect("admitted");
            assert_adjoint([&all_values(device, &to_small), &ys, &xs, &grown], &format!("down, {rules:?}"));
        }
    }
}

#[test]
fn squares_are_mapped_by_the_squared_weights() {
    let mut device = device::open("reference", 1).expect("a device");
    let device = &mut *device;
    let (big, small) = (gpt(3, 6, 2), gpt(2, 2, 2));
    let scheme = Scheme {
        width_scheme: Some(vec![vec![0, 3, 4], vec![1, 2, 5]]),
        depth_scheme: Some(vec![vec![0, 2], vec![1]]),
        head_size: None,
    };
    let (to_big, to_small) = (empty(device, &big), empty(device, &small));
    for rules in all_rules() {
        for up in [false, true] {
            let (from, to) = if up { (&small, &to_big) } else { (&big, &to_small) };
            for (i, param) in from.table().params.iter().enumerate() {
                // Mapping a single element of value 1 gives the weights of the operator.
                let one = empty(device, from);
                let mut values = vec![0.0; param.numel()];
                values[param.numel() / 2] = 1.0;
                one.write(device, i, &values).expect("written");
                let mut weights = |quantity| {
                    let done = match up {
                        true => interpolate_as(quantity, device, to, &one, 1.0, &scheme, &rules),
                        false => coalesce_as(quantity, device, &one, to, &scheme, &rules),
                    };
                    done.expect("admitted");
                    all_values(device, to)
                };
                let (weight, square) = (weights(Quantity::Gradients), weights(Quantity::Squares));
                for (w, s) in weight.iter().flatten().zip(square.iter().flatten()) {
                    // A weight is a product of three factors, its square a product of three squares: eight roundings.
                    assert!((s - w * w).abs() <= 8.0 * f64::EPSILON * s, "{}, {rules:?}: {w} and {s}", param.name());
                }
                // Under the depth rule `identity` some elements map to nothing; under all others every element has a
                // weight.
                let reached = square.iter().flatten().any(|s| *s != 0.0);
                assert!(reached || rules.depth == DepthRule::Identity, "{}, {rules:?}: lost", param.name());
                one.free(device);
            }
        }
    }
}

/// Returns the gradients of the loss of one batch.
fn gradients(device: &mut dyn Device, gpt: &Gpt, store: &Store) -> Store {
    let grads = empty(device, gpt);
    let mut tokens = |factor: i32| {
        let ids = device::alloc_tensor(device, DType::I32, &[2, TIME]).expect("memory");
        let values: Vec<i32> = (0..2 * TIME as i32).map(|t| (t * factor + 3) % VOCAB as i32).collect();
        device.write(&ids, bytemuck::cast_slice(&values)).expect("written");
        ids
    };
    let (ids, labels) = (tokens(7), tokens(5));
    let state = StepState::tensor(device.alloc(size_of::<StepState>()).expect("memory"));
    let mut tape = Tape::new(device.float(), state);
    tape.begin(Mode::Train { accumulate: false });
    let (ids, labels) = (tape.input(ids), tape.input(labels));
    let mut vars = Vec::new();
    store.declare(&mut tape, &grads, &mut vars);
    let (loss, _) = gpt.loss(&mut tape, &vars, &[ids, labels], EachLoss::default(), false);
    tape.backward(&[loss]);
    tape.run(device).expect("a step");
    grads
}

#[test]
fn coalesced_gradients_are_those_of_the_small_model() {
    let mut device = device::open("reference", 1).expect("a device");
    let device = &mut *device;
    let depth_scheme = Some(vec![vec![0, 2], vec![1]]);
    for (depth, layers, depth_scheme) in [(DepthRule::Copy, 2, None), (DepthRule::Identity, 3, depth_scheme)] {
        let (big, small) = (gpt(layers, 6, 2), gpt(2, 2, 2));
        let scheme = Scheme { depth_scheme, ..Scheme::default() };
        let rules = Rules { width: WidthRule::Exact, depth, shares: Shares::Equal };
        let x = random(device, &small, 8);
        let want = gradients(device, &small, &x);
        let grown = empty(device, &big);
        decoalesce(device, &x, &grown, &scheme, &rules).expect("admitted");
        let of_big = gradients(device, &big, &grown);
        let got = empty(device, &small);
        coalesce_as(Quantity::Gradients, device, &of_big, &got, &scheme, &rules).expect("admitted");
        let (want, got) = (all_values(device, &want), all_values(device, &got));
        for ((want, got), param) in want.iter().zip(&got).zip(&small.table().params) {
            let largest = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
            let error = want.iter().zip(got).map(|(w, g)| (w - g).abs()).fold(0.0, f64::max);
            assert!(error < 1e-12, "{depth:?}: {} is off by {error:e} of {largest:e}", param.name());
            assert!(
                largest > 1e-3,
                "{depth:?}: the gradient of {} is too small for this test ({largest:e})",
                param.name()
            );
        }
    }
}

#[test]
fn exact_rules_keep_the_function_and_paper_does_not() {
    let mut device = device::open("reference", 1).expect("a device");
    let (big, small) = (gpt(6, 6, 4), gpt(3, 2, 4));
    let scheme = Scheme {
        width_scheme: Some(vec![vec![0, 3, 4], vec![1, 2, 5]]),
        depth_scheme: Some(vec![vec![0, 4, 5], vec![1], vec![2, 3]]),
        head_size: Some(4),
    };
    let x = random(&mut *device, &small, 3);
    let want = logits(&mut *device, &small, &x);
    for rules in all_rules() {
        let grown = empty(&mut *device, &big);
        decoalesce(&mut *device, &x, &grown, &scheme, &rules).expect("admitted");
        let after = logits(&mut *device, &big, &grown);
        let change = want.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let keeps = rules.width == WidthRule::Exact && rules.depth == DepthRule::Identity;
        assert_eq!(change < 1e-12, keeps, "{rules:?} changes the logits by {change:e}");
    }
}

#[test]
fn split_is_the_euler_step_of_the_same_equation() {
    // For blocks with small output, two half steps differ from one whole step in second order.
    let change = |scale: f32| {
        let mut device = device::open("reference", 1).expect("a device");
        let (big, small) = (gpt(4, 2, 4), gpt(2, 2, 4));
        let x = random(&mut *device, &small, 5);
        for (i, param) in small.table().params.iter().enumerate() {
            if param.stem.contains("c_proj") {
                let values = x.read(&mut *device, i).expect("values");
                x.write(&mut *device, i, &values.iter().map(|v| v * scale).collect::<Vec<_>>()).expect("written");
            }
        }
        let grown = empty(&mut *device, &big);
        let rules = Rules { width: WidthRule::Exact, depth: DepthRule::Split, shares: Shares::Equal };
        decoalesce(&mut *device, &x, &grown, &Scheme::default(), &rules).expect("admitted");
        let (a, b) = (logits(&mut *device, &small, &x), logits(&mut *device, &big, &grown));
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let (coarse, fine) = (change(1e-2), change(1e-3));
    assert!(fine < coarse / 50.0, "with ten times smaller steps {coarse:e} became {fine:e}, not about a hundredth");
}

/// Returns the largest difference between the input weights of the two copies of a feed-forward unit.
fn distance_of_copies(device: &mut dyn Device, store: &Store, heads: usize) -> f64 {
    let table = &store.table;
    let number = table.find("transformer.h.{}.mlp.c_fc.weight", Some(0)).expect("a GPT has it");
    let values = device::read_floats(device, &store.tensor(number)).expect("values");
    let (rows, columns) = table.params[number].matrix();
    let half = columns / heads * (heads / 2);
    (0..rows)
        .flat_map(|r| (0..half).map(move |c| (r, c)))
        .map(|(r, c)| (values[r * columns + c] - values[r * columns + c + half]).abs())
        .fold(0.0, f64::max)
}

#[test]
fn random_shares_break_the_symmetry_and_equal_ones_keep_it() {
    for (shares, parts) in [(Shares::Equal, false), (Shares::Random { seed: 2 }, true)] {
        let mut device = device::open("cpu", 2).expect("a device");
        let (big, small) = (gpt(1, 4, 4), gpt(1, 2, 4));
        let x = random(&mut *device, &small, 9);
        let before = logits(&mut *device, &small, &x);
        let grown = empty(&mut *device, &big);
        let rules = Rules { width: WidthRule::Exact, depth: DepthRule::Copy, shares };
        decoalesce(&mut *device, &x, &grown, &Scheme::default(), &rules).expect("admitted");
        let after = logits(&mut *device, &big, &grown);
        let change = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(change < 1e-4, "{shares:?}: the logits changed by {change:e}");
        assert_eq!(distance_of_copies(&mut *device, &grown, 4), 0.0, "the copies must start equal");
        let optimizer = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }.clipped(1.0);
        let model = Box::new(gpt(1, 4, 4));
        let mut train_state =
            TrainState::new(&mut *device, model, grown, (2, TIME), optimizer, Options::default()).expect("memory");
        for step in 0..50i32 {
            let ids: Vec<i32> = (0..2 * TIME as i32).map(|i| (i * i + step * 5) % VOCAB as i32).collect();
            let labels: Vec<i32> = ids.iter().map(|id| (id * 3 + 1) % VOCAB as i32).collect();
            train_state.step_tokens(&mut *device, &ids, &labels, 1e-3).expect("a step");
        }
        let (_, trained) = train_state.finish(&mut *device);
        let apart = distance_of_copies(&mut *device, &trained, 4);
        // Copies are computed in different lanes and blocks of the matmuls, so they are equal up to rounding.
        if parts {
            assert!(apart > 1e-3, "random shares: copies are only {apart:e} apart");
        } else {
            assert!(apart < 1e-6, "equal shares: copies are {apart:e} apart");
        }
    }
}

#[test]
fn interpolation_mixes_and_needs_alpha_between_0_and_1() {
    let mut device = device::open("reference", 1).expect("a device");
    let (big, small) = (gpt(2, 2, 4), gpt(1, 1, 4));
    let (scheme, rules) = (Scheme::default(), Rules::default());
    let (m1, m2) = (random(&mut *device, &big, 1), random(&mut *device, &small, 2));
    let grown = empty(&mut *device, &big);
    decoalesce(&mut *device, &m2, &grown, &scheme, &rules).expect("admitted");
    let (a, b) = (all_values(&mut *device, &m1), all_values(&mut *device, &grown));
    for alpha in [0.0, 0.3, 1.0] {
        let mixed = random(&mut *device, &big, 1);
        interpolate(&mut *device, &mixed, &m2, alpha, &scheme, &rules).expect("admitted");
        let want: Vec<Vec<f64>> = a
            .iter()
            .zip(&b)
            .map(|(a, b)| a.iter().zip(b).map(|(a, b)| (1.0 - alpha) * a + alpha * b).collect())
            .collect();
        assert!(largest_difference(&want, &all_values(&mut *device, &mixed)) < 1e-14);
    }
    for alpha in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = interpolate(&mut *device, &m1, &m2, alpha, &scheme, &rules).expect_err("rejected");
        assert!(error.to_string().contains("alpha"), "{error}");
    }
}

#[test]
fn three_levels_round_trip() {
    let mut device = device::open("reference", 1).expect("a device");
    let models = [gpt(8, 4, 2), gpt(4, 2, 2), gpt(2, 1, 2)];
    let (scheme, rules) = (Scheme::default(), Rules::default());
    let smallest = random(&mut *device, &models[2], 4);
    let (middle, large) = (empty(&mut *device, &models[1]), empty(&mut *device, &models[0]));
    decoalesce(&mut *device, &smallest, &middle, &scheme, &rules).expect("up");
    decoalesce(&mut *device, &middle, &large, &scheme, &rules).expect("up again");
    let (down, bottom) = (empty(&mut *device, &models[1]), empty(&mut *device, &models[2]));
    coalesce(&mut *device, &large, &down, &scheme, &rules).expect("down");
    coalesce(&mut *device, &down, &bottom, &scheme, &rules).expect("down again");
    let (want, got) = (all_values(&mut *device, &smallest), all_values(&mut *device, &bottom));
    assert!(largest_difference(&want, &got) < 1e-13);
}

#[test]
fn schemes_that_do_not_fit_are_rejected_with_the_reason() {
    let shape = |layers, heads| ModelShape { layers, heads, head_size: 4 };
    let groups = |g: &[&[usize]]| Some(g.iter().map(|g| g.to_vec()).collect::<Vec<_>>());
    let width = |g: &[&[usize]]| Scheme { width_scheme: groups(g), ..Scheme::default() };
    let depth = |g: &[&[usize]]| Scheme { depth_scheme: groups(g), ..Scheme::default() };
    let (big, small) = (shape(4, 4), shape(2, 2));
    for (scheme, small, expected) in [
        (width(&[&[0, 1], &[2]]), small, "3 is in no group"),
        (width(&[&[0, 1], &[1, 2, 3]]), small, "1 is in group 0 and in group 1"),
        (width(&[&[0, 1], &[2, 4]]), small, "the heads are 0 to 3"),
        (width(&[&[0, 1, 2, 3], &[]]), small, "group 1 is empty"),
        (width(&[&[0, 1, 2, 3]]), small, "1 groups, but the smaller model has 2 heads"),
        (width(&[&[1], &[0], &[2], &[3]]), shape(2, 4), "only reorder"),
        (depth(&[&[0, 1], &[2]]), small, "3 is in no group"),
        (depth(&[&[0], &[1, 2, 3], &[9]]), small, "the layers are 0 to 3"),
        (Scheme::default(), shape(3, 2), "cannot be divided into 3 equal groups"),
        (Scheme::default(), shape(8, 2), "swap the models"),
        (Scheme { head_size: Some(8), ..Scheme::default() }, small, "the scheme says 8"),
        (Scheme::default(), ModelShape { head_size: 8, ..small }, "must have the same head size"),
    ] {
        let error = scheme.resolve(big, small).expect_err("rejected").to_string();
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    }
    let uneven = width(&[&[0, 1, 2], &[3]]).resolve(big, small).expect("a scheme");
    let exact = Rules { width: WidthRule::Exact, ..Rules::default() };
    let table = gpt(4, 4, 2).table().clone();
    assert!(exact.admit(&uneven, &table).expect_err("rejected").to_string().contains("LayerNorm"));
    let crossed = depth(&[&[1, 2], &[0, 3]]).resolve(big, small).expect("a scheme");
    let identity = Rules { depth: DepthRule::Identity, ..Rules::default() };
    assert!(identity.admit(&crossed, &table).expect_err("rejected").to_string().contains("ascending order"));
    assert!(Rules::default().admit(&crossed, &table).is_ok() && Rules::default().admit(&uneven, &table).is_ok());
}
