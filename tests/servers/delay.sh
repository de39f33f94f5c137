#!/usr/bin/env bash
# Runs a command with a slow link between it and an S3 service and an HDFS of its own: they run in a network namespace whose
# one way out is lazurite-delay. Default 2.5 ms one way (5 ms a round trip) and 1 Gbit/s each way. As root.
#
# usage: delay.sh COMMAND...       LAZURITE_DELAY_US: one way, in microseconds   LAZURITE_DELAY_MBPS: megabits per second
#
# LAZURITE_TEST_S3_URI and LAZURITE_TEST_HDFS_URI name the stores for the command. For instance:
#   tests/servers/delay.sh sh -c 'lazurite bench cold-start --remote "$LAZURITE_TEST_S3_URI"'
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -gt 0 ] || die "usage: delay.sh COMMAND..."
[ "$(id -u)" = 0 ] || die "this makes a network namespace: run it as root"

root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
"$here/install.sh"
cargo build --release --manifest-path "$here/delay/Cargo.toml" --target-dir "$target"

servers=$(mktemp -d "${TMPDIR:-/tmp}/lazurite-servers.XXXXXX")
# Names and addresses of this run alone.
space=lz$$
net=10.$((RANDOM % 200 + 20)).$((RANDOM % 250))
work=$servers
mkdir "$servers/log"

stop() {
    local status=$?
    trap - EXIT
    "$here/s3.sh" stop "$servers/s3" || true
    "$here/hdfs.sh" stop "$servers/hdfs" || true
    kill "$(cat "$servers/delay.pid")" 2>/dev/null || true
    ip netns del "$space" 2>/dev/null || true
    rm -rf "$servers"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ip netns add "$space"
ip -n "$space" link set lo up
launch delay "$target/release/lazurite-delay" "${space}a" "${space}b" \
    "${LAZURITE_DELAY_US:-2500}" "${LAZURITE_DELAY_MBPS:-1000}" 9000
for ((i = 0; i < 50; i++)); do
    grep -q ready "$work/log/delay.out" && break
    sleep 0.1
done
grep -q ready "$work/log/delay.out" || die "no link: $(cat "$work/log/delay.out")"
# The far end moves into the namespace; the program keeps hold of it.
ip link set "${space}b" netns "$space"
ip addr add "$net.1/24" dev "${space}a"
ip link set "${space}a" txqueuelen 10000 up
ip -n "$space" addr add "$net.2/24" dev "${space}b"
ip -n "$space" link set "${space}b" txqueuelen 10000 up

export LAZURITE_SERVERS_HOST=$net.2
ip netns exec "$space" "$here/s3.sh" start "$servers/s3" >/dev/null
ip netns exec "$space" "$here/hdfs.sh" start "$servers/hdfs" >/dev/null
# shellcheck source=/dev/null
. "$servers/s3/env"
# shellcheck source=/dev/null
. "$servers/hdfs/env"
connect=$(curl -fsS --noproxy '*' -o /dev/null -w '%{time_connect}' "$(cat "$servers/s3/endpoint")")
echo "delay.sh: a connection to S3 takes $connect s" >&2
"$@"
