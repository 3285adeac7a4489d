//! One training step of a GPT-2 shaped model in candle, on the CPU, in f32: forward, backward and AdamW on random tokens, as
//! `../torch_step.py` does it, and the same keys in one line of JSON.
//!
//!     cd benches/baselines/candle && cargo run --release -- --shape char --threads 2 [--seconds 15]
//!
//! Shapes (layers, heads, width, T, batch, vocabulary): char 6 6 384 256 8 65; small 4 4 256 128 16 8192;
//! gpt2 12 12 768 512 1 50257; or L,H,C,T,B,V.
//!
//! What of candle it uses, chosen for speed:
//! - matrix products of the `gemm` crate, on `--threads` threads (RAYON_NUM_THREADS, read once by candle), with AVX-512;
//! - `candle_nn::AdamW`, one with decay for matrices and one without for vectors;
//! - the processor's own instructions (.cargo/config.toml), and mimalloc: candle allocates every result anew, and with the system's
//!   allocator half of a step is page faults;
//! - GELU as `x sigmoid(2 z)`: the backward pass of candle's own takes powers element by element;
//! - softmax, LayerNorm and cross-entropy of plain operations: candle's fused `softmax_last_dim`, `layer_norm` and attention
//!   have no backward pass. The row maximum is detached, since its gradient cancels;
//! - three products for Q, K and V instead of one: the gradient of a slice is a concatenation with zeros there.

mod model;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use model::{Gpt, Shape};
use std::time::{Duration, Instant};

const THREADS: &str = "RAYON_NUM_THREADS";

struct Args {
    shape: String,
    threads: usize,
    seconds: f64,
}

const USAGE: &str = "candle-step [--shape char|small|gpt2|L,H,C,T,B,V] [--threads N] [--seconds S]";

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> std::result::Result<Self, String> {
        let mut args = Args { shape: "char".into(), threads: 2, seconds: 15.0 };
        while let Some(flag) = words.next() {
            if matches!(flag.as_str(), "-h" | "--help") {
                return Err(USAGE.into());
            }
            let value = words.next().ok_or_else(|| format!("{flag} needs a value; {USAGE}"))?;
            let wrong = || format!("{flag} {value}: no such value; {USAGE}");
            match flag.as_str() {
                "--shape" => args.shape = value,
                "--threads" => args.threads = value.parse().ok().filter(|&n| n > 0).ok_or_else(wrong)?,
                "--seconds" => {
                    args.seconds = value.parse().ok().filter(|s| (0.0..=86_400.0).contains(s)).ok_or_else(wrong)?;
                }
                _ => return Err(format!("{flag}: no such option; {USAGE}")),
            }
        }
        Ok(args)
    }
}

/// SplitMix64: tokens and windows.
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * below as u128) >> 64) as usize
    }
}

/// Random tokens, of which every step takes windows.
struct Batches {
    tokens: Vec<u32>,
    random: Random,
}

const TOKENS: usize = 200_000;

impl Batches {
    fn new(shape: Shape) -> Self {
        let mut random = Random(1337);
        let tokens = (0..TOKENS + shape.time + 1).map(|_| random.below(shape.vocab) as u32).collect();
        Batches { tokens, random }
    }

    /// Ids and labels, `[batch * time]` each.
    fn next(&mut self, shape: Shape) -> Result<(Tensor, Tensor)> {
        let (mut ids, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..shape.batch {
            let at = self.random.below(TOKENS);
            ids.extend_from_slice(&self.tokens[at..at + shape.time]);
            labels.extend_from_slice(&self.tokens[at + 1..at + 1 + shape.time]);
        }
        let of = |values: Vec<u32>| Tensor::from_vec(values, shape.batch * shape.time, &Device::Cpu);
        Ok((of(ids)?, of(labels)?))
    }
}

/// The model and its optimizers: matrices decay, vectors do not.
struct Training {
    gpt: Gpt,
    optimizers: [AdamW; 2],
}

impl Training {
    fn new(shape: Shape) -> Result<Self> {
        let (gpt, params) = Gpt::new(shape)?;
        let (matrices, vectors): (Vec<Var>, Vec<Var>) = params.into_iter().partition(|p| p.rank() >= 2);
        let constants = |weight_decay| ParamsAdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay };
        Ok(Training { gpt, optimizers: [AdamW::new(matrices, constants(0.1))?, AdamW::new(vectors, constants(0.0))?] })
    }

    fn step(&mut self, (ids, labels): &(Tensor, Tensor)) -> Result<f32> {
        let loss = self.gpt.loss(ids, labels)?;
        let gradients = loss.backward()?;
        self.optimizers.iter_mut().try_for_each(|optimizer| optimizer.step(&gradients))?;
        loss.to_dtype(DType::F32)?.to_scalar()
    }
}

/// The most memory that this process has had, in MiB. Zero where the system does not tell.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).map_or(0, |kb| kb / 1024)
}

/// candle's version, from the lock file that it was built by.
fn version() -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let after = lock.split_once("name = \"candle-core\"\nversion = \"").map_or("", |(_, rest)| rest);
    after.split('"').next().unwrap_or("")
}

/// Between the two nearest of the sorted numbers.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

const WARM_UP: usize = 3;
const LEAST_STEPS: usize = 5;

fn run(args: &Args, shape: Shape) -> Result<()> {
    let rss_at_start = resident();
    let mut training = Training::new(shape)?;
    let mut batches = Batches::new(shape);
    let first = training.step(&batches.next(shape)?)?;
    let expected = (shape.vocab as f32).ln();
    if first.is_nan() || (first - expected).abs() > 0.1 * expected.max(1.0) {
        bail!("the first loss is {first}, but of {} tokens at random it is near {expected}", shape.vocab);
    }
    for _ in 1..WARM_UP {
        training.step(&batches.next(shape)?)?;
    }
    let (mut times, mut loss, begin) = (Vec::new(), first, Instant::now());
    while times.len() < LEAST_STEPS || begin.elapsed() < Duration::from_secs_f64(args.seconds) {
        let start = Instant::now();
        loss = training.step(&batches.next(shape)?)?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = quantile(&times, 0.5);
    let params = shape.params();
    let tokens = shape.batch * shape.time;
    let flops = tokens * (6 * (params - shape.time * shape.width) + 12 * shape.layers * shape.time * shape.width);
    println!(
        "{{\"bench\": \"step\", \"peer\": \"candle_f32\", \"version\": \"{}\", \"device\": \"cpu\", \"shape\": \"{}\", \
         \"sizes\": {:?}, \"threads\": {}, \"precision\": \"f32\", \"params\": {params}, \"steps\": {}, \
         \"ms_median\": {:.3}, \"ms_best\": {:.3}, \"spread\": {:.4}, \"tokens_per_s\": {:.0}, \"gflops\": {:.1}, \
         \"rss_mb\": {}, \"rss_at_start_mb\": {rss_at_start}, \"loss_at_start\": {first:.4}, \"loss\": {loss:.4}}}",
        version(),
        args.shape,
        shape.sizes(),
        args.threads,
        times.len(),
        median * 1e3,
        times[0] * 1e3,
        (quantile(&times, 0.75) - quantile(&times, 0.25)) / median,
        tokens as f64 / median,
        flops as f64 / median / 1e9,
        resident(),
    );
    Ok(())
}

/// Starts this program again with the number of threads in its environment, where candle and gemm look for it.
fn again(threads: usize) -> std::io::Result<std::process::ExitStatus> {
    std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(THREADS, threads.to_string())
        .status()
}

fn main() -> std::process::ExitCode {
    let failed = |error: &dyn std::fmt::Display| {
        eprintln!("error: {error}");
        std::process::ExitCode::from(2)
    };
    let parsed =
        Args::parse(std::env::args().skip(1)).and_then(|args| Shape::named(&args.shape).map(|shape| (args, shape)));
    let (args, shape) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return failed(&error),
    };
    if std::env::var(THREADS).ok() != Some(args.threads.to_string()) {
        return match again(args.threads) {
            Ok(status) => std::process::ExitCode::from(status.code().map_or(1, |code| code as u8)),
            Err(error) => failed(&error),
        };
    }
    match run(&args, shape) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::{Batches, Gpt, Shape, Training};

    #[test]
    fn the_loss_of_one_batch_starts_at_chance_and_falls() {
        let shape = Shape::named("2,2,32,16,4,65").expect("a shape");
        let (_, params) = Gpt::new(shape).expect("a model");
        assert_eq!(params.iter().map(|p| p.elem_count()).sum::<usize>(), shape.params());
        let mut training = Training::new(shape).expect("a model");
        let batch = Batches::new(shape).next(shape).expect("a batch");
        let losses: Vec<f32> = (0..60).map(|_| training.step(&batch).expect("a step")).collect();
        let chance = 65f32.ln();
        assert!((losses[0] - chance).abs() < 0.1, "{} is not near ln 65 = {chance}", losses[0]);
        // 60 steps at 3e-4 move each weight by 0.018 at most, as much as they are: half a nat is far beyond noise.
        assert!(losses[59] < losses[0] - 0.5, "from {} to {}", losses[0], losses[59]);
        assert!(losses.windows(2).all(|pair| pair[1] < pair[0] + 0.01));
    }
}
