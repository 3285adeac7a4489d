//! The error type of the crate: a message for the user, prefixed with the context it passed through.

use std::fmt;
use std::path::Path;

/// A message that says what went wrong, where, and what to do about it.
///
/// It names the file, key or tensor at fault and the remedy. The binary prints it and exits with code 2.
pub struct Error {
    message: String,
}

/// A `Result` whose error is [`Error`] by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error from a message. A message of more than 4,000 bytes loses its middle.
    pub fn new(message: impl Into<String>) -> Self {
        Error { message: shortened(message.into()) }
    }

    /// Makes an error from an I/O error on `path`, for instance `cannot read data/a.txt: No such file or directory`.
    pub fn io(action: &str, path: &Path, error: std::io::Error) -> Self {
        Error::new(format!("cannot {action} {}: {error}{}", path.display(), remedy(&error)))
    }

    /// Returns the error with a prefix that says where it happened: `configs/a.toml: levels[1].heads: ...`.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Error::new(format!("{place}: {}", self.message))
    }
}

/// Returns the remedy for errors whose cause is the process or the machine and not the path, else an empty string.
fn remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    // EMFILE and ENFILE have no `ErrorKind`, and libraries wrap them in errors without an OS error code.
    let handles = || {
        let text = error.to_string();
        cfg!(unix) && ["(os error 23)", "(os error 24)"].iter().any(|number| text.contains(number))
    };
    match error.kind() {
        ErrorKind::FileTooLarge => "; this process has a file size limit: raise `ulimit -f`",
        ErrorKind::StorageFull => "; free some space on that disk",
        ErrorKind::QuotaExceeded => "; free some space within the quota on that disk",
        ErrorKind::NotADirectory => "; part of this path is a file where a folder is needed: move that file away",
        ErrorKind::ReadOnlyFilesystem => "; choose a writable path",
        ErrorKind::OutOfMemory => "; give the process more memory",
        _ if handles() => "; the process has too many files open: raise `ulimit -n`",
        _ => "",
    }
}

/// Longest message in bytes. A message may quote the content of a file, which can be of any length.
const LONGEST: usize = 4_000;

/// Replaces the middle of a message that is too long by ` ... `.
fn shortened(message: String) -> String {
    if message.len() <= LONGEST {
        return message;
    }
    let boundary = |at: usize| (0..=at).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
    let (start, end) = (boundary(LONGEST * 3 / 4), boundary(message.len() - LONGEST / 4));
    format!("{} ... {}", &message[..start], &message[end..])
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Returns early with an [`Error`] whose message is formatted as by `format!`.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::error::Error::new(format!($($arg)*))) };
}

/// Adds context to the error of a `Result`.
pub trait At<T> {
    /// Returns the result with `place` in front of the error's message, as [`Error::at`] does.
    ///
    /// # Errors
    /// If `self` is an error.
    fn at(self, place: impl fmt::Display) -> Result<T>;
}

impl<T> At<T> for Result<T> {
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.at(place))
    }
}
