# Sourced by scripts/compare-pgbackrest: what is measured after the full backups, of increments, deltas, replay and S3.
# shellcheck shell=bash disable=SC2154

# ---- restores ------------------------------------------------------------------------------------------------------

# set_aside TREE TO: what a round restored makes room for the next one. Not removed yet: ext4 looks long for an inode where many
# were deleted within the last minutes. But emptied: in a virtual machine, page cache that its host has to supply first takes
# longer than all that is measured.
set_aside() {
    find "$1" -type f -exec truncate -s 0 {} +
    mv "$1" "$2"
}

# ---- increments ----------------------------------------------------------------------------------------------------

# increment ROW TOOL: one backup on top of the newest one, its time and what it stored besides WAL.
increment() {
    local row=$1 tool=$2 before
    archive_through "$tool"
    sql "checkpoint"
    before=$(backup_bytes "$tool")
    case $tool in
        pgbackrest) measure "$S/$row.$tool" pgbackrest --config="$S/pgbackrest.conf" --stanza=main --type=incr backup ;;
        walproof) measure "$S/$row.$tool" "$S/walproof" backup-push --config "$S/walproof.toml" ;;
    esac
    echo $(($(backup_bytes "$tool") - before)) >>"$S/$row.stored.$tool"
}

measure_increments() {
    local round tool
    for tool in pgbackrest walproof; do increment first "$tool"; done
    for ((round = 0; round < ROUNDS; round++)); do
        say "round $((round + 1)): the next backup, after 4,000 transactions and after nothing"
        quietly as "$PGBIN/pgbench" -h "$S/socket" -U postgres -n -c 4 -j 2 -t 1000 postgres
        sql "vacuum" # What autovacuum would do in the middle of a measurement.
        for tool in pgbackrest walproof; do increment increment "$tool"; done
        # A file counts as unchanged, unread, only when the backup before began well after its last change.
        sql "checkpoint"
        sleep 11
        for tool in pgbackrest walproof; do increment settle "$tool"; done
        for tool in pgbackrest walproof; do increment nothing "$tool"; done
    done
}

# ---- delta ---------------------------------------------------------------------------------------------------------

# Of the pages of a data directory that is not running one in a hundred gets another byte.
change_pages() {
    # shellcheck disable=SC2016
    find "$1/base" -type f -size +8k | as perl -e '
        srand(7);
        while (my $path = <STDIN>) {
            chomp $path;
            open my $file, "+<", $path or die "$path: $!";
            for (my $page = 0; $page < (-s $file) / 8192; $page++) {
                next if rand() > 0.01;
                seek $file, $page * 8192 + 4000, 0;
                print $file "changed";
            }
        }'
}

measure_delta() {
    local round
    for ((round = 0; round < ROUNDS; round++)); do
        say "round $((round + 1)): restore --delta where one page in a hundred differs"
        change_pages "$S/restored.walproof"
        measure "$S/delta" "$S/walproof" restore --config "$S/walproof.toml" --delta --to "$S/restored.walproof"
    done
}

# ---- replay --------------------------------------------------------------------------------------------------------

# A backup and 50 segments after it, in both archives and as plain files.
prepare_replay() {
    say "WAL: pgbench until $REPLAY segments are finished behind a backup"
    rm -rf "$S/replay"
    as mkdir "$S/replay"
    archive_through all
    quietly walproof backup-push
    while (($(find "$S/replay" -type f | wc -l) < REPLAY)); do
        quietly as "$PGBIN/pgbench" -h "$S/socket" -U postgres -n -c 4 -j 2 -T 5 postgres
        sleep 1
    done
    switch_wal
    rm -rf "$S/begin"
    quietly walproof restore --to "$S/begin"
    sed 's/^archive-async=n/archive-async=y/' "$S/pgbackrest.conf" >"$S/pgbackrest-async.conf"
}

restore_command() {
    case $1 in
        cp) say "cp $S/replay/%f %p" ;;
        pgbackrest) say "pgbackrest --config=$S/pgbackrest-async.conf --stanza=main --pg1-path=$S/replayed archive-get %f %p" ;;
        walproof) sed -n "s/^restore_command = '\(.*\)'$/\1/p" "$S/begin/postgresql.auto.conf" ;;
    esac
}

# Seconds from the first record to the last one, by the server's log.
redo_seconds() {
    # shellcheck disable=SC2016
    perl -ne '
        my ($h, $m, $s) = /^\S+ (\d+):(\d+):(\S+) / or next;
        $t = $h * 3600 + $m * 60 + $s;
        $begin = $t if /redo starts at/;
        $end = $t if /redo done at/;
        END { printf "%.3f\n", ($end - $begin) + ($end < $begin ? 86400 : 0) }' "$S/replay.log"
}

# Each comes first, second and third in turn: what one leaves in memory and on the disk the next one has to live with.
# Twice as often as the rest: PostgreSQL's own time, which is most of it, varies by a fifth from one round to the next.
measure_replay() {
    local round turn tool tools=(cp pgbackrest walproof)
    prepare_replay
    stop_server "$S/data"
    for ((round = 0; round < 2 * ROUNDS; round++)); do
        for turn in 0 1 2; do
            tool=${tools[(round + turn) % 3]}
            say "round $((round + 1)): replay through $tool"
            rm -rf "$S/replayed" "$S/replay.log" "$S"/pgbackrest-spool/*
            as cp -a "$S/begin" "$S/replayed"
            echo "restore_command = '$(restore_command "$tool")'" >>"$S/replayed/postgresql.auto.conf"
            find "$S/pgbackrest/archive" "$S/walproof-repository" "$S/replay" -type f -print0 | xargs -0 cat >/dev/null
            sync
            quietly as "$PGBIN/pg_ctl" -w -t 600 -D "$S/replayed" -l "$S/replay.log" \
                -o "-c archive_mode=off -c log_line_prefix='%m '" start
            wait_for "the end of recovery" "select not pg_is_in_recovery()"
            as "$PGBIN/pg_ctl" -D "$S/replayed" -m immediate stop >/dev/null
            redo_seconds >>"$S/replay.$tool"
        done
    done
    grep -c 'restored log file' "$S/replay.log" >"$S/replay.segments"
    start_server "$S/data"
}
