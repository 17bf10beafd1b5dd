#!/usr/bin/env bash
# Full backups of one idle PostgreSQL by this program, pgBackRest and pg_basebackup, in turns, in one
# run: a table of wall time, CPU time and size for docs/performance.md.
#
#   benches/peers.sh [path of gs_probackup, target/release/gs_probackup if not given]
#
# PEERS_SCALE      pgbench scale, 50
# PEERS_ROUNDS     rounds that count, 3; one before them warms up and does not
# PEERS_DIRECTORY  where the temporary directory is made, /tmp; it takes about four times the database
# PEERS_SKIP_OURS  1: measure the others only
#
# Everything runs as one user, `postgres` when called by root, and is removed at the end. fsync is on
# for all. A checkpoint comes before each backup, so that no tool waits for one of another's making.
# CPU time is that of the tool and its children; what the server does for a tool is not in it, and
# pg_basebackup lets the server read and verify everything. pgBackRest need not wait for its archive
# (--no-archive-check). Ours streams the WAL as pg_basebackup does, and does not validate afterwards.

set -euo pipefail

fail() {
    echo "peers: $*" >&2
    exit 1
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=${1:-$repository/target/release/gs_probackup}
scale=${PEERS_SCALE:-50}
rounds=${PEERS_ROUNDS:-3}
skip_ours=${PEERS_SKIP_OURS:-0}

if [[ -z ${PEERS_INNER:-} ]]; then
    [[ $skip_ours == 1 || -x $binary ]] || fail "no program at $binary: cargo build --release"
    directory=$(mktemp -d "${PEERS_DIRECTORY:-/tmp}/gs-peers-XXXXXX")
    trap 'rm -rf "$directory"' EXIT
    # The user need not see the directory of the build.
    cp "${BASH_SOURCE[0]}" "$directory/peers.sh"
    [[ $skip_ours == 1 ]] || cp "$binary" "$directory/gs_probackup"
    as_user=()
    if [[ $(id -u) == 0 ]]; then
        chown -R postgres: "$directory"
        as_user=(runuser -u postgres --)
    fi
    cd "$directory"
    "${as_user[@]}" env PEERS_INNER="$directory" PEERS_SCALE="$scale" PEERS_ROUNDS="$rounds" \
        PEERS_SKIP_OURS="$skip_ours" bash "$directory/peers.sh"
    exit
fi

directory=$PEERS_INNER
cd "$directory"
bin=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1)
[[ -n $bin ]] || bin=$(dirname "$(command -v initdb)")
data=$directory/data
socket=$directory/socket
port=$((20000 + $$ % 10000))
export PGHOST=$socket PGPORT=$port PGUSER=postgres PGDATABASE=postgres
unset PGDATA BACKUP_PATH

stop() {
    if [[ -f $data/postmaster.pid ]]; then
        "$bin/pg_ctl" -D "$data" -m immediate -s stop || true
    fi
}
trap stop EXIT

quietly() {
    "$@" >"$directory/command.log" 2>&1 || { cat "$directory/command.log" >&2; fail "failed: $*"; }
}

start_server() {
    mkdir "$socket"
    quietly "$bin/initdb" -k -A trust -U postgres --no-locale -E UTF8 -D "$data"
    cat >>"$data/postgresql.conf" <<END
port = $port
unix_socket_directories = '$socket'
listen_addresses = ''
shared_buffers = 256MB
wal_level = replica
max_wal_size = 4GB
checkpoint_timeout = 1h
autovacuum = off
END
    quietly "$bin/pg_ctl" -D "$data" -w -l "$directory/server.log" start
    quietly "$bin/createdb" bench
    quietly "$bin/pgbench" -i -q -s "$scale" bench
    quietly "$bin/vacuumdb" -q -a -F
}

pgbackrest_options=(
    --stanza=main --pg1-path="$data" --pg1-port="$port" --pg1-socket-path="$socket"
    --repo1-path="$directory/out" --log-path="$directory" --lock-path="$directory/lock"
    --log-level-console=error --log-level-file=off
)

# What a tool needs in the place it writes to; not measured.
prepare() {
    case $1 in
    gs_probackup*)
        "$directory/gs_probackup" init -B "$directory/out"
        "$directory/gs_probackup" add-instance -B "$directory/out" --instance=main -D "$data"
        ;;
    pgBackRest*) pgbackrest "${pgbackrest_options[@]}" --no-online stanza-create ;;
    pg_basebackup*) mkdir "$directory/out" ;;
    esac
}

back_up() {
    local ours=("$directory/gs_probackup" backup -B "$directory/out" --instance=main -b FULL
        -D "$data" -d postgres -h "$socket" -p "$port" -U postgres -w -j 2 --no-validate)
    local pgbackrest=(pgbackrest "${pgbackrest_options[@]}" --type=full --start-fast --process-max=2
        --no-archive-check --repo1-retention-full=1)
    local base=("$bin/pg_basebackup" -D "$directory/out" -X stream -c fast)
    case $1 in
    'gs_probackup none') "${ours[@]}" --compress-algorithm=none ;;
    'gs_probackup zstd-1') "${ours[@]}" --compress-algorithm=zstd --compress-level=1 ;;
    'pgBackRest none') "${pgbackrest[@]}" --compress-type=none backup ;;
    'pgBackRest zst-1') "${pgbackrest[@]}" --compress-type=zst --compress-level=1 backup ;;
    'pg_basebackup plain') "${base[@]}" ;;
    'pg_basebackup tar+gzip') "${base[@]}" --format=tar --gzip ;;
    *) fail "no tool $1" ;;
    esac
}

tools=('pgBackRest none' 'pgBackRest zst-1' 'pg_basebackup plain' 'pg_basebackup tar+gzip')
[[ $skip_ours == 1 ]] || tools=('gs_probackup none' 'gs_probackup zstd-1' "${tools[@]}")

# Appends "tool|wall|user|system|MiB" to the results; the warm-up's are thrown away.
measure() {
    local tool=$1 into=$2
    local TIMEFORMAT='%R|%U|%S'
    rm -rf "$directory/out"
    quietly prepare "$tool"
    "$bin/psql" -X -q -c checkpoint
    sync
    { time quietly back_up "$tool"; } 2>"$directory/time"
    local size
    size=$(du -s -B 1048576 --apparent-size "$directory/out" | cut -f 1)
    echo "$tool|$(tail -n 1 "$directory/time")|$size" >>"$into"
    rm -rf "$directory/out"
    sync
}

# Medians, spread and ratios of wall time against the first tool.
table() {
    sort -t '|' -k 1,1 -k 2,2n "$1" | awk -F '|' -v first="${tools[0]}" -v order="$(
        IFS='|'
        echo "${tools[*]}"
    )" '
        {
            count[$1]++
            wall[$1, count[$1]] = $2
            cpu[$1] += $3 + $4
            size[$1] = $5
        }
        function median(tool, middle) {
            middle = int((count[tool] + 1) / 2)
            if (count[tool] % 2) return wall[tool, middle]
            return (wall[tool, middle] + wall[tool, middle + 1]) / 2
        }
        END {
            split(order, tools, "|")
            print "| tool | wall s, median (least - most) | CPU s | MiB | wall : " first " |"
            print "|---|---|---|---|---|"
            for (i = 1; i in tools; i++) {
                tool = tools[i]
                printf "| %s | %.2f (%.2f - %.2f) | %.2f | %d | %.2f |\n", tool, median(tool), \
                    wall[tool, 1], wall[tool, count[tool]], cpu[tool] / count[tool], size[tool], \
                    median(tool) / median(first)
            }
        }'
}

start_server
database=$("$bin/psql" -X -A -t -c 'select sum(pg_database_size(oid)) / 1048576 from pg_database')
for ((round = 0; round <= rounds; round++)); do
    for tool in "${tools[@]}"; do
        measure "$tool" "$directory/results.$((round > 0))"
    done
done
echo "$("$bin/postgres" --version), $(pgbackrest version), scale $scale, ${database%.*} MiB, $(nproc) CPUs," \
    "$rounds rounds"
echo
table "$directory/results.1"
