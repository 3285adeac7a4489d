//! Shapes to measure: named shapes of GPT-2, BERT and DeiT and of the steps in `docs/benchmarks.md`, or explicit sizes.

use crate::bail;
use crate::error::Result;

/// An operation or step that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A linear layer: forward, gradient of the input, gradient of the weight.
    Gemm,
    /// Attention, forward and backward.
    Attention,
    /// LayerNorm, forward and backward.
    LayerNorm,
    /// Cross-entropy loss and gradient.
    CrossEntropy,
    /// An AdamW update.
    AdamW,
    /// The multi-level operators coalesce and interpolate.
    Multilevel,
    /// A training step.
    Step,
}

/// One shape of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The name or sizes as requested.
    pub name: String,
    /// Sizes in the order that the subject defines.
    pub sizes: Vec<usize>,
    /// The suffix of the sizes, if any: `tied`, `full`, `bert` or `deit`.
    pub mark: Option<&'static str>,
}

/// The shapes of a subject.
struct Kind {
    subject: Subject,
    name: &'static str,
    /// The form of the sizes.
    fields: &'static str,
    /// Suffixes that the sizes may have, and their meaning.
    marks: &'static [(&'static str, &'static str)],
    default: &'static str,
    /// What is measured for a shape.
    cases: &'static str,
    /// Names, sizes and suffixes.
    known: &'static [(&'static str, &'static [usize], Option<&'static str>)],
}

/// All subjects. Sequences of a batch are 4 x 1024 tokens (GPT-2), 8 x 512 (BERT) and 32 x 197 (DeiT).
const KINDS: &[Kind] = &[
    Kind {
        subject: Subject::Gemm,
        name: "gemm",
        fields: "MxNxK",
        marks: &[("tied", "the weight is [N, K], as for an output layer tied to the embeddings")],
        default: "gpt2",
        cases: "forward y[M,N] = x[M,K] W[K,N], dx = dy W^T, dw = x^T dy (in bf16 to f32)",
        known: &[
            ("gpt2-qkv", &[4096, 2304, 768], None),
            ("gpt2-proj", &[4096, 768, 768], None),
            ("gpt2-fc", &[4096, 3072, 768], None),
            ("gpt2-out", &[4096, 768, 3072], None),
            ("gpt2-logits", &[4096, 50257, 768], Some("tied")),
            ("bert-qkv", &[4096, 2304, 768], None),
            ("bert-proj", &[4096, 768, 768], None),
            ("bert-fc", &[4096, 3072, 768], None),
            ("bert-out", &[4096, 768, 3072], None),
            ("bert-large-qkv", &[4096, 3072, 1024], None),
            ("bert-large-proj", &[4096, 1024, 1024], None),
            ("bert-large-fc", &[4096, 4096, 1024], None),
            ("bert-large-out", &[4096, 1024, 4096], None),
            ("deit-qkv", &[6304, 2304, 768], None),
            ("deit-proj", &[6304, 768, 768], None),
            ("deit-fc", &[6304, 3072, 768], None),
            ("deit-out", &[6304, 768, 3072], None),
        ],
    },
    Kind {
        subject: Subject::Attention,
        name: "attention",
        fields: "BxHxTxD",
        marks: &[("full", "no causal mask")],
        default: "gpt2",
        cases: "forward, backward; Q, K and V are columns of one buffer",
        known: &[
            ("gpt2", &[4, 12, 1024, 64], None),
            ("bert", &[8, 12, 512, 64], Some("full")),
            ("bert-large", &[8, 16, 512, 64], Some("full")),
            ("deit", &[32, 12, 197, 64], Some("full")),
        ],
    },
    Kind {
        subject: Subject::LayerNorm,
        name: "layernorm",
        fields: "ROWSxWIDTH",
        marks: &[],
        default: "gpt2",
        cases: "forward, backward (adds to the gradient of the residual stream)",
        known: &[
            ("gpt2", &[4096, 768], None),
            ("bert", &[4096, 768], None),
            ("bert-large", &[4096, 1024], None),
            ("deit", &[6304, 768], None),
        ],
    },
    Kind {
        subject: Subject::CrossEntropy,
        name: "cross-entropy",
        fields: "ROWSxVOCABULARY",
        marks: &[],
        default: "gpt2",
        cases: "loss and gradient in one pass; the gradient overwrites the logits, restored by a copy before each run",
        known: &[
            ("gpt2", &[4096, 50257], None),
            ("bert", &[4096, 30522], None),
            ("deit", &[32, 1000], None),
            ("char", &[2048, 65], None),
            ("small", &[2048, 8192], None),
        ],
    },
    Kind {
        subject: Subject::AdamW,
        name: "adamw",
        fields: "PARAMETERS",
        marks: &[],
        default: "gpt2",
        cases: "one update of all parameters (in bf16 including the rounded copy)",
        known: &[
            ("gpt2", &[124_439_808], None),
            ("bert", &[109_482_240], None),
            ("bert-large", &[335_141_888], None),
            ("deit", &[86_567_656], None),
        ],
    },
    Kind {
        subject: Subject::Multilevel,
        name: "multilevel",
        fields: "L,H,C,T,V",
        marks: &[],
        default: "gpt2",
        cases: "coalesce a GPT to half its layers and heads; interpolate it with the de-coalesced model (f32)",
        known: &[
            ("char", &[6, 6, 384, 256, 65], None),
            ("small", &[4, 4, 256, 128, 8192], None),
            ("gpt2", &[12, 12, 768, 1024, 50257], None),
            ("gpt2-medium", &[24, 16, 1024, 1024, 50257], None),
        ],
    },
    Kind {
        subject: Subject::Step,
        name: "step",
        fields: "L,H,C,T,B,V",
        marks: &[
            ("bert", "a BERT with a loss at 15 % of the tokens"),
            ("deit", "a DeiT with V classes, images of T x T, patches of 16 x 16"),
        ],
        default: "char",
        cases: "forward, backward and AdamW on random data; a GPT unless a suffix says otherwise",
        known: &[
            ("char", &[6, 6, 384, 256, 8, 65], None),
            ("small", &[4, 4, 256, 128, 16, 8192], None),
            ("gpt2", &[12, 12, 768, 512, 1, 50257], None),
            ("gpt2-gpu", &[12, 12, 768, 1024, 32, 50257], None),
            ("bert-128", &[12, 12, 768, 128, 128, 30522], Some("bert")),
            ("bert-512", &[12, 12, 768, 512, 32, 30522], Some("bert")),
            ("deit-b", &[12, 12, 768, 224, 128, 1000], Some("deit")),
        ],
    },
];

/// Largest product of sizes: about a quadrillion multiply-adds.
const MOST: u128 = 1 << 50;

impl Subject {
    fn kind(self) -> &'static Kind {
        // Every subject is in the table; a test checks that.
        KINDS.iter().find(|kind| kind.subject == self).unwrap_or(&KINDS[0])
    }

    /// Returns the name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        self.kind().name
    }

    /// Returns the names of all subjects.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|kind| kind.name)
    }

    /// Returns the shapes for a name, a model (for gemm: `bert` means all shapes of BERT), or sizes; the default
    /// without.
    ///
    /// # Errors
    /// If the shape is unknown (the message lists the names and the form of sizes), or a size is zero or too large.
    pub fn shapes(self, wanted: Option<&str>) -> Result<Vec<Shape>> {
        let kind = self.kind();
        let wanted = wanted.unwrap_or(kind.default);
        let is_called = |name: &str| name == wanted;
        let begins = |name: &str| name.rsplit_once('-').is_some_and(|(family, _)| family == wanted);
        let named = |test: &dyn Fn(&str) -> bool| -> Vec<Shape> {
            let all = kind.known.iter().filter(|(name, ..)| test(name));
            all.map(|(name, sizes, mark)| Shape { name: (*name).into(), sizes: sizes.to_vec(), mark: *mark }).collect()
        };
        for found in [named(&is_called), named(&|name| self == Subject::Gemm && begins(name))] {
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let (sizes, mark) = match wanted.split_once(':') {
            Some((sizes, word)) => match kind.marks.iter().find(|(mark, _)| *mark == word) {
                Some((mark, _)) => (sizes, Some(*mark)),
                None => return kind.unknown(wanted),
            },
            None => (wanted, None),
        };
        let Ok(sizes) = sizes.split(['x', ',']).map(str::parse::<usize>).collect::<Result<Vec<_>, _>>() else {
            return kind.unknown(wanted);
        };
        if sizes.len() != kind.known[0].1.len() {
            return kind.unknown(wanted);
        }
        self.check(&sizes)?;
        Ok(vec![Shape { name: wanted.into(), sizes, mark }])
    }

    /// Checks that no count of elements, bytes or FLOPs overflows for these sizes.
    fn check(self, sizes: &[usize]) -> Result<()> {
        let product = |which: &[usize]| which.iter().try_fold(1u128, |all, &i| all.checked_mul(sizes[i] as u128));
        let products: &[&[usize]] = match self {
            Subject::Gemm => &[&[0, 1, 2]],
            Subject::Attention => &[&[0, 1, 2, 2, 3]],
            Subject::LayerNorm | Subject::CrossEntropy => &[&[0, 1]],
            Subject::AdamW => &[&[0]],
            Subject::Multilevel => &[&[0, 2, 2], &[2, 3], &[2, 4]],
            Subject::Step => &[&[0, 2, 2, 3, 4], &[2, 3, 4, 5], &[0, 2, 3, 3, 4]],
        };
        for &size in sizes {
            if size == 0 || size >= 1 << 31 {
                bail!("--shape: invalid size {size}; sizes must be at least 1 and below 2^31");
            }
        }
        if products.iter().any(|which| product(which).is_none_or(|n| n > MOST)) {
            bail!("--shape: {sizes:?} is too large for any device; use smaller sizes");
        }
        Ok(())
    }
}

impl Kind {
    fn unknown<T>(&self, wanted: &str) -> Result<T> {
        let names: Vec<_> = self.known.iter().map(|(name, ..)| *name).collect();
        let marks: Vec<_> = self.marks.iter().map(|(mark, _)| format!(":{mark}")).collect();
        let mark = match marks.is_empty() {
            true => String::new(),
            false => format!(", optionally followed by {}", marks.join(" or ")),
        };
        bail!(
            "--shape {wanted:?}: unknown; use one of the {} shapes {}, or give sizes as {}{mark}",
            self.name,
            names.join(", "),
            self.fields
        )
    }
}

/// Returns the names and sizes of all shapes, for `--help`.
pub fn help() -> String {
    let mut text = String::from("What is measured, and the named shapes (or give sizes, separated by x or commas):\n");
    for kind in KINDS {
        text += &format!("\n{} {}: {}\n", kind.name, kind.fields, kind.cases);
        for (mark, meaning) in kind.marks {
            text += &format!("    {}:{mark}: {meaning}\n", kind.fields);
        }
        for (name, sizes, mark) in kind.known {
            let sizes: Vec<_> = sizes.iter().map(usize::to_string).collect();
            let parts = if kind.fields.contains(',') { "," } else { "x" };
            let mark = mark.map_or(String::new(), |mark| format!(":{mark}"));
            let default = if *name == kind.default { " (default)" } else { "" };
            text += &format!("    {name:<16} {}{mark}{default}\n", sizes.join(parts));
        }
    }
    text + "\nB batch, T time, H heads, D head size, C width, L layers, V vocabulary. For gemm, gpt2 (the default), bert,\n\
            bert-large and deit each select all shapes of that model."
}

#[cfg(test)]
mod tests {
    use super::{KINDS, Subject};

    const ALL: [Subject; 7] = [
        Subject::Gemm,
        Subject::Attention,
        Subject::LayerNorm,
        Subject::CrossEntropy,
        Subject::AdamW,
        Subject::Multilevel,
        Subject::Step,
    ];

    #[test]
    fn every_name_is_a_shape_that_fits() {
        for subject in ALL {
            assert_eq!(subject.kind().subject, subject);
            for (name, sizes, mark) in subject.kind().known {
                let found = subject.shapes(Some(name)).expect("a shape");
                assert!(found.iter().any(|s| s.sizes == *sizes && s.mark == *mark), "{name}");
                subject.check(sizes).expect("sizes that fit");
            }
            assert!(!subject.shapes(None).expect("the default").is_empty());
        }
        assert_eq!(KINDS.len(), ALL.len());
    }

    #[test]
    fn names_families_and_sizes() {
        let shapes = |text: &str| Subject::Gemm.shapes(Some(text));
        assert_eq!(shapes("gpt2").expect("a family").len(), 5);
        assert_eq!(shapes("bert").expect("a family").len(), 4);
        let given = shapes("3x4x5:tied").expect("sizes");
        assert_eq!((given[0].sizes.as_slice(), given[0].mark), (&[3, 4, 5][..], Some("tied")));
        assert_eq!(shapes("3,4,5").expect("sizes")[0].sizes, [3, 4, 5]);
        for bad in ["", "gpt", "3x4", "3x4x5x6", "3x4x-5", "3x4x5:full", "3xx5", "gpt2-", "9999999999999999999999x1x1"]
        {
            let text = shapes(bad).expect_err(bad).to_string();
            assert!(text.contains("gpt2-fc") && text.contains("MxNxK"), "{bad}: {text}");
        }
        for bad in ["0x4x5", "2147483648x1x1", "2147483647x2147483647x2147483647"] {
            assert!(shapes(bad).is_err(), "{bad}");
        }
        let steps = |text: &str| Subject::Step.shapes(Some(text));
        assert_eq!(steps("1,1,8,16,2,5:deit").expect("sizes")[0].mark, Some("deit"));
        let text = steps("1,1,8,16,2,5:gpt").expect_err("a mark").to_string();
        assert!(text.contains(":bert or :deit"), "{text}");
        assert!(steps("1,1,2147483647,2147483647,2147483647,1").is_err());
    }
}
