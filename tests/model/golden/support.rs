//! Reading the fixtures.

use std::collections::BTreeMap;
use std::path::PathBuf;
use vcycle::data::loader::batch::Field;
use vcycle::device::{self, Device};
use vcycle::hub::tensors;
use vcycle::model::bert::{Bert, BertConfig, BertHead, Norm};
use vcycle::model::deit::{Deit, DeitConfig, Distillation};
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::params::Param;
use vcycle::model::store::Store;
use vcycle::model::{BatchShape, Model};
use vcycle::multilevel::Scheme;

pub const VARIANTS: [&str; 8] = ["default", "depthonly", "hs64", "hs64w256", "strided", "three", "uneven", "widthonly"];
pub const MODELS: [&str; 5] = ["src", "coal", "deco", "ip025", "ip050"];
pub const FAMILIES: [&str; 3] = ["gpt2", "bert", "deit"];

pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A model of any family, with its concrete type.
pub enum Net {
    Gpt(Gpt),
    Bert(Bert),
    Deit(Deit),
}

impl Net {
    pub fn model(&self) -> &dyn Model {
        match self {
            Net::Gpt(model) => model,
            Net::Bert(model) => model,
            Net::Deit(model) => model,
        }
    }

    pub fn boxed(self) -> Box<dyn Model> {
        match self {
            Net::Gpt(model) => Box::new(model),
            Net::Bert(model) => Box::new(model),
            Net::Deit(model) => Box::new(model),
        }
    }
}

pub struct Variant {
    pub family: &'static str,
    pub dir: PathBuf,
    pub meta: serde_json::Value,
    pub checks: Option<serde_json::Value>,
    pub scheme: Scheme,
}

/// Returns next-token labels: position t predicts token t + 1; the last position is not scored.
fn shifted(ids: &[i32], time: usize) -> Vec<i32> {
    (0..ids.len()).map(|i| if (i + 1).is_multiple_of(time) { -100 } else { ids[i + 1] }).collect()
}

impl Variant {
    pub fn open(family: &'static str, name: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family).join(name);
        let json = |file: &str| -> Option<serde_json::Value> {
            let text = std::fs::read_to_string(dir.join(file)).ok()?;
            Some(serde_json::from_str(&text).expect("a fixture is JSON"))
        };
        let scheme = Scheme::read(&dir.join("scheme.json")).expect("a fixture's scheme");
        Variant { family, meta: json("meta.json").expect("meta.json"), checks: json("checks.json"), scheme, dir }
    }

    pub fn net(&self, size: &str) -> Net {
        self.config(&format!("config.{size}.json"))
    }

    pub fn config(&self, file: &str) -> Net {
        let text = std::fs::read_to_string(self.dir.join(file)).expect("a fixture's config");
        let json: serde_json::Value = serde_json::from_str(&text).expect("a fixture is JSON");
        let size = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key} in {file}")) as usize;
        let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key} in {file}"));
        match self.family {
            "gpt2" => Net::Gpt(
                Gpt::new(GptConfig {
                    vocab: size("vocab_size"),
                    context: size("n_positions"),
                    width: size("n_embd"),
                    heads: size("n_head"),
                    layers: size("n_layer"),
                    ffn: 4 * size("n_embd"),
                    eps: number("layer_norm_epsilon"),
                    init_std: 0.02,
                    dropout_embedding: 0.0,
                    dropout_attention: 0.0,
                    dropout_residual: 0.0,
                    bos: None,
                    eos: None,
                    tied: true,
                })
                .expect("a fixture's sizes"),
            ),
            "bert" => Net::Bert(
                Bert::new(BertConfig {
                    vocab: size("vocab_size"),
                    context: size("max_position_embeddings"),
                    types: size("type_vocab_size"),
                    width: size("hidden_size"),
                    heads: size("num_attention_heads"),
                    layers: size("num_hidden_layers"),
                    ffn: size("intermediate_size"),
                    eps: number("layer_norm_eps"),
                    init_std: 0.02,
                    dropout_hidden: 0.0,
                    dropout_attention: 0.0,
                    pad: size("pad_token_id") as u32,
                    norm: Norm::Post,
                    head: BertHead::Masked,
                })
                .expect("a fixture's sizes"),
            ),
            _ => Net::Deit(
                Deit::new(DeitConfig {
                    image: size("img_size"),
                    patch: size("patch_size"),
                    channels: size("in_chans"),
                    classes: size("num_classes"),
                    width: size("embed_dim"),
                    heads: size("num_heads"),
                    layers: size("depth"),
                    ffn: size("mlp_ratio") * size("embed_dim"),
                    eps: number("layer_norm_eps"),
                    init_std: 0.02,
                    distillation: Distillation::None,
                    dropout: 0.0,
                    drop_path: 0.0,
                })
                .expect("a fixture's sizes"),
            ),
        }
    }

    /// Returns the big or small model, whichever one of [`MODELS`] is.
    pub fn net_of(&self, model: &str) -> Net {
        self.net(if model == "coal" { "small" } else { "big" })
    }

    /// Returns the inputs of batch `number` of a file, and their shape.
    pub fn batch(&self, file: &str, number: usize) -> (Vec<Field>, BatchShape) {
        let part = |values: &[i32], size: usize| values[number * size..(number + 1) * size].to_vec();
        let ints = |name: &str| self.integers(file, name);
        let (batch, time) = (2, 16);
        let tokens = |name: &str| part(&ints(name), batch * time);
        let shape = BatchShape { batch, time, scored: time };
        let fields = match self.family {
            "gpt2" => {
                let ids = tokens("input_ids");
                let labels = shifted(&ids, time);
                vec![Field::Ints(ids), Field::Ints(labels)]
            }
            "bert" => {
                let all = (0..(batch * time) as i32).collect();
                let named = ["input_ids", "token_type_ids", "attention_mask"].map(|name| Field::Ints(tokens(name)));
                named.into_iter().chain([Field::Ints(all), Field::Ints(tokens("labels"))]).collect()
            }
            _ => {
                let labels = part(&ints("labels"), batch);
                let pixels = self.tensors_of(file, "pixel_values");
                let Net::Deit(deit) = self.net("big") else { unreachable!("DeiT is the only family with images") };
                let image = deit.config.channels * deit.config.image * deit.config.image;
                let pixels = &pixels[number * batch * image..(number + 1) * batch * image];
                let patches = pixels.chunks_exact(image).flat_map(|image| patches(&deit.config, image)).collect();
                let share = vec![1.0; batch];
                vec![Field::Floats(patches), Field::Ints(labels.clone()), Field::Ints(labels), Field::Floats(share)]
            }
        };
        (fields, shape)
    }

    fn tensors_of(&self, file: &str, name: &str) -> Vec<f32> {
        let bytes = std::fs::read(self.dir.join(file)).expect("a fixture's inputs");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let data = file.tensor(name).expect("a named tensor").data();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
    }

    pub fn tensors(&self, file: &str) -> Option<Tensors> {
        let path = self.dir.join(file);
        let all = path.exists().then(|| tensors::read(&path).expect("a fixture's tensors"))?;
        Some(all.into_iter().map(|t| (t.name, (t.shape, t.values))).collect())
    }

    /// Reads token ids or labels, stored as 64-bit integers.
    pub fn integers(&self, file: &str, name: &str) -> Vec<i32> {
        let bytes = std::fs::read(self.dir.join(file)).expect("a fixture's inputs");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let data = file.tensor(name).expect("a named tensor").data().to_vec();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as i32).collect()
    }

    /// Returns the weights of `src`: those stored, or those of the formula in the README.
    pub fn source(&self, device: &mut dyn Device) -> Store {
        let net = self.net("big");
        match self.tensors("src.safetensors") {
            Some(stored) => load(net.model(), &stored, device),
            None => fill(net.model(), device, |name, n| self.formula(name, n)),
        }
    }

    fn formula(&self, name: &str, n: usize) -> Vec<f32> {
        let entry = &self.meta["formula"][name];
        let seed = self.meta["formula_seed"].as_str().expect("a seed");
        let (offset, scale) = (entry["offset"].as_f64().expect("offset"), entry["scale"].as_f64().expect("scale"));
        let key = format!("{name}#{seed}")
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3));
        (0..n as u64)
            .map(|i| {
                let mut z = key.wrapping_add(i).wrapping_add(0x9E37_79B9_7F4A_7C15);
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                z ^= z >> 31;
                let u = (z >> 40) as f64 / 16_777_216.0;
                ((2.0 * u - 1.0) * scale + offset) as f32
            })
            .collect()
    }
}

/// Loads a model's weights from the tensors of a fixture.
pub fn load(model: &dyn Model, tensors: &Tensors, device: &mut dyn Device) -> Store {
    fill(model, device, |name, _| tensors[name].1.clone())
}

/// Fills a store with the values that `values` returns for a published name and number of elements.
fn fill(model: &dyn Model, device: &mut dyn Device, values: impl Fn(&str, usize) -> Vec<f32>) -> Store {
    let store = Store::new(model.table().clone(), device).expect("memory");
    for (i, param) in model.table().params.iter().enumerate() {
        let all: Vec<f32> = param.published().iter().flat_map(|part| values(&part.name, part.elements.len())).collect();
        store.write(device, i, &all).expect("a fixture's shape");
    }
    store
}

/// Calls `each` with the name and values of every published tensor that a parameter consists of.
pub fn published(param: &Param, values: &[f64], mut each: impl FnMut(&str, &[f64])) {
    param.published().into_iter().for_each(|part| each(&part.name, &values[part.elements]));
}

/// Returns the patches `[N, K]` of one image `[channels, S, S]`, after a row of zeros for each special token.
fn patches(config: &DeitConfig, image: &[f32]) -> Vec<f32> {
    let DeitConfig { image: size, patch, channels, .. } = *config;
    let mut rows = vec![0.0; config.specials() * config.pixels()];
    for (top, left) in (0..size).step_by(patch).flat_map(|y| (0..size).step_by(patch).map(move |x| (y, x))) {
        for (c, y) in (0..channels).flat_map(|c| (0..patch).map(move |y| (c, y))) {
            let start = (c * size + top + y) * size + left;
            rows.extend_from_slice(&image[start..start + patch]);
        }
    }
    rows
}

/// Returns the largest difference; the lengths must be equal.
pub fn distance(ours: &[f64], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max)
}

/// Compares with `checks.json`: samples to `tolerance`, sums to the largest error that such errors can add up to.
pub fn compare_checks(what: &str, ours: &[f64], check: &serde_json::Value, tolerance: f64) {
    for sample in check["samples"].as_array().expect("samples") {
        let (at, want) = (sample[0].as_u64().expect("index") as usize, sample[1].as_f64().expect("value"));
        assert!((ours[at] - want).abs() <= tolerance, "{what}[{at}] is {} but {want} is published", ours[at]);
    }
    let near = |name: &str, value: f64, error: f64| {
        let want = check[name].as_f64().expect("a statistic");
        // The published statistics have nine digits.
        assert!((value - want).abs() <= error + 1e-8 * want.abs(), "{name} of {what} is {value}, published {want}");
    };
    let n = ours.len() as f64;
    near("sum", ours.iter().sum(), n * tolerance);
    near("abs_sum", ours.iter().map(|v| v.abs()).sum(), n * tolerance);
    near("l2", ours.iter().map(|v| v * v).sum::<f64>().sqrt(), n.sqrt() * tolerance);
}

/// Opens both devices on which the published numbers must be reproduced.
pub fn devices() -> Vec<Box<dyn Device>> {
    ["cpu", "reference"].iter().map(|name| device::open(name, 2).expect("a device")).collect()
}
