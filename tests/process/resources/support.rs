//! Runs `vcycle` as a child process, with default signal dispositions, with resource limits, and with a timeout.
#![allow(dead_code, reason = "each binary that includes this uses a part of it")]

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Timeout of every wait. Even a busy machine needs less.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The learning rate does not depend on the number of steps, so that a run shortened later equals one that was always
/// short.
pub const CONFIG: &str = r#"
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 8
context = 16
dropout = 0.1
[data]
text = "text.txt"
tokenizer = "byte"
[train]
batch = 4
eval_every = 10
eval_batches = 1
[[levels]]
train = { steps = 40, lr = 1e-3, decay = "constant" }
"#;

pub fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text: String = (0..2000).map(|i| format!("line {i} of the text\n")).collect();
    std::fs::write(dir.path().join("text.txt"), text).expect("written");
    std::fs::write(dir.path().join("run.toml"), CONFIG).expect("written");
    dir
}

/// A command that runs the binary in `dir` with all signals at their defaults, whatever the tests were started with.
pub fn vcycle(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGXFSZ, libc::SIGXCPU, libc::SIGPIPE, libc::SIGBUS]
    {
        dispose(&mut command, signal, libc::SIG_DFL);
    }
    command
}

/// Sets the disposition of `signal` in the child.
pub fn dispose(command: &mut Command, signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: between fork and exec this only calls `signal`, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || match libc::signal(signal, handler) {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

/// Sets a resource limit for the child only.
pub fn limit(command: &mut Command, what: Resource, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: between fork and exec this only calls `setrlimit`, on memory that the closure owns.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(what, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Waits until `condition` holds; `what` describes it in the panic message.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "timed out after {LIMIT:?} waiting for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A child process, killed when dropped. Its output goes to a file, so that it never blocks on a reader.
pub struct Running {
    pub child: Child,
    output: tempfile::NamedTempFile,
}

/// How a child ended.
pub struct Ended {
    pub status: ExitStatus,
    /// Standard output and standard error together.
    pub output: String,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let output = tempfile::NamedTempFile::new().expect("a file");
        let [out, err] = [(); 2].map(|()| output.reopen().expect("a file"));
        // Both streams append, so that neither overwrites the other.
        for file in [&out, &err] {
            append(file);
        }
        let child = command.stdout(out).stderr(err).spawn().expect("the binary runs");
        Running { child, output }
    }

    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output.path()).expect("text")).into_owned()
    }

    pub fn pid(&self) -> libc::pid_t {
        self.child.id() as libc::pid_t
    }

    /// Sends a signal; does nothing if the child has already exited.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child has not been waited for, so its process id is still its own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits until the child exits.
    pub fn end(mut self) -> Ended {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return Ended { status, output: self.output() };
            }
            assert!(begin.elapsed() < LIMIT, "still running after {LIMIT:?}: {}", self.output());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the file at `path` exists and is not empty. Panics if the child exits before that.
    pub fn until_written(&mut self, path: &Path) {
        let begin = Instant::now();
        while std::fs::metadata(path).map_or(0, |facts| facts.len()) == 0 {
            assert!(self.is_running(), "exited before writing {}: {}", path.display(), self.output());
            assert!(begin.elapsed() < LIMIT, "no {} in {LIMIT:?}: {}", path.display(), self.output());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn append(file: &std::fs::File) {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `file` is.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_APPEND) };
    assert_eq!(set, 0);
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the command until it exits.
pub fn end(command: &mut Command) -> Ended {
    Running::start(command).end()
}

impl Ended {
    /// Asserts that the command failed with an error message that says what to do and exit code 2, without a signal or
    /// panic. Returns its output.
    #[track_caller]
    pub fn error(&self, case: &str) -> &str {
        let (status, output) = (self.status, &self.output);
        assert_eq!((status.code(), status.signal()), (Some(2), None), "{case}: {output}");
        assert!(!output.contains("panicked"), "{case}: {output}");
        assert!(output.contains("error: ") && output.contains("; "), "{case}: {output}");
        output
    }

    /// Asserts that the command succeeded. Returns its output.
    #[track_caller]
    pub fn success(&self, case: &str) -> &str {
        assert!(self.status.success(), "{case}: {:?}: {}", self.status, self.output);
        &self.output
    }
}

/// The bytes of a run's final weights file.
pub fn weights(dir: &Path, run: &str) -> Vec<u8> {
    std::fs::read(dir.join(run).join("vcycle/model/model.safetensors")).expect("weights")
}

/// The checkpoint folders of a run, oldest first.
pub fn checkpoints(dir: &Path, run: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join(run).join("vcycle/checkpoints"));
    let all = entries.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("stage-"));
    let mut all: Vec<_> = all.filter(named).collect();
    all.sort();
    all
}

/// The step of the newest checkpoint, if there is one.
pub fn saved(dir: &Path, run: &str) -> Option<u64> {
    let newest = checkpoints(dir, run).pop()?;
    newest.to_string_lossy().rsplit('-').next()?.parse().ok()
}

/// Sets the first `steps` setting of a run's `config.toml`, so that a run without end finishes after `steps` steps.
pub fn shorten(dir: &Path, run: &str, steps: u64) {
    let path = dir.join(run).join("config.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = lines.iter_mut().find(|line| line.starts_with("steps = ")).expect("steps");
    *line = format!("steps = {steps}");
    std::fs::write(&path, lines.join("\n") + "\n").expect("written");
}
