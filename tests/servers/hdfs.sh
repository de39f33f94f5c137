#!/usr/bin/env bash
# A real HDFS 3.3.6 on this machine: one NameNode (namenode) and two DataNodes (datanode0, datanode1), each block on both.
#
# usage: hdfs.sh start WORK            starts all parts and prints the variables that tests need; WORK is made where it is
#                                      missing, and a second start on it finds the data again
#        hdfs.sh stop WORK             ends them
#        hdfs.sh kill WORK PART [SIG]  sends a signal to a part; default KILL
#        hdfs.sh restart WORK PART     starts a part again, after kill -9 where it still runs, and waits until it serves
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage="start|stop WORK, kill WORK PART [SIGNAL], restart WORK PART"

verb=${1:-}
use_work "${2:-}"
server=org.apache.hadoop.hdfs.server

property() {
    echo "  <property><name>$1</name><value>$2</value></property>"
}

# write_site DIR: a configuration directory; the lines on standard input are added to hdfs-site.xml.
write_site() {
    mkdir -p "$1"
    cat >"$1/log4j.properties" <<'X'
log4j.rootLogger=INFO,out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n
X
    # Counters that are a second old and not ten.
    echo '*.period=1' >"$1/hadoop-metrics2.properties"
    # Hadoop looks for its web pages beside its classes. Tests need the addresses, not the pages.
    local app
    for app in hdfs datanode static; do
        mkdir -p "$1/webapps/$app/WEB-INF"
        echo '<web-app xmlns="http://java.sun.com/xml/ns/j2ee" version="2.4"/>' >"$1/webapps/$app/WEB-INF/web.xml"
    done
    {
        echo '<configuration>'
        property fs.defaultFS "hdfs://$host:$rpc_port"
        echo '</configuration>'
    } >"$1/core-site.xml"
    {
        echo '<configuration>'
        property dfs.namenode.rpc-address "$host:$rpc_port"
        property dfs.namenode.http-address "$host:$http_port"
        property dfs.namenode.name.dir "file://$work/name"
        property dfs.namenode.datanode.registration.ip-hostname-check false
        property dfs.replication 2
        # By default a file is closed only once a DataNode has reported its last block, and clients ask in steps of half a
        # second. With this it is closed at once, and is seen without that block until then: the harder case.
        property dfs.namenode.file.close.num-committed-allowed 1
        # A restarted NameNode serves as soon as the blocks are known again. It misses a dead DataNode after about 15 s.
        property dfs.namenode.safemode.min.datanodes 1
        property dfs.namenode.safemode.extension 0
        property dfs.heartbeat.interval 1
        property dfs.namenode.heartbeat.recheck-interval 2000
        property dfs.namenode.fs-limits.min-block-size 4096
        cat
        echo '</configuration>'
    } >"$1/hdfs-site.xml"
}

write_conf() {
    local ports i
    read -r -a ports <<<"$(free_ports 8)"
    rpc_port=${ports[0]} http_port=${ports[1]}
    write_site "$work/conf.new" </dev/null
    for i in 0 1; do
        {
            property dfs.datanode.data.dir "file://$work/data$i"
            property dfs.datanode.hostname "$host"
            property dfs.datanode.address "$host:${ports[2 + 3 * i]}"
            property dfs.datanode.http.address "$host:${ports[3 + 3 * i]}"
            property dfs.datanode.ipc.address "$host:${ports[4 + 3 * i]}"
        } | write_site "$work/conf-datanode$i"
        echo "http://$host:${ports[3 + 3 * i]}" >"$work/web-datanode$i"
    done
    java_class "$work/conf.new" namenode.NameNode -format -nonInteractive >>"$work/log/namenode.out" 2>&1
    echo "http://$host:$http_port" >"$work/web-namenode"
    cat >"$work/env" <<X
export HADOOP_USER_NAME='$(id -un)'
export LAZURITE_TEST_HDFS_URI='hdfs://$host:$rpc_port/tests'
export LAZURITE_TEST_HDFS_WEB='http://$host:$http_port'
X
    mv "$work/conf.new" "$work/conf"
}

class_path() {
    local hadoop jar java=/usr/share/java
    hadoop=$(cache_dir)/hadoop-3.3.6
    [ -d "$hadoop" ] || die "Hadoop is not installed: run tests/servers/install.sh"
    local path=$hadoop/'*'
    for jar in jetty9-{http,io,security,server,servlet,util,util-ajax,webapp,xml} servlet-api \
        jersey1-{core,server,servlet,json} jettison jsr311-api jaxb-api javax.activation \
        jackson-{core,annotations,databind,core-asl,mapper-asl,jaxrs} commons-net commons-codec httpclient httpcore; do
        [ -e "$java/$jar.jar" ] || die "$java/$jar.jar is missing: run tests/servers/install.sh"
        path+=:$java/$jar.jar
    done
    echo "$path"
}

# java_class CONF CLASS ARGUMENT...: becomes the process of that class.
java_class() {
    local conf=$1 class=$2 package
    shift 2
    local flags=(-Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true
        -Dhadoop.log.dir="$work/log" --add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED)
    for package in java.lang java.net java.nio java.util sun.nio.ch; do
        flags+=("--add-opens=java.base/$package=ALL-UNNAMED")
    done
    java "${flags[@]}" -cp "$conf:$(class_path)" "$server.$class" "$@"
}

launch_class() {
    # One process, so that its pid is that of the pid file.
    # shellcheck disable=SC2317
    java() { exec java "$@"; }
    launch "$1" java_class "$2" "$3"
    unset -f java
}

# jmx PART BEAN: one bean of a part.
jmx() {
    curl -fsS --noproxy '*' --max-time 5 "$(cat "$work/web-$1")/jmx?qry=Hadoop:service=$2"
}

serves() {
    case $1 in
        namenode)
            local state
            state=$(jmx namenode NameNode,name=FSNamesystemState) &&
                grep -q '"FSState" *: *"Operational"' <<<"$state" &&
                ! grep -q '"NumLiveDataNodes" *: *0' <<<"$state"
            ;;
        # Registered, and the NameNode knows its blocks.
        *) jmx "$1" DataNode,name=DataNodeInfo | grep -q 'ActorState[^,]*RUNNING' ;;
    esac
}

start_part() {
    case $1 in
        namenode) launch_class namenode "$work/conf" namenode.NameNode ;;
        datanode0 | datanode1) launch_class "$1" "$work/conf-$1" datanode.DataNode ;;
        *) die "the parts are namenode, datanode0 and datanode1" ;;
    esac
}

case $verb in
    start)
        [ -e "$work/conf" ] || write_conf
        for part in namenode datanode0 datanode1; do
            is_running "$part" || start_part "$part"
        done
        for part in namenode datanode0 datanode1; do await 90 "$part" serves "$part"; done
        cat "$work/env"
        ;;
    stop)
        for part in datanode0 datanode1 namenode; do signal "$part" TERM; done
        ;;
    kill)
        signal "${3:?which part}" "${4:-KILL}"
        ;;
    restart)
        signal "${3:?which part}" KILL
        start_part "$3"
        await 90 "$3" serves "$3"
        ;;
    *) die "usage: hdfs.sh $usage" ;;
esac
