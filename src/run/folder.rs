//! The folder of a run: its layout, its lock, and the record of how the run was started.
//!
//! | | |
//! |---|---|
//! | `config.toml` | the configuration, with every key |
//! | `run.json` | program, command, machine, git revision |
//! | `lock` | locked by the process that trains in the folder |
//! | `vcycle/`, `scratch/` | the two branches: `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `model/` |
//! | `report.html` | a report on the finished run |

use crate::bail;
use crate::config::Config;
use crate::error::{At, Error, Result};
use crate::families;
use crate::files;
use crate::files::{remove_temporaries, write_atomic};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const CONFIG: &str = "config.toml";
const ABOUT: &str = "run.json";
const LOCK: &str = "lock";

/// A run folder that this process has locked. The lock is released on drop.
pub struct RunFolder {
    /// Path of the folder.
    pub dir: PathBuf,
    lock: File,
}

/// How a run was started: the content of `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The format version: 1.
    pub format: u32,
    /// Version of vcycle.
    pub version: String,
    /// Git revision of the working directory, if that is in a repository.
    pub revision: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// The working directory, which relative paths in the configuration refer to.
    pub folder: PathBuf,
    /// Name of the device.
    pub device: String,
    /// Number of CPU threads.
    pub threads: usize,
    /// CPU model, number of cores and operating system.
    pub machine: String,
    /// The SIMD instruction set in use.
    pub vector_unit: String,
    /// Start time, as RFC 3339 in UTC.
    pub started: String,
}

impl RunFolder {
    /// Creates and locks the folder of a new run, and writes `config.toml` and `run.json`.
    ///
    /// # Errors
    /// The folder exists already, or cannot be created or written.
    pub fn create(dir: &Path, config: &Config, about: &RunInfo) -> Result<Self> {
        Self::refuse_existing(dir)?;
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        if let Err(e) = fs::create_dir(dir) {
            // Another run may have created it in the meantime.
            Self::refuse_existing(dir)?;
            return Err(Error::io("create", dir, e));
        }
        // Remove an incomplete folder, or it would block the next attempt.
        Self::fill(dir, config, about).inspect_err(|_| drop(fs::remove_dir_all(dir)))
    }

    fn fill(dir: &Path, config: &Config, about: &RunInfo) -> Result<Self> {
        let lock = lock(dir)?;
        let json = serde_json::to_string_pretty(about).map_err(|e| Error::new(e.to_string()));
        let json = json.at(dir.join(ABOUT).display())?;
        write_atomic(&dir.join(ABOUT), |out| out.write_all(json.as_bytes()))?;
        let toml = toml::to_string(config).map_err(|e| Error::new(e.to_string())).at(dir.join(CONFIG).display())?;
        write_atomic(&dir.join(CONFIG), |out| out.write_all(toml.as_bytes()))?;
        Ok(RunFolder { dir: dir.to_path_buf(), lock })
    }

    /// Checks that `dir` does not exist yet.
    ///
    /// # Errors
    /// It exists. The message says whether it is in use, is a run that can be resumed, or is something else.
    pub fn refuse_existing(dir: &Path) -> Result<()> {
        if fs::symlink_metadata(dir).is_err() {
            return Ok(());
        }
        if dir.join(CONFIG).exists() {
            drop(lock(dir)?);
            bail!(
                "{} already holds a run; resume it with `vcycle train --resume {}`, choose another --out, or remove it",
                dir.display(),
                files::shell_quote(dir)
            );
        }
        bail!("{} exists already; choose another --out, or remove it", dir.display())
    }

    /// Opens and locks the folder of a stopped run, and reads its configuration and `run.json`. A missing or damaged
    /// `run.json` is not an error.
    ///
    /// # Errors
    /// `dir` is not a run folder or is in use; the configuration is invalid.
    pub fn open(dir: &Path) -> Result<(Self, Config, Option<RunInfo>)> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            bail!(
                "{} is not a run folder: it has no {CONFIG}; give a folder that `vcycle train` created, or start a new \
                 run with `vcycle train CONFIG`",
                dir.display()
            );
        }
        let lock = lock(dir)?;
        remove_temporaries(dir);
        let config = families::read(&path, &[])?;
        let about = files::read(&dir.join(ABOUT), 1 << 20).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok((RunFolder { dir: dir.to_path_buf(), lock }, config, about))
    }
}

impl Drop for RunFolder {
    /// Unlocks explicitly. Closing the file is not enough: a child process that another thread has just forked keeps it
    /// open until its exec.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

/// Locks the folder for this process. The system releases the lock when the process ends, however it ends.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    // Do not write through a symlink, and do not block on opening a pipe.
    if fs::symlink_metadata(&path).is_ok_and(|facts| !facts.is_file()) {
        bail!("{} is not a regular file, so it cannot be locked; remove it", path.display());
    }
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| Error::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder =
                holder.trim().parse::<u32>().map_or_else(|_| "another process".into(), |p| format!("process {p}"));
            bail!("{} is in use by {holder}; wait for it, stop it, or choose another folder (--out)", dir.display());
        }
        Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
        Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|e| Error::io("write", &path, e))?;
    Ok(file)
}

impl RunInfo {
    /// Describes this process and machine, with the current time as the start time.
    pub fn this_process(device: &str, threads: usize, vector_unit: String) -> Self {
        RunInfo {
            format: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            revision: revision(),
            command: std::env::args().collect(),
            folder: std::env::current_dir().unwrap_or_default(),
            device: device.into(),
            threads,
            machine: machine(),
            vector_unit,
            started: rfc3339(SystemTime::now()),
        }
    }
}

/// Returns the commit of the repository in the working directory, with `-dirty` if files differ from it.
fn revision() -> Option<String> {
    let mut git = std::process::Command::new("git");
    let out = git.args(["describe", "--always", "--dirty", "--abbrev=12"]).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_string())
}

/// Describes the machine: CPU model, number of cores and operating system.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    });
    let cpu = cpu.unwrap_or_else(|| std::env::consts::ARCH.into());
    format!("{cpu}, {cores} core{}, {}", if cores == 1 { "" } else { "s" }, std::env::consts::OS)
}

/// Formats a time as `2026-01-31T12:00:00Z`. The date is computed by Howard Hinnant's `civil_from_days`, for years from
/// 1970 on.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use crate::run::folder::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_798_675_199, "2026-12-30T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
