use super::harness::{EPS, Harness};
use super::{Size, Stem};
use crate::device::ops::{IDENTITY, Item, Multilevel, Op, Operation};

pub const STEMS: &[Stem] = &[Stem { name: Multilevel::NAME, cases, sample }];

/// Builds the sparse maps of one operation.
#[derive(Default)]
struct Maps {
    index: Vec<u32>,
    weight: Vec<f64>,
}

impl Maps {
    /// Adds an entry. Returns its position.
    fn push(&mut self, index: u32, weight: f64) -> u32 {
        self.index.push(index);
        self.weight.push(weight);
        self.index.len() as u32 - 1
    }

    /// Adds a map from `src_units` to `units`: groups of 0 to 3 random source units with random weights. Returns its
    /// position.
    fn random(&mut self, harness: &mut Harness, units: usize, src_units: usize) -> u32 {
        let groups: Vec<Vec<i32>> = (0..units)
            .map(|_| {
                let n = harness.random.ids(1, 4)[0] as usize;
                harness.random.ids(n, src_units)
            })
            .collect();
        let pointers = self.index.len() as u32;
        (0..=units).for_each(|_| {
            self.push(0, 0.0);
        });
        for (i, group) in groups.iter().enumerate() {
            self.index[pointers as usize + i] = self.index.len() as u32;
            for &unit in group {
                self.push(unit as u32, harness.random.float());
            }
        }
        self.index[pointers as usize + units] = self.index.len() as u32;
        pointers
    }

    /// Adds a map like those between models, where the smaller axis has two heads: each head of `units` combines
    /// several whole heads of `src_units`, or is a copy of one of its two. Returns its position.
    fn heads(&mut self, harness: &mut Harness, units: usize, src_units: usize) -> u32 {
        let of_unit = |unit: usize| -> Vec<usize> {
            let (block, members) = (units.min(src_units) / 2, src_units / units);
            match members {
                0 => vec![unit % src_units],
                _ => (0..members).map(|m| (unit / block + 2 * m) * block + unit % block).collect(),
            }
        };
        let pointers = self.index.len() as u32;
        let mut entry = pointers + units as u32 + 1;
        for unit in 0..units {
            self.push(entry, 0.0);
            entry += of_unit(unit).len() as u32;
        }
        self.push(entry, 0.0);
        for source in (0..units).flat_map(of_unit) {
            self.push(source as u32, harness.random.float());
        }
        pointers
    }

    /// Adds the offsets and weights of source layers. Returns the position of the first, and their number.
    fn layers(&mut self, starts: &[(u32, f64)]) -> (u32, u32) {
        let first = self.index.len() as u32;
        starts.iter().for_each(|&(start, weight)| {
            self.push(start, weight);
        });
        (first, starts.len() as u32)
    }
}

/// Rows and columns of the destination, rows and columns of the source, and the number of source layers that are
/// summed.
type Sizes = (usize, usize, usize, usize, usize);

#[derive(Clone, Copy, PartialEq)]
enum Base {
    None,
    Apart,
    InPlace,
}

/// Adds a map, given the units of the destination and of the source.
type Map = fn(&mut Maps, &mut Harness, usize, usize) -> u32;

/// The alignment of parameters and of their rows.
#[derive(Clone, Copy, PartialEq)]
enum Addresses {
    Anywhere,
    /// Multiples of four elements, as in models.
    Aligned,
}

/// Creates parameters with padding between them, each with random maps, or the identity if sizes are equal.
fn of(harness: &mut Harness, params: &[Sizes], base: Base, alpha: f64, fill: f32) -> Multilevel {
    mapped_by(Maps::random, Addresses::Anywhere, harness, params, base, alpha, fill)
}

/// Like [`of`], with maps made by `mapped` and addresses as in `alignment`.
fn mapped_by(
    mapped: Map,
    alignment: Addresses,
    harness: &mut Harness,
    params: &[Sizes],
    base: Base,
    alpha: f64,
    fill: f32,
) -> Multilevel {
    let (mut maps, mut items) = (Maps::default(), Vec::new());
    let align = |n: usize| if alignment == Addresses::Aligned { n.next_multiple_of(4) } else { n };
    let (mut src, mut dst) = (align(3), align(5));
    for &(rows, cols, src_rows, src_cols, layers) in params {
        let pitch = align(cols + 2);
        // Different from the pitch of the destination, which `base` shares.
        let src_pitch = if align(src_cols + 1) == pitch { pitch + align(1) } else { align(src_cols + 1) };
        let starts: Vec<_> =
            (0..layers).map(|l| ((src + l * src_rows * src_pitch) as u32, harness.random.float())).collect();
        let mut map = |units: usize, src_units: usize| match units == src_units {
            true => IDENTITY,
            false => mapped(&mut maps, harness, units, src_units),
        };
        let (row_map, col_map) = (map(rows, src_rows), map(cols, src_cols));
        let (layer_start, layers) = maps.layers(&starts);
        items.push(Item {
            dst_offset: dst as u32,
            rows: rows as u32,
            cols: cols as u32,
            dst_pitch: pitch as u32,
            src_rows: src_rows as u32,
            src_cols: src_cols as u32,
            src_pitch: src_pitch as u32,
            row_map,
            col_map,
            layer_start,
            layers,
            fill,
        });
        src = align(src + layers as usize * src_rows * src_pitch + 7);
        dst = align(dst + rows * pitch + 11);
    }
    let src = harness.input((&[src], 0));
    // Padding between parameters must not change, so the destination has initial contents.
    let target = harness.input((&[dst], 0));
    let base = match base {
        Base::None => None,
        Base::Apart => Some(harness.input((&[dst], 0))),
        Base::InPlace => Some(target),
    };
    let index = harness.words(&[maps.index.len()], &maps.index);
    let weight = harness.floats((&[maps.weight.len()], 0), &maps.weight);
    let items = harness.words(&[items.len(), Item::WORDS], bytemuck::cast_slice(&items));
    Multilevel { src, dst: target, base, alpha, items, index, weight }
}

const PARAMS: &[Sizes] = &[
    (1, 1, 1, 1, 1),
    (1, 64, 1, 64, 1),
    (1, 31, 1, 17, 2),
    (13, 7, 5, 7, 1),
    (5, 7, 5, 13, 3),
    (4, 6, 12, 18, 2),
    (18, 12, 6, 4, 1),
    (3, 3, 2, 2, 0),
];

/// Sizes for [`Maps::heads`]: even, and one of each pair is a multiple of the other.
const HEADS: &[Sizes] = &[
    (1, 64, 1, 128, 2),
    (5, 160, 5, 480, 1),
    (4, 12, 12, 24, 2),
    (2, 36, 6, 36, 1),
    (12, 192, 4, 64, 1),
    (1, 60, 1, 30, 1),
];

/// For kernels that divide parameters into tiles of 128 columns: several tiles, rows that end anywhere in a tile,
/// several terms per row, and more members than a tile supports per column (5) and per row (40).
const TILES: &[Sizes] = &[
    (33, 260, 33, 260, 2),
    (1, 131, 1, 131, 1),
    (37, 192, 37, 384, 1),
    (6, 136, 18, 272, 2),
    (8, 64, 8, 192, 3),
    (40, 256, 20, 128, 1),
    (2, 16, 2, 80, 1),
    (2, 128, 80, 64, 1),
];

/// GPT-Base: a part of its embeddings, a weight that is coalesced, and one that is de-coalesced.
const BASE: &[Sizes] = &[(5_000, 384, 5_000, 768, 1), (384, 384, 768, 768, 2), (768, 3_072, 384, 1_536, 1)];

fn cases(harness: &mut Harness) {
    for base in [Base::None, Base::Apart, Base::InPlace] {
        let alpha = if base == Base::None { 1.0 } else { 0.25 };
        for (alignment, sizes, terms) in [
            (Addresses::Anywhere, HEADS, 12),
            (Addresses::Aligned, HEADS, 12),
            (Addresses::Aligned, TILES, 40),
            (Addresses::Aligned, BASE, 8),
        ] {
            if sizes == BASE && !harness.full() {
                continue;
            }
            let op = mapped_by(Maps::heads, alignment, harness, sizes, base, alpha, 0.3);
            // `terms` terms below 1, each of 4 factors, and the interpolation.
            harness.check(op, |_, _| EPS * 3.0 * (f64::from(terms).sqrt() + 4.0));
            harness.clear();
        }
        // Maps that are not runs of neighbouring units.
        let op = mapped_by(Maps::random, Addresses::Aligned, harness, PARAMS, base, alpha, 0.3);
        harness.check(op, |_, _| EPS * 3.0 * (9.0f64.sqrt() + 4.0));
        harness.clear();
    }
    for params in [&PARAMS[..1], &PARAMS[1..4], PARAMS] {
        for (base, alpha) in [
            (Base::None, 1.0),
            (Base::Apart, 0.25),
            (Base::InPlace, 0.25),
            (Base::Apart, 1.0),
            (Base::InPlace, 0.0),
            (Base::InPlace, 0.7),
        ] {
            for fill in [0.0, 0.3] {
                let op = of(harness, params, base, alpha, fill);
                // At most 3 layers x 3 x 3 terms below 1, each of 4 factors, and the interpolation.
                harness.check(op, |_, _| EPS * 3.0 * (9.0f64.sqrt() + 4.0));
                harness.clear();
            }
        }
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let large = &[(300, 200, 150, 100, 2), (1, 999, 1, 333, 1), (64, 700, 64, 350, 1)];
    of(harness, if size == Size::Large { large } else { PARAMS }, Base::Apart, 0.25, 0.0).into()
}

#[cfg(test)]
mod tests {
    use super::{Base, PARAMS, of};
    use crate::device::ops::{IDENTITY, Item, Multilevel};
    use crate::parity::harness::Harness;

    /// Elements between parameters must not change. [`Harness::check`] cannot tell, because the whole destination is an
    /// output.
    #[test]
    fn padding_between_parameters_is_left_alone() {
        let mut harness = Harness::cpu(&[2], true);
        let op = of(&mut harness, PARAMS, Base::None, 1.0, 0.5);
        let before = harness.values(&op.dst);
        harness.check(op, |_, _| 1e-5);
        let after = harness.values(&op.dst);
        let mut inside = vec![false; before.len()];
        let mut start = 5;
        for &(rows, cols, ..) in PARAMS {
            (0..rows).for_each(|r| inside[start + r * (cols + 2)..][..cols].fill(true));
            start += rows * (cols + 2) + 11;
        }
        for (i, inside) in inside.iter().enumerate() {
            assert_eq!(before[i] != after[i], *inside, "element {i}");
        }
    }

    /// Corrupted maps are rejected instead of read.
    #[test]
    fn maps_that_lead_outside_are_refused() {
        let mut harness = Harness::cpu(&[2], true);
        let mut refused = |change: &dyn Fn(&mut Item), word: &str| {
            let mut op = of(&mut harness, &[(18, 12, 6, 4, 1)], Base::None, 1.0, 0.0);
            let words: Vec<u32> = read_words(&mut harness, &op);
            let mut item: Item = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words));
            change(&mut item);
            op.items = harness.words(&[1, Item::WORDS], bytemuck::cast_slice(&[item]));
            harness.refuses(&op.into(), &["multilevel", "item 0", word]);
            harness.clear();
        };
        refused(&|item| item.dst_offset = 1_000_000, "destination");
        refused(&|item| item.rows += 1, "destination");
        refused(&|item| item.rows = u32::MAX, "destination");
        refused(&|item| item.dst_pitch = 3, "destination");
        refused(&|item| item.src_rows = 1_000, "source");
        refused(&|item| item.src_cols = 2, "names unit");
        refused(&|item| item.layers = 1_000, "index");
        refused(&|item| item.layer_start = u32::MAX - 1, "index");
        refused(&|item| item.row_map = 1_000_000, "index");
        refused(&|item| item.col_map = IDENTITY, "carried over");
    }

    #[test]
    fn parameters_that_overlap_are_refused() {
        let mut harness = Harness::cpu(&[2], true);
        let mut op = of(&mut harness, &[(2, 12, 2, 4, 1), (1, 9, 1, 3, 1)], Base::None, 1.0, 0.0);
        let words = read_words(&mut harness, &op);
        let item = |words: &[u32]| bytemuck::pod_read_unaligned(bytemuck::cast_slice(words));
        let mut items: Vec<Item> = words.chunks(Item::WORDS).map(item).collect();
        items.swap(0, 1);
        items[0].dst_offset = items[1].dst_offset + 25;
        op.items = harness.words(&[2, Item::WORDS], bytemuck::cast_slice(&items));
        harness.refuses(&op.into(), &["multilevel", "item 0", "within item 1"]);
    }

    fn read_words(harness: &mut Harness, op: &Multilevel) -> Vec<u32> {
        let mut words = vec![0u32; op.items.numel()];
        let device = harness.devices().next().expect("a device");
        device.read(&op.items, bytemuck::cast_slice_mut(&mut words)).expect("items");
        words
    }
}
