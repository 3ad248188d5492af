#!/usr/bin/env bash
# Measures flowmap against other runtimes and servers, and writes docs/performance/*.json, its plots and the tables of
# docs/PERFORMANCE.md. README.md tells what is needed; nothing else may run on the machine meanwhile.
#   usage: run.sh [--quick] [forward] [training] [server] [report]      (all of them if none is named)
# --quick makes turns so short that the figures mean nothing: it shows that everything works.
# PEERS_PYTHON and TRITON_PYTHON choose the interpreters (python3, /usr/bin/python3), PEERS_VENV and TRITON_VENV the
# virtual environments (target/peers/venv, target/peers/triton-venv), which are made where they are missing, and
# PEERS_NETWORKS some of the networks below.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
work=$CARGO_TARGET_DIR/peers
venv=${PEERS_VENV:-$work/venv} triton_venv=${TRITON_VENV:-$work/triton-venv}
flowmap=$CARGO_TARGET_DIR/release/flowmap
out=$root/docs/performance
forward_args=() training_args=() server_args=() parts=()
for argument in "$@"; do
  if [ "$argument" = --quick ]; then
    out=$work/quick
    forward_args=(--rounds 1 --seconds 0.1 --rows 1 8)
    training_args=(--rounds 1 --seconds 0.1)
    server_args=(--rounds 1 --seconds 2 --tuning-seconds 1)
  else
    parts+=("$argument")
  fi
done
[ ${#parts[@]} -gt 0 ] || parts=(forward training server report)
wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }
mkdir -p "$work" "$out"

if [ ! -x "$venv/bin/python" ]; then
  "${PEERS_PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
fi
cd "$here"
python=$venv/bin/python

# The embedded network; wider ones with random weights, which cost the same as trained ones.
declare -A networks=(
  [dit-128-patch-4]=$root/models/fashion-mnist/1
  [dit-192-patch-4]=$work/checkpoints/dit-192-patch-4
  [dit-192-patch-2]=$work/checkpoints/dit-192-patch-2
  [unet-32]=$work/checkpoints/unet-32
)
read -ra order <<<"${PEERS_NETWORKS:-dit-128-patch-4 dit-192-patch-4 dit-192-patch-2 unet-32}"
unet='{"kind": "unet", "channels": 32, "multipliers": [1, 2, 2], "blocks": 2, "attention": [7], "frequencies": 16,
       "max_frequency": 16.0}'
"$python" random_checkpoint.py "${networks[dit-192-patch-4]}"
"$python" random_checkpoint.py "${networks[dit-192-patch-2]}" --architecture '{"patch": 2}'
"$python" random_checkpoint.py "${networks[unet-32]}" --architecture "$unet"

(cd "$root" && cargo build --release)
if wanted forward; then
  for name in "${order[@]}"; do
    "$python" check.py "${networks[$name]}" --flowmap "$flowmap"
    "$python" forward.py "${networks[$name]}" --out "$out/forward-$name.json" "${forward_args[@]}"
  done
fi
if wanted training; then
  for name in dit-128-patch-4 dit-192-patch-4; do
    "$python" training.py "${networks[$name]}" --out "$out/training-$name.json" "${training_args[@]}"
  done
fi
if wanted server; then
  if [ ! -x "$triton_venv/bin/python" ]; then
    "${TRITON_PYTHON:-/usr/bin/python3}" -m venv "$triton_venv"
    "$triton_venv/bin/pip" install --quiet --requirement "$here/requirements-triton.txt"
  fi
  (cd serving/client && cargo build --release)
  "$python" server.py "${networks[dit-128-patch-4]}" --out "$out/server-dit-128-patch-4.json" --flowmap "$flowmap" \
    --triton-venv "$triton_venv" --triton-load "$CARGO_TARGET_DIR/release/triton-load" "${server_args[@]}"
fi
if wanted report; then
  page=$root/docs/PERFORMANCE.md
  if [ "$out" = "$work/quick" ]; then
    cp "$page" "$out/PERFORMANCE.md"
    page=$out/PERFORMANCE.md
  fi
  "$python" report.py "$out" "$page"
fi
