# shellcheck shell=bash
# Roots of Debian with PostgreSQL, made from Debian's packages, and a Docker daemon where none runs. Sourced, never run.
# shellcheck disable=SC2034

IMAGES=${WALPROOF_IMAGES:-$ROOT/target/images}
# Besides PostgreSQL: what hosts reach their network with, and what sets the clock of one apart.
MORE=iproute2,ca-certificates,faketime

need_root() { ((EUID == 0)) || die "run this as root: it makes roots of Debian, and hosts of them"; }

# postgresql_of SUITE: the major version that this Debian has
postgresql_of() {
    case $1 in
        bookworm) echo 15 ;;
        trixie) echo 17 ;;
        *) die "no such Debian: $1" ;;
    esac
}

# base_root SUITE: sets BASE_TAR, a root with PostgreSQL. Made once (less than a minute).
base_root() {
    local suite=$1 version
    version=$(postgresql_of "$suite")
    BASE_TAR=$IMAGES/$suite-$(cksum <<<"$MORE" | cut -d' ' -f1).tar
    [ ! -s "$BASE_TAR" ] || return 0
    have mmdebstrap || apt_install "to make roots of Debian" mmdebstrap
    mkdir -p "$IMAGES"
    say "making a root of Debian $suite with PostgreSQL $version (once)"
    # Under another name until it is whole. It makes no cluster: tests do.
    # shellcheck disable=SC2016 # $1 is the hooks'
    mmdebstrap --quiet --variant=minbase \
        --include="postgresql-$version,postgresql-contrib,$MORE" \
        --essential-hook='mkdir -p "$1/etc/postgresql-common/createcluster.d"' \
        --essential-hook='echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.d/none.conf"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"' \
        "$suite" "$BASE_TAR.part.tar" >"$IMAGES/$suite.log" 2>&1 || {
        tail -n 20 "$IMAGES/$suite.log" >&2
        die "mmdebstrap could not make a root of Debian $suite"
    }
    mv "$BASE_TAR.part.tar" "$BASE_TAR"
}

# A Docker daemon: the one that answers, else one started here, which stop_docker ends.
need_docker() {
    ! docker info >/dev/null 2>&1 || return 0
    if ! have dockerd || ! have docker; then
        apt_install "to run hosts in containers" docker.io
        # Where systemd runs, the package starts it.
        ! docker info >/dev/null 2>&1 || return 0
    fi
    need_root
    DOCKER_DIR=$(mktemp -d /tmp/walproof-docker-XXXXXX)
    say "starting a Docker daemon of its own in $DOCKER_DIR"
    dockerd --data-root "$DOCKER_DIR/data" --exec-root "$DOCKER_DIR/exec" --pidfile "$DOCKER_DIR/pid" \
        -H "unix://$DOCKER_DIR/docker.sock" >"$DOCKER_DIR/log" 2>&1 </dev/null &
    export DOCKER_HOST=unix://$DOCKER_DIR/docker.sock
    local deadline=$((SECONDS + 60))
    until docker info >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            tail -n 20 "$DOCKER_DIR/log" >&2
            die "the Docker daemon does not start"
        fi
        sleep 0.5
    done
}

stop_docker() {
    [ -n "${DOCKER_DIR:-}" ] || return 0
    local pid
    pid=$(cat "$DOCKER_DIR/pid" 2>/dev/null) || true
    if [ -n "$pid" ]; then
        kill "$pid"
        tail --pid="$pid" -f /dev/null
    fi
    rm -rf "$DOCKER_DIR"
}
