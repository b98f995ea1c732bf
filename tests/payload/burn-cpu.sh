#!/bin/sh
# Burns one processor until it is stopped; says when it begins.
echo burning
while :; do :; done
