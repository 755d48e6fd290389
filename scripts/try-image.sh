#!/usr/bin/env bash
# Tries the Dockerfile's work without an engine: runs its build step, enters the root that it lays
# out, read-only but for the data volume, as the image's user, with the image's environment, and
# asks the server for its health. No image is built.
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
built=debug
if [ "$profile" != dev ]; then
  cargo build --locked --profile "$profile" --package tillwatch --bin tillwatch
  built=$profile
fi
client=${CARGO_TARGET_DIR:-target}/$built/tillwatch

mapfile -t environment < <(sed -n 's/^ENV //p' Dockerfile)
# The data volume, as an engine makes it: with the owner and the mode of the image's folder.
data=$scratch/data
cp -a "$root/var/lib/tillwatch" "$data"
if [ "$(id -u)" = 0 ]; then
  space=(unshare --mount)
  user=65532
  as=--userspec=65532:65532
else
  space=(unshare --mount --user --map-root-user)
  user=$(id -u)
  as=--userspec=0:0
fi
"${space[@]}" true || fail 'mount namespaces are not allowed here'
# shellcheck disable=SC2016 # the inner shell has these arguments
enter=("${space[@]}" bash -c '
  mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount --bind "$2" "$1/var/lib/tillwatch" &&
    exec chroot "$3" "$1" "${@:4}"
' enter "$root" "$data" "$as")
# Each of these programs becomes the next, so that the process is the server itself in the end.
inside=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "${environment[@]}")

[ -z "$(find "$root" -name '*sh' -path '*bin/*')" ] || fail 'there is a shell'
pass 'there is no shell'
documents=$root/usr/share/doc/tillwatch
for crate in tokio rustls libsqlite3-sys ring; do
  grep -q "\"name\": \"$crate\"" "$documents/sbom.cdx.json" || fail "the SBOM lacks $crate"
  grep -q "^$crate [0-9.]* (" "$documents/third-party-licences.txt" || fail "the licences lack $crate"
done
while read -r package _; do
  [ -s "$root/usr/share/doc/${package%%:*}/copyright" ] || fail "the licence of $package is missing"
done <"$documents/packages"
[ "$(wc -l <"$documents/packages")" -ge 3 ] || fail 'packages of the distribution are missing'
pass 'the SBOM and the licences are there'
version=$("${inside[@]}" "${enter[@]}" /usr/bin/tillwatch-server --version) || fail 'no version'
grep -q "image.version=\"${version#tillwatch-server }\"" Dockerfile || fail "the label and $version differ"
grep -q "^channel = \"$(sed -n 's/^FROM rust:\([0-9.]*\)-.*/\1/p' Dockerfile)\"" rust-toolchain.toml || fail 'the base image has another Rust'
pass 'the label has its version, and the base image the Rust of rust-toolchain.toml'
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
if [ "$status" != 64 ] || ! grep -q loopback "$scratch/refusal"; then fail 'anonymous callers are not refused'; fi
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

backup() { "${inside[@]}" "${enter[@]}" /usr/bin/tillwatch-server backup --config /etc/tillwatch/tillwatch.toml "$1" >/dev/null 2>"$scratch/refusal"; }
backup /var/lib/tillwatch/backup || fail 'the data volume cannot be written'
for folder in /etc/tillwatch/backup /usr/share/backup /backup; do
  backup "$folder" && fail "$folder can be written"
  grep -qi 'read-only' "$scratch/refusal" || { cat "$scratch/refusal" >&2; fail "$folder is not read-only"; }
done
pass 'nothing but the data volume can be written'

[ "$(ps -o uid= -p "$server" | tr -d ' ')" = "$user" ] || fail 'it runs as another user'
for file in tillwatch.db tillwatch.db.fingerprint-keys; do
  [ "$(stat -c %u:%a "$data/$file")" = "$user:600" ] || fail "$file is not its owner's alone"
done
pass "it runs as user $user, and its files are for that user alone"

kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" = 0 ] || fail "SIGTERM ended it with $status"
pass 'SIGTERM drains it'
printf 'try-image: the steps of the Dockerfile work; no image was built, since this script needs no engine and uses none\n'
