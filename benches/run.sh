#!/usr/bin/env bash
# Benchmarks vcycle and its peers in interleaved rounds and writes one report. See `benches/run.sh --help`.
set -euo pipefail

usage() {
    cat <<'TEXT'
Benchmarks training steps (and operations) of vcycle and its peers in interleaved rounds, and writes one report.

    benches/run.sh [--rounds 5] [--threads "1 2"] [--shapes "char small gpt2"] [--peers "torch torch-compile candle"]
                   [--ops "gemm attention ..."] [--device cpu|cuda] [--precision f32|bf16] [--seconds 5] [--out runs/bench]

In every round, each contender (vcycle, eager PyTorch, compiled PyTorch, candle) runs a step once per shape and number of
threads, in a process of its own. The order rotates from round to round. The operations of --ops follow, if any, for vcycle
and PyTorch. DIR/ours.jsonl and DIR/peers.jsonl get one line of JSON per measurement, including its round. At the end,
`vcycle bench report` turns them into DIR/report.md and plots. Files of an earlier run in DIR are overwritten.

A peer that is missing or fails is skipped and listed; the others continue. candle only runs on the cpu in f32. On cuda, only
the first number of threads is used, and --shapes defaults to gpt2-gpu.

Environment:
    PYTHON   a python with torch [python3]
    VCYCLE   a prebuilt vcycle [target/release/vcycle, built if cargo is available]
    CANDLE   a prebuilt candle-step [benches/baselines/candle, built if cargo is available]
TEXT
}

fail() {
    echo "error: $*" >&2
    exit 2
}

say() { echo "$*" >&2; }

rounds=5 threads="1 2" shapes="" peers="torch torch-compile candle" ops="" device=cpu precision=f32 seconds=5 out=""
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --rounds | --threads | --shapes | --peers | --ops | --device | --precision | --seconds | --out)
        (($# > 1)) || fail "$1 needs a value; see --help"
        declare "${1#--}=$2"
        shift 2
        ;;
    *) fail "$1: no such option; see --help" ;;
    esac
done
[[ $rounds =~ ^[1-9][0-9]{0,3}$ ]] || fail "--rounds $rounds: must be a number from 1 to 9999"
[[ $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--seconds $seconds: must be a number of seconds"
[[ $device == cpu || $device == cuda ]] || fail "--device $device: must be cpu or cuda"
[[ $precision == f32 || $precision == bf16 ]] || fail "--precision $precision: must be f32 or bf16"
read -ra threads <<<"$threads"
((${#threads[@]})) || fail "--threads: needs at least one number"
for n in "${threads[@]}"; do [[ $n =~ ^[1-9][0-9]{0,3}$ ]] || fail "--threads $n: must be a number of threads from 1 to 9999"; done
if [[ $device == cuda ]]; then
    threads=("${threads[0]}")
    shapes=${shapes:-gpt2-gpu}
fi
read -ra shapes <<<"${shapes:-char small gpt2}"
((${#shapes[@]})) || fail "--shapes: needs at least one; \`vcycle bench --help\` lists them"
read -ra ops <<<"$ops"
for op in "${ops[@]}"; do
    [[ $op =~ ^(gemm|attention|layernorm|cross-entropy|adamw)$ ]] ||
        fail "--ops $op: must be gemm, attention, layernorm, cross-entropy or adamw"
done
for peer in $peers; do
    [[ $peer =~ ^(torch|torch-compile|candle)$ ]] || fail "--peers $peer: must be torch, torch-compile or candle"
done

# The caller's paths are relative to the current folder, all others to the repository root.
[[ -n $out ]] && out=$(realpath -m -- "$out")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -n ${VCYCLE:-} && $VCYCLE == */* ]] && VCYCLE=$(realpath -m -- "$VCYCLE")
[[ -n ${CANDLE:-} && $CANDLE == */* ]] && CANDLE=$(realpath -m -- "$CANDLE")
# Do not resolve the link: Python finds its virtual environment by the path of the link.
[[ -n ${PYTHON:-} && $PYTHON == */* && $PYTHON != /* ]] && PYTHON=$PWD/$PYTHON
cd "$here"
out=${out:-$here/runs/bench}
baselines=benches/baselines

# Find or build the contenders.
if [[ -z ${VCYCLE:-} ]]; then
    VCYCLE=${CARGO_TARGET_DIR:-target}/release/vcycle
    if command -v cargo >/dev/null; then
        say "building vcycle"
        cargo build --release --quiet || fail "vcycle does not build; fix that, or set VCYCLE to a prebuilt one"
    fi
fi
command -v "$VCYCLE" >/dev/null || fail "no vcycle at $VCYCLE: install cargo, or set VCYCLE to a prebuilt one"

declare -A gone=()
leave_out() {
    gone[$1]=1
    say "skipped: $1: $2"
}

PYTHON=${PYTHON:-python3}
contenders=(vcycle)
torch=0
if [[ $peers == *torch* || ${#ops[@]} -gt 0 ]]; then
    if "$PYTHON" -c 'import torch' 2>/dev/null; then
        torch=1
    else
        say "skipped: PyTorch: $PYTHON has no torch; set PYTHON to one that has"
    fi
fi
for peer in $peers; do
    case $peer in
    torch | torch-compile) ((torch)) && contenders+=("$peer") ;;
    candle)
        if [[ $device == cuda || $precision == bf16 ]]; then
            leave_out candle "it only runs on the cpu in f32"
            continue
        fi
        if [[ -z ${CANDLE:-} ]]; then
            if ! command -v cargo >/dev/null; then
                leave_out candle "no cargo to build it; install cargo, or set CANDLE to a prebuilt candle-step"
                continue
            fi
            say "building candle"
            # From within its folder, because cargo looks for .cargo/config.toml from the current folder on.
            if ! (cd $baselines/candle && CARGO_TARGET_DIR=target cargo build --release --locked --quiet); then
                leave_out candle "it does not build"
                continue
            fi
            CANDLE=$baselines/candle/target/release/candle-step
        fi
        contenders+=(candle)
        ;;
    esac
done

mkdir -p "$out" || fail "cannot make the folder $out"
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
: >"$out/ours.jsonl"
: >"$out/peers.jsonl"

# measure FILE ROUND COMMAND...: runs the command and appends its JSON lines, with the round added, to FILE.
measure() {
    local file=$1 round=$2
    shift 2
    if ! "$@" >"$log/out" 2>"$log/err"; then
        tail -n 5 "$log/err" >&2
        return 1
    fi
    grep '^{' "$log/out" >"$log/lines" || {
        say "no line of JSON in the output of: $*"
        return 1
    }
    sed "s/}[[:space:]]*\$/, \"round\": $round}/" "$log/lines" >>"$file" || return 1
    sed -E 's/.*"ms_median": ?([0-9.]+).*/    \1 ms/' "$log/lines" >&2
}

# step CONTENDER SHAPE THREADS ROUND
step() {
    local who=$1 shape=$2 n=$3 round=$4
    local -x OMP_NUM_THREADS=$n MKL_NUM_THREADS=$n RAYON_NUM_THREADS=$n
    local torch_step=("$PYTHON" $baselines/torch_step.py --shape "$shape" --threads "$n" --device "$device"
        --seconds "$seconds")
    [[ $precision == bf16 ]] && torch_step+=(--bf16)
    [[ -n ${gone[$who]:-} ]] && return
    say "round $round: $who, $shape, threads $n"
    case $who in
    vcycle)
        measure "$out/ours.jsonl" "$round" "$VCYCLE" bench step --shape "$shape" --threads "$n" --device "$device" \
            --precision "$precision" --seconds "$seconds" --rounds 5 --json - || fail "vcycle failed: see above"
        ;;
    torch) measure "$out/peers.jsonl" "$round" "${torch_step[@]}" || leave_out torch "see above" ;;
    torch-compile)
        measure "$out/peers.jsonl" "$round" "${torch_step[@]}" --compile || leave_out torch-compile "see above"
        ;;
    candle)
        measure "$out/peers.jsonl" "$round" "$CANDLE" --shape "$shape" --threads "$n" --seconds "$seconds" ||
            leave_out candle "see above"
        ;;
    esac
}

# operation NAME THREADS ROUND
operation() {
    local op=$1 n=$2 round=$3
    local -x OMP_NUM_THREADS=$n MKL_NUM_THREADS=$n
    say "round $round: $op, threads $n"
    measure "$out/ours.jsonl" "$round" "$VCYCLE" bench "$op" --threads "$n" --device "$device" --precision "$precision" \
        --rounds 5 --json - || fail "vcycle failed: see above"
    cp "$log/lines" "$log/cases.jsonl"
    if ((torch)) && [[ -z ${gone[torch-ops]:-} ]]; then
        measure "$out/peers.jsonl" "$round" "$PYTHON" $baselines/torch_ops.py "$log/cases.jsonl" --rounds 5 ||
            leave_out torch-ops "see above"
    fi
}

for ((round = 1; round <= rounds; round++)); do
    for shape in "${shapes[@]}"; do
        for n in "${threads[@]}"; do
            for who in "${contenders[@]}"; do step "$who" "$shape" "$n" "$round"; done
        done
    done
    for n in "${threads[@]}"; do
        for op in "${ops[@]}"; do operation "$op" "$n" "$round"; done
    done
    # The first contender of this round is the last of the next.
    contenders=("${contenders[@]:1}" "${contenders[0]}")
done

files=("$out/ours.jsonl")
[[ -s $out/peers.jsonl ]] && files+=("$out/peers.jsonl")
"$VCYCLE" bench report "${files[@]}" --out "$out" || fail "no report; the measurements are in ${files[*]}"
if ((${#gone[@]})); then say "skipped: ${!gone[*]}"; fi
