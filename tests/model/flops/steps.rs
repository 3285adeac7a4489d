//! The FLOPs of one training step of each family, term by term.
//!
//! Letters: B examples, T tokens per example, C width, H heads of size D, F inner size of the feed-forward block, L
//! layers, V vocabulary, E elements of the parameters, padding included.

use vcycle::config::Config;
use vcycle::data::loader::batch::Field;
use vcycle::device::cpu::Cpu;
use vcycle::eval::held_out::Means;
use vcycle::families;
use vcycle::model::bert::{Bert, BertConfig, BertHead, Norm};
use vcycle::model::deit::{Deit, DeitConfig, Distillation};
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::model::{BatchShape, Model};
use vcycle::multilevel::{Quantity, coalesce, interpolate, interpolate_as};
use vcycle::optim::AdamW;
use vcycle::train::state::{Options, StepFlops, TrainState};

const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };

/// Returns the FLOPs that [`TrainState`] counts for one step of `micro` micro-batches, and for evaluating one
/// micro-batch.
fn counted(model: impl Model + 'static, shape: BatchShape, micro: usize, recompute: bool) -> (StepFlops, u64) {
    let device = &mut Cpu::new(1);
    let params = Store::new(model.table().clone(), device).expect("memory");
    params.initialise(device, 1).expect("written");
    let fields = |count: usize| {
        let of = |input: &vcycle::model::Input| {
            let numbers = count * input.numel();
            match input.content {
                vcycle::model::Content::Fixed(_) => None,
                vcycle::model::Content::Ints => Some(Field::Ints(vec![1; numbers])),
                _ => Some(Field::Floats(vec![0.5; numbers])),
            }
        };
        model.inputs(shape).iter().filter_map(of).collect::<Vec<_>>()
    };
    let (batch, one) = (fields(micro), fields(1));
    let options = Options { recompute, ..Options::default() };
    let mut train_state =
        TrainState::new(device, Box::new(model), params, shape, ADAMW.clipped(1.0), options).expect("memory");
    train_state.step(device, &batch, 1e-3).expect("a step");
    train_state.evaluate(device, &one, &mut Means::default()).expect("an evaluation");
    (train_state.step_flops(), train_state.evaluation_flops())
}

/// The sizes of the layers and their input.
#[derive(Clone, Copy)]
pub struct Layers {
    pub b: u64,
    pub t: u64,
    pub c: u64,
    pub h: u64,
    pub f: u64,
    pub l: u64,
    /// Whether a token only sees itself and the tokens before it.
    pub causal: bool,
}

impl Layers {
    /// Returns the number of pairs of a query and a visible key.
    fn pairs(&self) -> u64 {
        let visible = if self.causal { self.t * (self.t + 1) / 2 } else { self.t * self.t };
        self.b * self.h * visible
    }

    /// Returns the FLOPs of one layer forward, without its last matmul.
    fn all_but_last_matmul(&self) -> u64 {
        let &Layers { b, t, c, h, f, .. } = self;
        let n = b * t;
        7 * n * c // the first norm
            + 2 * n * c * 3 * c // queries, keys and values
            + self.pairs() * (4 * (c / h) + 5) // attention
            + 2 * n * c * c // its output projection
            + 7 * n * c // the second norm
            + 2 * n * c * f + 10 * n * f // the first matmul of the feed-forward block, and its GELU
    }

    /// Returns the FLOPs of the last matmul of a layer.
    fn last_matmul(&self) -> u64 {
        2 * self.b * self.t * self.f * self.c
    }

    /// Returns the FLOPs of all layers forward.
    pub fn forward(&self) -> u64 {
        self.l * (self.all_but_last_matmul() + self.last_matmul())
    }

    /// Returns the FLOPs of all layers backward. Each matmul has two backward matmuls of the same size, for its input
    /// and its weight.
    fn backward(&self) -> u64 {
        let &Layers { b, t, c, h, f, l, .. } = self;
        let n = b * t;
        let each = n * c + 2 * 2 * n * f * c // the last matmul: bias, weight and input
            + 10 * n * f // through the GELU
            + n * f + 2 * 2 * n * c * f // the first matmul
            + 14 * n * c // the second norm
            + n * c + 2 * 2 * n * c * c // the output projection of attention
            + self.pairs() * (8 * (c / h) + 8) // attention
            + n * 3 * c + 2 * 2 * n * c * 3 * c // queries, keys and values
            + 14 * n * c; // the first norm
        l * each
    }
}

/// Returns the FLOPs of the gradient norm and AdamW.
pub fn update(e: u64) -> u64 {
    2 * e + 14 * e
}

/// Returns the elements that a parameter takes in memory: parameters begin at multiples of 64 elements.
fn slot(elements: u64) -> u64 {
    elements.next_multiple_of(64)
}

/// Returns the elements of the 12 parameters of a layer. Every width here is a multiple of 8, so that rows are not
/// padded.
fn layer_elements(c: u64, f: u64) -> u64 {
    let norms = 4 * slot(c);
    let attention = slot(c * 3 * c) + slot(3 * c) + slot(c * c) + slot(c);
    norms + attention + slot(c * f) + slot(f) + slot(f * c) + slot(c)
}

/// The FLOPs and elements of a GPT.
#[derive(Clone, Copy)]
pub struct GptStep {
    pub layers: Layers,
    pub v: u64,
    pub tied: bool,
}

impl GptStep {
    pub fn elements(&self) -> u64 {
        let Layers { t, c, f, l, .. } = self.layers;
        // The rows of a vocabulary are padded to a multiple of 128.
        let words = slot(self.v.next_multiple_of(128) * c);
        let head = if self.tied { 0 } else { words };
        words + slot(t * c) + l * layer_elements(c, f) + 2 * slot(c) + head
    }

    /// Returns the FLOPs of evaluating one micro-batch.
    pub fn evaluation(&self) -> u64 {
        let Layers { b, t, c, .. } = self.layers;
        let n = b * t;
        n * c // a position is added to each embedding
            + self.layers.forward()
            + 7 * n * c // the last norm
            + 2 * n * c * self.v // logits
            + 4 * n * self.v // softmax and loss
    }

    /// Returns the FLOPs of one micro-batch forward and backward.
    pub fn gradients(&self) -> u64 {
        let Layers { b, t, c, .. } = self.layers;
        let n = b * t;
        self.evaluation() + 2 * n * self.v // the gradient of the logits
            + 2 * 2 * n * c * self.v // the gradients of the head and its input
            + 14 * n * c // the last norm
            + self.layers.backward()
            + 2 * n * c // adding to the gradients of embeddings and positions
    }

    pub fn step(&self) -> u64 {
        self.gradients() + update(self.elements())
    }

    /// Returns the FLOPs that recomputation adds: each layer forward once more, without its last matmul. The backward
    /// pass does not recompute the output of a layer, which was saved as the input of the next layer. It needs the
    /// first matmul of the feed-forward block, because the derivative of the GELU is evaluated at its result.
    pub fn recomputed(&self) -> u64 {
        self.layers.l * self.layers.all_but_last_matmul()
    }
}

fn gpt(step: &GptStep, dropout: f32) -> Gpt {
    let Layers { t, c, h, f, l, .. } = step.layers;
    let [vocab, context, width, heads, ffn, layers] = [step.v, t, c, h, f, l].map(|size| size as usize);
    Gpt::new(GptConfig {
        vocab,
        context,
        width,
        heads,
        layers,
        ffn,
        eps: 1e-5,
        init_std: 0.02,
        dropout_embedding: dropout,
        dropout_attention: dropout,
        dropout_residual: dropout,
        bos: None,
        eos: None,
        tied: step.tied,
    })
    .expect("sizes that fit")
}

/// Two sets of sizes in which all numbers differ, each with a tied and an untied head.
fn gpts() -> [GptStep; 4] {
    let small = Layers { b: 3, t: 7, c: 24, h: 2, f: 40, l: 5, causal: true };
    let other = Layers { b: 5, t: 11, c: 8, h: 4, f: 56, l: 2, causal: true };
    [(small, 37, true), (small, 37, false), (other, 130, true), (other, 130, false)].map(|(layers, v, tied)| GptStep {
        layers,
        v,
        tied,
    })
}

fn shape(layers: &Layers, scored: u64) -> BatchShape {
    BatchShape { batch: layers.b as usize, time: layers.t as usize, scored: scored as usize }
}

#[test]
fn a_step_of_gpt() {
    for step in gpts() {
        let (flops, evaluation) = counted(gpt(&step, 0.0), shape(&step.layers, 0), 1, false);
        let model = step.step();
        assert_eq!(flops, StepFlops { model, hardware: model });
        assert_eq!(evaluation, step.evaluation());
        // Dropout on the embeddings counts forward and backward (2), on each branch forward with the residual sum (2)
        // and backward (1). Dropout in attention is included in attention. An evaluation has no dropout.
        let Layers { b, t, c, l, .. } = step.layers;
        let dropped = b * t * c * (2 + l * 2 * (2 + 1));
        let (flops, evaluation) = counted(gpt(&step, 0.1), shape(&step.layers, 0), 1, false);
        assert_eq!((flops.model, evaluation), (model + dropped, step.evaluation()));
    }
}

/// A step has one forward and backward pass per micro-batch, and one update. Accumulating gradients adds no FLOPs.
#[test]
fn a_step_in_micro_batches() {
    for step in gpts() {
        for micro in [2, 3] {
            let (flops, _) = counted(gpt(&step, 0.0), shape(&step.layers, 0), micro, false);
            let model = micro as u64 * step.gradients() + update(step.elements());
            assert_eq!(flops, StepFlops { model, hardware: model }, "{micro} micro-batches");
        }
    }
}

#[test]
fn recomputation_only_counts_as_hardware_flops() {
    for step in gpts() {
        for micro in [1, 2] {
            let (flops, evaluation) = counted(gpt(&step, 0.0), shape(&step.layers, 0), micro, true);
            let model = micro as u64 * step.gradients() + update(step.elements());
            assert_eq!(flops, StepFlops { model, hardware: model + micro as u64 * step.recomputed() });
            assert_eq!(evaluation, step.evaluation(), "an evaluation recomputes nothing");
        }
    }
}

/// Sizes for BERT, where every token sees all tokens.
const BERT: Layers = Layers { b: 3, t: 10, c: 24, h: 2, f: 40, l: 5, causal: false };

fn bert(layers: &Layers, v: u64, head: BertHead) -> Bert {
    let [vocab, context, width, heads, ffn, count] =
        [v, layers.t, layers.c, layers.h, layers.f, layers.l].map(|size| size as usize);
    Bert::new(BertConfig {
        vocab,
        context,
        types: 2,
        width,
        heads,
        layers: count,
        ffn,
        eps: 1e-12,
        init_std: 0.02,
        dropout_hidden: 0.0,
        dropout_attention: 0.0,
        pad: 0,
        norm: Norm::Post,
        head,
    })
    .expect("sizes that fit")
}

/// The FLOPs of a part of a model: forward, and what training adds; then its elements.
type Part = (u64, u64, u64);

/// Word, position and type embeddings, and their norm.
fn bert_embeddings(&Layers { b, t, c, .. }: &Layers, v: u64) -> Part {
    let n = b * t;
    let forward = n * c + n * c + 7 * n * c; // positions, types, the norm
    let backward = 14 * n * c + n * c + 2 * n * c; // the norm, types, words with positions
    (forward, backward, slot(v.next_multiple_of(128) * c) + slot(t * c) + slot(2 * c) + 2 * slot(c))
}

/// The head that predicts `s` masked tokens of each sequence.
fn masked(&Layers { b, c, .. }: &Layers, v: u64, s: u64) -> Part {
    let n = b * s;
    let forward = 2 * n * c * c + 10 * n * c // the square matmul, and its GELU
        + 7 * n * c // the norm
        + 2 * n * c * v + 4 * n * v; // logits and loss
    let backward = 2 * n * v // the gradient of the logits
        + n * v + 2 * 2 * n * c * v // their bias, weight, input
        + 14 * n * c // the norm
        + 10 * n * c // the GELU, not fused into a matmul since a norm follows it
        + n * c + 2 * 2 * n * c * c // the square matmul
        + n * c; // scattering to the gathered rows
    (forward, backward, slot(v) + slot(c * c) + slot(c) + 2 * slot(c))
}

/// The head with `k` classes on the pooled first token; with one class, the loss is the squared error.
fn classes(&Layers { b, c, .. }: &Layers, k: u64) -> Part {
    let (loss, gradient) = if k == 1 { (3 * b, b) } else { (4 * b * k, 2 * b * k) };
    let forward = 2 * b * c * c + 10 * b * c // the pooler, and its tanh
        + 2 * b * c * k + loss;
    let backward = gradient
        + b * k + 2 * 2 * b * c * k // the classes
        + 10 * b * c // through the tanh
        + b * c + 2 * 2 * b * c * c // the pooler
        + b * c; // scattering to the gathered rows
    (forward, backward, slot(c * c) + slot(c) + slot(k * c) + slot(k))
}

/// Returns the FLOPs forward, the FLOPs forward and backward, and the elements of a model with these parts and layers.
fn sum(parts: &[Part], layers: &Layers) -> (u64, u64, u64) {
    let forward = layers.forward() + parts.iter().map(|part| part.0).sum::<u64>();
    let gradients = forward + layers.backward() + parts.iter().map(|part| part.1).sum::<u64>();
    let elements = layers.l * layer_elements(layers.c, layers.f) + parts.iter().map(|part| part.2).sum::<u64>();
    (forward, gradients, elements)
}

#[test]
fn a_step_of_bert() {
    let other = Layers { b: 2, t: 13, c: 40, h: 5, f: 80, l: 3, causal: false };
    for (layers, v, s) in [(BERT, 37, 4), (other, 150, 7)] {
        let (text, words, pair) = (bert_embeddings(&layers, v), masked(&layers, v, s), classes(&layers, 2));
        for (head, parts) in [
            (BertHead::Masked, vec![text, words]),
            (BertHead::Pretraining, vec![text, words, pair]),
            (BertHead::Classify { labels: 3 }, vec![text, classes(&layers, 3)]),
            (BertHead::Classify { labels: 1 }, vec![text, classes(&layers, 1)]),
        ] {
            let (forward, gradients, elements) = sum(&parts, &layers);
            assert_eq!(bert(&layers, v, head).table().elements() as u64, elements, "{head:?}");
            for (micro, recompute) in [(1, false), (3, false), (2, true)] {
                let (flops, evaluation) = counted(bert(&layers, v, head), shape(&layers, s), micro, recompute);
                let model = micro as u64 * gradients + update(elements);
                // A layer ends with a post-norm, whose backward pass needs the result of the last matmul, so the whole
                // layer is recomputed.
                let again = if recompute { micro as u64 * layers.forward() } else { 0 };
                assert_eq!(flops, StepFlops { model, hardware: model + again }, "{head:?}");
                assert_eq!(evaluation, forward, "{head:?}");
            }
        }
    }
}

fn deit(distillation: Distillation, sizes: [usize; 8], drop_path: f32) -> Deit {
    let [image, patch, channels, classes, width, heads, layers, ffn] = sizes;
    Deit::new(DeitConfig {
        image,
        patch,
        channels,
        classes,
        width,
        heads,
        layers,
        ffn,
        eps: 1e-6,
        init_std: 0.02,
        distillation,
        dropout: 0.0,
        drop_path,
    })
    .expect("sizes that fit")
}

#[test]
fn a_step_of_deit() {
    for (sizes, b) in [([6, 2, 5, 11, 24, 4, 3, 40], 7), ([12, 4, 1, 3, 16, 2, 5, 48], 6u64)] {
        let [image, patch, channels, k, c, h, l, f] = sizes.map(|size| size as u64);
        // Pixel values per patch, and patches.
        let (pixels, patches) = (channels * patch * patch, (image / patch) * (image / patch));
        for (distillation, specials, heads) in
            [(Distillation::None, 1, 1), (Distillation::Token, 2, 1), (Distillation::Head, 2, 2)]
        {
            let layers = Layers { b, t: specials + patches, c, h, f, l, causal: false };
            let n = b * layers.t;
            // Positions are added to special tokens and biases. Special tokens are rows of zeros in the matmul of the
            // patches.
            let tokens: Part = (
                n * c + 2 * n * pixels * c,
                2 * n * pixels * c + 2 * n * c, // pixels have no gradient
                slot((1 + specials) * c) + slot(layers.t * c) + slot(c * pixels.next_multiple_of(8)),
            );
            let norm: Part = (7 * n * c, 14 * n * c, 2 * slot(c));
            // Each head reads one row of each image; the gradient is added to that row.
            let head: Part =
                (2 * b * c * k + 4 * b * k, 2 * b * k + b * k + 2 * 2 * b * c * k + b * c, slot(k * c) + slot(k));
            let parts = [&[tokens, norm][..], &vec![head; heads]].concat();
            let (forward, gradients, elements) = sum(&parts, &layers);
            let model = gradients + update(elements);
            let of =
                |micro, recompute, path| counted(deit(distillation, sizes, path), shape(&layers, 0), micro, recompute);
            let (flops, evaluation) = of(1, false, 0.0);
            assert_eq!((flops, evaluation), (StepFlops { model, hardware: model }, forward), "{distillation:?}");
            let twice = 2 * gradients + update(elements);
            let hardware = twice + 2 * l * layers.all_but_last_matmul();
            assert_eq!(of(2, true, 0.0).0, StepFlops { model: twice, hardware }, "{distillation:?}");
            // Stochastic depth: two branches of every layer except the first, forward with the residual sum (2) and
            // backward (1).
            assert_eq!(of(1, false, 0.1).0.model, model + (l - 1) * 2 * 3 * n * c);
        }
    }
}

/// The FLOPs of configs/gpt-sotu.toml that the README and docs/results.md report.
#[test]
fn the_run_of_the_readme() {
    let config = Config::read("configs/gpt-sotu.toml".as_ref(), &[]).expect("a configuration");
    let all = families::build(&config, 512).expect("levels");
    // 512 + 128 embeddings, four layers of 12 C^2 + 13 C, the last norm. Padding: every vector of 48 is padded to 64,
    // and one of 144 to 192, which makes 144 elements per layer and 32 for the last norm.
    let parameters = (512 + 128) * 48 + 4 * (12 * 48 * 48 + 13 * 48) + 2 * 48;
    let padding = 4 * (7 * 16 - 16 + 48) + 2 * 16;
    assert_eq!((parameters, padding), (143_904, 608));
    assert_eq!((all[0].table().count(), all[0].table().elements()), (parameters, 144_512));
    let layers = Layers { b: 16, t: 128, c: 48, h: 4, f: 192, l: 4, causal: true };
    let large = GptStep { layers, v: 512, tied: true };
    let small = GptStep { layers: Layers { l: 2, ..layers }, ..large };
    assert_eq!(large.gradients() + update(parameters as u64), 2_055_234_048, "the FLOPs without padding");
    assert_eq!(16 * padding, 9_728);
    let counts: Vec<u64> = all
        .into_iter()
        .map(|model| {
            let device = &mut Cpu::new(2);
            let store = Store::new(model.table().clone(), device).expect("memory");
            let shape = vcycle::families::shape(&config).expect("a shape");
            let mut train_state = TrainState::new(
                device,
                model,
                store,
                shape,
                config.optimizer().expect("an optimizer"),
                Options::default(),
            )
            .expect("memory");
            let tokens = vec![1; 16 * 128];
            train_state.step_tokens(device, &tokens, &tokens, 1e-3).expect("a step");
            train_state.step_flops().model
        })
        .collect();
    assert_eq!(counts, [2_055_243_776, small.step()]);
    assert_eq!(counts[0], large.step());
    // 3,000 steps of the baseline: the 6.17e12 of the README, with a digit more.
    let scratch = 3000 * counts[0];
    assert_eq!(format!("{:.3e}", scratch as f64), "6.166e12");
    // The V-cycle: 20 steps, coalesce, 1,500 steps of level 2, interpolate with both moments, 1,516 steps. The 4.93e12
    // of docs/results.md.
    let v_cycle = 20 * counts[0] + 2 * 144_512 + 1500 * counts[1] + 3 * 5 * 144_512 + 1516 * counts[0];
    assert_eq!(format!("{:.2e}", v_cycle as f64), "4.93e12");
}

/// The operators between the levels of configs/gpt-sotu.toml: a multiply-add for each element of level 1, and three
/// more FLOPs if it is interpolated.
#[test]
fn the_operators_of_the_readme() {
    let config = Config::read("configs/gpt-sotu.toml".as_ref(), &[]).expect("a configuration");
    let device = &mut Cpu::new(1);
    let stores: Vec<Store> = families::build(&config, 512)
        .expect("levels")
        .iter()
        .map(|model| Store::new(model.table().clone(), device).expect("memory"))
        .collect();
    let (scheme, rules) = (config.levels[1].scheme(), config.rules());
    let [big, small] = &stores[..] else { panic!("expected two levels") };
    assert_eq!(coalesce(device, big, small, &scheme, &rules).expect("mapped").flops, 2 * 144_512);
    assert_eq!(interpolate(device, big, small, 1.0, &scheme, &rules).expect("mapped").flops, 5 * 144_512);
    for quantity in [Quantity::Gradients, Quantity::Squares] {
        let moments = interpolate_as(quantity, device, big, small, 1.0, &scheme, &rules).expect("mapped");
        assert_eq!(moments.flops, 5 * 144_512);
    }
}
