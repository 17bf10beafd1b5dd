#!/usr/bin/env bash
# Reading files of a DSS volume, against fio on the same device, in turns, in one run; and listing a
# large group: tables for docs/performance.md.
#
#   benches/dss_volumes.sh [path of gs_probackup, target/release/gs_probackup if not given]
#
# GS_PARSE_DSS   command of another writer of volumes, which fills the image
#                (`python3 ../shared/tools/parse_dss.py`)
# DSS_MIB        size of the file that is read, 3072
# DSS_NODES      directories of the large group, 100000
# DSS_ROUNDS     rounds that count, 5; one before them warms up and does not
# DSS_DIRECTORY  where the images are, /tmp; they take about DSS_MIB
# DSS_LOOP       1: read through a loop device, which needs root
#
# fio reads the same bytes of the same device past the page cache, by io_uring, 32 requests of 1 MiB at
# a time, as the program does. Everything is removed at the end.

set -euo pipefail

fail() {
    echo "dss_volumes: $*" >&2
    exit 1
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=${1:-$repository/target/release/gs_probackup}
tool=${GS_PARSE_DSS:-python3 $repository/../shared/tools/parse_dss.py}
mib=${DSS_MIB:-3072}
nodes=${DSS_NODES:-100000}
rounds=${DSS_ROUNDS:-5}
[[ -x $binary ]] || fail "no program at $binary: cargo build --release"
command -v fio >/dev/null || fail "fio is not installed"

directory=$(mktemp -d "${DSS_DIRECTORY:-/tmp}/gs-dss-XXXXXX")
loop=
cleanup() {
    [[ -z $loop ]] || losetup -d "$loop"
    rm -rf "$directory"
}
trap cleanup EXIT
cd "$directory"

truncate -s $((mib + 512))M data.img
"$binary" dss cv --vg data=data.img --au-size=8MB >/dev/null
dd if=/dev/urandom of=content bs=1M count="$mib" status=none
$tool wput data.img +data file "$directory/content" >/dev/null
expected=$(sha256sum <content)
rm content
sync
device=data.img
if [[ ${DSS_LOOP:-0} == 1 ]]; then
    loop=$(losetup --find --show --direct-io=on data.img)
    device=$loop
fi

# Runs a command and appends "name seconds cpu" to the results.
measure() {
    local name=$1 TIMEFORMAT='%R %U %S'
    shift
    { time "$@" >/dev/null 2>messages; } 2>times || fail "$name failed: $(cat messages)"
    awk -v name="$name" '{ print name, $1, $2 + $3 }' times >>results
}

by_fio() {
    fio --name=read --filename="$device" --readonly --rw=read --direct=1 --ioengine=io_uring \
        --bs=1M --iodepth=32 --offset=$((mib < 80 ? 0 : 80))M --size="$mib"M --output-format=terse
}

[[ $("$binary" dss cat --vg data="$device" +data/file | sha256sum) == "$expected" ]] || fail 'other bytes were read'
for ((round = 0; round <= rounds; round++)); do
    [[ $round != 1 ]] || rm -f results
    measure fio by_fio
    measure cat "$binary" dss cat --vg data="$device" +data/file
done
echo "$mib MiB of one file, $rounds rounds, medians"
median() {
    awk -v name="$1" -v column="$2" '$1 == name { print $column }' results | sort -n |
        awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}
for name in fio cat; do
    awk -v name="$name" -v wall="$(median $name 2)" -v cpu="$(median $name 3)" -v mib="$mib" 'BEGIN {
        printf "%-4s %6.2f s  %6.0f MiB/s  CPU %5.2f s (%.2f s a GiB)\n", name, wall, mib / wall, cpu, cpu * 1024 / mib }'
done
awk -v ours="$(median cat 2)" -v theirs="$(median fio 2)" 'BEGIN { printf "ratio of rates: %.2f\n", theirs / ours }'

truncate -s 2G large.img
"$binary" dss cv --vg large=large.img --au-size=8MB >/dev/null
mkdir tree
(cd tree && seq 1 "$nodes" | sed 's/^/node/' | xargs mkdir)
$tool wtree large.img +large tree >/dev/null
rm -f results
for ((round = 0; round <= rounds; round++)); do
    [[ $round != 1 ]] || rm -f results
    measure ls "$binary" dss ls --recursive --vg large=large.img
    measure check "$binary" dss check --vg large=large.img
done
printf '%s directories: ls %s s, check %s s\n' "$nodes" "$(median ls 2)" "$(median check 2)"
