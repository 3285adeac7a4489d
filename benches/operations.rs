//! `cargo bench`: operations, a training step and the multi-level operators on the cpu device, against the last run.
//!
//! Quick by default: small shapes, about a second for each benchmark. `cargo bench -- gemm` runs some of them.
//! `vcycle bench` measures one shape in depth, beside the roofline and peers.

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;
use vcycle::bench::cases;
use vcycle::bench::inputs::OperandAllocator;
use vcycle::bench::shapes::Subject;
use vcycle::bench::workload::Workload;
use vcycle::device;
use vcycle::model::store::Store;
use vcycle::optim::AdamW;
use vcycle::tensor::DType;
use vcycle::train::state::{Options, TrainState};

/// What is measured, and at which sizes.
const OPERATIONS: [(Subject, &str); 6] = [
    (Subject::Gemm, "256x512x256"),
    (Subject::Attention, "2x4x128x32"),
    (Subject::LayerNorm, "512x256"),
    (Subject::CrossEntropy, "256x4096"),
    (Subject::AdamW, "1048576"),
    (Subject::Multilevel, "2,4,64,64,512"),
];

fn operations(criterion: &mut Criterion) {
    for (subject, sizes) in OPERATIONS {
        let mut group = criterion.benchmark_group(format!("{}/{sizes}", subject.name()));
        for shape in subject.shapes(Some(sizes)).expect("sizes of the subject") {
            for case in cases::of(subject, &shape) {
                let mut cpu = device::open("cpu", 0).expect("the cpu device");
                let prepared = (case.build)(&mut OperandAllocator::new(&mut *cpu, DType::F32)).expect("operands");
                group.bench_function(case.name, |bencher| {
                    bencher.iter(|| {
                        prepared.before.iter().for_each(|op| cpu.run(op).expect("an operation"));
                        cpu.run(&prepared.op).expect("an operation");
                    });
                });
            }
        }
        group.finish();
    }
}

fn step(criterion: &mut Criterion) {
    for shape in Subject::Step.shapes(Some("4,4,128,64,8,65")).expect("sizes of a step") {
        let mut cpu = device::open("cpu", 0).expect("the cpu device");
        let workload = Workload::new(&shape).expect("a workload");
        let mut batches = workload.batches().expect("batches");
        let params = Store::new(workload.model.table().clone(), &mut *cpu).expect("memory");
        params.initialise(&mut *cpu, 1).expect("initial weights");
        let (optimizer, options) = (AdamW::default().clipped(1.0), Options::default());
        let mut state =
            TrainState::new(&mut *cpu, workload.model, params, workload.shape, optimizer, options).expect("memory");
        criterion.bench_function(&format!("step/{}", shape.name), |bencher| {
            bencher.iter(|| state.step(&mut *cpu, batches.renew(), 1e-4).expect("a step"));
        });
    }
}

criterion_group! {
    name = quick;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    targets = operations, step
}
criterion_main!(quick);
