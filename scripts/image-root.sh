#!/usr/bin/env bash
# Builds the server and lays out the image's whole root: the executable, the libraries that it
# loads, the public certificate authorities, the list of all that is in it with the licences, and a
# folder for the journal. Nothing else, and no shell. The Dockerfile runs this; so does
# try-image.sh, without an engine.
#
# usage: image-root.sh FOLDER [PROFILE]
set -euo pipefail

root=${1:?usage: image-root.sh FOLDER [PROFILE]}
profile=${2:-release}
source_folder=$(cd "$(dirname "$0")/.." && pwd)
cd "$source_folder"

export CARGO_INCREMENTAL=0
cargo_home=${CARGO_HOME:-$HOME/.cargo}
# The same sources give the same bytes in any folder.
if [ "$profile" = release ]; then
  export SOURCE_DATE_EPOCH=0
  export RUSTFLAGS="--remap-path-prefix=$source_folder=/src --remap-path-prefix=$cargo_home=/cargo -C strip=symbols -C link-arg=-Wl,--build-id=none"
  export CFLAGS="-ffile-prefix-map=$source_folder=/src -ffile-prefix-map=$cargo_home=/cargo"
fi
if [ "$profile" = dev ]; then
  # As the tests build it, with all targets: nothing is compiled a second time for other features.
  cargo build --locked --workspace --all-targets
  built=debug
else
  cargo build --locked --profile "$profile" --package tillwatch-server --bin tillwatch-server
  built=$profile
fi
executable=${CARGO_TARGET_DIR:-target}/$built/tillwatch-server

install -D -m 755 "$executable" "$root/usr/bin/tillwatch-server"
# Each library under the very path that the loader looks for.
ldd "$executable" | grep -o '/[^ ]*' | sort -u | while read -r library; do
  install -D -m 755 "$(readlink -f "$library")" "$root$library"
done
install -D -m 644 "$(readlink -f /etc/ssl/certs/ca-certificates.crt)" "$root/etc/ssl/certs/ca-certificates.crt"
printf 'tillwatch:x:65532:65532::/var/lib/tillwatch:/nonexistent\n' | install -D -m 644 /dev/stdin "$root/etc/passwd"
printf 'tillwatch:x:65532:\n' | install -D -m 644 /dev/stdin "$root/etc/group"
scripts/image-documents.sh "$root" "$executable"
printf 'hosts: files dns\n' | install -D -m 644 /dev/stdin "$root/etc/nsswitch.conf"
install -d -m 755 "$root/etc/tillwatch"
install -d -m 700 "$root/var/lib/tillwatch"
if [ "$(id -u)" = 0 ]; then
  chown 65532:65532 "$root/var/lib/tillwatch"
fi
find "$root" -exec touch --no-dereference --date=@0 {} +
