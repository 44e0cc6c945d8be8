# shellcheck shell=bash
# What the scripts share: messages, packages of the distribution, PostgreSQL, the user that a server runs as.
# Sourced, never run: what it sets (PGBIN, SERVER_USER, AS, BINARY) is for the script that sources it.
# shellcheck disable=SC2034

say() { printf '%s\n' "$*"; }
die() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# A plain environment: no PG* variable of the caller may lead to another server, messages are in English.
plain_environment() {
    local name
    for name in "${!PG@}"; do unset "$name"; done
    unset WALPROOF_CONFIG
    export LC_ALL=C
}

# apt_install WHY PACKAGE...: from the distribution, without a question.
apt_install() {
    local why=$1 log as_root=()
    shift
    have apt-get || die "missing: $* ($why); there is no apt-get here: install it by hand, then run this again"
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || die "missing: $* ($why); run 'sudo apt-get install $*', then run this again"
        as_root=(sudo -n)
    fi
    # Not a result: what a script prints may be read by another.
    say "installing $* with apt-get ($why)" >&2
    log=$(mktemp)
    if ! {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y update || true
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
    } >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "apt-get could not install $* ($why)"
    fi
    rm -f "$log"
}

# The Rust toolchain, and a C compiler for the dependencies that contain C.
need_cargo() {
    have cargo || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    have cargo || die "no cargo: install the Rust toolchain (https://rustup.rs), then run this again"
    have cc || apt_install "a C compiler, for some dependencies" build-essential
}

# The folder with initdb and postgres: $WALPROOF_TEST_PGBIN, else the newest of the distribution, else the one on PATH.
find_pgbin() {
    local dir
    if [ -n "${WALPROOF_TEST_PGBIN:-}" ]; then
        [ -x "$WALPROOF_TEST_PGBIN/initdb" ] || die "no initdb in WALPROOF_TEST_PGBIN=$WALPROOF_TEST_PGBIN"
        say "$WALPROOF_TEST_PGBIN"
        return
    fi
    while read -r dir; do
        if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
            say "$dir"
            return
        fi
    done < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV)
    if have initdb && have postgres; then dirname "$(command -v initdb)"; fi
}

# Sets PGBIN. A server package that is installed here makes no cluster of its own: only its programs are wanted.
need_postgresql() {
    PGBIN=$(find_pgbin)
    [ -n "$PGBIN" ] && return
    local dropin=/etc/postgresql-common/createcluster.d/walproof.conf as_root=() status=0
    ((EUID == 0)) || as_root=(sudo -n)
    if ((EUID == 0)) || sudo -n true 2>/dev/null; then
        "${as_root[@]}" mkdir -p "${dropin%/*}"
        echo "create_main_cluster = false" | "${as_root[@]}" tee "$dropin" >/dev/null
    fi
    (apt_install "for throw-away servers; the package makes none of its own" postgresql) || status=$?
    "${as_root[@]}" rm -f "$dropin" 2>/dev/null || true
    ((status == 0)) || exit "$status"
    PGBIN=$(find_pgbin)
    [ -n "$PGBIN" ] || die "no initdb under /usr/lib/postgresql after installing postgresql"
}

# Sets SERVER_USER and AS, the words before a command that PostgreSQL refuses to run as root.
choose_server_user() {
    AS=()
    SERVER_USER=$(id -un)
    ((EUID == 0)) || return 0
    SERVER_USER=postgres
    id postgres >/dev/null 2>&1 || die "run as root, but there is no user postgres to run PostgreSQL as: run this as an ordinary user"
    AS=(setpriv --reuid=postgres --regid=postgres --init-groups)
}

# The compiled program: $WALPROOF_BIN, else a release build of this checkout. Sets BINARY.
need_walproof() {
    local root=$1
    if [ -n "${WALPROOF_BIN:-}" ]; then
        [ -x "$WALPROOF_BIN" ] || die "WALPROOF_BIN=$WALPROOF_BIN is not a program"
        BINARY=$(realpath "$WALPROOF_BIN")
        return
    fi
    need_cargo
    say "building walproof: cargo build --release (a few minutes the first time)"
    (cd "$root" && cargo build --release --locked --bin walproof) || die "the build failed"
    BINARY=$(cd "$root" && realpath "${CARGO_TARGET_DIR:-target}/release/walproof")
}
