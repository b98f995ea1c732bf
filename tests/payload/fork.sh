#!/bin/sh
# fork.sh N: starts N children that live until standard input ends, then says how many.  Bounded, unlike a bomb.
exec 3<&0
count=0
while [ "$count" -lt "$1" ]; do
    cat <&3 >/dev/null &
    count=$((count + 1))
done
echo "forked $count"
wait
