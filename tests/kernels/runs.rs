//! Checks that maps between models have the structure that the multilevel variant `vec16` requires. Parameters and
//! rows start at multiples of 16 bytes. Any four columns that start at a multiple of four have the same number of
//! sources, and the m-th sources of the four are adjacent and start at a multiple of four.

use vcycle::bench::workload::gpt;
use vcycle::device::Device;
use vcycle::device::cpu::Cpu;
use vcycle::device::ops::{IDENTITY, Item, Op};
use vcycle::model::Model;
use vcycle::model::store::Store;
use vcycle::multilevel::operators::Placed;
use vcycle::multilevel::{DepthRule, Rules, Scheme, Shares, WidthRule};

#[test]
fn maps_between_models_are_runs() {
    let exact = Rules { width: WidthRule::Exact, depth: DepthRule::Split, shares: Shares::Random { seed: 1 } };
    for rules in [Rules::default(), exact] {
        for (heads, alpha) in [(2, None), (2, Some(0.25)), (1, None), (1, Some(0.25))] {
            let mut device = Cpu::new(1);
            let big = gpt([4, 4, 256, 16, 50]).expect("a model");
            let small = big.resized(2, heads).expect("a smaller one");
            let big = Store::new(big.table().clone(), &mut device).expect("memory");
            let small = Store::new(small.table().clone(), &mut device).expect("memory");
            let placed =
                Placed::new(&mut device, (&big, &small), alpha, &Scheme::default(), &rules).expect("operators");
            let Op::Multilevel(op) = placed.op else { panic!("{:?}", placed.op) };
            let (mut items, mut index) = (vec![0u32; op.items.numel()], vec![0u32; op.index.numel()]);
            device.read(&op.items, bytemuck::cast_slice_mut(&mut items)).expect("items");
            device.read(&op.index, bytemuck::cast_slice_mut(&mut index)).expect("index");
            let items: Vec<Item> = items.chunks(Item::WORDS).map(|words| bytemuck::cast_slice(words)[0]).collect();
            assert!(items.iter().any(|item| item.col_map != IDENTITY && item.rows > 1));
            items.iter().for_each(|item| is_made_of_runs(item, &index));
        }
    }
}

fn is_made_of_runs(item: &Item, index: &[u32]) {
    let layers = &index[item.layer_start as usize..][..item.layers as usize];
    let offsets = [item.dst_offset, item.dst_pitch, item.src_pitch, item.cols];
    assert!(offsets.iter().chain(layers).all(|n| n % 4 == 0), "{item:?}");
    if item.col_map == IDENTITY {
        return;
    }
    let group = |column: u32| {
        let at = (item.col_map + column) as usize;
        &index[index[at] as usize..index[at + 1] as usize]
    };
    for column in 0..item.cols {
        let (first, mine) = (group(column - column % 4), group(column));
        assert!((1..=4).contains(&mine.len()) && first.len() == mine.len(), "{item:?}, column {column}");
        let along = first.iter().zip(mine).all(|(a, b)| a % 4 == 0 && a + column % 4 == *b);
        assert!(along, "{item:?}, column {column}");
    }
}
