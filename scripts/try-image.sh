#!/usr/bin/env bash
# Tries the Dockerfile's work without an engine: runs its build step, enters the root that it lays
# out as the image's user, with the image's environment, and asks the server for its health. No
# image is built.
#
# usage: try-image.sh [PROFILE]    (dev is quicker than release, and the same in all but speed)
set -euo pipefail

profile=${1:-release}
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
root=$scratch/image
server=
finish() {
  if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; fi
  rm -rf "$scratch"
}
trap finish EXIT
fail() { printf 'try-image: FAILED: %s\n' "$1" >&2; exit 1; }
pass() { printf 'try-image: ok: %s\n' "$1"; }

chmod 755 "$scratch"
bash scripts/image-root.sh "$root" "$profile"
cargo build --locked --profile "$profile" --package tillwatch --bin tillwatch
built=$profile
[ "$profile" = dev ] && built=debug
client=${CARGO_TARGET_DIR:-target}/$built/tillwatch

mapfile -t environment < <(sed -n 's/^ENV //p' Dockerfile)
if [ "$(id -u)" = 0 ]; then
  enter=(chroot --userspec=65532:65532 "$root")
  user=65532
elif unshare --user --map-root-user true 2>/dev/null; then
  enter=(unshare --user --map-root-user chroot "$root")
  user=$(id -u)
else
  fail 'neither chroot nor user namespaces are allowed here'
fi
# Each of these programs becomes the next, so that the process is the server itself in the end.
inside=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "${environment[@]}")

[ -z "$(find "$root" -name '*sh' -path '*bin/*')" ] || fail 'there is a shell'
pass 'there is no shell'
"${inside[@]}" "${enter[@]}" /usr/bin/tillwatch-server --version || fail 'no version'
pass "it runs in a root of $(du -sm "$root" | cut -f1) MB with $(find "$root" -type f | wc -l) files"

hash=$("${inside[@]}" "${enter[@]}" /usr/bin/tillwatch-server token | sed -n 's/^token_sha256 //p')
[ "${#hash}" = 64 ] || fail 'no token'
cat >"$root/etc/tillwatch/tillwatch.toml" <<TOML
[callers.probe]
token_sha256 = ["$hash"]
accounts = ["*"]
scopes = ["read"]
TOML
chmod 644 "$root/etc/tillwatch/tillwatch.toml"
"${inside[@]}" "${enter[@]}" /usr/bin/tillwatch-server check-config --config /etc/tillwatch/tillwatch.toml || fail 'the configuration is refused'
pass 'check-config takes a configuration with the image'\''s own addresses'

status=0
"${inside[@]}" TILLWATCH_CALLERS__LOCAL__ANONYMOUS=true 'TILLWATCH_CALLERS__LOCAL__ACCOUNTS=["*"]' 'TILLWATCH_CALLERS__LOCAL__SCOPES=["read"]' \
  "${enter[@]}" /usr/bin/tillwatch-server check-config 2>"$scratch/refusal" || status=$?
[ "$status" = 64 ] && grep -q loopback "$scratch/refusal" || fail 'anonymous callers are not refused'
pass 'anonymous callers are refused on all addresses'

# The server is on loopback, at ports of the system's choice; everything else is the image's.
"${inside[@]}" TILLWATCH_LISTEN__GRPC=127.0.0.1:0 TILLWATCH_LISTEN__OPS=127.0.0.1:0 \
  "${enter[@]}" /usr/bin/tillwatch-server serve --config /etc/tillwatch/tillwatch.toml 2>"$scratch/log" &
server=$!
address() { sed -n "s/.* $1 address=\"\([^\"]*\)\".*/\1/p" "$scratch/log"; }
for _ in $(seq 600); do
  [ -n "$(address operations)" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$scratch/log" >&2; fail 'it did not start'; }
  read -rt 0.1 <> <(:) || true
done
ready=$("$client" health --server "$(address gRPC)")
[ "$ready" = SERVING ] || fail "health is $ready"
pass 'it serves, and is SERVING'
exec 3<>"/dev/tcp/127.0.0.1/$(address operations | sed 's/.*://')"
printf 'GET /readyz HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n' >&3
head -1 <&3 | grep -q '200' || fail '/readyz is not 200'
exec 3>&-
pass '/readyz answers 200'
"${inside[@]}" "${enter[@]}" /usr/bin/tillwatch-server health --address "$(address operations)" || fail 'its own probe fails'
"${inside[@]}" "${enter[@]}" /usr/bin/tillwatch-server health --address 127.0.0.1:1 2>/dev/null && fail 'a probe of nobody succeeds'
pass 'the probe inside the image tells the truth'

[ "$(ps -o uid= -p "$server" | tr -d ' ')" = "$user" ] || fail 'it runs as another user'
for file in tillwatch.db tillwatch.db.fingerprint-keys; do
  [ "$(stat -c %u:%a "$root/var/lib/tillwatch/$file")" = "$user:600" ] || fail "$file is not its owner's alone"
done
pass "it runs as user $user, and its files are for that user alone"

kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" = 0 ] || fail "SIGTERM ended it with $status"
pass 'SIGTERM drains it'
printf 'try-image: the steps of the Dockerfile work; no image was built, since this script needs no engine and uses none\n'
