//! Promise: a run that is killed at any point and resumed ends with exactly the bits of a run that was never stopped.
//!
//! The kills are real: a child process, this binary again, sends itself SIGKILL in a chosen call to its device.
//! Everything that training does passes through the device, so the number of a device call identifies any point of a
//! run.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vcycle::device::cpu::Cpu;
use vcycle::device::ops::Op;
use vcycle::device::timing::Timings;
use vcycle::device::{Device, Graph, PendingRead};
use vcycle::error::Result;
use vcycle::families;
use vcycle::run::folder::RunInfo;
use vcycle::run::{Outcome, Tools, resume, train};
use vcycle::runlog::progress::Progress;
use vcycle::tensor::{DType, Tensor};

/// Everything that has state: two levels, transferred moments, an alpha search, gradient accumulation, and checkpoints
/// between evaluations.
const CONFIG: &str = r#"
seed = 3
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 4
context = 8
dropout = 0.1
[data]
text = "text.txt"
tokenizer = "char"
[train]
batch = 4
accumulate = 2
eval_every = 3
eval_batches = 2
checkpoint_every = 2
keep_best = true
[[levels]]
before = { steps = 4, lr = 1e-2, warmup = 1, decay = "constant" }
train = { steps = 6, lr = 1e-2, warmup = 2, schedule = "continue", optimizer = "transfer" }
[[levels]]
layers = 1
heads = 1
alpha = "search"
train = { steps = 5, lr = 2e-2, warmup = 1, optimizer = "transfer" }
[scratch]
steps = 5
lr = 1e-2
optimizer = "rewarm"
warmup = 1
"#;

/// The kind of a device call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Memory,
    Write,
    Read {
        bytes: usize,
    },
    /// A single operation: the multi-level operators run this way.
    Run,
    Replay,
}

/// A device that counts its calls and kills the process in a chosen one.
struct Counting {
    inner: Cpu,
    calls: Vec<Call>,
    kill_at: Option<usize>,
}

impl Counting {
    fn new(kill_at: Option<usize>) -> Self {
        Counting { inner: Cpu::new(1), calls: Vec::new(), kill_at }
    }

    fn count(&mut self, call: Call) {
        if self.kill_at == Some(self.calls.len()) {
            let killed = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
            panic!("still running after kill -KILL: {killed:?}");
        }
        self.calls.push(call);
    }
}

impl Device for Counting {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn float(&self) -> DType {
        self.inner.float()
    }
    fn alloc(&mut self, bytes: usize) -> Result<u32> {
        self.count(Call::Memory);
        self.inner.alloc(bytes)
    }
    fn free(&mut self, arena: u32) {
        self.inner.free(arena);
    }
    fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.count(Call::Write);
        self.inner.write(to, bytes)
    }
    fn read(&mut self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.count(Call::Read { bytes: bytes.len() });
        self.inner.read(from, bytes)
    }
    fn read_async(&mut self, from: &Tensor) -> Result<PendingRead> {
        self.count(Call::Read { bytes: from.numel() * from.dtype().bytes() });
        self.inner.read_async(from)
    }

    fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()> {
        self.inner.wait_read(ticket, bytes)
    }

    fn copy(&mut self, from: &Tensor, to: &Tensor) -> Result<()> {
        self.count(Call::Memory);
        self.inner.copy(from, to)
    }
    fn run(&mut self, op: &Op) -> Result<()> {
        self.count(Call::Run);
        self.inner.run(op)
    }
    fn sync(&mut self) -> Result<()> {
        self.inner.sync()
    }
    fn capture(&mut self, ops: &[Op]) -> Result<Graph> {
        self.inner.capture(ops)
    }
    fn replay(&mut self, graph: Graph) -> Result<()> {
        self.count(Call::Replay);
        self.inner.replay(graph)
    }
    fn release(&mut self, graph: Graph) {
        self.inner.release(graph);
    }
    fn timings(&mut self) -> &mut Timings {
        self.inner.timings()
    }
}

/// Trains in `dir/out`, or resumes there if `go_on`. Returns the outcome and the device calls.
fn run(dir: &Path, out: &str, go_on: bool, kill_at: Option<usize>, stop: &dyn Fn() -> bool) -> (Outcome, Vec<Call>) {
    let text = dir.join("text.txt");
    let config = CONFIG.replace("text.txt", &text.display().to_string());
    let config = families::parse(&config, &[]).expect("a configuration");
    let mut device = Counting::new(kill_at);
    let mut progress = Progress::new(true);
    let cache = dir.join("data");
    let tools = Tools { device: &mut device, cache: &cache, progress: &mut progress, stop };
    let about = RunInfo::this_process("cpu", 1, String::new());
    let outcome = match go_on {
        true => resume(&dir.join(out), tools),
        false => train(&config, &about, &dir.join(out), tools),
    };
    (outcome.expect("a run"), device.calls)
}

fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text: String = (0..600).map(|i| format!("the {} of {}\n", i % 97, i % 13)).collect();
    std::fs::write(dir.path().join("text.txt"), text).expect("written");
    dir
}

/// Returns everything in a finished run that must be reproduced: for both branches the weights, and the metrics without
/// times and system measurements.
fn result(run: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for branch in ["vcycle", "scratch"] {
        let weights = run.join(branch).join("model/model.safetensors");
        all.push((weights.clone(), std::fs::read(&weights).expect("weights")));
        let metrics = std::fs::read_to_string(run.join(branch).join("metrics.jsonl")).expect("metrics");
        let mut lines = String::new();
        for line in metrics.lines() {
            let mut event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            // Times and system measurements differ from run to run.
            for key in ["seconds", "resident_bytes", "tokens_per_second", "waited_seconds", "operations"] {
                event.as_object_mut().expect("an object").remove(key);
            }
            lines.push_str(&format!("{event}\n"));
        }
        all.push((run.join(branch).join("metrics.jsonl"), lines.into_bytes()));
    }
    all
}

fn assert_same(run: &Path, expected: &[(PathBuf, Vec<u8>)], when: &str) {
    for ((path, ours), (_, theirs)) in result(run).iter().zip(expected) {
        assert!(ours == theirs, "{when}: {} differs from the uninterrupted run", path.display());
    }
}

/// The child process that [`killed`] starts. Without these variables, the test does nothing.
#[test]
fn child() {
    let (Ok(dir), Ok(kill_at)) = (std::env::var("RESUME_DIR"), std::env::var("RESUME_KILL_AT")) else { return };
    let out = std::env::var("RESUME_OUT").expect("a name");
    let kill_at = kill_at.parse().expect("a number");
    let go_on = std::env::var("RESUME_GO_ON").is_ok();
    run(Path::new(&dir), &out, go_on, Some(kill_at), &|| false);
    unreachable!("the run was not killed");
}

/// The time limit for a child process, generous enough for a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

fn killed(dir: &Path, out: &str, kill_at: usize, go_on: bool) {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "resume::child", "--nocapture"]).env("RESUME_DIR", dir).env("RESUME_OUT", out);
    command.env("RESUME_KILL_AT", kill_at.to_string());
    if go_on {
        command.env("RESUME_GO_ON", "1");
    }
    // To a file: a pipe that is not read could fill up and block the child.
    let log = dir.join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let mut child = command.stdout(Stdio::null()).stderr(file).spawn().expect("a child");
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if begin.elapsed() > LIMIT {
            child.kill().and_then(|()| child.wait()).expect("killed");
            panic!("call {kill_at}: the child neither ended nor was killed in {LIMIT:?}: {}", text());
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(status.signal(), Some(9), "call {kill_at}: {}", text());
}

#[test]
fn a_run_killed_at_any_point_resumes_with_the_same_bits() {
    let dir = workplace();
    let dir = dir.path();
    let (_, calls) = run(dir, "whole", false, None, &|| false);
    let expected = result(&dir.join("whole"));

    // The numbers of all calls of a kind, in order.
    let calls_of =
        |kind: &dyn Fn(&Call) -> bool| -> Vec<usize> { (0..calls.len()).filter(|&i| kind(&calls[i])).collect() };
    let replays = calls_of(&|c| *c == Call::Replay);
    let operators = calls_of(&|c| *c == Call::Run);
    // A checkpoint reads whole arenas. Nothing else reads as much in one call: a model is saved parameter by parameter.
    let largest = calls.iter().map(|c| if let Call::Read { bytes } = c { *bytes } else { 0 }).max().expect("reads");
    let saves = calls_of(&|c| matches!(c, Call::Read { bytes } if *bytes == largest));
    // The first operator follows the first stage; the last one precedes the third stage.
    let (coalesced, interpolated) = (operators[0], operators[operators.len() - 1]);
    let replay_after = |call: usize, n: usize| replays.iter().copied().filter(|r| *r > call).nth(n).expect("a replay");
    let scratch = replays[replays.len() - 8];
    let points = [
        ("before anything is allocated", 0),
        ("in the first step", replays[3]),
        ("in the first stage", replay_after(0, 12)),
        ("during the first save", saves[0]),
        ("between two arenas of a save", saves[1]),
        ("during a save, with its tensors on disk", saves[2] + 1),
        ("at the end of the first stage", coalesced - 1),
        ("while coalescing", coalesced),
        ("in the second stage", replay_after(coalesced, 8)),
        ("during the search", operators[operators.len() / 2]),
        ("while interpolating", interpolated - 1),
        ("right after interpolating", interpolated + 1),
        ("in the last stage", replay_after(interpolated, 14)),
        ("during the last save", saves[saves.len() - 1]),
        ("in the baseline", scratch),
        ("while writing the last model", calls.len() - 1),
    ];
    for (number, (when, call)) in points.into_iter().enumerate() {
        let out = format!("run{number}");
        killed(dir, &out, call, false);
        if !dir.join(&out).exists() {
            assert_eq!(call, 0, "{when}: the run has no folder");
            continue;
        }
        run(dir, &out, true, None, &|| false);
        assert_same(&dir.join(&out), &expected, when);
        let left = std::fs::read_dir(dir.join(&out).join("vcycle")).expect("a folder").flatten();
        assert!(
            left.into_iter().all(|e| !e.file_name().to_string_lossy().ends_with(".tmp")),
            "{when}: temporary files were left behind"
        );
    }
}

#[test]
fn a_run_killed_repeatedly_resumes_with_the_same_bits() {
    let dir = workplace();
    let dir = dir.path();
    let (_, calls) = run(dir, "whole", false, None, &|| false);
    let stride = calls.len() / 5;
    killed(dir, "run", stride, false);
    // Each attempt resumes where the previous one was killed, and gets a little further.
    for _ in 0..3 {
        killed(dir, "run", stride, true);
    }
    run(dir, "run", true, None, &|| false);
    assert_same(&dir.join("run"), &result(&dir.join("whole")), "after four kills");
}

#[test]
fn a_damaged_checkpoint_is_skipped() {
    let dir = workplace();
    let dir = dir.path();
    run(dir, "whole", false, None, &|| false);
    let expected = result(&dir.join("whole"));
    for damage in ["tensors.safetensors", "state.json", "sums.json", "metrics"] {
        let steps = std::cell::Cell::new(0);
        let (outcome, _) = run(dir, damage, false, None, &|| {
            steps.set(steps.get() + 1);
            steps.get() == 8
        });
        assert!(matches!(outcome, Outcome::Stopped { step: 8, .. }), "{outcome:?}");
        let branch = dir.join(damage).join("vcycle");
        let newest = branch.join("checkpoints/stage-2-step-00000008");
        let file = if damage == "metrics" { branch.join("metrics.jsonl") } else { newest.join(damage) };
        let bytes = std::fs::read(&file).expect("a file");
        std::fs::write(&file, &bytes[..bytes.len() - 60.min(bytes.len() / 2)]).expect("truncated");
        run(dir, damage, true, None, &|| false);
        assert_same(&dir.join(damage), &expected, damage);
    }
}

#[test]
fn stopping_at_every_step_changes_nothing() {
    let dir = workplace();
    let dir = dir.path();
    run(dir, "whole", false, None, &|| false);
    let (mut outcome, _) = run(dir, "run", false, None, &|| true);
    let mut stops = 0;
    while let Outcome::Stopped { .. } = outcome {
        stops += 1;
        outcome = run(dir, "run", true, None, &|| true).0;
    }
    assert_eq!(stops, 4 + 5 + 6 + 5, "one stop per step");
    assert_same(&dir.join("run"), &result(&dir.join("whole")), "stopped at every step");
}
