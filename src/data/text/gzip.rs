//! Decompresses gzip files of any number of members, and handles what may follow the last one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

/// A reader of the decompressed bytes of a gzip file. Zeros after the last member are ignored. Anything else there is
/// an error without an OS error code, like corrupt data.
pub(in crate::data) struct Gzip {
    /// The decoder of the current member, or `None` at the end of the file.
    member: Option<GzDecoder<BufReader<File>>>,
}

impl Gzip {
    /// Returns a reader for a file positioned at its start.
    pub fn new(file: BufReader<File>) -> Self {
        Gzip { member: Some(GzDecoder::new(file)) }
    }

    /// Starts the next member.
    fn advance(&mut self) -> io::Result<()> {
        let Some(member) = self.member.take() else { return Ok(()) };
        let mut file = member.into_inner();
        match file.fill_buf()?.first() {
            None => Ok(()),
            // Tapes and some writers pad the last block with zeros, which `gzip` ignores, too.
            Some(0) => rest_is_zero(&mut file),
            Some(_) => {
                self.member = Some(GzDecoder::new(file));
                Ok(())
            }
        }
    }
}

fn rest_is_zero(file: &mut BufReader<File>) -> io::Result<()> {
    loop {
        let bytes = file.fill_buf()?;
        let length = bytes.len();
        if length == 0 {
            return Ok(());
        }
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "other data follows the zero padding at the end"));
        }
        file.consume(length);
    }
}

impl Read for Gzip {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            self.advance()?;
        }
        Ok(0)
    }
}
