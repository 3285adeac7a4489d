#!/bin/bash
# Runs fuzz targets in parallel, each for a number of minutes of CPU time (not wall-clock time, since the machine may be
# busy).
#
#   fuzz/run.sh [MINUTES] [TARGET...]      default: every target for 20 minutes
#
# Each target appends a row to fuzz/results.tsv. A target is skipped if its last row has the same sources (the target's own
# and the parsers that it names), at least as many minutes, and no finding. An interrupted target continues where it stopped.
# Corpora grow in fuzz/corpus; findings are written to fuzz/artifacts.
#
#   JOBS=2            number of targets that run in parallel; default: one per core
#   CARGO="cargo"     the cargo command, to which +nightly is added
#   BUILD=0           use the binaries of the last build
set -u
cd "$(dirname "$0")"

# A function, so that bash reads the whole script before running it and the file can be edited meanwhile.
main() {
minutes=20
if [[ ${1:-} =~ ^[0-9.]+$ ]]; then minutes=$1; shift; fi
seconds=$(awk "BEGIN { print $minutes * 60 }")
jobs=${JOBS:-$(nproc)}
results=results.tsv
# Parsers that rarely change come first.
all=(idx cifar image_csv token_shard run_config labelled safetensors checkpoint image_folder prepared torch records text hub tokenizer)
targets=("${@:-${all[@]}}")
triple=$(rustc +nightly -vV | sed -n 's/host: //p')
mkdir -p work

# Lists the files that a target depends on: the target itself, and the files and folders in its line `//! Sources:`. The
# harness is not counted.
sources() {
    echo "fuzz_targets/$1.rs"
    sed -n 's/^\/\/! Sources: //p' "fuzz_targets/$1.rs" | tr ' ' '\n' | sed 's/^/..\//' | xargs -I{} find {} -name '*.rs' | sort
}
digest() { sources "$1" | xargs sha256sum | sha256sum | cut -c1-12; }

if [ "${BUILD:-1}" = 1 ]; then
    ${CARGO:-cargo} +nightly fuzz build --fuzz-dir . || exit 1
    # Hard links, because the next build may replace the binaries while these run.
    for target in "${all[@]}"; do
        ln -f "target/$triple/release/$target" "work/$target" || exit 1
        digest "$target" >"work/$target.sources"
    done
fi

# Prints a libFuzzer dictionary: string literals and field names from the sources.
dictionary() {
    sources "$1" | xargs cat | grep -ohE '"[]A-Za-z_<>|#.0-9[-]{2,40}"|pub [a-z_0-9]+:' |
        sed -E 's/^pub (.*):$/"\1"/' | sort -u | head -1000
}

# Prints the CPU seconds of a process.
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
    # Add the time and executions of an interrupted run with the same sources.
    if read -r then cpu count 2>/dev/null <"$progress" && [ "$then" = "$hash" ]; then before=$cpu executions=$count; fi
    mkdir -p "corpus/$target" "artifacts/$target" "seeds/$target"
    dictionary "$target" >"work/$target.dict"
    local folder
    folder=$(mktemp -d /dev/shm/vcycle-fuzz-XXXXXX)
    # Maximum input length: 5/4 of the largest seed, but at least 4 KiB.
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
    # Interrupted, for example by a shutdown: the next run continues from the progress file.
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

# Prints the number of executions so far.
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
