//! Files of `torch.save`, in the zip and the legacy format, and the indices of shards.
//!
//! Not detected: changed values in the legacy format, which has no checksums.

use crate::judge::{folder, judge, write};
use crate::mutate::{self, Case};
use crate::torch_writer::{Entry, Tensor, archive, dict, old, pickle, stored, tensor, text, whole, zip};
use serde_json::json;
use std::path::Path;
use vcycle::error::Result;
use vcycle::hub::folder;
use vcycle::hub::tensors::NamedTensor;

const NAME: &str = "pytorch_model.bin";

fn reader(dir: &Path) -> impl FnOnce() -> Result<Vec<NamedTensor>> + use<> {
    let dir = dir.to_path_buf();
    move || folder::read(&dir).map(|weights| weights.tensors)
}

const TENSORS: [Tensor<'static>; 2] = [
    Tensor { name: "bert.w", storage: ("0", "Float", 6), offset: 0, shape: &[3, 2], strides: &[1, 3] },
    Tensor { name: "bert.b", storage: ("1", "Half", 4), offset: 1, shape: &[3], strides: &[1] },
];

fn contents() -> [Vec<u8>; 2] {
    [[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].map(f32::to_le_bytes).concat(), vec![0, 60, 0, 61, 0, 62, 0, 63]]
}

#[test]
fn damaged_bytes() {
    let dir = folder();
    let path = dir.path().join(NAME);
    let [first, second] = contents();
    let described = pickle(&dict(&TENSORS, b""));
    let packed = [
        Entry { name: "data.pkl", content: &described, deflate: true },
        Entry { name: "data/0", content: &first, deflate: true },
        stored("data/1", &second),
    ];
    let forms = [
        (archive(&described, &[("0", &first), ("1", &second)]), true),
        (zip(&packed), true),
        (old(&TENSORS, &[("0", 6, &first), ("1", 4, &second)]), false),
    ];
    for (seed, (valid, has_sums)) in forms.iter().enumerate() {
        write(&path, valid);
        let original = judge(NAME, "valid", reader(dir.path())).expect("a valid file");
        let places = [1, 4, 30, valid.len() / 2, valid.len() - 22, valid.len()];
        for Case { name, bytes } in mutate::bytes(valid, &places, seed as u64, 250) {
            write(&path, &bytes);
            let Ok(found) = judge(NAME, &name, reader(dir.path())) else { continue };
            assert!(!has_sums || found == original, "{name}: read with other values");
            assert!(found.iter().map(|t| t.values.len()).sum::<usize>() <= bytes.len(), "{name}");
        }
    }
    mutate::in_place_of(&path.clone(), |name| {
        judge(NAME, name, reader(dir.path())).expect_err(name);
    });
}

#[test]
fn inconsistent_archives_are_refused() {
    let dir = folder();
    let path = dir.path().join(NAME);
    let [first, second] = contents();
    let described = pickle(&dict(&TENSORS, b""));
    let valid = archive(&described, &[("0", &first), ("1", &second)]);
    let end = valid.len() - 22;
    let directory = u32::from_le_bytes(valid[end + 16..end + 20].try_into().expect("four bytes")) as usize;
    let refused = |name: &str, bytes: &[u8]| {
        write(&path, bytes);
        judge(NAME, name, reader(dir.path())).expect_err(name)
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut lie = valid.clone();
        lie[at..at + bytes.len()].copy_from_slice(bytes);
        lie
    };
    for value in [0u32, 1, 1 << 20, 1 << 31, u32::MAX - 1, u32::MAX] {
        let value = value.to_le_bytes();
        for at in [end + 12, end + 16] {
            refused("the directory's offset or size", &with(at, &value));
        }
        // The first entry's checksum, compressed size, size and offset.
        for at in [16, 20, 24, 42].map(|at| directory + at) {
            if valid[at..at + 4] != value {
                refused("an entry", &with(at, &value));
            }
        }
    }
    refused("many entries", &with(end + 10, &[0xff; 2]));
    refused("encrypted", &with(directory + 8, &[1]));
    refused("an unknown compression method", &with(directory + 10, &[99]));
    refused("a multi-part archive", &with(end + 4, &[1]));
    // Twenty entries for the same bytes, together larger than the file.
    let mut overlapping = zip(&[stored("data.pkl", &described), stored("data/0", &[0; 10_000])]);
    let end = overlapping.split_off(overlapping.len() - 22);
    let record = overlapping[overlapping.len() - 46 - "data/0".len()..].to_vec();
    let begin = u32::from_le_bytes(end[16..20].try_into().expect("four bytes"));
    for i in 0..20 {
        overlapping.extend(&record[..record.len() - 1]);
        overlapping.push(b'a' + i);
    }
    let size = overlapping.len() as u32 - begin;
    overlapping.extend([&end[..8], &[22, 0, 22, 0], &size.to_le_bytes(), &end[16..]].concat());
    assert!(refused("overlapping", &overlapping).contains("overlap"));
    let bomb = vec![0u8; 64 << 20];
    let tensors = [whole("w", "0", &[16 << 20], &[1])];
    let bomb = zip(&[
        stored("data.pkl", &pickle(&dict(&tensors, b""))),
        Entry { name: "data/0", content: &bomb, deflate: true },
    ]);
    assert!(bomb.len() < 1 << 20);
    assert!(refused("a bomb", &bomb).contains("expand"));
    for name in ["/data.pkl", "x/data.pkl"] {
        let two = zip(&[stored("data.pkl", &described), stored(name, &described)]);
        refused("two descriptions", &two);
    }
    let same = zip(&[stored("data.pkl", &described), stored("data.pkl", &described)]);
    refused("one name twice", &same);
}

#[test]
fn malicious_pickles_are_refused() {
    let dir = folder();
    let path = dir.path().join(NAME);
    let [first, _] = contents();
    let refused = |name: &str, body: &[u8]| {
        write(&path, &archive(&pickle(body), &[("0", &first)]));
        judge(NAME, name, reader(dir.path())).expect_err(name)
    };
    let view = |offset, shape: &'static [usize], strides: &'static [usize]| {
        dict(&[Tensor { offset, strides, ..whole("w", "0", shape, strides) }], b"")
    };
    let six = |t: Tensor<'static>| Tensor { storage: ("0", "Float", 6), ..t };
    let within = |offset, shape: &'static [usize], strides: &'static [usize]| {
        dict(&[Tensor { offset, ..six(whole("w", "0", shape, strides)) }], b"")
    };
    const HUGE: usize = i64::MAX as usize;
    refused("a storage of the wrong size", &view(0, &[7], &[1]));
    refused("beyond its storage", &within(1, &[6], &[1]));
    refused("far beyond", &within(HUGE, &[6], &[1]));
    refused("strides that leave the storage", &within(0, &[2, 3], &[HUGE, 1]));
    refused("strides that overflow", &within(0, &[3, 3], &[HUGE, HUGE]));
    refused("a huge shape", &within(0, &[HUGE, HUGE], &[0, 0]));
    refused("one number a billion times", &within(0, &[1 << 30], &[0]));
    refused("too many axes", &within(0, &[1; 9], &[1; 9]));
    refused("more axes than strides", &within(0, &[2, 3], &[1]));
    let many: Vec<String> = (0..5_000).map(|i| format!("t{i}")).collect();
    let million: &[usize] = &[1_000];
    let shared: Vec<_> =
        many.iter().map(|n| Tensor { storage: ("0", "Float", 1), ..whole(n, "0", million, &[0]) }).collect();
    refused("five million values from one", &dict(&shared, b""));
    let twice = [six(whole("w", "0", &[6], &[1])), six(whole("w", "0", &[6], &[1]))];
    refused("one name twice", &dict(&twice, b""));
    let two = [six(whole("w", "0", &[6], &[1])), Tensor { storage: ("0", "Half", 6), ..whole("v", "0", &[6], &[1]) }];
    refused("a storage of two types", &dict(&two, b""));
    refused("a missing storage", &dict(&[whole("w", "../../etc/passwd", &[6], &[1])], b""));
    refused("a storage that is a view", &dict(&[six(whole("w", "0", &[6], &[1]))], b"(tK\x01K\x02t"));

    for (name, body) in [
        ("nothing", b"".to_vec()),
        ("a number", b"K\x01".to_vec()),
        ("a tensor alone", tensor(&six(whole("w", "0", &[6], &[1])), b"")),
        ("more items than the stack has", b"}s".to_vec()),
        ("items of an outer list", b"}K\x01K\x02(s".to_vec()),
        ("a tuple of an outer list", b"K\x01(\x85".to_vec()),
        ("items without a mark", b"}u".to_vec()),
        ("an odd number of items", [b"}(", &text("w")[..], b"u"].concat()),
        ("items put into a number", b"K\x01(K\x02K\x03u".to_vec()),
        ("an empty memo", b"h\x00".to_vec()),
        ("a memo index out of range", b"j\xff\xff\xff\xff".to_vec()),
        ("an item of an empty stack", b"q\x00".to_vec()),
        ("a call of a number", b"K\x01)R".to_vec()),
        ("a call of a name without arguments", b"ctorch._utils\n_rebuild_tensor_v2\n)R".to_vec()),
        ("an object of a class", b"ccollections\nOrderedDict\n)\x81".to_vec()),
        ("attributes of a number", b"K\x01}b".to_vec()),
        ("a storage given as a number", b"K\x01Q".to_vec()),
        ("a text longer than the file", b"X\xff\xff\xff\xff".to_vec()),
        ("a text with a 64-bit length", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        ("a text that is not UTF-8", b"X\x01\0\0\0\xff".to_vec()),
        ("an unterminated name", b"cos".to_vec()),
        ("an unknown instruction", b"\xff".to_vec()),
        ("an instance", b"(ios\nsystem\n".to_vec()),
        ("a number as key", b"}K\x01K\x02s".to_vec()),
        ("a dictionary in itself", [b"}q\0", &text("model")[..], b"h\0s"].concat()),
        ("a million dictionaries", vec![b'}'; 1_000_000]),
        ("five million lists", vec![b']'; 5_000_000]),
        ("a million tuples in each other", [vec![b')'], vec![0x85; 1_000_000]].concat()),
        ("a million marks", vec![b'('; 1_000_000]),
        ("a million copies", [b"}q\0".to_vec(), b"h\0".repeat(1_000_000)].concat()),
    ] {
        refused(name, &body);
    }
    let message = refused("a command", &[b"cos\nsystem\n(", &text("id")[..], b"tR"].concat());
    assert!(message.contains("os.system"), "{message}");
}

#[test]
fn indices_of_shards() {
    let dir = folder();
    let at = dir.path();
    let shard = archive(&pickle(&dict(&[whole("w", "0", &[6], &[1])], b"")), &[("0", &contents()[0])]);
    write(&at.join("1.bin"), &shard);
    let value = json!({"metadata": {"total_size": 24}, "weight_map": {"w": "1.bin"}});
    let index = at.join("pytorch_model.bin.index.json");
    let valid = value.to_string().into_bytes();
    let mut cases = mutate::bytes(&valid, &[1, valid.len() / 2, valid.len()], 1, 60);
    cases.extend(mutate::json(&value, 2, 120));
    for Case { name, bytes } in cases {
        write(&index, &bytes);
        if let Ok(found) = judge("index.json", &name, reader(at)) {
            assert!(found.len() == 1 && found[0].name == "w" && found[0].values[5] == 6.0, "{name}");
        }
    }
    mutate::in_place_of(&index.clone(), |name| {
        judge("index.json", name, reader(at)).expect_err(name);
    });
}
