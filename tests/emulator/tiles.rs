//! Every stage of every tile of a matmul is computed exactly once, by some block, and so are all rows of all attention
//! heads.

use super::launch_on;
use vcycle::device::cuda::driver::emulator::{Emulator, Options};
use vcycle::device::cuda::driver::{Driver, Rows};
use vcycle::device::cuda::launch::Launch;

fn counts(emulator: &mut Emulator, rows: Rows) -> Vec<u32> {
    let mut values = vec![0u32; rows.width / 4];
    emulator.read(rows, bytemuck::cast_slice_mut(&mut values)).expect("counts");
    values
}

fn each_once([rows, width, cluster]: [usize; 3], [m, n, k]: [usize; 3], part: usize, blocks: usize) {
    let (depth, across) = (k.div_ceil(64), n.div_ceil(width));
    let (parts, down) = (depth.div_ceil(part), m.div_ceil(rows * cluster) * cluster);
    let mut emulator = Emulator::new(Options::default());
    let [made, numbers] = [down * across * depth, down * across * parts].map(|count| {
        let width = 4 * count;
        let rows = Rows { address: emulator.alloc(width).expect("memory"), rows: 1, width, pitch: width };
        emulator.write(rows, &vec![0; width]).expect("zeros");
        rows
    });
    let kernel = format!("works_{rows}_{width}_{cluster}").leak();
    let launch = Launch::new(kernel, blocks, 32).ptr(made.address).ptr(numbers.address).int(m).int(n).int(k);
    launch_on(&mut emulator, &launch.int(part).int(parts)).unwrap_or_else(|e| panic!("{kernel}: {e}"));
    for rows in [made, numbers] {
        let all = counts(&mut emulator, rows);
        assert!(all.iter().all(|n| *n == 1), "{kernel} of {m} x {n} x {k}, {part} stages, {blocks} blocks: {all:?}");
    }
}

#[test]
fn every_stage_of_every_tile_is_made_once() {
    let tiles = [[64, 256, 1], [128, 128, 1], [128, 192, 1], [128, 256, 1], [128, 256, 2]];
    let sizes: [[usize; 3]; 7] =
        [[1, 1, 1], [128, 256, 64], [129, 257, 65], [1100, 200, 700], [1024, 768, 768], [1, 5000, 300], [3000, 7, 64]];
    for tile in tiles {
        for size in sizes {
            for (part, blocks) in [(1, 2), (3, 14), (usize::from(u16::MAX), 6), (4, 500)] {
                let part = part.min(size[2].div_ceil(64));
                each_once(tile, size, part, blocks);
            }
        }
    }
}

/// The number of heads that the kernels process as a group: `kHeadGroup`.
const TOGETHER: usize = 64;

#[test]
fn all_rows_of_all_heads_are_owned_once() {
    for [time, heads, batches] in
        [[1usize, 1, 1], [128, 12, 3], [129, 5, 1], [512, 12, 8], [1024, 16, 9], [2000, 1, 65], [7, 12, 100]]
    {
        for (blocks, ascending) in [(1, false), (3, true), (132, false), (500, true)] {
            let (across, all) = (time.div_ceil(128), heads * batches);
            let count = across * all;
            let mut emulator = Emulator::new(Options::default());
            let width = 8 * count;
            let rows = Rows { address: emulator.alloc(width).expect("memory"), rows: 1, width, pitch: width };
            let launch = Launch::new("works_of_heads", blocks, 1).ptr(rows.address).int(time).int(heads).int(batches);
            launch_on(&mut emulator, &launch.flag(ascending))
                .unwrap_or_else(|e| panic!("{time} {heads} {batches}: {e}"));
            let owned = counts(&mut emulator, rows);
            let (places, numbers) = owned.split_at(count);
            let mut once = places.to_vec();
            once.sort_unstable();
            assert!(
                once.iter().enumerate().all(|(i, place)| i == *place as usize),
                "{time} {heads} {batches}: {once:?}"
            );
            for (t, (place, number)) in places.iter().zip(numbers).enumerate() {
                let (head, nth) = (*place as usize / across, *place as usize % across);
                assert_eq!(head, *number as usize);
                // Within a group of heads, the rows with the most work come first: the last queries, or the first keys.
                let base = t / (TOGETHER * across) * TOGETHER;
                let height = TOGETHER.min(all - base);
                let number = (t - base * across) / height;
                assert_eq!(nth, if ascending { number } else { across - 1 - number }, "work {t}");
                assert!((base..base + height).contains(&head), "work {t}");
            }
        }
    }
}
