//! gzip members, one after another, and what may follow the last one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

/// See the module. Anything else after the last member is an error without an OS code, like damaged data.
pub(in crate::data) struct Gzip {
    /// Of the current member; `None`: the file has no more.
    member: Option<GzDecoder<BufReader<File>>>,
}

impl Gzip {
    pub fn new(file: BufReader<File>) -> Self {
        Gzip { member: Some(GzDecoder::new(file)) }
    }

    /// Begins the next member.
    fn advance(&mut self) -> io::Result<()> {
        let Some(member) = self.member.take() else { return Ok(()) };
        let mut file = member.into_inner();
        match file.fill_buf()?.first() {
            None => Ok(()),
            // Tapes, and some writers, fill their last block with zeros; `gzip` passes over these too.
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
            return Err(io::Error::new(io::ErrorKind::InvalidData, "after its end come zeros and then something else"));
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
