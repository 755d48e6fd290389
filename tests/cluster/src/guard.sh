#!/bin/sh
# Ends a PostgreSQL server and removes its folder, once standard input ends: its other end is held by
# the process that wanted the server.
# usage: guard.sh FOLDER

folder=$1

# The processes that work in the folder: PostgreSQL's do so with its data.
members() {
    find /proc -mindepth 2 -maxdepth 2 -name cwd \( -lname "$folder" -o -lname "$folder/*" \) 2>/dev/null |
        cut -d / -f 3
}

# send SIGNAL: to each of them.
send() {
    for member in $(members); do
        kill "-$1" "$member"
    done
}

cat >/dev/null
lock=$folder/data/postmaster.pid
if [ -e "$lock" ] && postmaster=$(head -n 1 "$lock") && members | grep -qx "$postmaster"; then
    # The postmaster ends the others, and returns what it has of the system.
    kill -QUIT "$postmaster"
    send CONT
    looks=0
    while [ -n "$(members)" ] && [ "$looks" -lt 100 ]; do
        looks=$((looks + 1))
        sleep 0.1
    done
fi
send KILL
if [ -e "$lock" ]; then
    # A postmaster that was killed has left a block of shared memory: the last number of this line.
    ipcrm -m "$(sed -n '7s/.* //p' "$lock")"
fi
rm -rf "$folder"
