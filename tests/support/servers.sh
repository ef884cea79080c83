# The servers that the tests start privately: install them where that is possible, else name them.
set -eu
may_install=; [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || may_install=yes
# RabbitMQ 4.0, from the next Debian, in a folder of its own.
trixie=${SPHEROSEG_TEST_CACHE:-$HOME/.cache/spheroseg-tests/trixie}
has_4() { [ -x "$trixie/usr/lib/rabbitmq/bin/rabbitmq-server" ]; }

missing=
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing="$missing rabbitmq-server"
command -v prometheus >/dev/null || missing="$missing prometheus"
# Only to read the Compose files with: no engine is needed, nor installed.
command -v docker-compose >/dev/null || missing="$missing docker-compose"
if [ -n "$may_install" ] && ! has_4 && ! command -v debootstrap >/dev/null; then missing="$missing debootstrap"; fi
if [ -n "$missing" ] && [ -n "$may_install" ]; then
    # The tests start their own; Debian's must not start beside them, on the standard ports.
    policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; trap 'rm -f "$policy"' EXIT; }
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
elif [ -n "$missing" ]; then
    echo "Tests that need a server are skipped. To run them: sudo apt-get install$missing"
fi

has_4 && exit 0
without_4() { echo "Tests on RabbitMQ 4.0 are skipped: $1"; exit 0; }
[ -n "$may_install" ] || without_4 "only root can prepare it, on Debian and its kin"
# Where apt itself gets this release from, and through which proxy.
mirror() { apt-cache policy base-files | awk '$2 ~ /^(https?|file):/ && $3 ~ /^[^-]*\/main$/ { print $2; exit }'; }
[ -n "$(mirror)" ] || apt-get update -qq || true
mirror=$(mirror)
[ -n "$mirror" ] || without_4 "apt names no mirror"
eval "$(apt-config shell proxy Acquire::http::Proxy)"
[ -z "${proxy:-}" ] || export http_proxy="$proxy"
mkdir -p "$(dirname "$trixie")"
unfinished=$(mktemp -d "$trixie.XXXXXX")
echo "Preparing RabbitMQ 4.0, a minute or three, once for this machine"
if ! timeout 900 debootstrap --force-check-gpg --variant=minbase --include=rabbitmq-server \
    trixie "$unfinished" "$mirror" >"$trixie.log" 2>&1; then
    tail -n 3 "$trixie.log"
    rm -rf --one-file-system "$unfinished"
    without_4 "debootstrap failed"
fi
# There is no /proc in the folder: what the node's watch over the disk needs to know about mounts.
echo 'root / none rw 0 0' >"$unfinished/etc/mtab"
rm -rf "$unfinished"/var/cache/apt/archives/*.deb "$unfinished"/var/lib/apt/lists/*
chmod 755 "$unfinished"
# Another run may have been faster.
mv -T "$unfinished" "$trixie" 2>/dev/null || { rm -rf --one-file-system "$unfinished"; has_4; }
