//! Writes `torch.save` files by hand, with the same instructions in the same order as PyTorch.

use std::io::Write;

/// A tensor as a view of a storage.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub name: &'a str,
    /// Key, type without `Storage`, number of elements.
    pub storage: (&'a str, &'a str, usize),
    pub offset: usize,
    pub shape: &'a [usize],
    pub strides: &'a [usize],
}

/// A tensor that is all of an f32 storage.
pub fn whole<'a>(name: &'a str, key: &'a str, shape: &'a [usize], strides: &'a [usize]) -> Tensor<'a> {
    Tensor { name, storage: (key, "Float", shape.iter().product()), offset: 0, shape, strides }
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(n: usize) -> Vec<u8> {
    [b"\x8a\x08", &(n as i64).to_le_bytes()[..]].concat()
}

fn ints(all: &[usize]) -> Vec<u8> {
    [b"(".to_vec(), all.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat()
}

const DICT: &[u8] = b"ccollections\nOrderedDict\n)R";

/// Instructions that push a tensor.
pub fn tensor(t: &Tensor<'_>, view: &[u8]) -> Vec<u8> {
    let (key, kind, count) = t.storage;
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage")[..],
        format!("ctorch\n{kind}Storage\n").as_bytes(),
        &text(key),
        &text("cpu"),
        &int(count),
        view,
        b"tQ",
        &int(t.offset),
        &ints(t.shape),
        &ints(t.strides),
        b"\x89",
        DICT,
        b"tR",
    ]
    .concat()
}

/// Instructions that push a dictionary of tensors.
pub fn dict(tensors: &[Tensor<'_>], view: &[u8]) -> Vec<u8> {
    let entries = tensors.iter().flat_map(|t| [text(t.name), tensor(t, view)].concat()).collect::<Vec<u8>>();
    let metadata = [b"}", &text("_metadata")[..], DICT, b"sb"].concat();
    [DICT, b"(", &entries, b"u", &metadata].concat()
}

/// A complete pickle with the instructions in `body`.
pub fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

/// An entry of an archive.
pub struct Entry<'a> {
    pub name: &'a str,
    pub content: &'a [u8],
    pub deflate: bool,
}

pub fn stored<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry { name, content, deflate: false }
}

pub fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for Entry { name, content, deflate } in entries {
        let mut sum = flate2::Crc::new();
        sum.update(content);
        let packed = if *deflate {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.to_vec()
        };
        // Version, flags, method, time, date, checksum, sizes, length of the name, length of the extra field.
        let mut facts = vec![20, 0, 0, 0, if *deflate { 8 } else { 0 }, 0, 0, 0, 0, 0];
        for number in [sum.sum(), packed.len() as u32, content.len() as u32] {
            facts.extend(number.to_le_bytes());
        }
        facts.extend((name.len() as u16).to_le_bytes());
        facts.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&facts);
        directory.extend([0; 10]);
        directory.extend((out.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&facts);
        out.extend(name.as_bytes());
        out.extend(packed);
    }
    let begin = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        out.extend((entries.len() as u16).to_le_bytes());
    }
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(begin.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// A torch.save archive with a pickle and storages by key.
pub fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<String> = storages.iter().map(|(key, _)| format!("archive/data/{key}")).collect();
    let mut entries = vec![stored("archive/data.pkl", pickle), stored("archive/byteorder", b"little")];
    entries.extend(names.iter().zip(storages).map(|(name, (_, content))| stored(name, content)));
    entries.push(stored("archive/version", b"3\n"));
    zip(&entries)
}

/// The format before PyTorch 1.6. Storages are key, element count, bytes.
pub fn old(tensors: &[Tensor<'_>], storages: &[(&str, usize, &[u8])]) -> Vec<u8> {
    let facts = [b"}", &text("little_endian")[..], b"\x88s"].concat();
    let keys: Vec<u8> = storages.iter().flat_map(|(key, ..)| text(key)).collect();
    let mut out = [
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.",
        &pickle(&facts)[..],
        &pickle(&dict(tensors, b"N")),
        &pickle(&[b"](", &keys[..], b"e"].concat()),
    ]
    .concat();
    for (_, count, content) in storages {
        out.extend((*count as u64).to_le_bytes());
        out.extend(*content);
    }
    out
}
