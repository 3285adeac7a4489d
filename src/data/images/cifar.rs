//! Reads the binary versions of CIFAR-10 and CIFAR-100: each record has one or two labels, then 32 x 32 red, green and
//! blue values.

use std::path::PathBuf;

use super::source::{Decoded, Place, Sink};
use crate::bail;
use crate::data::text::reader::ByteReader;
use crate::error::Result;

pub(super) const NAMES_10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

/// The labels of a record: the number of classes of each, and the index of the label to use.
pub(super) struct Records {
    classes: &'static [usize],
    wanted: usize,
}

impl Records {
    pub const TEN: Records = Records { classes: &[10], wanted: 0 };
    pub const HUNDRED_COARSE: Records = Records { classes: &[20, 100], wanted: 0 };
    pub const HUNDRED_FINE: Records = Records { classes: &[20, 100], wanted: 1 };
}

/// Passes every image of every file to `sink`.
pub(super) fn read(files: &[PathBuf], records: &Records, sink: &mut Sink<'_>) -> Result<()> {
    let labels = records.classes.len();
    let mut record = vec![0; labels + PIXELS];
    for path in files {
        let mut file = ByteReader::open(path)?;
        for number in 0.. {
            let place = Place { path, unit: "record", number };
            match file.fill(&mut record)? {
                0 if number == 0 => bail!("{}: the file is empty; download it again", path.display()),
                0 => break,
                read if read < record.len() => {
                    bail!(
                        "{place}: the file ends after {read} of the record's {} bytes; download it again",
                        record.len()
                    )
                }
                _ => {}
            }
            // Check all labels: a file with the other record length soon has an invalid one.
            for (&label, &classes) in record.iter().zip(records.classes) {
                if usize::from(label) >= classes {
                    bail!(
                        "{place}: label {label} is not below {classes}; is this the binary version of CIFAR-{}?",
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
