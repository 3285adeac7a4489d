//! A run as a child process: with signals as the system hands them out, with limits, and never for ever.
#![allow(dead_code, reason = "each binary that includes this uses a part of it")]

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For anything that is waited for: a busy machine takes its time, but not this much.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The rate does not depend on how many steps there are, so that a run that is cut short and one that was never longer are the
/// same.
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

/// The binary in `dir`, with all signals at their defaults whatever the tests were started with.
pub fn vcycle(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGXFSZ, libc::SIGXCPU, libc::SIGPIPE, libc::SIGBUS]
    {
        dispose(&mut command, signal, libc::SIG_DFL);
    }
    command
}

pub fn dispose(command: &mut Command, signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: between fork and exec this calls `signal` alone, which POSIX allows there.
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

/// A limit of the system, for the child alone.
pub fn limit(command: &mut Command, what: Resource, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: between fork and exec this calls `setrlimit` alone, on memory of its own.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(what, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < LIMIT, "{what}: not in {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A child, killed when dropped. What it says goes to a file, so that it never waits for a reader.
pub struct Running {
    pub child: Child,
    said: tempfile::NamedTempFile,
}

/// How a child ended.
pub struct Ended {
    pub status: ExitStatus,
    /// On both streams.
    pub said: String,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let said = tempfile::NamedTempFile::new().expect("a file");
        let [out, err] = [(); 2].map(|()| said.reopen().expect("a file"));
        // Both append, so that neither writes over the other.
        for file in [&out, &err] {
            append(file);
        }
        let child = command.stdout(out).stderr(err).spawn().expect("the binary runs");
        Running { child, said }
    }

    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.said.path()).expect("text")).into_owned()
    }

    pub fn pid(&self) -> libc::pid_t {
        self.child.id() as libc::pid_t
    }

    /// Sends a signal; one that is gone gets none.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a child that was not waited for still has its number.
        unsafe { libc::kill(self.pid(), signal) };
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    pub fn end(mut self) -> Ended {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return Ended { status, said: self.said() };
            }
            assert!(begin.elapsed() < LIMIT, "still running after {LIMIT:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until a file of the child's is there, and not empty; it must not end before.
    pub fn until_written(&mut self, path: &Path) {
        let begin = Instant::now();
        while std::fs::metadata(path).map_or(0, |facts| facts.len()) == 0 {
            assert!(self.is_running(), "ended before {}: {}", path.display(), self.said());
            assert!(begin.elapsed() < LIMIT, "no {} in {LIMIT:?}: {}", path.display(), self.said());
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

pub fn end(command: &mut Command) -> Ended {
    Running::start(command).end()
}

impl Ended {
    /// An error in a sentence: exit code 2, no signal, no panic.
    #[track_caller]
    pub fn sentence(&self, case: &str) -> &str {
        let (status, said) = (self.status, &self.said);
        assert_eq!((status.code(), status.signal()), (Some(2), None), "{case}: {said}");
        assert!(!said.contains("panicked"), "{case}: {said}");
        assert!(said.contains("error: ") && said.contains("; "), "{case}: {said}");
        said
    }

    #[track_caller]
    pub fn success(&self, case: &str) -> &str {
        assert!(self.status.success(), "{case}: {:?}: {}", self.status, self.said);
        &self.said
    }
}

/// The weights that a run ended with.
pub fn weights(dir: &Path, run: &str) -> Vec<u8> {
    std::fs::read(dir.join(run).join("vcycle/model/model.safetensors")).expect("weights")
}

/// The checkpoints of a run, the newest last.
pub fn checkpoints(dir: &Path, run: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join(run).join("vcycle/checkpoints"));
    let all = entries.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("stage-"));
    let mut all: Vec<_> = all.filter(named).collect();
    all.sort();
    all
}

/// Steps that the newest checkpoint holds.
pub fn saved(dir: &Path, run: &str) -> Option<u64> {
    let newest = checkpoints(dir, run).pop()?;
    newest.to_string_lossy().rsplit('-').next()?.parse().ok()
}

/// Lets a run that would go on for ever end after so many steps.
pub fn shorten(dir: &Path, run: &str, steps: u64) {
    let path = dir.join(run).join("config.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = lines.iter_mut().find(|line| line.starts_with("steps = ")).expect("steps");
    *line = format!("steps = {steps}");
    std::fs::write(&path, lines.join("\n") + "\n").expect("written");
}
