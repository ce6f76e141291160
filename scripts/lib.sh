# shellcheck shell=bash
# What the scripts share: messages, cleaning up, packages, cargo, huge pages. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Debian keeps nginx, ethtool and others in sbin, which `su` leaves out of PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

say() { printf '%s\n' "$BOLD==>$PLAIN $*"; }
dim() { printf '%s\n' "$DIM$*$PLAIN"; }
ok() { printf '%s\n' "${GREEN}ok$PLAIN  $*"; }
fail() { printf '%s\n' "${RED}FAIL$PLAIN  $*"; }
die() {
    printf '%s\n' "${RED}error:$PLAIN $*" >&2
    exit 1
}

# usage FILE: prints the comment at the top of FILE, which is its --help.
usage() { sed -n '2,/^[^#]\|^$/{s/^# \{0,1\}//p}' "$1"; }

# ---------------------------------------------------------------------------------------------
# Cleaning up: `on_exit COMMAND...` pushes, leaving the script by any way pops.

CLEANUPS=()
on_exit() { CLEANUPS+=("$(printf '%q ' "$@")"); }

run_cleanups() {
    local status=$? i
    trap '' INT TERM HUP
    set +e
    for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do eval "${CLEANUPS[i]}"; done
    exit "$status"
}
trap run_cleanups EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# ---------------------------------------------------------------------------------------------
# What the machine must have.

require_root() {
    ((EUID == 0)) || die "${0##*/} makes network namespaces and installs packages: run it as root: sudo $0${*:+ $*}"
}

# need_packages PACKAGE...: installs those Debian packages that are missing, and starts none of
# the services that come with them.
need_packages() {
    local package missing=()
    if ! command -v dpkg-query apt-get >/dev/null; then
        dim "not a Debian system: make sure that it has what these packages hold: $*"
        return
    fi
    for package; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0

    say "installing Debian packages: ${missing[*]}"
    local log
    log=$(mktemp)
    if ! install_quietly "${missing[@]}" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "apt-get could not install ${missing[*]} (its words are above)"
    fi
    rm -f "$log"
}

install_quietly() {
    local policy=/usr/sbin/policy-rc.d status=0
    # Debian's hook against starting daemons on installation: the lab runs its own nginx, and
    # the machine's port 80 is none of its business.
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        on_exit rm -f $policy
    else
        policy=''
    fi
    {
        apt-get update && DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends "$@"
    } || status=$?
    [[ -z $policy ]] || rm -f "$policy"
    if [[ " $* " == *" nginx "* ]] && command -v systemctl >/dev/null; then
        systemctl disable --quiet nginx || true
    fi
    return "$status"
}

# need_cargo: finds cargo. Under sudo the toolchain is mostly the calling user's, and so should
# be the files that it builds: then `cargo_do` builds as that user.
need_cargo() {
    local home
    BUILDER=''
    if [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        if [[ -x $home/.cargo/bin/cargo ]]; then
            PATH=$home/.cargo/bin:$PATH
            if [[ $(stat -c %U "$ROOT") == "$SUDO_USER" ]]; then
                BUILDER=$SUDO_USER
            else
                export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
            fi
        fi
    fi
    [[ ! -x $HOME/.cargo/bin/cargo ]] || PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null || die "cargo is missing. Get Rust from https://rustup.rs:
       curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
       then open a new shell and start this again."
}

# cargo_do ARGUMENT...: cargo, as the user that `need_cargo` chose.
cargo_do() { as_builder cargo "$@"; }

# xtask ARGUMENT...: cargo xtask, wherever the script is.
xtask() { (cd "$ROOT" && cargo_do xtask "$@"); }

# as_builder COMMAND...: as the one who builds, with that one's home.
as_builder() {
    if [[ -n $BUILDER ]]; then
        runuser -u "$BUILDER" -- env HOME="$(getent passwd "$BUILDER" | cut -d: -f6)" PATH="$PATH" "$@"
    else
        "$@"
    fi
}

# ignored_tests PACKAGE TEST [ARGUMENT]...: the tests that need root, as root, whoever built them;
# TEST_THREADS at once, or one after the other.
ignored_tests() {
    local package=$1 test=$2 binary
    shift 2
    binary=$(xtask executable --package "$package" --test "$test") || return
    "$binary" --ignored --test-threads "${TEST_THREADS:-1}" "$@"
}

# What building takes: libdpdk and its headers, clang for bindgen, a linker for cargo.
# shellcheck disable=SC2034  # read by those who source this file
BUILD_PACKAGES=(libdpdk-dev dpdk clang libclang-dev gcc libc6-dev pkg-config)

# What the lab's hosts run.
# shellcheck disable=SC2034  # read by those who source this file
LAB_PACKAGES=(iproute2 iputils-ping ethtool procps curl nginx dnsmasq-base bind9-dnsutils traceroute
    tcpdump wrk socat nftables)

# target_dir: where cargo puts what it builds.
target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# ---------------------------------------------------------------------------------------------
# Huge pages of 2 MB. NOTE is a file that remembers how things were.

HUGE=/sys/kernel/mm/hugepages/hugepages-2048kB

# reserve_hugepages MIB NOTE: makes sure that MIB are free, and that a hugetlbfs is mounted.
# Fails, with nothing changed, when the machine won't give them.
reserve_hugepages() {
    local pages=$(($1 / 2)) note=$2 before missing
    [[ -w $HUGE/nr_hugepages ]] || return 1
    before=$(<$HUGE/nr_hugepages)
    printf '%s\n' "$before" >"$note"
    missing=$((pages - $(<$HUGE/free_hugepages)))
    if ((missing > 0)); then
        echo $((before + missing)) 2>/dev/null >$HUGE/nr_hugepages || true
    fi
    if (($(<$HUGE/free_hugepages) < pages)) || ! mount_hugetlbfs "$note"; then
        restore_hugepages "$note"
        return 1
    fi
}

mount_hugetlbfs() {
    [[ -z $(findmnt -n -t hugetlbfs) ]] || return 0
    mkdir -p /dev/hugepages && mount -t hugetlbfs hugetlbfs /dev/hugepages 2>/dev/null &&
        echo mounted >>"$1"
}

restore_hugepages() {
    [[ -e $1 ]] || return 0
    if grep -q mounted "$1"; then umount /dev/hugepages 2>/dev/null || true; fi
    head -n 1 "$1" >$HUGE/nr_hugepages || true
    rm -f "$1"
}
