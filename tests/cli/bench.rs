//! Promise: `vcycle bench` measures every subject, prints a table and writes JSON, and rejects what it cannot measure.
//! No test asserts anything about speed.

use serde_json::Value;
use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    let quick = ["--rounds", "2", "--seconds", "0", "--threads", "2"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    command.arg("bench").args(args).args(quick).output().expect("the binary runs")
}

/// Runs a command that must succeed. Returns its lines of JSON and its table.
fn measured(args: &[&str]) -> (Vec<Value>, String) {
    let out = bench(&[args, &["--json", "-"]].concat());
    let table = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?} failed: {table}");
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    (text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect(), table)
}

/// Runs a command that must fail with exit code 2. Returns the message.
fn refused(args: &[&str]) -> String {
    let out = bench(args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    text
}

fn number(line: &Value, key: &str) -> f64 {
    let n = line[key].as_f64().unwrap_or_else(|| panic!("{key} is missing in {line}"));
    assert!(n.is_finite() && n >= 0.0, "{key} is {n}");
    n
}

/// The keys that must be positive for every operation.
const POSITIVE: [&str; 9] = ["threads", "runs", "sets", "ms_median", "ms_best", "flops", "bytes", "gflops", "gb_per_s"];

#[test]
fn every_operation_is_measured_on_the_cpu() {
    for (subject, shape, cases) in [
        ("gemm", "5x7x3", 3),
        ("gemm", "5x7x3:tied", 3),
        ("attention", "2x3x5x4", 2),
        ("attention", "2,3,5,4:full", 2),
        ("layernorm", "3x10", 2),
        ("cross-entropy", "3x11", 1),
        ("adamw", "100", 1),
        ("multilevel", "2,2,8,4,13", 2),
    ] {
        let (lines, table) = measured(&[subject, "--shape", shape]);
        assert_eq!(lines.len(), cases, "{subject}");
        for line in &lines {
            assert_eq!(
                (&line["bench"], &line["shape"], &line["device"]),
                (&subject.into(), &shape.into(), &"cpu".into())
            );
            assert!(POSITIVE.iter().all(|key| number(line, key) > 0.0), "{line}");
            assert!(number(line, "ms_best") <= number(line, "ms_median") && number(line, "spread") < 1e6, "{line}");
            for key in ["percent_of_roofline", "roofline_gflops", "roofline_gb_per_s", "copy_gb_per_s"] {
                assert!(number(line, key) > 0.0, "{line}");
            }
            assert!(line["bound"] == "memory" || line["bound"] == "arithmetic");
            assert!(line["variant"].is_null() && line["times_mean_nothing"] == false);
            assert!(table.contains(line["case"].as_str().expect("a case")), "{table}");
        }
        assert!(table.contains("roofline") && table.contains(shape), "{table}");
    }
}

/// The FLOPs of a step, counted by operation: 2 layers, 2 heads of size 4, width 8, 3 x 6 = 18 tokens, a vocabulary of
/// 11, an inner size of 32.
fn step_flops() -> u64 {
    // A token attends to itself and the tokens before it: 3 x 2 x (1 + .. + 6) pairs.
    let pairs = 3 * 2 * 21;
    let norm = 18 * 8 * (7 + 14);
    // Per linear layer: one matmul forward and two backward, and a sum for the gradient of the bias. GELU and its
    // derivative count ten FLOPs per element each.
    let product = |inputs: u64, outputs: u64| 3 * 2 * 18 * inputs * outputs + 18 * outputs;
    let products = product(8, 24) + product(8, 8) + product(8, 32) + product(32, 8);
    let layer = 2 * norm + products + 2 * 10 * 18 * 32 + pairs * ((4 * 4 + 5) + (8 * 4 + 8));
    // Adding positions; the gradients of both embedding tables; the last norm; the tied head and its loss.
    let ends = 18 * 8 + 2 * 18 * 8 + norm + 3 * 2 * 18 * 8 * 11 + 6 * 18 * 11;
    // The gradient norm (2) and AdamW (14) over all elements. Parameters are padded to multiples of 64 elements, the
    // vocabulary to 128 rows.
    let layer_elements = 8 * 64 + (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8);
    let elements = 128 * 8 + 64 + 2 * layer_elements + 2 * 64;
    2 * layer + ends + (2 + 14) * elements
}

#[test]
fn a_step_has_the_keys_of_the_pytorch_baseline() {
    let (lines, table) = measured(&["step", "--shape", "2,2,8,6,3,11"]);
    let line = &lines[0];
    assert!(line["bench"] == "step" && line["peer"] == "vcycle_f32" && line["version"].is_string(), "{line}");
    for key in [
        "threads",
        "steps",
        "ms_median",
        "ms_best",
        "tokens_per_s",
        "gflops",
        "rss_mb",
        "rss_at_start_mb",
        "loss",
        "percent_of_products",
    ] {
        assert!(number(line, key) > 0.0 || key.starts_with("rss") && cfg!(not(target_os = "linux")), "{key} in {line}");
    }
    // Counted as in benches/baselines/torch_step.py: 11 x 8 + 6 x 8 embeddings, 2 blocks, the last norm.
    let block = 2 * 2 * 8 + (8 * 24 + 24) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8);
    let params = 11 * 8 + 6 * 8 + 2 * block + 2 * 8;
    assert_eq!(line["params"], params);
    assert_eq!(line["flops"], 3 * 6 * (6 * (params - 6 * 8) + 12 * 2 * 6 * 8));
    assert_eq!(
        (line["model_flops"].as_u64(), line["hardware_flops"].as_u64()),
        (Some(step_flops()), Some(step_flops()))
    );
    let seconds = number(line, "ms_median") / 1e3;
    assert!((number(line, "gflops") * seconds * 1e9 / number(line, "flops") - 1.0).abs() < 1e-6);
    // A few steps on random tokens learn nothing.
    assert!((number(line, "loss") - f64::ln(11.0)).abs() < 0.1, "{line}");
    assert!(number(&line["ms_by_operation"], "linear") > 0.0 && table.contains("attention_backward"), "{table}");
}

/// The parameters, tokens and FLOPs of shapes `layers,heads,width,time,batch,vocabulary:family`, by the formulas of
/// benches/baselines/torch_step.py.
#[test]
fn steps_of_bert_and_deit_are_measured() {
    let layer = 12 * 8 * 8 + 13 * 8;
    // 20 tokens, 3 of which are scored by a head with a square linear layer, a norm and an output bias. The embeddings:
    // 21 words, 20 positions, 2 types, and their norm.
    let bert = (2 * layer + (21 + 20 + 2 + 2) * 8 + 8 * 8 + 3 * 8 + 21, 3 * 20);
    let of_bert = 3 * 20 * 2 * (6 * layer + 12 * 20 * 8) + 6 * 3 * 3 * (8 * 8 + 21 * 8);
    // 4 patches of 768 pixel values and the class token, the last norm, 7 classes.
    let deit = (2 * layer + 769 * 8 + 8 + 5 * 8 + 2 * 8 + 7 * 8 + 7, 3 * 5);
    let of_deit = 3 * 5 * 2 * (6 * layer + 12 * 5 * 8) + 6 * 3 * 5 * 768 * 8 + 6 * 3 * 7 * 8;
    for (shape, (params, tokens), flops, classes) in
        [("2,2,8,20,3,21:bert", bert, of_bert, 21.0), ("2,2,8,32,3,7:deit", deit, of_deit, 7.0)]
    {
        let (lines, _) = measured(&["step", "--shape", shape]);
        let line = &lines[0];
        assert!(
            line["mark"] == shape[shape.len() - 4..] && line["params"] == params && line["flops"] == flops,
            "{line}"
        );
        let seconds = number(line, "ms_median") / 1e3;
        assert!((number(line, "tokens_per_s") * seconds / f64::from(tokens) - 1.0).abs() < 0.01, "{line}");
        assert!((number(line, "loss") - f64::ln(classes)).abs() < 0.3, "{line}");
    }
}

#[cfg(emulated)]
#[test]
fn all_variants_are_measured_on_the_emulator() {
    let (lines, table) = measured(&["gemm", "--shape", "8x16x8", "--device", "emulator", "--variant", "all"]);
    assert!(table.contains("say nothing about the speed"), "{table}");
    let variants: Vec<_> = lines.iter().filter(|l| l["case"] == "dx").filter_map(|l| l["variant"].as_str()).collect();
    assert_eq!(variants, ["naive", "shared", "tiled"]);
    assert!(table.contains("linear mma_64x64 does not support 8x16x8"), "{table}");
    for line in &lines {
        assert!(POSITIVE.iter().all(|key| number(line, key) > 0.0), "{line}");
        assert!(line["times_mean_nothing"] == true && line["percent_of_roofline"].is_null(), "{line}");
    }
    let emulator = |args: &[&'static str]| [args, &["--device", "emulator"]].concat();
    let (lines, _) =
        measured(&emulator(&["gemm", "--shape", "8x16x8", "--precision", "bf16", "--variant", "mma_64x64"]));
    assert!(lines.len() == 3 && lines.iter().all(|l| l["variant"] == "mma_64x64" && l["precision"] == "bf16"));
    for shape in [&["attention", "--shape", "1x2x5x8"][..], &["cross-entropy", "--shape", "3x17"]] {
        let (lines, _) = measured(&emulator(&[shape, &["--precision", "bf16"]].concat()));
        assert!(lines.iter().all(|l| l["variant"].is_string()), "{lines:?}");
    }
    let (lines, _) = measured(&emulator(&["multilevel", "--shape", "2,2,8,4,13", "--variant", "all"]));
    assert_eq!(lines.len(), 6, "two cases with three variants each");
    let (lines, _) = measured(&emulator(&["step", "--shape", "1,1,8,4,1,9", "--precision", "bf16"]));
    assert!(lines[0]["peer"] == "vcycle_bf16" && lines[0]["percent_of_products"].is_null(), "{lines:?}");
    let text = refused(&emulator(&["gemm", "--shape", "8x16x8", "--variant", "mma_64x64"]));
    assert!(text.contains("--variant all"), "{text}");
    let (lines, _) = measured(&emulator(&["gemm", "--shape", "8x16x8", "--variant", "tiled,naive"]));
    let variants: Vec<_> = lines.iter().filter(|l| l["case"] == "dw").filter_map(|l| l["variant"].as_str()).collect();
    assert_eq!(variants, ["naive", "tiled"]);
    let text = refused(&emulator(&["gemm", "--shape", "8x16x8", "--variant", "naive,fast"]));
    assert!(
        text.contains("fast: linear has no such variant") && text.contains("naive") && text.contains("mma_128x128"),
        "{text}"
    );
}

#[test]
fn with_json_in_a_file_the_table_goes_to_standard_output() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.jsonl");
    let out = bench(&["layernorm", "--shape", "2x3", "--device", "reference", "--json", path.to_str().expect("UTF-8")]);
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("backward"));
    let text = std::fs::read_to_string(&path).expect("the file");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.len() == 2 && lines[0]["precision"] == "f64", "{text}");
}

#[test]
fn invalid_requests_are_rejected() {
    for (args, says) in [
        (&["gemm", "--shape", "gpt3"][..], &["gpt2-fc", "MxNxK"][..]),
        (&["gemm", "--shape", "1x2"], &["gpt2-fc", "MxNxK"]),
        (&["gemm", "--shape", "0x1x1"], &["invalid size 0"]),
        (&["gemm", "--shape", "2147483647x2147483647x1"], &["too large for any device"]),
        (&["gemm", "--shape", "33000000x33000000x1"], &["memory"]),
        (&["attention", "--shape", "1x1x8x8:tied"], &["BxHxTxD", ":full"]),
        (&["attention", "--shape", "1,1,99999999,99999999"], &["too large for any device"]),
        (&["layernorm", "--shape", "2147483647x10000"], &["memory"]),
        (&["cross-entropy", "--shape", "words"], &["gpt2, bert, deit"]),
        (&["adamw", "--shape", "5.5"], &["PARAMETERS"]),
        (&["multilevel", "--shape", "3,2,8,4,13"], &["halved"]),
        (&["multilevel", "--shape", "2,4,9,4,13"], &["must be multiples of the"]),
        (&["step", "--shape", "1,1,8,4,1"], &["char", "L,H,C,T,B,V"]),
        (&["step", "--shape", "1,3,8,4,1,9"], &["must be multiples of the"]),
        (&["step", "--shape", "20000,1,8,4,1,9"], &["layers"]),
        (&["step", "--shape", "1,1,64,64,1000000,1000"], &["memory"]),
        (&["step", "--shape", "1,1,20000,8,1,200000"], &["4,294,967,295 parameters"]),
        (&["step", "--shape", "1,1,8,4,1,9", "--variant", "naive"], &["VCYCLE_VARIANT_linear"]),
        (&["step", "--shape", "1,1,8,4,1,9:gpt"], &[":bert or :deit"]),
        (&["step", "--shape", "1,1,8,20,1,9:deit"], &["patches of 16 x 16"]),
        (&["step", "--shape", "1,1,8,4800,1,9:deit"], &["4096 or less"]),
        (&["step", "--shape", "1,1,8,1024,1000000,9:deit"], &["4097000000 tokens"]),
        (&["step", "--shape", "1,1,8,1024,20000,9:deit"], &["memory"]),
        (&["step", "--shape", "1,3,8,4,1,9:bert"], &["must be multiples of the"]),
        (&["gemm", "--shape", "4x4x4", "--variant", "naive"], &["one variant"]),
        (&["gemm", "--shape", "4x4x4", "--precision", "bf16"], &["--precision bf16", "cpu"]),
        (&["step", "--shape", "1,1,8,4,1,9", "--precision", "bf16"], &["--precision bf16", "cpu"]),
        (&["gemm", "--shape", "4x4x4", "--device", "tpu"], &["tpu", "cpu"]),
        (&["gemm", "--shape", "4x4x4", "--json", "/dev/null/x"], &["/dev/null"]),
        (&["gemm", "--shape", "4x4x4", "--peer", "cublaslt"], &["--peer cublaslt", "--device cuda"]),
        (&["step", "--peer", "cublaslt"], &["only matrix products"]),
        (&["gemm", "--peer", "mkl"], &["cublaslt"]),
        (&["gemv"], &["gemm", "cross-entropy"]),
    ] {
        let text = refused(args);
        for part in says {
            assert!(text.contains(part), "{args:?}: {text:?} does not mention {part:?}");
        }
    }
    for (option, value) in [("--seconds", "nan"), ("--seconds", "-1"), ("--seconds", "1e9"), ("--rounds", "0")] {
        let args = ["bench", "gemm", "--shape", "4x4x4", &format!("{option}={value}")];
        let out = Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).output().expect("the binary runs");
        assert_eq!(out.status.code(), Some(2), "{option} {value}");
    }
}

/// The message comes before any GPU is searched for.
#[test]
fn a_build_or_machine_without_cublaslt_is_reported() {
    // With the feature, libcublasLt is missing or, where that is installed, libcuda.
    let present = cfg!(feature = "cublaslt");
    let says = if present { "libcu" } else { "--features cublaslt" };
    let text = refused(&["gemm", "--shape", "4x4x4", "--device", "cuda", "--peer", "cublaslt"]);
    assert!(text.contains(says), "{text:?} does not mention {says}");
}

#[test]
fn help_names_every_shape() {
    let out = bench(&["--help"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    for word in ["gpt2-logits", "4096x50257x768:tied", "12,12,768,512,1,50257", "deit", "caches twice", "--variant"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
