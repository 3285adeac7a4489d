//! Files that appear only whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// A name beside `path` that no other process or thread uses, for what is to be renamed to `path`.
pub(super) fn temporary_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}-{number}.tmp", std::process::id()))
}

/// Writes `path` through `fill`: under a temporary name in the same folder, flushed to disk, then renamed.
///
/// On an error the temporary file is removed and whatever stood at `path` before stays as it was.
pub(super) fn write_whole(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    if path.file_name().is_none() {
        crate::bail!("cannot write {}: it names no file; give a file name", path.display());
    }
    let temporary = temporary_beside(path);
    let written = (|| {
        let mut out = BufWriter::new(File::create(&temporary)?);
        fill(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        // The first error is the one worth telling; a leftover temporary file does no harm.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path, error));
    }
    sync_parent(path);
    Ok(())
}

/// [`write_whole`] for bytes already in memory.
pub(super) fn write_whole_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, |out| out.write_all(bytes))
}

/// Makes a rename last through a power cut, where the system can.
pub(super) fn sync_parent(path: &Path) {
    // Some file systems refuse to sync a folder. The file is whole either way, so that is no error.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(parent) {
        let _ = folder.sync_all();
    }
}
