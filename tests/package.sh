#!/usr/bin/env bash
# Builds wheel and sdist, installs each in a fresh environment, and works with it outside the
# checkout: recipes, the digits' checkpoint and the report's page have to be in them.
#
#     tests/package.sh .venv/bin     # an environment with all that neumeta needs, and hatchling
#
# The fresh environment borrows the libraries of that one, as torch would take minutes to install;
# neumeta itself, which is installed there for development, is not seen through a plain path.
set -euo pipefail
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$bin/python" -m hatchling build -d "$place/dist"
"$bin/python" -m venv "$place/env"
site=$("$place/env/bin/python" -c 'import site; print(site.getsitepackages()[0])')
"$bin/python" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' > "$site/borrowed.pth"
unset PYTHONPATH
cd "$place"
for built in dist/*.whl dist/*.tar.gz; do
    env/bin/python -m pip install --quiet --no-index --no-deps --no-build-isolation \
        --force-reinstall "$built"
    home=$(env/bin/python -c 'import neumeta_cli; print(neumeta_cli.__file__)')
    [[ $home == "$place"/env/* ]] || { echo "$built: neumeta is taken from $home"; exit 1; }
    [[ $(env/bin/neumeta recipes list) == *digits_lenet* ]] || { echo "$built: no recipes"; exit 1; }
    echo "$built: installed, and has its recipes"
done
env/bin/neumeta fit --recipe digits_lenet --epochs 1 --set fit.limit=128 \
    --set fit.precision=float32 --device cpu --run 'a run' --quiet
[[ -s 'a run/report/report.html' ]]
env/bin/neumeta export 'a run/manifold.safetensors' --width 0.5 -o half.pt
echo "fitted and exported outside the checkout"
