#!/bin/sh
# build-wasm.sh OUT [TARGET_DIR]: builds everything that runs as WebAssembly into OUT/*.wasm.
#
# The netstack and the guests, for wasm32-unknown-unknown; echo for wasm32-wasip1 too; the C guest by clang. Uses
# rustup's wasm targets where they are, else a compiler that has its matching source (Debian: rustc-web, rust-web-src)
# and `-Zbuild-std`. What is only needed by tests and cannot be built is named in OUT/skipped, with the reason.
set -eu
mkdir -p "$1"
out=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
build=${2:-$root/target/wasm-build}
cd "$root"

# When a build script of cargo calls us, its compiler and flags are for another target.
unset RUSTC RUSTDOC RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET \
    MAKEFLAGS CARGO_MAKEFLAGS MFLAGS TARGET HOST RUSTC_LINKER RUSTC_BOOTSTRAP RUSTUP_TOOLCHAIN CARGO_PROFILE_RELEASE_DEBUG 2>/dev/null || true
unset $(env | sed -n 's/^\(CARGO_CFG_[A-Z0-9_]*\|CARGO_FEATURE_[A-Z0-9_]*\|CARGO_PKG_[A-Z0-9_]*\|CARGO_MANIFEST_[A-Z0-9_]*\)=.*/\1/p') 2>/dev/null || true
# The default toolchain's cargo, whichever toolchain builds what embeds the result (fuzzing takes nightly's).
cargo=$(command -v cargo || echo "$CARGO")
export CARGO_TARGET_DIR="$build"

sysroot() { "$1" --print sysroot 2>/dev/null; }
skip() { echo "$1: $2" >>"$out/skipped"; echo "build-wasm: $1 skipped: $2" >&2; }

# has_std TARGET: does the default compiler have it?
has_std() { ls "$(sysroot rustc)"/lib/rustlib/"$1"/lib/libstd-*.rlib >/dev/null 2>&1; }

# A linker for wasm: rustup's rust-lld, else a wasm-ld of LLVM 15 or newer (14 cannot link what rustc emits).
find_linker() {
    for l in "$(sysroot rustc)"/lib/rustlib/*/bin/rust-lld /usr/lib/rustlib/*/bin/rust-lld \
        $(ls /usr/bin/wasm-ld-* 2>/dev/null | sort -t- -k3 -rn) "$(command -v wasm-ld || true)"; do
        [ -x "$l" ] || continue
        case $("$l" -flavor wasm --version 2>/dev/null || "$l" --version 2>/dev/null) in
        *"LLD "[0-9].* | *"LLD 1"[0-4].* | "") ;;
        *) echo "$l"; return ;;
        esac
    done
    return 1
}

# find_source: a compiler that has its own library's source.
find_source() {
    for r in "${WASM_RUSTC:-}" "$(rustup which rustc 2>/dev/null || true)" /usr/bin/rustc; do
        [ -x "$r" ] && [ -f "$(sysroot "$r")/lib/rustlib/src/rust/library/Cargo.lock" ] && echo "$r" && return
    done
    return 1
}

# build TARGET FLAGS PACKAGE...
build() {
    target=$1 flags=$2
    shift 2
    packages=
    for p in "$@"; do packages="$packages -p $p"; done
    # Cargo does no link-time optimisation for a package that is also a Rust library, unless told which one is wanted.
    verb=build
    [ $# -gt 1 ] || verb="rustc --crate-type cdylib"
    upper=$(echo "$target" | tr 'a-z-' 'A-Z_')
    if has_std "$target"; then
        # shellcheck disable=SC2086
        $cargo $verb --lib --profile wasm --target "$target" $packages
    elif compiler=$(find_source) && linker=$(find_linker); then
        # shellcheck disable=SC2086
        env RUSTC="$compiler" RUSTC_BOOTSTRAP=1 "CARGO_TARGET_${upper}_LINKER=$linker" \
            "CARGO_TARGET_${upper}_RUSTFLAGS=$flags" \
            $cargo $verb --lib --profile wasm --target "$target" $packages -Zbuild-std=std,panic_abort
    else
        cat >&2 <<EOF
build-wasm: no Rust standard library for $target. Install one of:
  rustup target add wasm32-unknown-unknown wasm32-wasip1
  apt-get install rustc-web rust-web-src        (Debian; then also lld-19 where there is no rustup)
EOF
        return 1
    fi
}

: >"$out/skipped"
guests=$(for m in guests/*/Cargo.toml; do d=$(basename "$(dirname "$m")"); case $d in abi | sdk) ;; *) echo "$d" ;; esac; done)
# Apart, or cargo would give the netstack's dependencies the features that guests ask for, `std` among them.
build wasm32-unknown-unknown "" roam-netstack
# shellcheck disable=SC2086
build wasm32-unknown-unknown "" $guests
for name in roam_netstack $guests; do
    cp "$build/wasm32-unknown-unknown/wasm/$name.wasm" "$out/${name#roam_}.wasm"
done

if has_std wasm32-wasip1 || [ -f /usr/lib/wasm32-wasi/libc.a ]; then
    build wasm32-wasip1 "-C link-self-contained=no -L native=/usr/lib/wasm32-wasi" echo
    cp "$build/wasm32-wasip1/wasm/echo.wasm" "$out/echo-wasip1.wasm"
else
    rm -f "$out/echo-wasip1.wasm"
    skip echo-wasip1.wasm "no wasm32-wasip1: rustup target add wasm32-wasip1, or apt-get install wasi-libc"
fi

c=guests/sdk/c/example
if command -v clang >/dev/null && wasm_linker=$(find_linker || command -v wasm-ld); then
    # clang takes a linker by its file name, and rust-lld goes by the name it is called by.
    mkdir -p "$build/c"
    ln -sf "$wasm_linker" "$build/c/wasm-ld"
    clang --target=wasm32 -O2 -Wall -Wextra -Werror -nostdlib -ffreestanding -Iguests/sdk/c -fuse-ld="$build/c/wasm-ld" \
        -Wl,--no-entry -Wl,-z,stack-size=65536 -o "$out/shout.wasm" "$c/shout.c"
else
    rm -f "$out/shout.wasm"
    skip shout.wasm "no clang with a wasm linker: apt-get install clang lld"
fi
