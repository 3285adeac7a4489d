//! The binary versions of CIFAR-10 and CIFAR-100: records of one or two labels and then 32 x 32 reds, greens and blues.

use std::path::PathBuf;

use super::source::{Decoded, Place, Sink};
use crate::bail;
use crate::data::text::reader::ByteReader;
use crate::error::Result;

pub(super) const NAMES_10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

/// What a record's labels are: how many of each there can be, and which one is wanted.
pub(super) struct Records {
    classes: &'static [usize],
    wanted: usize,
}

impl Records {
    pub const TEN: Records = Records { classes: &[10], wanted: 0 };
    pub const HUNDRED_COARSE: Records = Records { classes: &[20, 100], wanted: 0 };
    pub const HUNDRED_FINE: Records = Records { classes: &[20, 100], wanted: 1 };
}

/// Hands on all images of all files.
pub(super) fn read(files: &[PathBuf], records: &Records, sink: &mut Sink<'_>) -> Result<()> {
    let labels = records.classes.len();
    let mut record = vec![0; labels + PIXELS];
    for path in files {
        let mut file = ByteReader::open(path)?;
        for number in 0.. {
            let place = Place { path, unit: "record", number };
            match file.fill(&mut record)? {
                0 if number == 0 => bail!("{}: the file is empty; fetch it again", path.display()),
                0 => break,
                read if read < record.len() => {
                    bail!("{place}: {read} bytes are left for one of {}; fetch the file again", record.len())
                }
                _ => {}
            }
            // All labels are looked at: with records of the other length one of the first few is no label.
            for (&label, &classes) in record.iter().zip(records.classes) {
                if usize::from(label) >= classes {
                    bail!(
                        "{place}: label {label} is not below {classes}; is this CIFAR-{}, in its binary version?",
                        if labels == 1 { 10 } else { 100 }
                    );
                }
            }
            let label = usize::from(record[records.wanted]);
            sink(Decoded { pixels: &record[labels..], shape: SHAPE, label }, &place)?;
        }
    }
    Ok(())
}
