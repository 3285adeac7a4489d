//! Reads the binary versions of CIFAR-10 and CIFAR-100: each record has one or two labels, then 32 x 32 red, green and
//! blue values.

use std::path::PathBuf;

use super::{Decoded, ImageFormat, Place, Sink, add_files, numbers};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::text::reader::ByteReader;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The binary version of CIFAR-10: records of a label and 3 x 32 x 32 pixels.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cifar10 {
    /// The files, in order.
    pub files: Vec<PathBuf>,
}

impl ImageFormat for Cifar10 {
    fn names(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(NAMES_10.map(str::to_owned).to_vec()))
    }

    fn channels(&self) -> usize {
        3
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<Vec<String>> {
        read(&self.files, &Records::TEN, sink).map(|()| Vec::new())
    }

    fn add_to(&self, print: &mut Fingerprint) -> Result<()> {
        add_files(print, "cifar10", &self.files)
    }

    fn path(&self) -> Option<&Path> {
        self.files.first().map(PathBuf::as_path)
    }
}

/// The binary version of CIFAR-100, with two labels per record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cifar100 {
    /// The files, in order.
    pub files: Vec<PathBuf>,
    /// Which labels to use.
    #[serde(default)]
    pub labels: Cifar100Labels,
}

/// The labels of CIFAR-100 to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cifar100Labels {
    /// 100 classes.
    #[default]
    Fine,
    /// 20 groups of classes.
    Coarse,
}

impl ImageFormat for Cifar100 {
    fn names(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(numbers(match self.labels {
            Cifar100Labels::Fine => 100,
            Cifar100Labels::Coarse => 20,
        })))
    }

    fn channels(&self) -> usize {
        3
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<Vec<String>> {
        let records = match self.labels {
            Cifar100Labels::Fine => &Records::HUNDRED_FINE,
            Cifar100Labels::Coarse => &Records::HUNDRED_COARSE,
        };
        read(&self.files, records, sink).map(|()| Vec::new())
    }

    fn add_to(&self, print: &mut Fingerprint) -> Result<()> {
        let kind = match self.labels {
            Cifar100Labels::Fine => "cifar100",
            Cifar100Labels::Coarse => "cifar20",
        };
        add_files(print, kind, &self.files)
    }

    fn path(&self) -> Option<&Path> {
        self.files.first().map(PathBuf::as_path)
    }
}

const NAMES_10: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

/// The labels of a record: the number of classes of each, and the index of the label to use.
struct Records {
    classes: &'static [usize],
    wanted: usize,
}

impl Records {
    const TEN: Records = Records { classes: &[10], wanted: 0 };
    const HUNDRED_COARSE: Records = Records { classes: &[20, 100], wanted: 0 };
    const HUNDRED_FINE: Records = Records { classes: &[20, 100], wanted: 1 };
}

/// Passes every image of every file to `sink`.
fn read(files: &[PathBuf], records: &Records, sink: &mut Sink<'_>) -> Result<()> {
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
