//! Promise: a device reports where its time went, by operation and as a trace that trace viewers can open.

use serde_json::Value;
use std::time::Instant;
use vcycle::device::cpu::Cpu;
use vcycle::device::ops::{Fill, GlobalNorm, NAMES, Op};
use vcycle::device::reference::Reference;
use vcycle::device::timing::{Timings, Work};
use vcycle::device::{Device, alloc_tensor, write_floats};
use vcycle::report::trace;

/// Runs a norm and a fill of 1000 numbers as a captured list three times, and the fill once more on its own.
fn work(device: &mut dyn Device) {
    let float = device.float();
    let mut vector = |n: usize| alloc_tensor(device, float, &[n]).expect("memory");
    let (x, partials, norm) = (vector(1000), vector(GlobalNorm::partials(1000)), vector(1));
    write_floats(device, &x, &(0..1000).map(|i| f64::from(i).sin()).collect::<Vec<_>>()).expect("written");
    let ops: [Op; 2] = [GlobalNorm { x, partials, norm }.into(), Fill { out: x, value: 0.5 }.into()];
    let graph = device.capture(&ops).expect("a list");
    (0..3).for_each(|_| device.replay(graph).expect("a run"));
    device.run(&ops[1]).expect("a run");
}

#[test]
fn totals_add_up() {
    for device in [&mut Cpu::new(2) as &mut dyn Device, &mut Reference::default()] {
        let begin = Instant::now();
        work(device);
        let wall = begin.elapsed().as_secs_f64();
        let totals: Vec<_> = device.timings().totals().collect();
        assert_eq!(totals.iter().map(|t| t.name).collect::<Vec<_>>(), NAMES);
        for t in &totals {
            // Three norms with a multiply-add for each of 1000 numbers: 3 x 2 x 1000 FLOPs. Four fills, which have no
            // FLOPs.
            let (calls, flops) = match t.name {
                "global_norm" => (3, 6000),
                "fill" => (4, 0),
                _ => (0, 0),
            };
            assert_eq!((t.calls, t.flops), (calls, flops), "{}", t.name);
            assert_eq!(t.seconds > 0.0, calls > 0, "{}", t.name);
        }
        assert!(totals.iter().map(|t| t.seconds).sum::<f64>() <= wall);
        assert_eq!(device.timings().spans(), (&[][..], 0), "spans are recorded only on request");
        device.timings().reset();
        assert!(device.timings().totals().all(|t| t.calls == 0 && t.seconds == 0.0 && t.flops == 0));
    }
}

#[test]
fn spans_are_in_order_and_inside_their_mark() {
    let mut device = Cpu::new(2);
    device.timings().record(100);
    let begin = Instant::now();
    work(&mut device);
    device.timings().mark("step", 7, begin);
    let (spans, left_out) = device.timings().spans();
    assert_eq!((spans.len(), left_out), (8, 0));
    let (step, operations) = spans.split_last().expect("spans");
    assert_eq!((step.name, step.work), ("step", Work::Mark { number: 7 }));
    for pair in operations.windows(2) {
        assert!(pair[0].start + pair[0].length <= pair[1].start, "{pair:?}");
    }
    for span in operations {
        assert!(step.start <= span.start && span.start + span.length <= step.start + step.length, "{span:?}");
    }
    // A norm with 2000 FLOPs and a fill with none, three times, then another fill.
    let work_of = |number: usize| match &operations[number].work {
        Work::Operation { flops, shape } => (operations[number].name, *flops, shape.dims().to_vec()),
        other => panic!("{other:?}"),
    };
    for number in 0..7 {
        let expected =
            if number % 2 == 0 && number < 6 { ("global_norm", 2000, vec![1]) } else { ("fill", 0, vec![1000]) };
        assert_eq!(work_of(number), expected, "span {number}");
    }
    device.timings().record(3);
    work(&mut device);
    assert_eq!((device.timings().spans().0.len(), device.timings().spans().1), (3, 4));
}

/// Writes a trace and returns its events, and the rest of the file.
fn written(timings: &Timings) -> (Vec<Value>, Value) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out/trace.json");
    trace::write(&path, timings).expect("written");
    let mut trace: Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
    let Value::Array(events) = trace["traceEvents"].take() else { panic!("no list of events") };
    (events, trace)
}

#[test]
fn traces_have_the_format_that_viewers_read() {
    let mut device = Cpu::new(1);
    device.timings().record(7);
    let begin = Instant::now();
    work(&mut device);
    device.timings().mark("evaluation", 0, begin);
    let (events, rest) = written(device.timings());
    assert_eq!(rest["otherData"]["spans_left_out"], 1);
    let (tracks, spans): (Vec<_>, Vec<_>) = events.into_iter().partition(|e| e["ph"] == "M");
    assert_eq!(tracks.iter().map(|t| &t["args"]["name"]).collect::<Vec<_>>(), ["run", "device"]);
    assert_eq!(spans.len(), 7);
    for (event, span) in spans.iter().zip(device.timings().spans().0) {
        assert_eq!((&event["ph"], &event["name"], &event["tid"]), (&"X".into(), &span.name.into(), &tracks[1]["tid"]));
        assert!((event["ts"].as_f64().expect("a time") - span.start.as_secs_f64() * 1e6).abs() < 1e-2);
        assert!((event["dur"].as_f64().expect("a time") - span.length.as_secs_f64() * 1e6).abs() < 1e-2);
        let args = &event["args"];
        assert!(args["flops"].is_u64() && args["gflops_per_second"].is_f64() && args["shape"].is_array(), "{event}");
    }
    let table = trace::Table(device.timings()).to_string();
    assert!(table.contains("fill") && !table.contains("linear"), "{table}");
    assert_eq!(written(&Timings::default()).0.len(), 2, "a trace without spans is still valid");
}
