#!/bin/sh
# Fuzzes every target for so many seconds each (10 if none are given), with the fixtures as seeds,
# and prints the number of inputs of each. Ends with the first input that breaks anything.
# Needs cargo-fuzz (cargo install cargo-fuzz --locked) and a C++ compiler; the stable Rust compiler
# is enough. FUZZ_TARGETS names the targets; if it is unset, all run.
set -eu
seconds="${1:-10}"
cd "$(dirname "$0")/.."
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR="$PWD/fuzz/target"
# The name of each executable stands below its [[bin]].
targets="${FUZZ_TARGETS:-$(sed -n '/^\[\[bin]]/{n;s/^name = "\(.*\)"/\1/p}' fuzz/Cargo.toml)}"

# Nothing here is unsafe, so there is nothing for an address sanitizer to find.
cargo fuzz build --sanitizer none
built="$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/release"

failed=""
for target in $targets; do
  corpus="fuzz/corpus/$target"
  mkdir -p "$corpus"
  seeds="$corpus"
  if [ -d "tests/fixtures/$target" ]; then
    seeds="$corpus tests/fixtures/$target tests/fixtures/pages"
    [ ! -d "tests/fixtures/${target}_recorded" ] || seeds="$seeds tests/fixtures/${target}_recorded"
  else
    seeds="$corpus fuzz/seeds/$target"
  fi
  log="$CARGO_TARGET_DIR/$target.log"
  mkdir -p "fuzz/artifacts/$target"
  # shellcheck disable=SC2086 # several folders, none of which has a blank in it
  if "$built/$target" $seeds -artifact_prefix="fuzz/artifacts/$target/" \
    -max_total_time="$seconds" -max_len=65536 -timeout=10 -print_final_stats=1 >"$log" 2>&1; then
    runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    echo "$target: $runs executions in ${seconds}s"
  else
    tail -n 40 "$log"
    echo "$target: failed; the input lies in fuzz/artifacts/$target"
    failed="$failed $target"
  fi
done
if [ -n "$failed" ]; then
  echo "failed:$failed"
  exit 1
fi
