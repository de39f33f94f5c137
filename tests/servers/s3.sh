#!/usr/bin/env bash
# A real S3 service on this machine: Ceph's gateway (rgw) over one monitor (mon) and one storage daemon (osd).
#
# usage: s3.sh start WORK            starts all parts and prints the variables that tests need; WORK is made where it is
#                                    missing, and a second start on it finds the data again (with bluestore)
#        s3.sh stop WORK             ends them
#        s3.sh kill WORK PART [SIG]  sends a signal to mon, osd or rgw; default KILL
#        s3.sh restart WORK PART     starts a part again, after kill -9 where it still runs, and waits until it answers
#
# S3_BYTES: what memstore takes, 4 GiB where it is not set
# S3_STORE: memstore (default; fast, gone with the osd) or bluestore (on disk)
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage="start|stop WORK, kill WORK PART [SIGNAL], restart WORK PART"

verb=${1:-}
use_work "${2:-}"
conf=$work/ceph.conf
ceph=(timeout 10 ceph -c "$conf")

write_conf() {
    local fsid mon_port rgw_port
    fsid=$(cat /proc/sys/kernel/random/uuid)
    read -r mon_port rgw_port <<<"$(free_ports 2)"
    mkdir -p "$work/mon" "$work/osd" "$work/run"
    cat >"$conf.new" <<X
[global]
fsid = $fsid
mon_host = v1:127.0.0.1:$mon_port
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr2 = false
ms_bind_ipv6 = false
# Between the parts, on loopback. Users of S3 sign their requests all the same.
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = $work/run
pid_file = $work/run/\$name.pid
admin_socket = $work/run/\$name.asok
log_file = $work/log/\$name.log
mon_cluster_log_file = $work/log/cluster.log
# One daemon holds the only copy of everything.
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 1000
[mon]
mon_data = $work/mon
mon_data_avail_warn = 2
mon_data_avail_crit = 1
[osd]
osd_data = $work/osd
osd_objectstore = ${S3_STORE:-memstore}
osd_class_load_list = *
osd_memory_target = 1073741824
memstore_device_bytes = ${S3_BYTES:-4294967296}
bluestore_block_size = 10737418240
[client.rgw]
# Without tcp_nodelay a small answer waits 40 ms for the acknowledgement of the one before.
rgw_frontends = beast endpoint=$host:$rgw_port tcp_nodelay=1
rgw_thread_pool_size = 64
rgw_run_sync_thread = false
rgw_enable_ops_log = false
rgw_enable_usage_log = false
rgw_enable_quota_threads = false
X
    echo "http://$host:$rgw_port" >"$work/endpoint"
    monmaptool --create --clobber --fsid "$fsid" --addv a "v1:127.0.0.1:$mon_port" "$work/monmap" >>"$work/log/mon.out"
    ceph-mon -c "$conf.new" -i a --mkfs --monmap "$work/monmap" >>"$work/log/mon.out" 2>&1
    mv "$conf.new" "$conf"
}

mon_answers() { "${ceph[@]}" -s; }
osd_answers() { "${ceph[@]}" osd stat | grep -q ' 1 up'; }
rgw_answers() { curl -fsS --noproxy '*' --max-time 5 "$(cat "$work/endpoint")/"; }

start_mon() {
    launch mon ceph-mon -c "$conf" -i a -f
    await 60 mon mon_answers
}

start_osd() {
    if [ ! -e "$work/osd/ready" ]; then
        local uuid
        uuid=$(cat /proc/sys/kernel/random/uuid)
        "${ceph[@]}" osd new "$uuid" >/dev/null
        ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$uuid" >>"$work/log/osd.out" 2>&1
    fi
    local try
    for try in 1 2 3; do
        launch osd ceph-osd -c "$conf" -i 0 -f
        # A monitor that has only just begun may refuse the first command ("wrong fsid"), and the daemon ends.
        if (await 60 osd osd_answers); then
            touch "$work/osd/ready"
            return
        fi
        echo "s3.sh: attempt $try to start the osd failed" >&2
        signal osd KILL
    done
    die "the osd does not start"
}

start_rgw() {
    launch rgw radosgw -c "$conf" -n client.rgw -f
    await 120 rgw rgw_answers
}

# add_user NAME: makes a user and prints "KEY SECRET".
add_user() {
    local secret
    secret=$(od -An -N 20 -tx1 /dev/urandom | tr -d ' \n')
    radosgw-admin -c "$conf" -n client.rgw user create --uid "$1" --display-name "$1" --access-key "key-$1" \
        --secret "$secret" >>"$work/log/users.out" 2>&1
    echo "key-$1 $secret"
}

# add_bucket NAME KEY SECRET
add_bucket() {
    # The hash is that of an empty body; curl 7.88 signs no request right without it.
    curl -fsS --noproxy '*' -X PUT --aws-sigv4 aws:amz:us-east-1:s3 --user "$2:$3" \
        -H "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" \
        "$(cat "$work/endpoint")/$1"
}

write_env() {
    local key secret other_key other_secret query
    read -r key secret <<<"$(add_user lazurite)"
    read -r other_key other_secret <<<"$(add_user stranger)"
    add_bucket lazurite "$key" "$secret"
    add_bucket private "$other_key" "$other_secret"
    query="endpoint=$(cat "$work/endpoint")&region=us-east-1"
    # No proxy stands before these servers, and the session of another account does not go with these keys.
    cat >"$work/env.new" <<X
export NO_PROXY="127.0.0.1,$host\${NO_PROXY:+,\$NO_PROXY}" no_proxy="127.0.0.1,$host\${no_proxy:+,\$no_proxy}"
unset AWS_SESSION_TOKEN AWS_PROFILE
export AWS_ACCESS_KEY_ID='$key'
export AWS_SECRET_ACCESS_KEY='$secret'
export LAZURITE_TEST_S3_URI='s3://lazurite/tests?$query'
export LAZURITE_TEST_S3_FORBIDDEN_URI='s3://private/tests?$query'
X
    mv "$work/env.new" "$work/env"
}

case $verb in
    start)
        [ -e "$conf" ] || write_conf
        for part in mon osd rgw; do
            is_running "$part" || "start_$part"
        done
        [ -e "$work/env" ] || write_env
        cat "$work/env"
        ;;
    stop)
        for part in rgw osd mon; do signal "$part" TERM; done
        ;;
    kill)
        signal "${3:?which part}" "${4:-KILL}"
        ;;
    restart)
        case ${3:-} in
            mon | osd | rgw) ;;
            *) die "the parts are mon, osd and rgw" ;;
        esac
        signal "$3" KILL
        "start_$3"
        ;;
    *) die "usage: s3.sh $usage" ;;
esac
