//! Promise: safe code cannot violate memory safety. Captured lists whose memory was freed, views that end beyond their
//! arenas, tables of a multilevel operation that change after a list was captured, and addresses that are not allocated
//! cause an error on every device, and nothing is written. A device frees all of its memory. Code that must not compile
//! is tested in the documentation of `Tensor` and `Driver`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use vcycle::device::cpu::Cpu;
use vcycle::device::cuda::Cuda;
use vcycle::device::cuda::driver::{Driver, Part, Rows};
use vcycle::device::cuda::gpu_spec::GpuSpec;
use vcycle::device::cuda::launch::{Launch, Region};
use vcycle::device::cuda::variants::variants_of;
use vcycle::device::ops::{ColumnSum, Embedding, Fill, LayerNorm, Linear, Multilevel, Op};
use vcycle::device::reference::Reference;
use vcycle::device::{Device, PendingRead, alloc_tensor, read_floats, write_floats};
use vcycle::error::{Error, Result};
use vcycle::parity::harness::{Choice, Harness};
use vcycle::parity::{Size, stems};
use vcycle::tensor::{DType, Place, Tensor};

fn devices() -> Vec<Box<dyn Device>> {
    vec![
        Box::new(Cpu::new(2)),
        Box::new(Reference::default()),
        #[cfg(emulated)]
        emulator(true),
        #[cfg(emulated)]
        emulator(false),
    ]
}

/// Opens the emulator without checks, as the command line does. It replays captured lists as graphs or operation by
/// operation.
#[cfg(emulated)]
fn emulator(graphs: bool) -> Box<dyn Device> {
    let mut device = vcycle::device::cuda::emulated(Default::default());
    device.use_graphs(graphs);
    Box::new(device)
}

fn tensor(device: &mut dyn Device, dims: &[usize]) -> Tensor {
    let dtype = device.float();
    alloc_tensor(device, dtype, dims).expect("memory")
}

fn free(device: &mut dyn Device, t: &Tensor) {
    let Place::Arena(arena) = t.place() else { panic!("a tensor outside of any arena") };
    device.free(arena);
}

fn fill(out: Tensor, value: f64) -> Op {
    Fill { out, value }.into()
}

#[track_caller]
fn refused<T>(result: Result<T>, words: &[&str]) {
    let text = result.map(|_| ()).expect_err("a refusal").to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text:?} does not contain all of {words:?}");
}

#[test]
fn a_captured_list_of_a_freed_arena_is_refused() {
    for mut device in devices() {
        let device = &mut *device;
        let t = tensor(device, &[64, 1024]);
        let graph = device.capture(&[fill(t, 1.0)]).expect("captured");
        device.replay(graph).expect("replayed");
        free(device, &t);
        refused(device.replay(graph), &["arena 0", "freed"]);
        // A new arena may lie at the same address, but has another number.
        let other = tensor(device, &[64, 1024]);
        assert_ne!(other.place(), t.place());
        refused(device.replay(graph), &["arena 0", "freed"]);
        assert!(
            read_floats(device, &other).expect("read").iter().all(|&x| x == 0.0),
            "{}: memory was written",
            device.name()
        );
        device.release(graph);
        refused(device.replay(graph), &["released"]);
    }
}

#[test]
fn nothing_of_a_list_runs_when_one_of_its_arenas_is_gone() {
    for mut device in devices() {
        let device = &mut *device;
        let (first, second) = (tensor(device, &[4, 8]), tensor(device, &[4, 8]));
        let graph = device.capture(&[fill(first, 1.0), fill(second, 2.0)]).expect("captured");
        free(device, &second);
        refused(device.replay(graph), &["arena 1", "freed"]);
        assert!(
            read_floats(device, &first).expect("read").iter().all(|&x| x == 0.0),
            "{}: a part of the list ran",
            device.name()
        );
    }
}

#[test]
fn a_view_of_a_freed_arena_is_refused() {
    for mut device in devices() {
        let device = &mut *device;
        let (t, other) = (tensor(device, &[2, 2]), tensor(device, &[2, 2]));
        let mut bytes = vec![0; t.bytes()];
        free(device, &t);
        refused(device.read(&t, &mut bytes), &["freed"]);
        refused(device.write(&t, &bytes), &["freed"]);
        refused(device.copy(&other, &t), &["freed"]);
        refused(device.copy(&t, &other), &["freed"]);
        refused(device.run(&fill(t, 1.0)), &["freed"]);
        refused(device.capture(&[fill(t, 1.0)]), &["freed"]);
        // Refused reads do not count as pending.
        (0..9).for_each(|_| refused(device.read_async(&t), &["freed"]));
        device.read_async(&other).expect("a free slot");
    }
}

#[test]
fn sizes_beyond_any_memory_are_refused_and_do_not_wrap() {
    let views = |device: &mut dyn Device| {
        let t = tensor(device, &[2, 2]);
        let new = |dims: &[usize]| Tensor::new(t.place(), t.dtype(), 0, dims);
        [
            new(&[usize::MAX, 2]),
            new(&[1 << 32, 1 << 32]),
            new(&[1 << 40, 1 << 40, 1 << 40]),
            new(&[usize::MAX]),
            new(&[3, usize::MAX / 3]),
            t.with_pitch(usize::MAX),
            t.with_pitch(1 << 61),
            t.with_offset(usize::MAX),
            t.with_offset(1 << 61),
            new(&[0]).with_offset(usize::MAX),
        ]
    };
    for mut device in devices() {
        let device = &mut *device;
        for t in views(device) {
            let mut bytes = [0; 32];
            assert!(device.read(&t, &mut bytes).is_err(), "{t:?}");
            assert!(device.write(&t, &bytes).is_err(), "{t:?}");
            assert!(device.copy(&t, &t).is_err(), "{t:?}");
            assert!(device.read_async(&t).is_err(), "{t:?}");
            assert!(device.run(&fill(t, 1.0)).is_err(), "{t:?}");
            assert!(device.capture(&[fill(t, 1.0)]).is_err(), "{t:?}");
            let dtype = t.dtype();
            assert!(t.numel() < 1 << 40 || alloc_tensor(device, dtype, t.dims()).is_err(), "{t:?}");
        }
    }
}

#[test]
#[should_panic(expected = "rows may not overlap")]
fn rows_cannot_be_made_to_overlap() {
    let _ = Tensor::new(Place::Arena(0), DType::F32, 0, &[2, 64]).with_pitch(1);
}

#[test]
#[should_panic(expected = "columns outside the rows")]
fn columns_stay_in_the_rows() {
    let _ = Tensor::new(Place::Arena(0), DType::F32, 0, &[2, 64]).columns(2, usize::MAX);
}

#[test]
#[should_panic(expected = "rows outside the tensor")]
fn row_blocks_stay_in_the_tensor() {
    let _ = Tensor::new(Place::Arena(0), DType::F32, 0, &[2, 64]).row_block(2, usize::MAX);
}

/// Returns a small multilevel operation for a harness.
fn mapping(harness: &mut Harness) -> Multilevel {
    let stem = stems().find(|stem| stem.name == "multilevel").expect("a stem");
    match (stem.sample)(harness, Size::Small) {
        Op::Multilevel(mapping) => mapping,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tables_of_a_mapping_are_checked_again() {
    for device in devices() {
        let float = device.float();
        let mut harness = Harness::new(vec![device], Choice::ALL);
        let mut op = mapping(&mut harness);
        let device = harness.devices().next().expect("a device");
        for t in [&mut op.src, &mut op.dst, &mut op.weight].into_iter().chain(&mut op.base) {
            *t = t.with_dtype(float);
        }
        let graph = device.capture(&[op.into()]).expect("captured");
        device.replay(graph).expect("replayed");
        let before = read_floats(device, &op.dst).expect("read");
        for table in [op.items, op.index] {
            let mut kept = vec![0; table.bytes()];
            device.read(&table, &mut kept).expect("read");
            device.write(&table, &vec![0x7f; table.bytes()]).expect("written");
            refused(device.replay(graph), &["multilevel", "item 0"]);
            device.write(&table, &kept).expect("written");
        }
        assert_eq!(read_floats(device, &op.dst).expect("read"), before, "{}: memory was written", device.name());
        device.replay(graph).expect("as before");
        // A list must not write the tables itself, because the check before the replay would not see that.
        for table in [op.items, op.index] {
            let floats = table.bytes() / float.bytes();
            let over = fill(Tensor::new(table.place(), float, 0, &[floats]), 1.0);
            refused(device.capture(&[over, op.into()]), &["fill", "table"]);
            refused(device.capture(&[op.into(), over]), &["fill", "table"]);
        }
        harness.finish().expect("a sample");
    }
}

#[cfg(emulated)]
#[test]
fn addresses_of_no_allocation_are_refused() {
    use vcycle::device::cuda::driver::emulator::Emulator;
    let mut driver = Emulator::default();
    let address = driver.alloc(256).expect("memory");
    let gone = driver.alloc(256).expect("memory");
    driver.free(gone);
    driver.free(gone);
    driver.free(12);
    let rows = |address, rows, width, pitch| Rows { address, rows, width, pitch };
    let good = rows(address, 4, 16, 64);
    let wrong = [
        rows(8, 4, 16, 64),
        rows(gone, 4, 16, 64),
        rows(u64::MAX, 4, 16, 64),
        rows(address - 1, 4, 16, 64),
        rows(address + 49, 4, 16, 64),
        rows(address, 4, 16, 8),
        rows(address, 4, 16, usize::MAX),
        rows(address, 4, 16, usize::MAX / 3 + 1),
    ];
    let mut bytes = [7; 64];
    for wrong in wrong {
        assert!(driver.write(wrong, &bytes).is_err(), "{wrong:?}");
        assert!(driver.read(wrong, &mut bytes).is_err(), "{wrong:?}");
        assert!(driver.copy(wrong, good).is_err(), "{wrong:?}");
        assert!(driver.copy(good, wrong).is_err(), "{wrong:?}");
        (0..9).for_each(|_| assert!(driver.read_async(wrong).is_err(), "{wrong:?}"));
    }
    assert!(driver.write(good, &bytes[..63]).is_err() && driver.read(good, &mut bytes[..63]).is_err());
    assert_eq!(bytes, [7; 64]);
    driver.read(rows(address, 1, 64, 64), &mut bytes).expect("read");
    assert_eq!(bytes, [0; 64], "nothing was written");
    driver.write(good, &bytes).expect("rows of this allocation");
}

/// The state of a driver that computes nothing.
#[derive(Default)]
struct Books {
    /// Sizes of live allocations in bytes, by address.
    live: BTreeMap<u64, usize>,
    next: u64,
    graphs: usize,
    /// Larger requests are refused.
    most: Option<usize>,
}

struct Fake(Rc<RefCell<Books>>);

impl Driver for Fake {
    fn alloc(&mut self, bytes: usize) -> Result<u64> {
        let mut books = self.0.borrow_mut();
        if books.most.is_some_and(|most| bytes > most) {
            return Err(Error::new("out of memory"));
        }
        books.next += 1 << 32;
        let address = books.next;
        books.live.insert(address, bytes);
        Ok(address)
    }

    fn free(&mut self, address: u64) {
        self.0.borrow_mut().live.remove(&address).expect("an allocation, once");
    }

    fn write(&mut self, _: Rows, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&mut self, _: Rows, _: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn read_async(&mut self, _: Rows) -> Result<PendingRead> {
        Ok(PendingRead(0))
    }

    fn wait_read(&mut self, _: PendingRead, _: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn copy(&mut self, _: Rows, _: Rows) -> Result<()> {
        Ok(())
    }

    /// Checks that all operands of an operation lie in live allocations.
    fn operands(&mut self, regions: &[Region]) {
        let books = self.0.borrow();
        for rows in regions.iter().map(|region| region.rows) {
            let (start, bytes) = books.live.range(..=rows.address).next_back().expect("an allocation");
            assert!(rows.address + rows.extent().expect("a size") as u64 <= start + *bytes as u64, "{rows:?}");
        }
    }

    unsafe fn launch(&mut self, _: &Launch) -> Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    unsafe fn record(&mut self, _: &[Part]) -> Result<u32> {
        self.0.borrow_mut().graphs += 1;
        Ok(0)
    }

    unsafe fn replay(&mut self, _: u32) -> Result<()> {
        Ok(())
    }

    fn release(&mut self, _: u32) {
        self.0.borrow_mut().graphs -= 1;
    }

    fn stamp(&mut self) -> Result<()> {
        Ok(())
    }

    fn stamps(&mut self, _: &mut dyn FnMut(Duration)) -> Result<()> {
        Ok(())
    }

    fn gpu(&self) -> GpuSpec {
        GpuSpec::A100
    }
}

/// Returns a device with a fake driver, the driver's state, and three operations that need larger and larger
/// workspaces.
fn hungry() -> (Cuda<Fake>, Rc<RefCell<Books>>, [Op; 3]) {
    let books = Rc::new(RefCell::new(Books::default()));
    let mut device = Cuda::new("fake", Fake(books.clone()));
    // Without graphs, replays pass their operands to the driver.
    device.use_graphs(false);
    let vector = variants_of("column_sum").find(|variant| variant.name == "vec16").expect("a variant with a workspace");
    device.prefer(vector);
    let ops = [64, 9_600, 1 << 18].map(|rows| {
        let (x, out) = (tensor(&mut device, &[rows, 128]), tensor(&mut device, &[128]));
        Op::from(ColumnSum { x, out, accumulate: false })
    });
    // Workspaces are allocated half as large again as needed. Each operation needs more than the workspace of the
    // previous one.
    let wanted = ops.map(|op| (vector.workspace)(&op));
    assert!(wanted[0] > 0 && wanted.windows(2).all(|pair| 2 * pair[1] > 3 * pair[0] + 512), "{wanted:?}");
    (device, books, ops)
}

#[test]
fn a_workspace_lives_as_long_as_a_list_that_uses_it_and_no_longer() {
    let (mut device, books, ops) = hungry();
    let arenas = books.borrow().live.len();
    let pieces = || books.borrow().live.len() - arenas;
    // No captured list uses the smaller one.
    ops[..2].iter().for_each(|op| device.run(op).expect("run"));
    assert_eq!(pieces(), 1, "the smaller workspace was freed");
    let small = device.capture(&ops[..2]).expect("captured");
    let again = device.capture(&ops[..1]).expect("captured");
    device.run(&ops[2]).expect("run");
    assert_eq!(pieces(), 2, "two lists use the older one");
    device.release(small);
    assert_eq!(pieces(), 2, "one list still uses it");
    device.replay(again).expect("its workspace is there");
    device.release(again);
    assert_eq!(pieces(), 1, "no list uses the older one");
    // The current workspace stays and is used by smaller operations.
    let list = device.capture(&ops[..3]).expect("captured");
    device.release(list);
    assert_eq!(pieces(), 1);
}

#[test]
fn a_workspace_that_does_not_fit_leaves_the_others_in_order() {
    let (mut device, books, ops) = hungry();
    let kept = device.capture(&ops[..1]).expect("captured");
    books.borrow_mut().most = Some(device.scratch(&ops[1]));
    refused(device.run(&ops[2]), &["workspace", "out of memory"]);
    refused(device.capture(&ops[..3]), &["workspace", "out of memory"]);
    device.replay(kept).expect("its workspace is there");
    device.run(&ops[1]).expect("a smaller operation");
    device.replay(kept).expect("its workspace is there");
}

#[test]
fn a_device_gives_all_memory_back() {
    let (mut device, books, ops) = hungry();
    device.capture(&ops).expect("captured");
    device.run(&ops[0]).expect("run");
    let list = device.capture(&ops[..1]).expect("captured");
    device.release(list);
    assert!(!books.borrow().live.is_empty() && books.borrow().graphs == 1);
    drop(device);
    assert!(books.borrow().live.is_empty(), "{:?}", books.borrow().live);
    assert_eq!(books.borrow().graphs, 0);
}

/// Threads write adjacent rows of padded memory and nothing in the padding.
#[test]
fn threads_do_not_write_padding() {
    for mut device in devices() {
        let device = &mut *device;
        let whole = tensor(device, &[512, 48]);
        write_floats(device, &whole, &vec![-1.0; whole.numel()]).expect("written");
        let columns = whole.columns(8, 33);
        device.run(&fill(columns, 2.0)).expect("run");
        for (i, x) in read_floats(device, &whole).expect("read").into_iter().enumerate() {
            let inside = (8..41).contains(&(i % 48));
            assert_eq!(x, if inside { 2.0 } else { -1.0 }, "{}: element {i}", device.name());
        }
    }
}

/// Operands that agree only in their last dimension, only if a product of sizes wraps around, or only because a table
/// has no rows.
#[test]
fn operands_that_only_seem_to_fit_are_refused() {
    for mut device in devices() {
        let device = &mut *device;
        // Rows of 4,096 elements in memory, viewed as rows of 4.
        let x = tensor(device, &[2, 4100]).columns(0, 4096).reshape(&[2, 1024, 4]);
        let [weight, bias] = [(); 2].map(|()| tensor(device, &[4]));
        let [mean, rstd] = [(); 2].map(|()| tensor(device, &[2]));
        let out = tensor(device, &[2, 4]);
        let norm = LayerNorm { x, residual: None, sum: None, weight, bias, out, mean, rstd, eps: 1e-5 };
        refused(device.run(&norm.into()), &["layernorm", "x is"]);
        let (a, b, out) = (tensor(device, &[0, 2]), tensor(device, &[0, 3]), tensor(device, &[2, 3]));
        let products = Linear::product(a, b, out, (true, false)).batched((1 << 63) + 1);
        refused(device.run(&products.into()), &["linear", "exceed the address space"]);
        let ids = alloc_tensor(device, DType::I32, &[1, 1]).expect("memory");
        let (table, out) = (tensor(device, &[0, 4]), tensor(device, &[1, 1, 4]));
        let look_up = Embedding { ids, table, positions: None, out, accumulate: false };
        refused(device.run(&look_up.into()), &["embedding", "table has no rows"]);
    }
}
