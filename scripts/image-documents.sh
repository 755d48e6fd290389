#!/usr/bin/env bash
# Writes the documents that go with the server into a root: the list of all that is in it (SBOM,
# CycloneDX), and the licences of all that is passed on. Ends with the name of a crate without one.
# The same sources give the same bytes. Needs cargo-cyclonedx: scripts/install-deployment sbom.
#
# usage: image-documents.sh ROOT EXECUTABLE
set -euo pipefail

usage='usage: image-documents.sh ROOT EXECUTABLE'
root=${1:?$usage}
executable=${2:?$usage}
cd "$(dirname "$0")/.."
documents=$root/usr/share/doc/tillwatch
mkdir -p "$documents"

export PATH=$PWD/.cache/bin:$PATH
package=tillwatch-server
target=$(rustc -vV | sed -n 's/^host: //p')
sources=$(echo "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/)

# Crates whose archive has no licence file, with the crate of the same repository that has it.
declare -A sibling=([tonic-prost]=tonic)

# crates: one line per crate of another party in the executable: name, version, licence.
crates() {
    cargo tree --locked --package "$package" --edges normal,no-proc-macro --target "$target" \
        --no-dedupe --prefix none --format '{p}|{l}' |
        grep -v '(/' | sed -E 's/^([^ ]+) v([^ |]+)[^|]*\|/\1 \2 /' | sort --unique
}

# texts NAME VERSION: the files of a crate that state its licence.
texts() {
    find "$sources$1-$2" -maxdepth 1 -type f \
        -iregex '.*/\(un\)?\(licen[cs]e\|copying\|copyright\|notice\)[^/]*' | sort
}

# section TITLE FILE…: the files under a title.
section() {
    printf '\n%s\n%s\n' "$1" "${1//?/=}"
    shift
    local file
    for file in "$@"; do
        printf '\n--- %s\n\n' "$(basename "$file")"
        cat "$file"
    done
}

# licences: the texts of all crates.
licences() {
    printf 'Tillwatch is licensed under Apache-2.0, see LICENSE. Its executable contains these works of others,\n'
    printf "and Rust's standard library, see rust-standard-library.html.\n"
    local name version licence owner files
    while read -r name version licence; do
        mapfile -t files < <(texts "$name" "$version")
        if ((${#files[@]} == 0)) && owner=${sibling[$name]:-} && [[ $owner ]]; then
            mapfile -t files < <(texts "$owner" "$(crates | sed -n "s/^$owner \([^ ]*\) .*/\1/p" | head -n 1)")
        fi
        # Nothing in this licence's text is of one work, and a crate without a file has no NOTICE to pass on.
        if ((${#files[@]} == 0)) && [[ $licence == Apache-2.0 ]]; then
            files=(LICENSE)
        fi
        if ((${#files[@]} == 0)); then
            echo "$name has no licence file: name a crate of its repository that has it" >&2
            return 1
        fi
        section "$name $version ($licence)" "${files[@]}"
    done < <(crates)
}

# packages: the packages of the distribution that own the other files of the root.
packages() {
    local library owner
    while read -r library; do
        # A library has one of two paths in the package's list: /lib is a link to /usr/lib.
        owner=$(dpkg-query --search "$library" 2>/dev/null || dpkg-query --search "$(readlink -f "$library")")
        echo "${owner%%:*}"
    done < <(ldd "$executable" | grep -o '/[^ ]*')
    echo ca-certificates
}

# bill: the list of all crates, with versions, licences and hashes. The tool writes a file into the
# folder of each package.
bill() {
    local name=image-bill
    SOURCE_DATE_EPOCH=0 cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$target" \
        --manifest-path server/Cargo.toml --override-filename "$name"
    sed "s#file://$PWD#file:///src#g" "server/$name.json"
    find . -maxdepth 2 -name "$name.json" -delete
}

licences >"$documents/third-party-licences.txt"
install -m 644 LICENSE "$documents/LICENSE"
install -m 644 "$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html" "$documents/rust-standard-library.html"
packages | sort --unique | while read -r name; do
    install -D -m 644 "/usr/share/doc/$name/copyright" "$root/usr/share/doc/$name/copyright"
    dpkg-query --show "$name"
done >"$documents/packages"
bill >"$documents/sbom.cdx.json"
