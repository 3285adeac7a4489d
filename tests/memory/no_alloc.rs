//! From the third step on, training allocates nothing on any thread.
//!
//! One exception: on a busy machine a worker thread may start only then, and the standard library allocates once for
//! its stack guard before any of our code runs.

#[path = "../model/gradients/stack.rs"]
mod stack;
#[path = "../kernels/support.rs"]
mod support;

use super::allocator::allocations;
use stack::Stack;
use std::cell::Cell;
use std::path::Path;
use std::sync::{Arc, Barrier};
use support::{Random, floats, integers, state};
use vcycle::data::images::shard::ImageWriter;
use vcycle::data::images::{ImageBatch, ImageSampler, Images, PatchShape, ViewConfig};
use vcycle::data::loader::batch::{Field, NextToken, Source};
use vcycle::data::loader::prefetch::Prefetch;
use vcycle::data::tokens::Tokens;
use vcycle::data::tokens::sampler::Sampler;
use vcycle::data::tokens::shard::{Shard, write_shard};
use vcycle::device::cpu::Cpu;
use vcycle::device::ops::{ALIGN, AdamW, GlobalNorm, StepState};
use vcycle::device::{Device, Graph, alloc_tensor, read_scalar};
use vcycle::error::Result;
use vcycle::families;
use vcycle::families::Dataset;
use vcycle::families::deit::{ImageClasses, ImageData};
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::optim;
use vcycle::tape::{Mode, Tape, Var};
use vcycle::tensor::{DType, Tensor};
use vcycle::train::state::{Options, TrainState};

/// A small transformer that trains on two threads, without a `TrainState`.
struct Training {
    stack: Stack,
    device: Cpu,
    tape: Tape,
    params: Vec<(Tensor, Tensor)>,
    vars: Vec<Var>,
    ids: Tensor,
    labels: Tensor,
    state: Tensor,
    update: Graph,
    steps: i32,
}

impl Training {
    fn new(stack: Stack) -> Self {
        let (mut device, mut random) = (Cpu::new(2), Random::new(1));
        let shapes = stack.params();
        let aligned = |dims: &Vec<usize>| dims.iter().product::<usize>().next_multiple_of(ALIGN);
        let total: usize = shapes.iter().map(aligned).sum();
        let values: Vec<f64> = random.floats(total).iter().map(|x| 0.2 * x).collect();
        let [params, grads, m, v] = [values, vec![0.0; total], vec![0.0; total], vec![0.0; total]]
            .map(|values| floats(&mut device, &[total], &values));
        let mut offset = 0;
        let views = shapes.iter().map(|dims| {
            let view = |of: Tensor| Tensor::new(of.place(), of.dtype(), offset, dims);
            let pair = (view(params), view(grads));
            offset += aligned(dims);
            pair
        });
        let views = views.collect();
        let state = state(&mut device, &StepState::default());
        let mut scalars = |dtype: DType, n: usize| alloc_tensor(&mut device, dtype, &[n]).expect("memory");
        let (partials, norm) = (scalars(DType::F32, GlobalNorm::partials(total)), scalars(DType::F32, 1));
        let decay_mask = scalars(DType::U8, total / ALIGN);
        let (beta1, beta2, eps, weight_decay, max_norm) = (0.9, 0.99, 1e-8, 0.0, 1.0);
        let norm_op = GlobalNorm { x: grads, partials, norm };
        let adamw = AdamW {
            params,
            grads,
            m,
            v,
            copy: None,
            decay_mask,
            norm,
            state,
            beta1,
            beta2,
            eps,
            weight_decay,
            max_norm,
        };
        let update = device.capture(&[norm_op.into(), adamw.into()]).expect("an update");
        let dims = [4, stack.time];
        let n = dims.iter().product();
        let [ids, labels] = [0; 2].map(|_| integers(&mut device, &dims, &random.ids(n, stack.vocab)));
        let tape = Tape::new(device.float(), state);
        Training { stack, device, tape, params: views, vars: Vec::new(), ids, labels, state, update, steps: 0 }
    }

    fn step(&mut self) -> f64 {
        self.steps += 1;
        let (bias1, bias2) = (1.0 - 0.9f32.powi(self.steps), 1.0 - 0.99f32.powi(self.steps));
        let state = StepState { step: self.steps as u32, lr: 1e-2, bias1, bias2, ..StepState::with_seed(7) };
        self.device.write(&self.state, bytemuck::bytes_of(&state)).expect("a state");
        self.tape.begin(Mode::Train { accumulate: false });
        self.vars.clear();
        for (value, gradient) in &self.params {
            self.vars.push(self.tape.param(*value, *gradient));
        }
        let (ids, labels) = (self.tape.input(self.ids), self.tape.input(self.labels));
        let loss = self.stack.loss(&mut self.tape, &self.vars, ids, labels, &|_, _| {});
        self.tape.backward(&[loss]);
        self.tape.run(&mut self.device).expect("a step");
        self.device.replay(self.update).expect("an update");
        read_scalar(&mut self.device, &self.tape.value(loss).expect("a loss")).expect("a loss")
    }
}

/// Asserts that three calls of `step` allocate nothing, neither in our code nor in libraries.
fn assert_none(what: &str, mut step: impl FnMut()) {
    let (all, first) = allocations(|| (0..3).for_each(|_| step()));
    assert_eq!(all, 0, "{what}: allocations; the first one is at\n{first}");
}

/// Trains a GPT as `vcycle train` does: a `TrainState` on batches of a token shard that a thread prefetches.
fn gpt_steps(recompute: bool) {
    let (batch, time, vocab) = (3, 17, 61);
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("tokens.bin");
    let tokens: Vec<u32> = (0..2000u32).map(|i| i * i % vocab as u32).collect();
    write_shard(&path, &tokens, vocab).expect("a shard");
    let tokens = Arc::new(Tokens::from(Shard::open(&path).expect("a shard")));
    let sampler = Sampler { seed: 1, rank: 0, world: 1 };
    let windows = NextToken { train: Arc::clone(&tokens), valid: tokens, sampler, context: time };
    let mut batches = Prefetch::new(Arc::new(windows), batch, 0, 1).expect("a thread");
    let gpt = Gpt::new(GptConfig {
        vocab,
        context: time,
        width: 36,
        heads: 3,
        layers: 2,
        ffn: 144,
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
    let mut device = Cpu::new(2);
    let params = Store::new(gpt.table().clone(), &mut device).expect("memory");
    params.initialise(&mut device, 1).expect("written");
    let optimizer = optim::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }.clipped(1.0);
    let options = Options { seed: 1, recompute, ..Options::default() };
    let mut train_state =
        TrainState::new(&mut device, Box::new(gpt), params, (batch, time), optimizer, options).expect("memory");
    let mut number = 0;
    let mut step = || {
        let fields = batches.next(number).expect("a batch");
        train_state.step(&mut device, fields, 1e-3).expect("a step");
        number += 1;
    };
    (0..2).for_each(|_| step());
    assert_none("GPT", step);
}

fn images(path: &Path) -> Images {
    let mut writer = ImageWriter::create(path, [3, 20, 24]).expect("a file");
    (0..50).for_each(|i| writer.push(&[5 * i as u8; 3 * 20 * 24], i % 2).expect("an image"));
    writer.commit(&["even".to_owned(), "odd".to_owned()]).expect("a shard");
    Images::open(path).expect("images")
}

/// All augmentations and both kinds of mixing. Some first occur after the second batch.
const CHANGES: &str = "padding = 2\nflip = 0.5\n[resized_crop]\n[randaugment]\n[mixing]\nmixup = 0.8\ncutmix = 1.0";

/// Makes image batches on the calling thread.
fn image_batches() {
    let dir = tempfile::tempdir().expect("a folder");
    let images = images(&dir.path().join("a.images"));
    let config = toml::from_str(CHANGES).expect("a configuration");
    let shape = PatchShape { image: 16, patch: 4, channels: 3, specials: 2 };
    let sampler = ImageSampler::new(1, [0, 1], shape, &config, &ViewConfig::default()).expect("a sampler");
    let (mut patches, mut share) = ([0.0; 4].repeat(shape.elements()), [0.0; 4]);
    let (mut labels, mut others) = ([0; 4], [0; 4]);
    let mut number = 0;
    let mut step = || {
        let fields = ImageBatch { patches: &mut patches, labels: &mut labels, others: &mut others, share: &mut share };
        sampler.training_batch(&images, number, fields).expect("a batch");
        number += 1;
    };
    (0..2).for_each(|_| step());
    assert_none("images", || (0..30).for_each(|_| step()));
}

/// Wraps a source so that each worker's first part of a batch waits until all workers have started one.
struct StartTogether {
    source: Arc<dyn Source>,
    begun: Barrier,
}

thread_local! {
    static BEGUN: Cell<bool> = const { Cell::new(false) };
}

impl Source for StartTogether {
    fn allocate(&self, rows: usize) -> Result<Vec<Field>> {
        self.source.allocate(rows)
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        self.source.training_batch(step, fields)
    }

    fn chunk_rows(&self) -> Option<usize> {
        self.source.chunk_rows()
    }

    fn training_rows(&self, step: u64, batch: usize, first: usize, fields: &mut [Field]) -> Result<()> {
        if !BEGUN.replace(true) {
            self.begun.wait();
        }
        self.source.training_rows(step, batch, first, fields)
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        self.source.held_out_batch(index, fields)
    }
}

/// Makes image batches with several workers, as `vcycle train` does.
fn image_workers() {
    let dir = tempfile::tempdir().expect("a folder");
    let images = Arc::new(images(&dir.path().join("a.images")));
    let config = format!(
        "[model]\nfamily = 'deit'\nlayers = 1\nheads = 1\nhead_size = 8\nimage = 16\npatch = 4\n\
         [data.images]\ntrain = {{ files = {{ format = 'csv', file = 'none.csv' }} }}\n\
         [augment]\n{}\n[train]\nbatch = 4\neval_every = 1\n[[levels]]\ntrain = {{ steps = 1, lr = 1e-3 }}",
        CHANGES.replace('[', "[augment.")
    );
    let config = families::parse(&config, &[]).expect("a configuration");
    let classes = ImageClasses::of(&images);
    let data = ImageData { train: Arc::clone(&images), valid: images, classes };
    let source = data.source(&config).expect("a source");
    let workers = 3;
    let together = StartTogether { source, begun: Barrier::new(workers) };
    let mut batches = Prefetch::new(Arc::new(together), 27, 0, workers).expect("threads");
    let mut number = 0;
    let mut step = || {
        batches.next(number).expect("a batch");
        number += 1;
    };
    // More batches than were queued ahead when each worker made its first part.
    (0..6).for_each(|_| step());
    assert_none("workers", || (0..30).for_each(|_| step()));
}

pub fn steps_allocate_nothing() {
    gpt_steps(false);
    gpt_steps(true);
    image_batches();
    image_workers();
    for segments in [false, true] {
        let stack = Stack { layers: 2, heads: 3, width: 48, vocab: 101, time: 33, dropout: 0.1, segments };
        let mut training = Training::new(stack);
        let first = training.step();
        training.step();
        assert_none("stack", || {
            training.step();
        });
        let last = (0..20).map(|_| training.step()).last().expect("a step");
        assert!(last < 0.9 * first, "the loss did not fall by 10 %: it went from {first} to {last}");
    }
    // Check the counter itself.
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0u8; 100]))).0, 1);
}
