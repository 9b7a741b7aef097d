#!/bin/sh
# Replaces /pmem/settings, with the words of pool.h: a whole new file takes the place of the old one. "overwrite" instead
# of "work" empties the old one first.
set -e
case "$1" in
create) echo "colour red" > /pmem/settings ;;
work)
    echo "colour blue" > /tmp/new
    cp /tmp/new /pmem/new
    sync
    mv /pmem/new /pmem/settings
    ;;
overwrite)
    : > /pmem/settings
    sync
    echo "colour blue" > /pmem/settings
    ;;
check) grep -qx -e "colour red" -e "colour blue" /pmem/settings ;;
esac
