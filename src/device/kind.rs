use crate::bail;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A device as `--device` names it: `cpu`, `reference`, `cuda`, `cuda:N` or `emulator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// f32 on the threads of the CPU.
    Cpu,
    /// f64 in plain loops.
    Reference,
    /// An NVIDIA GPU.
    Cuda {
        /// Its number, as CUDA counts the visible GPUs. `cuda` is GPU 0.
        gpu: usize,
    },
    /// The CUDA kernels on emulated hardware.
    Emulator,
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.split_once(':') {
            None => match name {
                "cpu" => Ok(Kind::Cpu),
                "reference" => Ok(Kind::Reference),
                "cuda" => Ok(Kind::Cuda { gpu: 0 }),
                "emulator" => Ok(Kind::Emulator),
                other => bail!("unknown device {other:?}; choose one of {}", super::NAMES.join(", ")),
            },
            Some(("cuda", number)) => match number.parse() {
                Ok(gpu) if !number.starts_with('+') => Ok(Kind::Cuda { gpu }),
                _ => bail!("--device {name}: {number:?} is not the number of a GPU; give cuda:0, cuda:1, ..."),
            },
            Some((kind, _)) => {
                bail!("--device {name}: only cuda takes a number, as in cuda:1; leave it out of {kind:?}")
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Cpu => f.write_str("cpu"),
            Kind::Reference => f.write_str("reference"),
            Kind::Cuda { gpu: 0 } => f.write_str("cuda"),
            Kind::Cuda { gpu } => write!(f, "cuda:{gpu}"),
            Kind::Emulator => f.write_str("emulator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn names_are_parsed() {
        for (name, kind) in [
            ("cpu", Kind::Cpu),
            ("reference", Kind::Reference),
            ("cuda", Kind::Cuda { gpu: 0 }),
            ("cuda:7", Kind::Cuda { gpu: 7 }),
            ("emulator", Kind::Emulator),
        ] {
            assert_eq!(name.parse::<Kind>().expect("a device"), kind);
            assert_eq!(kind.to_string(), name);
        }
        assert_eq!("cuda:0".parse::<Kind>().expect("a device").to_string(), "cuda");
    }

    #[test]
    fn wrong_names_are_refused_with_a_remedy() {
        for (name, words) in [
            ("gpu", "cuda:N"),
            ("cuda:", "cuda:0"),
            ("cuda:-1", "cuda:0"),
            ("cuda:+1", "cuda:0"),
            ("cuda:99999999999999999999", "cuda:0"),
            ("cpu:1", "only cuda"),
        ] {
            let error = name.parse::<Kind>().expect_err(name).to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
    }
}
