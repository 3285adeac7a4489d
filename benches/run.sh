#!/usr/bin/env bash
# Ours and theirs, interleaved round by round, and one report. `benches/run.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'TEXT'
Training steps (and operations) of vcycle and its peers, interleaved round by round, and one report.

    benches/run.sh [--rounds 5] [--threads "1 2"] [--shapes "char small gpt2"] [--peers "torch torch-compile candle"]
                   [--ops "gemm attention ..."] [--device cpu|cuda] [--precision f32|bf16] [--seconds 5] [--out runs/bench]

In every round each contender runs once for each shape and number of threads, in a process of its own: our step, PyTorch
eager, PyTorch compiled, candle; who begins changes from round to round. Then the operations of --ops, if any, ours and
PyTorch's. DIR/ours.jsonl and DIR/peers.jsonl hold a line of JSON for every measurement, with its round; at the end
`vcycle bench report` makes DIR/report.md and its pictures of them. Files of an earlier run in DIR are replaced.

A peer that is not there, or that fails, is left out and named; the others go on. candle runs on the cpu in f32 only.
On cuda only the first number of threads counts, and --shapes is gpt2-gpu unless given.

Environment:
    PYTHON   a python with torch [python3]      VCYCLE   a prebuilt vcycle [target/release/vcycle, built if cargo is there]
    CANDLE   a prebuilt candle-step [benches/baselines/candle, built if cargo is there]
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
[[ $rounds =~ ^[1-9][0-9]{0,3}$ ]] || fail "--rounds $rounds: a number from 1 to 9999"
[[ $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--seconds $seconds: a number of seconds"
[[ $device == cpu || $device == cuda ]] || fail "--device $device: cpu or cuda"
[[ $precision == f32 || $precision == bf16 ]] || fail "--precision $precision: f32 or bf16"
read -ra threads <<<"$threads"
((${#threads[@]})) || fail "--threads: at least one number"
for n in "${threads[@]}"; do [[ $n =~ ^[1-9][0-9]{0,3}$ ]] || fail "--threads $n: a number of threads"; done
if [[ $device == cuda ]]; then
    threads=("${threads[0]}")
    shapes=${shapes:-gpt2-gpu}
fi
read -ra shapes <<<"${shapes:-char small gpt2}"
((${#shapes[@]})) || fail "--shapes: at least one; \`vcycle bench --help\` lists them"
read -ra ops <<<"$ops"
for op in "${ops[@]}"; do
    [[ $op =~ ^(gemm|attention|layernorm|cross-entropy|adamw)$ ]] ||
        fail "--ops $op: gemm, attention, layernorm, cross-entropy or adamw"
done
for peer in $peers; do
    [[ $peer =~ ^(torch|torch-compile|candle)$ ]] || fail "--peers $peer: torch, torch-compile or candle"
done

# Paths of the caller mean what they say; all others are from the repository's root.
[[ -n $out ]] && out=$(realpath -m -- "$out")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -n ${VCYCLE:-} && $VCYCLE == */* ]] && VCYCLE=$(realpath -m -- "$VCYCLE")
[[ -n ${CANDLE:-} && $CANDLE == */* ]] && CANDLE=$(realpath -m -- "$CANDLE")
# Not its target: a virtual environment knows itself by the path of its link.
[[ -n ${PYTHON:-} && $PYTHON == */* && $PYTHON != /* ]] && PYTHON=$PWD/$PYTHON
cd "$here"
out=${out:-$here/runs/bench}
baselines=benches/baselines

# What is there.
if [[ -z ${VCYCLE:-} ]]; then
    VCYCLE=${CARGO_TARGET_DIR:-target}/release/vcycle
    if command -v cargo >/dev/null; then
        say "building vcycle"
        cargo build --release --quiet || fail "vcycle does not build; or name a prebuilt one in VCYCLE"
    fi
fi
command -v "$VCYCLE" >/dev/null || fail "no vcycle at $VCYCLE: install cargo, or name a prebuilt one in VCYCLE"

declare -A gone=()
leave_out() {
    gone[$1]=1
    say "left out: $1: $2"
}

PYTHON=${PYTHON:-python3}
contenders=(vcycle)
torch=0
if [[ $peers == *torch* || ${#ops[@]} -gt 0 ]]; then
    if "$PYTHON" -c 'import torch' 2>/dev/null; then
        torch=1
    else
        say "left out: PyTorch: $PYTHON has no torch; name one that has in PYTHON"
    fi
fi
for peer in $peers; do
    case $peer in
    torch | torch-compile) ((torch)) && contenders+=("$peer") ;;
    candle)
        if [[ $device == cuda || $precision == bf16 ]]; then
            leave_out candle "it runs on the cpu in f32 here"
            continue
        fi
        if [[ -z ${CANDLE:-} ]]; then
            if ! command -v cargo >/dev/null; then
                leave_out candle "no cargo to build it with; or name a prebuilt candle-step in CANDLE"
                continue
            fi
            say "building candle"
            # From within: its .cargo/config.toml counts where cargo starts.
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

# measure FILE ROUND COMMAND...: runs it and appends its lines, with their round, to FILE.
measure() {
    local file=$1 round=$2
    shift 2
    if ! "$@" >"$log/out" 2>"$log/err"; then
        tail -n 5 "$log/err" >&2
        return 1
    fi
    grep '^{' "$log/out" >"$log/lines" || {
        say "no line of JSON from: $*"
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
    # Whoever began is the last in the next round.
    contenders=("${contenders[@]:1}" "${contenders[0]}")
done

files=("$out/ours.jsonl")
[[ -s $out/peers.jsonl ]] && files+=("$out/peers.jsonl")
"$VCYCLE" bench report "${files[@]}" --out "$out" || fail "no report; the measurements are in ${files[*]}"
if ((${#gone[@]})); then say "left out: ${!gone[*]}"; fi
