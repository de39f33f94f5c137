#!/bin/sh
# Makes sure of what building RocksDB takes: cargo, make, a C++20 compiler, and libclang for bindgen. Installs what is
# missing when it may (as root, through passwordless sudo, or with brew); else says in one line what to install.
# Asks the network for nothing when everything is there.
#
# usage: scripts/setup.sh [--lint]     --lint: rustfmt and clippy too
set -eu

PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
msrv_minor=91

die() {
    echo "setup: $*" >&2
    exit 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# True if one of the arguments (a glob that was or was not expanded) is a file, libclang-cpp aside: that is another
# library.
any_file() {
    for candidate in "$@"; do
        case $candidate in
            *-cpp.*) ;;
            *) if [ -e "$candidate" ]; then return 0; fi ;;
        esac
    done
    return 1
}

libclang_in() {
    any_file "$1"/libclang.so "$1"/libclang.so.* "$1"/libclang-*.so "$1"/libclang-*.so.* "$1"/libclang.dylib
}

# Looks where bindgen looks, so that what is found here is found there.
has_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then
        [ -f "$LIBCLANG_PATH" ] || libclang_in "$LIBCLANG_PATH"
        return
    fi
    if has llvm-config; then
        prefix=$(llvm-config --prefix)
        if libclang_in "$prefix/lib" || libclang_in "$prefix/lib64"; then return 0; fi
    fi
    for dir in /usr/local/llvm*/lib* /usr/local/lib*/*/* /usr/local/lib*/* /usr/local/lib* \
        /usr/lib*/*/* /usr/lib*/* /usr/lib* \
        /Library/Developer/CommandLineTools/usr/lib /usr/local/opt/llvm*/lib /opt/homebrew/opt/llvm*/lib \
        /Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib; do
        if libclang_in "$dir"; then return 0; fi
    done
    return 1
}

# A compiler may be there and be too old, or be there without its library: only compiling tells.
has_cxx20() {
    compiler=${CXX:-c++}
    has "$compiler" || return 1
    printf '#include <concepts>\n#include <span>\ntemplate <std::integral T> T f(T x) { return x; }\nint main() { return f(0); }\n' |
        "$compiler" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null
}

missing() {
    list=
    has make || list="$list make"
    has_cxx20 || list="$list C++20-compiler"
    has_libclang || list="$list libclang"
    echo "$list"
}

# The package manager's install command, empty where there is none that is known.
install_command() {
    if has apt-get; then
        echo "apt-get install -y --no-install-recommends make g++ libc6-dev libclang-dev"
    elif has dnf; then
        echo "dnf install -y make gcc-c++ clang-devel"
    elif has apk; then
        echo "apk add make g++ linux-headers clang-dev clang-libclang"
    elif has brew; then
        echo "brew install make llvm"
    fi
}

# Homebrew must not run as root; the others must.
run_installer() {
    case $1 in
        brew) "$@" ;;
        *) if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi ;;
    esac
}

may_install() {
    case $1 in
        brew*) ;;
        *) [ "$(id -u)" = 0 ] || { has sudo && sudo -n true 2>/dev/null; } ;;
    esac
}

install() {
    lacking=$1
    command=$(install_command)
    [ -n "$command" ] || die "install these by hand:$lacking"
    may_install "$command" || die "missing:$lacking; run this once: sudo $command"
    echo "setup: missing:$lacking; running: $command" >&2
    case $command in
        apt-get*)
            # Without lists a fresh container image finds no package at all.
            run_installer apt-get update -qq >&2 || echo "setup: apt-get update failed; trying the lists at hand" >&2
            command="env DEBIAN_FRONTEND=noninteractive $command"
            ;;
    esac
    # Split into words on purpose.
    # shellcheck disable=SC2086
    run_installer $command >&2 || die "the installation failed; install these by hand:$lacking"
}

check_rust() {
    has cargo || die "cargo is missing; get it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
    version=$(rustc --version | cut -d ' ' -f 2)
    rest=${version#*.}
    minor=${rest%%.*}
    if [ "${version%%.*}" = 1 ] && [ "$minor" -lt "$msrv_minor" ]; then
        die "rustc $version is older than 1.$msrv_minor; update it with: rustup update stable"
    fi
}

check_lint() {
    for tool in rustfmt clippy; do
        case $tool in
            clippy) command=cargo-clippy ;;
            *) command=$tool ;;
        esac
        if "$command" --version >/dev/null 2>&1; then continue; fi
        has rustup || die "$tool is missing; install the package that has it beside rustc"
        rustup component add "$tool" >&2 || die "$tool is missing; get it with: rustup component add $tool"
    done
}

lacking=$(missing)
if [ -n "$lacking" ]; then
    install "$lacking"
    lacking=$(missing)
    if [ -n "$lacking" ]; then
        die "still missing after the installation:$lacking (a C++20 compiler is g++ 11 or clang 14 and newer; libclang can be named by LIBCLANG_PATH)"
    fi
fi
check_rust
if [ "${1:-}" = --lint ]; then check_lint; fi
