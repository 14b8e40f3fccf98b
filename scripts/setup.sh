#!/bin/sh
# setup.sh: sees to it that this machine can build and test roam. Installs what is missing where it may (root on
# Debian, or rustup for its own targets), and says what to install otherwise. Quiet when nothing is missing.
set -eu

# have COMMAND...: all of them, also where only root's PATH looks.
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
have() { for c in "$@"; do command -v "$c" >/dev/null 2>&1 || return 1; done; }

packages=
need() { packages="$packages $*"; }

# What the build needs.
have cc || need gcc libc6-dev
if ! have cargo rustc; then
    need rustc-web cargo-web rust-web-src rust-web-clippy rustfmt-web lld-19
fi

wasm_target_there() { ls "$(rustc --print sysroot)"/lib/rustlib/wasm32-unknown-unknown/lib/libstd-*.rlib >/dev/null 2>&1; }
source_there() {
    for r in "$(rustc --print sysroot 2>/dev/null)" "$(/usr/bin/rustc --print sysroot 2>/dev/null)"; do
        [ -f "$r/lib/rustlib/src/rust/library/Cargo.lock" ] && return
    done
    return 1
}
if have rustc && ! wasm_target_there && ! source_there; then
    if have rustup && rustup target add wasm32-unknown-unknown wasm32-wasip1 >/dev/null 2>&1; then
        echo "setup: added rustup's wasm targets"
    else
        need rustc-web rust-web-src
    fi
fi

# What the demo and the tests with real clients need.
have ip || need iproute2
have ping || need iputils-ping
have curl || need curl
have nc || need netcat-openbsd
have nft || need nftables
have ovs-vswitchd || need openvswitch-switch
have ethtool || need ethtool
have memccat || need libmemcached-tools
python3 -c 'import pymemcache' 2>/dev/null || /usr/bin/python3 -c 'import pymemcache' 2>/dev/null || need python3-pymemcache
# What the C guest and the guest for wasm32-wasip1 need; both are only tests.
have clang || need clang
[ -f /usr/lib/wasm32-wasi/libc.a ] || (have rustc && ls "$(rustc --print sysroot)"/lib/rustlib/wasm32-wasip1/lib/libstd-*.rlib >/dev/null 2>&1) ||
    need wasi-libc libclang-rt-14-dev-wasm32

[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && have apt-get; then
    echo "setup: installing$packages"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    apt-get install -y -q --no-install-recommends $packages >/dev/null 2>&1 || {
        apt-get update -q >/dev/null
        apt-get install -y -q --no-install-recommends $packages >/dev/null
    }
    exit 0
fi
cat >&2 <<EOF
setup: this machine lacks what the following Debian packages have:
 $packages
Install them (as root: apt-get install$packages), or their like elsewhere.
EOF
case $packages in
*gcc* | *rustc-web*)
    echo "setup: Rust 1.95 or newer with its wasm targets comes from rustup too: rustup target add wasm32-unknown-unknown wasm32-wasip1" >&2
    exit 1
    ;;
esac
echo "setup: going on without; what needs them is skipped and counted" >&2
