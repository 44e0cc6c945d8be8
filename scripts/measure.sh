# Sourced by what measures: short hands for a cluster, and a walproof, in $S. The caller sets AS, PGBIN and S.
# shellcheck shell=bash disable=SC2154

as() { "${AS[@]}" env HOME="$S" TMPDIR="$S" PATH="$PGBIN:$PATH" "$@"; }
psql() { as psql -X -q -A -t -v ON_ERROR_STOP=1 -h "$S/socket" -U postgres -d postgres "$@"; }
sql() { psql -c "$1"; }
walproof() { as "$S/walproof" "$1" --config "$S/walproof.toml" "${@:2}"; }

# quietly COMMAND...: its output is shown only when it fails.
quietly() {
    "$@" >"$S/command.log" 2>&1 </dev/null && return
    tail -n 40 "$S/command.log" >&2
    die "failed: $*"
}
