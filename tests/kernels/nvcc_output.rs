//! Tests of how the build parses the output of nvcc and ptxas. The outputs are from CUDA 13.0.88, shortened and
//! combined; those of other versions are invented.

#[path = "../../build/ptxas.rs"]
mod ptxas;

use ptxas::{Report, Usage};

fn usage(kernel: &str, arch: &str, registers: u32, shared: u32) -> Usage {
    Usage { kernel: kernel.into(), arch: arch.into(), registers, shared }
}

const GOOD: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'plain' for 'sm_80'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Compile time = 3.232 ms
ptxas info    : Compiling entry function 'scale_f32' for 'sm_80'
ptxas info    : Function properties for scale_f32
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 1 barriers, 1024 bytes smem, 368 bytes cmem[0]
ptxas info    : Compile time = 1.920 ms
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'plain' for 'sm_90a'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
ptxas info    : Compile time = 2.601 ms
ptxas info    : Compiling entry function 'scale_f32' for 'sm_90a'
ptxas info    : Function properties for scale_f32
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compile time = 2.365 ms
";

#[test]
fn each_kernel_and_architecture_is_read() {
    let usages = vec![
        usage("plain", "sm_80", 8, 0),
        usage("scale_f32", "sm_80", 8, 1024),
        usage("plain", "sm_90a", 10, 0),
        usage("scale_f32", "sm_90a", 8, 1024),
    ];
    assert_eq!(ptxas::read(GOOD), Report { usages, faults: vec![] });
    assert_eq!(ptxas::read(""), Report::default());
}

const SPILLS: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'fine' for 'sm_80'
ptxas info    : Function properties for fine
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 31 registers, used 0 barriers, 364 bytes cmem[0]
ptxas info    : Compile time = 5.951 ms
ptxas info    : Compiling entry function 'spilly' for 'sm_80'
ptxas info    : Function properties for spilly
    14336 bytes stack frame, 16228 bytes spill stores, 29228 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 14336 bytes cumulative stack size, 368 bytes cmem[0]
ptxas info    : Compile time = 2668.953 ms
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'stacky' for 'sm_100'
ptxas info    : Function properties for stacky
    256 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 34 registers, used 0 barriers, 256 bytes cumulative stack size
ptxas info    : Compile time = 14.942 ms
ptxas info    : Function properties for _ZN36_INTERNAL_3bc60b05_8_stack_cu_stacky4helpEPfi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
";

#[test]
fn spills_and_stacks_are_faults_of_a_kernel_and_architecture() {
    let report = ptxas::read(SPILLS);
    assert_eq!(report.usages.len(), 3);
    assert_eq!(report.usages[1], usage("spilly", "sm_80", 32, 0));
    let [spills, stack] = report.faults.as_slice() else { panic!("{:?}", report.faults) };
    assert!(
        spills.starts_with(
            "kernel spilly for sm_80: 14336 bytes stack frame, 16228 bytes spill stores, 29228 bytes spill"
        ),
        "{spills}"
    );
    assert!(spills.contains("smaller tile"), "{spills}");
    assert!(stack.starts_with("kernel stacky for sm_100: 256 bytes stack frame; index local arrays"), "{stack}");
}

const NOTES: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'late_operand' for 'sm_80'
ptxas info    : Function properties for late_operand
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 50 registers, used 0 barriers
ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.
ptxas info    : (C7519) warpgroup.arrive is injected in around line 500 by compiler to allow use of registers in GMMA \
in function 'late_operand'
ptxas info    : (C7519) warpgroup.arrive is injected in around line 516 by compiler to allow use of registers in GMMA \
in function 'late_operand'
ptxas info    : (C7517) warpgroup.wait is injected in around line 92 by compiler to allow use of registers defined by \
GMMA in function 'serial_early_read'
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to wgmma pipeline \
crossing function boundary at a function call in the function 'serial_call'
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient \
register resources for the wgmma pipeline in the function 'serial_define'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'late_operand' for 'sm_90a'
ptxas info    : Function properties for late_operand
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 50 registers, used 0 barriers
ptxas info    : Compile time = 5.248 ms
";

#[test]
fn notes_that_hopper_code_was_weakened_are_faults() {
    let faults = ptxas::read(NOTES).faults;
    let wanted = [
        "for sm_90a: C7508: Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at \
         entry.",
        "kernel late_operand for sm_90a: C7519: warpgroup.arrive is injected in around line 500 by compiler to allow \
         use of registers in GMMA (2 times)",
        "kernel serial_early_read for sm_90a: C7517: warpgroup.wait is injected in around line 92 by compiler to allow \
         use of registers defined by GMMA",
        "kernel serial_call for sm_90a: C7510: Potential Performance Loss: wgmma.mma_async instructions are serialized \
         due to wgmma pipeline crossing function boundary at a function call",
        "kernel serial_define for sm_90a: C7511: Potential Performance Loss: wgmma.mma_async instructions are \
         serialized due to insufficient register resources for the wgmma pipeline",
    ];
    assert_eq!(faults, wanted);
    // A note is reported even if no kernel follows it.
    let note = NOTES.lines().find(|line| line.contains("C7508")).unwrap();
    assert_eq!(ptxas::read(note).faults.len(), 1);
}

const VERSION: &str = "\
nvcc: NVIDIA (R) Cuda compiler driver
Copyright (c) 2005-2025 NVIDIA Corporation
Built on Wed_Aug_20_01:58:59_PM_PDT_2025
Cuda compilation tools, release 13.0, V13.0.88
Build cuda_13.0.r13.0/compiler.36424714_0
";

#[test]
fn versions() {
    let version = ptxas::version(VERSION).unwrap();
    assert_eq!(version, "13.0.88");
    assert!(ptxas::major(&version) >= ptxas::OLDEST_NVCC);
    let old = ptxas::version("Cuda compilation tools, release 11.8, V11.8.89").unwrap();
    assert!(ptxas::major(&old) < ptxas::OLDEST_NVCC);
    assert_eq!(ptxas::version("true (GNU coreutils) 9.1"), None);
    assert_eq!(ptxas::version("release 13.0, V13.x"), None);
}

const CODES: &str = "sm_75\nsm_80\nsm_86\nsm_87\nsm_88\nsm_89\nsm_90\nsm_100\nsm_110\nsm_103\nsm_120\nsm_121\n";

#[test]
fn architectures() {
    let known = ptxas::known(CODES);
    assert_eq!(known, [75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121]);
    assert_eq!(ptxas::known("sm_80 sm_90 sm_90a"), [80, 90]);

    let cubin = |arch: &str| format!("arch=compute_{arch},code=sm_{arch}");
    let ptx = "arch=compute_80,code=compute_80".to_owned();
    let usual = ptxas::gencode("linear", &known, None).unwrap();
    assert_eq!(usual, [cubin("80"), cubin("90a"), cubin("100"), ptx.clone()]);
    assert_eq!(ptxas::gencode("linear", &known, Some(" ")).unwrap(), usual);
    // nvcc 12.0 does not know Blackwell.
    assert_eq!(ptxas::gencode("linear", &[80, 86, 90], None).unwrap(), [cubin("80"), cubin("90a"), ptx]);
    assert_eq!(ptxas::gencode("sm90/gemm", &known, None).unwrap(), [cubin("90a")]);

    // Only the requested architectures are built.
    assert_eq!(ptxas::gencode("linear", &known, Some("80, sm_120")).unwrap(), [cubin("80"), cubin("120")]);
    assert_eq!(ptxas::gencode("sm90/gemm", &known, Some("80,90a")).unwrap(), [cubin("90a")]);
    assert!(ptxas::gencode("sm90/gemm", &known, Some("80")).unwrap().is_empty());
    for (wanted, says) in
        [("80,hopper", "\"hopper\" is not an architecture"), ("75", "too old"), ("80,99", "86, 87"), ("80,", "\"\"")]
    {
        let error = ptxas::gencode("linear", &known, Some(wanted)).unwrap_err();
        assert!(error.starts_with("VCYCLE_CUDA_ARCHS: ") && error.contains(says), "{error}");
    }
}

const BOUNDS: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'fill_f32' for 'sm_100'
ptxas info    : Function properties for fill_f32
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
ptxas info    : Compile time = 2.939 ms
ptxas error   : Value of threads per SM for entry fill_f32 is out of range. .minnctapersm will be ignored
ptxas fatal   : Ptx assembly aborted due to errors
";

#[test]
fn failures_are_shown_without_what_went_well() {
    assert_eq!(
        ptxas::complaints(BOUNDS),
        "ptxas error   : Value of threads per SM for entry fill_f32 is out of range. .minnctapersm will be ignored\n\
         ptxas fatal   : Ptx assembly aborted due to errors"
    );
}

#[test]
fn failures_say_what_to_do() {
    let remedy = |text: &str| ptxas::remedy(text).unwrap_or_default();
    let newer =
        "host_config.h:137:2: error: #error -- unsupported GNU version! gcc versions later than 15 are not supported!";
    assert!(remedy(newer).contains("NVCC_CCBIN=g++-14"));
    let none = "gcc: No such file or directory\nnvcc fatal   : Failed to preprocess host compiler properties.";
    assert!(remedy(none).contains("Install g++"));
    assert!(remedy("nvcc fatal   : Unsupported gpu architecture 'compute_77'").contains("VCYCLE_CUDA_ARCHS"));
    for part in ["sh: 1: /x/bin/../nvvm/bin/cicc: not found", "fatal error: cuda_runtime.h: No such file or directory"]
    {
        assert!(remedy(part).contains(ptxas::PIP_PACKAGES));
    }
    assert_eq!(ptxas::remedy("bad.cu(1): error: identifier \"y\" is undefined"), None);
}
