#!/usr/bin/env bash
# Parity, benchmarks with peers and a training run on a GPU, in a few minutes. See `benches/gpu_suite.sh --help`.
set -euo pipefail

usage() {
    cat <<'TEXT'
Checks the parity of every kernel on the GPU, runs benchmarks together with peers, and trains GPT-Base in a V-cycle and its
scratch baseline. It needs a prebuilt vcycle, but neither cargo nor network. It is made for a machine that is available for
minutes only: the most important parts run first, and what does not fit into the time is left out. Parity gets a quarter of the
time, benchmarks get half, and training gets a quarter. --only selects parts.

    benches/gpu_suite.sh [--out runs/gpu] [--device cuda|emulator] [--only "parity bench step peers train"] [--minutes 8]

DIR/parity.txt has one line per variant, DIR/ours.jsonl and DIR/peers.jsonl have one line of JSON per measurement, DIR/report.md
and its plots compare them, and DIR/train/ is the training run. What fails or exceeds its time limit is listed in
DIR/left-out.txt, and the rest continues. The exit code is 0 if everything was done and 1 if something was left out.

--device emulator does the same with tiny shapes on emulated hardware, within an hour: a rehearsal that says nothing about speed.

Environment:
    VCYCLE   a prebuilt vcycle [target/release/vcycle]. For cuBLASLt, built with --features cublaslt
    PYTHON   a python with torch, for the peers [python3]
    DATA     training data prepared by `vcycle data prepare` [the State of the Union addresses in data/, with a vocabulary of 8192]
TEXT
}

fail() {
    echo "error: $*" >&2
    exit 2
}

out="" device=cuda only="parity bench step peers train" minutes=""
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --out | --device | --only | --minutes)
        (($# > 1)) || fail "$1 needs a value; see --help"
        declare "${1#--}=$2"
        shift 2
        ;;
    *) fail "$1: no such option; see --help" ;;
    esac
done
[[ $device == cuda || $device == emulator ]] || fail "--device $device: must be cuda or emulator"
[[ -n $minutes ]] || minutes=$([[ $device == cuda ]] && echo 8 || echo 60)
[[ $minutes =~ ^[1-9][0-9]{0,3}$ ]] || fail "--minutes $minutes: must be a whole number from 1 to 9999"
for part in $only; do
    [[ $part =~ ^(parity|bench|step|peers|train)$ ]] || fail "--only $part: must be parity, bench, step, peers or train"
done

# The caller's paths are relative to the current folder, all others to the repository root.
[[ -n $out ]] && out=$(realpath -m -- "$out")
[[ -n ${VCYCLE:-} && $VCYCLE == */* ]] && VCYCLE=$(realpath -m -- "$VCYCLE")
[[ -n ${DATA:-} ]] && DATA=$(realpath -m -- "$DATA")
[[ -n ${PYTHON:-} && $PYTHON == */* && $PYTHON != /* ]] && PYTHON=$PWD/$PYTHON
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${out:-$PWD/runs/gpu}
VCYCLE=${VCYCLE:-target/release/vcycle}
PYTHON=${PYTHON:-python3}
command -v "$VCYCLE" >/dev/null || fail "no vcycle at $VCYCLE; set VCYCLE to a prebuilt one"
[[ -e $out ]] && fail "$out exists already; choose another folder with --out"
mkdir -p "$out/parity"

say() { echo "== ${SECONDS}s: $*"; }
leave_out() {
    echo "$*" >>"$out/left-out.txt"
    echo "left out: $*" >&2
}
wants() { [[ " $only " == *" $1 "* ]]; }

# Deadlines in seconds from the start: `until` of the current part, `measured` of all measurements.
until=0 measured=$((minutes * 60))
wants train && measured=$((minutes * 45))

# share LIMIT: prints the seconds that something may take, at most LIMIT; 0 if too little time is left to start it.
share() {
    local left=$((until - SECONDS))
    echo $((left < 3 ? 0 : left < $1 ? left : $1))
}

# within SECONDS COMMAND...: runs a command with a time limit. vcycle train stops on SIGTERM; a hung kernel needs the SIGKILL.
within() { timeout -k 5 "$@"; }

# attempt NAME LIMIT FILE COMMAND...: runs a command with stdout to FILE and stderr to FILE.err. Records the reason if it fails.
attempt() {
    local name=$1 limit file=$3 status=0
    limit=$(share "$2")
    shift 3
    if ((!limit)); then
        leave_out "$name: no time was left"
        return 1
    fi
    within "$limit" "$@" >"$file" 2>"$file.err" || status=$?
    case $status in
    0)
        rm "$file.err"
        return 0
        ;;
    124 | 137) leave_out "$name: took longer than $limit s" ;;
    *) leave_out "$name: $(cat "$file" "$file.err" | tail -n 1 | cut -c1-200)" ;;
    esac
    return 1
}

within 60 "$VCYCLE" info | tee "$out/machine.txt"
if [[ $device == cuda ]]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee -a "$out/machine.txt" || true
    grep -q '^gpu: .*compute capability' "$out/machine.txt" || fail "no GPU to measure: see above"
    # Use the toolkit's cuBLASLt, not the stubs next to it, which are for linking only.
    for folder in /usr/local/cuda*/targets/*/lib; do
        [[ -e $folder/libcublasLt.so ]] && export LD_LIBRARY_PATH=$folder:${LD_LIBRARY_PATH:-}
    done
fi

# ---- Parity: one process per core, since the f64 reference takes nearly all of the time. -----------------------------------------

# The f64 reference takes minutes for these at full size.
slow=" adamw cross_entropy linear "

# check OPERATION VARIANT
check() {
    local on=(--device "$device")
    [[ $device == emulator ]] && on+=(--orders forward)
    [[ $device == emulator || $slow == *" $1 "* ]] || on+=(--full)
    attempt "parity of $1/$2" 100 "$out/parity/$1-$2.txt" "$VCYCLE" kernels check "$1/$2" "${on[@]}" || true
}

if wants parity; then
    say "parity"
    until=$((minutes * 15))
    # `kernels list` prints operation and variant at the start of a line.
    while read -r operation variant; do
        while (($(jobs -rp | wc -l) >= $(nproc))); do wait -n || true; done
        check "$operation" "$variant" &
    done < <(within 60 "$VCYCLE" kernels list | awk '/^[a-z_]+ [a-z0-9]+ \(/ {print $1, $2}')
    wait
    find "$out/parity" -name '*.txt' -exec cat {} + | sort -u >"$out/parity.txt"
    right=$(grep -c ' ok: ' "$out/parity.txt" || true)
    echo "$right variants passed"
    ((right)) || leave_out "parity: no variant passed"
fi

# ---- Benchmarks -------------------------------------------------------------------------------------------------------------------

# bench NAME SECONDS ARGUMENTS...: runs `vcycle bench` and appends its lines to ours.jsonl.
bench() {
    local name=$1 limit=$2
    shift 2
    if attempt "bench $name" "$limit" "$out/line.txt" "$VCYCLE" bench "$@" --device "$device" --json "$out/line.jsonl"; then
        cat "$out/line.jsonl" >>"$out/ours.jsonl"
    fi
    rm -f "$out"/line.*
}

until=$measured

if wants bench; then
    say "benchmarks"
    if [[ $device == cuda ]]; then
        peer=(--peer cublaslt)
        within 60 "$VCYCLE" bench gemm --shape 64x64x64 --device cuda --peer cublaslt --rounds 1 --seconds 0 >"$out/line.txt" 2>&1 || {
            leave_out "cuBLASLt: $(tail -n 1 "$out/line.txt" | cut -c1-200)"
            peer=()
        }
        variants=mma_128x128,wgmma_128x128,wgmma_128x256,tma_store_64x256,tma_store_128x128,tma_store_128x192,tma_store_128x256,cluster2_128x256
        # BERT-Base has the shapes of GPT-2.
        for shape in gpt2-{qkv,proj,fc,out,logits} deit-{qkv,proj,fc,out} bert-large-{qkv,proj,fc,out}; do
            bench "gemm $shape" 20 gemm --shape "$shape" --precision bf16 --seconds 0.4 --variant "$variants" "${peer[@]}"
        done
        # `single_pass_kv` supports at most 256 keys: DeiT, and the first phase of BERT (128 tokens).
        for shape in gpt2 bert deit 32x12x128x64:full 16x12x256x64:full 4x8x2048x128; do
            bench "attention $shape" 20 attention --shape "$shape" --precision bf16 --seconds 0.4 --variant flash,wgmma,single_pass_kv,fused_dq_atomic
        done
        for operation in layernorm cross-entropy adamw; do
            bench "$operation" 15 "$operation" --precision bf16 --seconds 0.2
        done
        bench multilevel 15 multilevel --variant all --seconds 0.2
    else
        tiny=(--precision bf16 --seconds 0 --rounds 1)
        bench gemm 60 gemm --shape 64x64x64 "${tiny[@]}" --variant mma_64x64,tma_store_128x256,cluster2_128x256
        bench attention 60 attention --shape 1x1x32x32 "${tiny[@]}" --variant flash,wgmma,single_pass_kv,fused_dq_atomic
        bench layernorm 60 layernorm --shape 8x64 "${tiny[@]}"
        bench cross-entropy 60 cross-entropy --shape 8x64 "${tiny[@]}"
        bench adamw 60 adamw --shape 4096 "${tiny[@]}"
        bench multilevel 60 multilevel --shape 2,2,16,16,32 --seconds 0 --rounds 1
    fi
fi

# step SHAPE LABEL [OPERATION=VARIANT...]: benchmarks a step with variants that are not chosen automatically yet.
step() {
    local shape=$1 label=$2 how=(--precision bf16 --seconds 3)
    [[ $device == emulator ]] && how=(--precision bf16 --seconds 0 --rounds 1)
    shift 2
    (
        for variant in "$@"; do export "VCYCLE_VARIANT_$variant"; done
        bench "step $shape $label" 60 step --shape "$shape" "${how[@]}" ${label:+--label "$label"}
    )
}

# The last `short` shapes have at most 256 tokens, as `single_pass_kv` needs.
steps=(gpt2-gpu bert-512 deit-b bert-128) short=2
[[ $device == emulator ]] && steps=(1,1,16,16,1,32 1,1,16,16,1,32:bert 1,1,16,32,1,8:deit) short=1
hopper=(attention=wgmma attention_backward=wgmma)
if wants step; then
    say "steps"
    for shape in "${steps[@]}"; do
        step "$shape" ""
        step "$shape" tma_store_128x256 "${hopper[@]}" linear=tma_store_128x256
    done
fi

# ---- Peers ------------------------------------------------------------------------------------------------------------------------

# peer NAME SECONDS ARGUMENTS...: runs a Python script and appends its lines to peers.jsonl.
peer() {
    local name=$1 limit=$2
    shift 2
    if attempt "$name" "$limit" "$out/line.jsonl" "$PYTHON" "$@"; then
        cat "$out/line.jsonl" >>"$out/peers.jsonl"
    fi
    rm -f "$out"/line.*
}

torch_step=(benches/baselines/torch_step.py --device cuda --bf16 --seconds 3)
torch=""
if wants peers && [[ $device == cuda ]]; then
    say "PyTorch"
    if within 60 "$PYTHON" -c 'import torch' 2>/dev/null; then
        torch=yes
        if [[ -s $out/ours.jsonl ]]; then
            grep -v -e cublaslt -e '"bench":"step"' -e '"bench":"multilevel"' "$out/ours.jsonl" >"$out/cases.jsonl" || true
        fi
        if [[ -s $out/cases.jsonl ]]; then
            peer "torch_ops.py" 60 benches/baselines/torch_ops.py "$out/cases.jsonl" --seconds 0.05
        else
            leave_out "torch_ops.py: it runs the cases of the part bench, which has no results"
        fi
        rm -f "$out/cases.jsonl"
        for shape in "${steps[@]}"; do
            peer "torch_step.py $shape --compile" 90 "${torch_step[@]}" --shape "$shape" --compile
        done
    else
        leave_out "PyTorch: $PYTHON has no torch; set PYTHON to one that has"
    fi
fi

# ---- If time is left: single kernels, and PyTorch without its compiler. -------------------------------------------------------------

if wants step; then
    say "more steps"
    for shape in "${steps[@]}"; do
        step "$shape" attention-wgmma "${hopper[@]}"
        step "$shape" cluster2_128x256 "${hopper[@]}" linear=cluster2_128x256
        step "$shape" fused_dq_atomic attention=wgmma attention_backward=fused_dq_atomic linear=tma_store_128x256
    done
    for shape in "${steps[@]: -short}"; do
        step "$shape" single_pass_kv attention=single_pass_kv attention_backward=wgmma linear=tma_store_128x256
    done
fi
if [[ $torch ]]; then
    for shape in "${steps[@]}"; do
        peer "torch_step.py $shape" 40 "${torch_step[@]}" --shape "$shape"
    done
fi

if [[ -s $out/ours.jsonl ]]; then
    files=("$out/ours.jsonl")
    [[ -s $out/peers.jsonl ]] && files+=("$out/peers.jsonl")
    within 60 "$VCYCLE" bench report "${files[@]}" --out "$out" >/dev/null || leave_out "the report of ${files[*]}"
fi

# ---- Training ---------------------------------------------------------------------------------------------------------------------

if wants train; then
    say "training a V-cycle and its scratch baseline"
    config=(benches/gpu_suite.toml)
    [[ $device == emulator ]] && config=(configs/gpt-tiny.toml --set train.precision=bf16)
    if [[ -n ${DATA:-} && $device == cuda ]]; then config+=(--set "data={prepared=\"$DATA\"}"); fi
    until=$((minutes * 60))
    if attempt training "$until" "$out/train.txt" "$VCYCLE" train "${config[@]}" --device "$device" --out "$out/train" --quiet; then
        cat "$out/train.txt"
    fi
fi

say "done: $out"
[[ ! -e $out/left-out.txt ]]
