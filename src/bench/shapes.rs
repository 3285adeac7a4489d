//! Shapes by name, of GPT-2, BERT and DeiT and of the steps in docs/benchmarks.md, or by their sizes.

use crate::bail;
use crate::error::Result;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Gemm,
    Attention,
    LayerNorm,
    CrossEntropy,
    AdamW,
    Multilevel,
    Step,
}

/// One shape of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// As it was asked for.
    pub name: String,
    pub sizes: Vec<usize>,
    /// The subject's mark was given.
    pub marked: bool,
}

struct Kind {
    subject: Subject,
    name: &'static str,
    /// What the sizes are.
    fields: &'static str,
    /// A word behind the sizes, and its meaning.
    mark: Option<(&'static str, &'static str)>,
    default: &'static str,
    /// What is measured of a shape.
    cases: &'static str,
    known: &'static [(&'static str, &'static [usize], bool)],
}

/// Sequences of a step: 4 x 1024 (GPT-2), 8 x 512 (BERT), 32 x 197 (DeiT).
const KINDS: &[Kind] = &[
    Kind {
        subject: Subject::Gemm,
        name: "gemm",
        fields: "MxNxK",
        mark: Some(("tied", "the weight is [N, K], as of a head that is tied to the embeddings")),
        default: "gpt2",
        cases: "forward y[M,N] = x[M,K] W[K,N], dx = dy W^T, dw = x^T dy (in bf16 to f32)",
        known: &[
            ("gpt2-qkv", &[4096, 2304, 768], false),
            ("gpt2-proj", &[4096, 768, 768], false),
            ("gpt2-fc", &[4096, 3072, 768], false),
            ("gpt2-out", &[4096, 768, 3072], false),
            ("gpt2-logits", &[4096, 50257, 768], true),
            ("bert-qkv", &[4096, 2304, 768], false),
            ("bert-proj", &[4096, 768, 768], false),
            ("bert-fc", &[4096, 3072, 768], false),
            ("bert-out", &[4096, 768, 3072], false),
            ("bert-large-qkv", &[4096, 3072, 1024], false),
            ("bert-large-proj", &[4096, 1024, 1024], false),
            ("bert-large-fc", &[4096, 4096, 1024], false),
            ("bert-large-out", &[4096, 1024, 4096], false),
            ("deit-qkv", &[6304, 2304, 768], false),
            ("deit-proj", &[6304, 768, 768], false),
            ("deit-fc", &[6304, 3072, 768], false),
            ("deit-out", &[6304, 768, 3072], false),
        ],
    },
    Kind {
        subject: Subject::Attention,
        name: "attention",
        fields: "BxHxTxD",
        mark: Some(("full", "no causal mask")),
        default: "gpt2",
        cases: "forward, backward; Q, K and V are columns of one buffer",
        known: &[
            ("gpt2", &[4, 12, 1024, 64], false),
            ("bert", &[8, 12, 512, 64], true),
            ("bert-large", &[8, 16, 512, 64], true),
            ("deit", &[32, 12, 197, 64], true),
        ],
    },
    Kind {
        subject: Subject::LayerNorm,
        name: "layernorm",
        fields: "ROWSxWIDTH",
        mark: None,
        default: "gpt2",
        cases: "forward, backward (adds to the gradient of the residual stream)",
        known: &[
            ("gpt2", &[4096, 768], false),
            ("bert", &[4096, 768], false),
            ("bert-large", &[4096, 1024], false),
            ("deit", &[6304, 768], false),
        ],
    },
    Kind {
        subject: Subject::CrossEntropy,
        name: "cross-entropy",
        fields: "ROWSxVOCABULARY",
        mark: None,
        default: "gpt2",
        cases: "loss and gradient in one pass, in place of the logits, which a copy brings before each run",
        known: &[
            ("gpt2", &[4096, 50257], false),
            ("bert", &[4096, 30522], false),
            ("deit", &[32, 1000], false),
            ("char", &[2048, 65], false),
            ("small", &[2048, 8192], false),
        ],
    },
    Kind {
        subject: Subject::AdamW,
        name: "adamw",
        fields: "PARAMETERS",
        mark: None,
        default: "gpt2",
        cases: "one update of a whole arena (in bf16 with the rounded copy)",
        known: &[
            ("gpt2", &[124_439_808], false),
            ("bert", &[109_482_240], false),
            ("bert-large", &[335_141_888], false),
            ("deit", &[86_567_656], false),
        ],
    },
    Kind {
        subject: Subject::Multilevel,
        name: "multilevel",
        fields: "L,H,C,T,V",
        mark: None,
        default: "gpt2",
        cases: "coalesce a GPT to half its layers and heads; interpolate with the de-coalesced (f32)",
        known: &[
            ("char", &[6, 6, 384, 256, 65], false),
            ("small", &[4, 4, 256, 128, 8192], false),
            ("gpt2", &[12, 12, 768, 1024, 50257], false),
            ("gpt2-medium", &[24, 16, 1024, 1024, 50257], false),
        ],
    },
    Kind {
        subject: Subject::Step,
        name: "step",
        fields: "L,H,C,T,B,V",
        mark: None,
        default: "char",
        cases: "forward, backward and AdamW of a GPT on random tokens",
        known: &[
            ("char", &[6, 6, 384, 256, 8, 65], false),
            ("small", &[4, 4, 256, 128, 16, 8192], false),
            ("gpt2", &[12, 12, 768, 512, 1, 50257], false),
            ("gpt2-gpu", &[12, 12, 768, 1024, 32, 50257], false),
        ],
    },
];

/// Products of sizes beyond it are beyond any device: a quadrillion multiply-adds.
const MOST: u128 = 1 << 50;

impl Subject {
    fn kind(self) -> &'static Kind {
        // Every subject stands in the table; a test walks them.
        KINDS.iter().find(|kind| kind.subject == self).unwrap_or(&KINDS[0])
    }

    pub fn name(self) -> &'static str {
        self.kind().name
    }

    /// Those of all subjects.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|kind| kind.name)
    }

    /// The word behind the sizes of this shape.
    pub fn mark(self, shape: &Shape) -> Option<&'static str> {
        self.kind().mark.filter(|_| shape.marked).map(|(mark, _)| mark)
    }

    /// Shapes by a name, the first part of some names (`bert`: all of BERT's), or sizes.
    ///
    /// # Errors
    /// Lists the names and says how sizes are written; sizes of zero or beyond any device.
    pub fn shapes(self, wanted: Option<&str>) -> Result<Vec<Shape>> {
        let kind = self.kind();
        let wanted = wanted.unwrap_or(kind.default);
        let is_called = |name: &str| name == wanted;
        let begins = |name: &str| name.rsplit_once('-').is_some_and(|(family, _)| family == wanted);
        let named = |test: &dyn Fn(&str) -> bool| -> Vec<Shape> {
            let all = kind.known.iter().filter(|(name, ..)| test(name));
            all.map(|(name, sizes, marked)| Shape { name: (*name).into(), sizes: sizes.to_vec(), marked: *marked })
                .collect()
        };
        for found in [named(&is_called), named(&|name| self == Subject::Gemm && begins(name))] {
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let (sizes, marked) = match (wanted.split_once(':'), kind.mark) {
            (Some((sizes, word)), Some((mark, _))) if word == mark => (sizes, true),
            (Some(_), _) => return kind.unknown(wanted),
            (None, _) => (wanted, false),
        };
        let Ok(sizes) = sizes.split(['x', ',']).map(str::parse::<usize>).collect::<Result<Vec<_>, _>>() else {
            return kind.unknown(wanted);
        };
        if sizes.len() != kind.known[0].1.len() {
            return kind.unknown(wanted);
        }
        self.check(&sizes)?;
        Ok(vec![Shape { name: wanted.into(), sizes, marked }])
    }

    /// No count of elements, bytes or FLOPs of these sizes overflows.
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
                bail!("--shape: {size} is no size; sizes are at least 1 and below 2^31");
            }
        }
        if products.iter().any(|which| product(which).is_none_or(|n| n > MOST)) {
            bail!("--shape: {sizes:?} is beyond any device; use smaller sizes");
        }
        Ok(())
    }
}

impl Kind {
    fn unknown<T>(&self, wanted: &str) -> Result<T> {
        let names: Vec<_> = self.known.iter().map(|(name, ..)| *name).collect();
        let mark = self.mark.map_or(String::new(), |(mark, _)| format!(", with :{mark} behind it or without"));
        bail!(
            "--shape {wanted:?}: {} knows {}; or give its sizes as {}{mark}",
            self.name,
            names.join(", "),
            self.fields
        )
    }
}

/// The names and sizes of all shapes, for `--help`.
pub fn help() -> String {
    let mut text =
        String::from("What is measured, and the shapes by name (or give the sizes; x and , both part them):\n");
    for kind in KINDS {
        text += &format!("\n{} {}: {}\n", kind.name, kind.fields, kind.cases);
        if let Some((mark, meaning)) = kind.mark {
            text += &format!("    {}:{mark}: {meaning}\n", kind.fields);
        }
        for (name, sizes, marked) in kind.known {
            let sizes: Vec<_> = sizes.iter().map(usize::to_string).collect();
            let parts = if kind.fields.contains(',') { "," } else { "x" };
            let mark = kind.mark.filter(|_| *marked).map_or(String::new(), |(mark, _)| format!(":{mark}"));
            let default = if *name == kind.default { " (default)" } else { "" };
            text += &format!("    {name:<16} {}{mark}{default}\n", sizes.join(parts));
        }
    }
    text + "\nB batch, T time, H heads, D head size, C width, L layers, V vocabulary. For gemm, gpt2 (the default), bert,\n\
            bert-large and deit are all shapes of that model."
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
            for (name, sizes, marked) in subject.kind().known {
                let found = subject.shapes(Some(name)).expect("a shape");
                assert!(found.iter().any(|s| s.sizes == *sizes && s.marked == *marked), "{name}");
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
        assert_eq!((given[0].sizes.as_slice(), given[0].marked), (&[3, 4, 5][..], true));
        assert_eq!(shapes("3,4,5").expect("sizes")[0].sizes, [3, 4, 5]);
        for bad in ["", "gpt", "3x4", "3x4x5x6", "3x4x-5", "3x4x5:full", "3xx5", "gpt2-", "9999999999999999999999x1x1"]
        {
            let text = shapes(bad).expect_err(bad).to_string();
            assert!(text.contains("gpt2-fc") && text.contains("MxNxK"), "{bad}: {text}");
        }
        for bad in ["0x4x5", "2147483648x1x1", "2147483647x2147483647x2147483647"] {
            assert!(shapes(bad).is_err(), "{bad}");
        }
        assert!(Subject::Step.shapes(Some("1,1,2147483647,2147483647,2147483647,1")).is_err());
    }
}
