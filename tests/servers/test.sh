#!/usr/bin/env bash
# Installs and starts an S3 service and an HDFS, runs a command with the variables that tests need, and stops both, however
# the command ends. Nothing is left running, and nothing but the installation is left on disk.
#
# usage: test.sh COMMAND...       LAZURITE_SERVERS_KEEP=1: leaves data and logs where they are, and says where
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -gt 0 ] || die "usage: test.sh COMMAND..."

servers=$(mktemp -d "${TMPDIR:-/tmp}/lazurite-servers.XXXXXX")

s3=
stop() {
    local status=$?
    trap - EXIT
    # While S3 is still being started, it would start what is stopped here.
    if [ -n "$s3" ]; then
        kill "$s3" 2>/dev/null || true
        wait "$s3" || true
    fi
    "$here/s3.sh" stop "$servers/s3" || true
    "$here/hdfs.sh" stop "$servers/hdfs" || true
    if [ -n "${LAZURITE_SERVERS_KEEP:-}" ]; then
        echo "test.sh: data and logs are in $servers" >&2
    else
        if [ "$status" != 0 ]; then
            tail -n 30 "$servers"/*/log/*.out >&2 || true
        fi
        rm -rf "$servers"
    fi
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

began=$SECONDS
"$here/install.sh"
echo "test.sh: installed after $((SECONDS - began)) s" >&2
"$here/s3.sh" start "$servers/s3" >/dev/null &
s3=$!
"$here/hdfs.sh" start "$servers/hdfs" >/dev/null
wait "$s3"
s3=
echo "test.sh: S3 and HDFS serve after $((SECONDS - began)) s" >&2
# shellcheck source=/dev/null
. "$servers/s3/env"
# shellcheck source=/dev/null
. "$servers/hdfs/env"
export LAZURITE_TEST_SERVERS=$servers
"$@"
echo "test.sh: done after $((SECONDS - began)) s" >&2
