# shellcheck shell=bash
# What the scripts beside this one share: ports, pid files, waiting. Sourced, never run.
#
# A server directory (WORK) holds all of one server: data, logs, <part>.pid, and `env`, the variables that tests need. No
# process is ever ended by name: only one whose pid stands in a pid file and whose command line names WORK.

set -euo pipefail

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# The directory that installations are kept in, from one run to the next.
cache_dir() {
    echo "${LAZURITE_SERVERS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lazurite/servers}"
}

# The address that servers listen on; delay.sh sets another one.
# shellcheck disable=SC2034 # read by the scripts that source this
host=${LAZURITE_SERVERS_HOST:-127.0.0.1}

# free_ports N: N ports (at most 10) that nobody listens on, on one line. They are all of one block of ten that the script's
# process id chooses, so that scripts that run at one time do not choose the same ones before they listen. None is of the
# range that outgoing connections are given: while a server is down, one of those could take its port.
free_ports() {
    python3 - "$1" $$ <<'PY'
import socket, sys
wanted, pid = int(sys.argv[1]), int(sys.argv[2])

def is_free(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False

# A block in use is left at a stride, since the next one belongs to the next process.
for step in range(1200):
    first = 20000 + (pid + step * 701) % 1200 * 10
    free = [port for port in range(first, first + 10) if is_free(port)]
    if len(free) >= wanted:
        print(*free[:wanted])
        sys.exit()
sys.exit("no free ports")
PY
}

# is_running PART: true while the process of PART's pid file lives and is the one that was started here.
is_running() {
    local pid
    pid=$(cat "$work/$1.pid" 2>/dev/null) || return 1
    [ -e "/proc/$pid/cmdline" ] || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$work"
}

# launch PART COMMAND...: starts a process that outlives this script. Its output goes to WORK/log/PART.out.
launch() {
    local part=$1
    shift
    "$@" >>"$work/log/$part.out" 2>&1 </dev/null &
    echo $! >"$work/$part.pid"
}

# signal PART NAME: sends a signal; after KILL and TERM it waits for the end.
signal() {
    is_running "$1" || return 0
    local pid
    pid=$(cat "$work/$1.pid")
    kill -"$2" "$pid"
    case $2 in
        KILL | TERM)
            local i
            for ((i = 0; i < 100; i++)); do
                is_running "$1" || return 0
                sleep 0.1
            done
            kill -KILL "$pid" 2>/dev/null || true
            ;;
    esac
}

# await SECONDS PART COMMAND...: runs the command until it succeeds; gives up where PART's process ends or time is up.
await() {
    local end=$((SECONDS + $1)) part=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ! is_running "$part" || ((SECONDS >= end)); then
            tail -n 20 "$work/log/$part.out" >&2 || true
            die "$part did not become ready; its log is $work/log/$part.out"
        fi
        sleep 0.2
    done
}

# Sets `work` to the absolute path of the server directory in $1.
use_work() {
    # shellcheck disable=SC2154 # set by the scripts that source this
    [ -n "${1:-}" ] || die "usage: ${0##*/} $usage"
    mkdir -p "$1/log"
    work=$(cd "$1" && pwd)
}
