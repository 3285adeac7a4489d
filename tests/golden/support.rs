//! Reading the fixtures.

use std::collections::BTreeMap;
use std::path::PathBuf;
use vcycle::device::{self, Device};
use vcycle::hub::checkpoint;
use vcycle::hub::gpt2_config::Gpt2Config;
use vcycle::hub::tensors;
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::multilevel::Scheme;

pub const VARIANTS: [&str; 8] = ["default", "depthonly", "hs64", "hs64w256", "strided", "three", "uneven", "widthonly"];
pub const MODELS: [&str; 5] = ["src", "coal", "deco", "ip025", "ip050"];

pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub struct Variant {
    pub dir: PathBuf,
    pub meta: serde_json::Value,
    pub checks: Option<serde_json::Value>,
    pub scheme: Scheme,
}

impl Variant {
    pub fn open(name: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gpt2").join(name);
        let json = |file: &str| -> Option<serde_json::Value> {
            let text = std::fs::read_to_string(dir.join(file)).ok()?;
            Some(serde_json::from_str(&text).expect("a fixture is JSON"))
        };
        let scheme = Scheme::read(&dir.join("scheme.json")).expect("a fixture's scheme");
        Variant { meta: json("meta.json").expect("meta.json"), checks: json("checks.json"), scheme, dir }
    }

    pub fn gpt(&self, size: &str) -> Gpt {
        self.config(&format!("config.{size}.json"))
    }

    pub fn config(&self, file: &str) -> Gpt {
        let config = Gpt2Config::read(&self.dir.join(file)).expect("a fixture's config");
        Gpt::new(GptConfig::from(&config)).expect("a fixture's sizes")
    }

    /// The big or small model for one of [`MODELS`].
    pub fn gpt_of(&self, model: &str) -> Gpt {
        self.gpt(if model == "coal" { "small" } else { "big" })
    }

    pub fn tensors(&self, file: &str) -> Option<Tensors> {
        let path = self.dir.join(file);
        let all = path.exists().then(|| tensors::read(&path).expect("a fixture's tensors"))?;
        Some(all.into_iter().map(|t| (t.name, (t.shape, t.values))).collect())
    }

    /// Token ids or labels `[.., T]`, as integers.
    pub fn integers(&self, file: &str, name: &str) -> Vec<i32> {
        let bytes = std::fs::read(self.dir.join(file)).expect("a fixture's inputs");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let data = file.tensor(name).expect("a named tensor").data().to_vec();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as i32).collect()
    }

    /// The weights of `src`: stored, or by the formula of the README.
    pub fn source(&self, device: &mut dyn Device) -> Store {
        let gpt = self.gpt("big");
        let store = Store::new(gpt.table().clone(), device).expect("memory");
        let stored = self.tensors("src.safetensors");
        for (i, param) in gpt.table().params.iter().enumerate() {
            let values = match &stored {
                Some(stored) => stored[&param.name()].1.clone(),
                None => self.formula(&param.name(), param.numel()),
            };
            store.write(device, i, &values).expect("a fixture's shape");
        }
        store
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

/// A model's weights from a file of the fixture.
pub fn load(gpt: &Gpt, tensors: &Tensors, device: &mut dyn Device) -> Store {
    let store = Store::new(gpt.table().clone(), device).expect("memory");
    for (i, param) in gpt.table().params.iter().enumerate() {
        store.write(device, i, &tensors[&param.name()].1).expect("a fixture's shape");
    }
    store
}

/// Largest difference; the lengths must agree.
pub fn distance(ours: &[f64], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max)
}

/// Compares with `checks.json`: samples to `tolerance`, sums to what so many of these errors can add up to.
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

/// The names of both devices on which golden numbers must hold.
pub fn devices() -> Vec<Box<dyn Device>> {
    ["cpu", "reference"].iter().map(|name| device::open(name, 2).expect("a device")).collect()
}

/// Hub names are those of the fixtures.
#[test]
fn published_files_load_as_they_are() {
    let mut cpu = device::open("cpu", 1).expect("cpu");
    let variant = Variant::open("strided");
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(variant.dir.join("src.safetensors"), dir.path().join(checkpoint::WEIGHTS)).expect("copy");
    std::fs::copy(variant.dir.join("config.big.json"), dir.path().join(checkpoint::CONFIG)).expect("copy");
    let (gpt, store) = checkpoint::load(dir.path(), &mut *cpu).expect("a published model");
    let out = tempfile::tempdir().expect("a folder");
    checkpoint::save(out.path(), &gpt, &store, &mut *cpu).expect("saved");
    let read = |path: &std::path::Path| tensors::read(&path.join(checkpoint::WEIGHTS)).expect("tensors");
    let (mut before, mut after) = (read(dir.path()), read(out.path()));
    before.sort_by(|a, b| a.name.cmp(&b.name));
    after.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(before.len(), after.len());
    for (a, b) in before.iter().zip(&after) {
        assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
        assert!(a.values.iter().zip(&b.values).all(|(x, y)| x.to_bits() == y.to_bits()), "{} changed", a.name);
    }
}
