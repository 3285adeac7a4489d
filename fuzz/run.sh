#!/bin/bash
# Runs fuzz targets, each for so many minutes of CPU time (not of the clock: the machine may be busy), several at once.
#
#   fuzz/run.sh [MINUTES] [TARGET...]      20 minutes of every target, by default
#
# A row for each goes to fuzz/results.tsv. A target is passed over whose last row is of the same sources (its own and the parsers
# that it names), of as many minutes, and without a finding. One that was interrupted goes on where it was.
# Corpora grow in fuzz/corpus, findings are put into fuzz/artifacts.
#
#   JOBS=2            targets at once; by default one for each core
#   CARGO="cargo"     how cargo is called; the nightly toolchain is added
#   BUILD=0           the binaries of the last build, as they are
set -u
cd "$(dirname "$0")"

# All of it is read before any of it runs, so that it may be edited meanwhile.
main() {
minutes=20
if [[ ${1:-} =~ ^[0-9.]+$ ]]; then minutes=$1; shift; fi
seconds=$(awk "BEGIN { print $minutes * 60 }")
jobs=${JOBS:-$(nproc)}
results=results.tsv
all=(idx cifar image_csv token_shard run_config labelled safetensors checkpoint image_folder prepared torch records text hub tokenizer)
targets=("${@:-${all[@]}}")
triple=$(rustc +nightly -vV | sed -n 's/host: //p')
mkdir -p work

# The files whose change makes a target run again: itself and what its line `//! Sources:` names. The harness does not count.
sources() {
    echo "fuzz_targets/$1.rs"
    sed -n 's/^\/\/! Sources: //p' "fuzz_targets/$1.rs" | tr ' ' '\n' | sed 's/^/..\//' | xargs -I{} find {} -name '*.rs' | sort
}
digest() { sources "$1" | xargs sha256sum | sha256sum | cut -c1-12; }

if [ "${BUILD:-1}" = 1 ]; then
    ${CARGO:-cargo} +nightly fuzz build --fuzz-dir . || exit 1
    # By other names: the next build may come while these run.
    for target in "${all[@]}"; do
        ln -f "target/$triple/release/$target" "work/$target" || exit 1
        digest "$target" >"work/$target.sources"
    done
fi

# Names of keys and of other things that the sources compare with, for libFuzzer to put in.
dictionary() {
    sources "$1" | xargs cat | grep -ohE '"[]A-Za-z_<>|#.0-9[-]{2,40}"|pub [a-z_0-9]+:' |
        sed -E 's/^pub (.*):$/"\1"/' | sort -u | head -1000
}

# CPU seconds of a process.
spent() { awk -v tick="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) / tick }' "/proc/$1/stat" 2>/dev/null; }

if [ ! -s "$results" ]; then
    printf 'target\tsources\texecutions\tedges\tfeatures\tcorpus\tpeak_mib\tcpu_seconds\tfindings\tdate\n' >"$results"
fi

campaign() {
    local target=$1 hash before=0 executions=0
    hash=$(cat "work/$target.sources")
    if awk -F'\t' -v t="$target" -v h="$hash" -v s="$seconds" \
        '$1 == t { done = $2 == h && $8 >= s && $9 == 0 } END { exit !done }' "$results"; then
        echo "$target: done before"
        return
    fi
    local log=work/$target.log progress=work/$target.progress
    # What an interrupted run of the same sources did.
    if read -r then cpu count 2>/dev/null <"$progress" && [ "$then" = "$hash" ]; then before=$cpu executions=$count; fi
    mkdir -p "corpus/$target" "artifacts/$target" "seeds/$target"
    dictionary "$target" >"work/$target.dict"
    local folder
    folder=$(mktemp -d /dev/shm/vcycle-fuzz-XXXXXX)
    # As much as the largest seed and some more, but no less than 4 KiB.
    local longest
    longest=$(find "seeds/$target" -type f -printf '%s\n' | sort -n | tail -1)
    longest=$((${longest:-0} * 5 / 4 > 4096 ? longest * 5 / 4 : 4096))
    VCYCLE_FUZZ_DIR=$folder "work/$target" "corpus/$target" "seeds/$target" "-dict=work/$target.dict" "-max_len=$longest" \
        "-artifact_prefix=artifacts/$target/" -timeout=300 -rss_limit_mb=2048 -malloc_limit_mb=512 -print_final_stats=1 \
        -reload=0 >"$log" 2>&1 &
    local pid=$! cpu=0 now
    trap 'kill "$pid" 2>/dev/null; rm -rf "$folder"; exit 1' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
        now=$(spent "$pid")
        cpu=${now:-$cpu}
        echo "$hash $(awk "BEGIN { print $before + $cpu }") $((executions + $(count "$log")))" >"$progress"
        if awk "BEGIN { exit !($before + $cpu >= $seconds) }"; then kill -USR1 "$pid" 2>/dev/null; fi
        sleep 2
    done
    wait "$pid"
    local code=$?
    rm -rf "$folder"
    # Interrupted, as when the machine goes down: what was done counts when it goes on.
    if [ $code = 130 ] || [ $code = 143 ] || [ $code = 137 ]; then return; fi
    local found=$((code != 0))
    local line
    line=$(grep -aE '^#[0-9]+.* cov: ' "$log" | tail -1)
    stat() { echo "$line" | sed -nE "s/.* $1: ([0-9]+).*/\1/p"; }
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$target" "$hash" $((executions + $(count "$log"))) "$(stat cov)" "$(stat ft)" \
        "$(echo "$line" | sed -nE 's/.* corp: ([0-9]+).*/\1/p')" "$(sed -nE 's/^stat::peak_rss_mb: +//p' "$log" | grep . || stat rss)" \
        "$(awk "BEGIN { printf \"%.0f\", $before + $cpu }")" "$found" "$(date -u +%Y-%m-%dT%H:%MZ)" >>"$results"
    rm -f "$progress"
    if [ $found = 1 ]; then echo "$target: a finding, see fuzz/$log and fuzz/artifacts/$target"; else echo "$target: done"; fi
}

# Executions so far.
count() { grep -aoE '^#[0-9]+' "$1" 2>/dev/null | tail -1 | tr -d '#' | grep . || echo 0; }

trap 'kill $(jobs -rp) 2>/dev/null; wait; exit 1' INT TERM
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    campaign "$target" &
done
wait
column -t -s "$(printf '\t')" "$results" 2>/dev/null || cat "$results"
}
main "$@"; exit
