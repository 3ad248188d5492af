#!/usr/bin/env bash
# Triton Inference Server on the CPU, from the wheel nvidia-pytriton, which brings the server and its Python backend.
#   usage: triton.sh VENV MODEL_REPOSITORY [flags of tritonserver]
# VENV belongs to a Python 3.11 of the system, whose libpython3.11 the Python backend loads. Runs in the foreground.
set -euo pipefail
venv=$1 repository=$2
shift 2
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
server=$packages/pytriton/tritonserver
ln -sf "$server/python_backend_stubs/3.11/triton_python_backend_stub" \
  "$server/backends/python/triton_python_backend_stub"
export LD_LIBRARY_PATH="$packages/nvidia_pytriton.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PYTHONPATH="$packages" PATH="$venv/bin:$PATH"
exec "$server/bin/tritonserver" --model-repository="$repository" --backend-directory="$server/backends" \
  --cache-directory="$server/caches" --allow-http=false --allow-metrics=false --allow-gpu-metrics=false \
  --grpc-address=127.0.0.1 --grpc-port="${GRPC_PORT:-18001}" "$@"
