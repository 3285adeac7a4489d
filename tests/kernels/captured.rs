//! A captured step and the same operations run one by one give the same bits: losses, gradient norms and all
//! parameters.

use vcycle::config::Precision;
use vcycle::data::loader::batch::Field;
use vcycle::device::cuda;
use vcycle::device::cuda::driver::emulator::Options as Schedule;
use vcycle::device::{Device, read_f32};
use vcycle::eval::held_out::Means;
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::optim::AdamW;
use vcycle::train::state::{Options, StepReport, TrainState};

/// Runs three steps of two micro-batches each and an evaluation. Returns the reports of the steps, the loss of the
/// evaluation and all parameters.
fn train(graphs: bool, precision: Precision) -> (Vec<StepReport>, f64, Vec<f32>) {
    let mut device = cuda::emulated(Schedule::default());
    device.use_graphs(graphs);
    let gpt = Gpt::new(GptConfig {
        vocab: 50,
        context: 16,
        width: 32,
        heads: 2,
        layers: 2,
        ffn: 64,
        eps: 1e-5,
        init_std: 0.1,
        dropout_embedding: 0.1,
        dropout_attention: 0.1,
        dropout_residual: 0.1,
        bos: None,
        eos: None,
        tied: true,
    })
    .expect("sizes that fit");
    let params = Store::new(gpt.table().clone(), &mut device).expect("memory");
    params.initialise(&mut device, 5).expect("written");
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }.clipped(1.0);
    let options = Options { seed: 3, precision, ..Options::default() };
    let mut state = TrainState::new(&mut device, Box::new(gpt), params, (2, 16), optimizer, options).expect("memory");
    let tokens = |step: i32| (0..64).map(|i| (i * 7 + step * 13 + i * i) % 50).collect::<Vec<i32>>();
    let reports = (0..3).map(|step| {
        let (ids, labels) = (tokens(step), tokens(step + 1));
        state.step_tokens(&mut device, &ids, &labels, 1e-2).expect("a step")
    });
    let reports = reports.collect();
    let fields = [Field::Ints(tokens(9)[..32].to_vec()), Field::Ints(tokens(10)[..32].to_vec())];
    let mut means = Means::default();
    state.evaluate(&mut device, &fields, &mut means).expect("a loss");
    let loss = means.loss();
    let device: &mut dyn Device = &mut device;
    (reports, loss, read_f32(device, &state.params.flat()).expect("parameters"))
}

#[test]
fn captured_and_single_operations_give_the_same_bits() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (captured, single) = (train(true, precision), train(false, precision));
        assert_eq!(captured.0, single.0, "{precision:?}");
        assert_eq!(captured.1.to_bits(), single.1.to_bits(), "{precision:?}");
        let bits = |params: &[f32]| params.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&captured.2), bits(&single.2), "{precision:?}");
        assert!(
            captured.0.windows(2).all(|pair| pair[0].loss != pair[1].loss),
            "the loss must change from step to step"
        );
    }
}
