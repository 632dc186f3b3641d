#!/bin/sh
# Lays out all that a container needs of a file system, for an image from scratch: the program, its nats-server, and of
# the system no more than the libraries that the program is linked to, certificate authorities and a user.
#   rootfs.sh FOREBAY NATS-SERVER DIR
set -eu
[ $# = 3 ] || { echo 'usage: rootfs.sh FOREBAY NATS-SERVER DIR' >&2; exit 2; }
forebay=$1 nats=$2 root=$3
[ ! -e "$root" ] || { echo "error: $root exists already: remove it, or name another directory" >&2; exit 1; }
mkdir -p "$root/etc/ssl/certs" "$root/usr/bin" "$root/tmp" "$root/data"
chmod 1777 "$root/tmp"
install -m 755 "$forebay" "$root/usr/bin/forebay"
install -m 755 "$nats" "$root/usr/bin/nats-server"
# Where they are here, so that the loader finds them there; a static program has none.
for program in forebay nats-server; do
    { ldd "$root/usr/bin/$program" 2>/dev/null || true; } | grep -o '/[^ ]*' | sort -u | while read -r library; do
        [ -e "$root$library" ] || install -D -m 755 "$(readlink -f "$library")" "$root$library"
    done
done
# For brokers and log servers that are reached over TLS.
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
    install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
echo 'forebay:x:10001:10001::/data:/' >"$root/etc/passwd"
echo 'forebay:x:10001:' >"$root/etc/group"
# Volumes take over who owns what they are mounted on.
chown 10001:10001 "$root/data" 2>/dev/null || echo "note: $root/data is not given to user 10001, since you are not root" >&2
