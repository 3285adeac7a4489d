//! One error type for the whole crate: a sentence for a person, with the places it passed through.

use std::fmt;
use std::path::Path;

/// What went wrong, where, and what to do about it.
///
/// The message names the file, key or tensor at fault and the remedy. The binary prints it and exits with code 2.
pub struct Error {
    message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Error { message: shortened(message.into()) }
    }

    /// An operating-system error on `path`, for instance `cannot read data/a.txt: No such file or directory`.
    pub fn io(action: &str, path: &Path, error: std::io::Error) -> Self {
        Error::new(format!("cannot {action} {}: {error}{}", path.display(), remedy(&error)))
    }

    /// The same error, with the place in front: `configs/a.toml: levels[1].heads: ...`.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Error::new(format!("{place}: {}", self.message))
    }
}

/// What to do about errors that are about this process or machine, not about a path.
fn remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    // EMFILE and ENFILE have no kind of their own, and libraries put them into errors that have no number.
    let handles = || {
        let text = error.to_string();
        cfg!(unix) && ["(os error 23)", "(os error 24)"].iter().any(|number| text.contains(number))
    };
    match error.kind() {
        ErrorKind::FileTooLarge => "; files of this process are limited in size: raise `ulimit -f`",
        ErrorKind::StorageFull => "; make room on that disk",
        ErrorKind::QuotaExceeded => "; make room within the quota on that disk",
        ErrorKind::NotADirectory => "; part of this path is a file where a folder is needed: move it away",
        ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written to",
        ErrorKind::OutOfMemory => "; give the process more memory",
        _ if handles() => "; the process may have no more files open: raise `ulimit -n`",
        _ => "",
    }
}

/// The longest message, in bytes. A file's content may be part of it, and that may be as long as it likes.
const LONGEST: usize = 4_000;

/// The message without its middle where it is too long.
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

/// Returns early with an [`Error`] made like `format!` makes its string.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::error::Error::new(format!($($arg)*))) };
}

/// Adds a place to the error of a `Result`.
pub trait At<T> {
    fn at(self, place: impl fmt::Display) -> Result<T>;
}

impl<T> At<T> for Result<T> {
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.at(place))
    }
}
