#!/usr/bin/env bash
# Turns protos/bandit/v1/*.proto into the committed modules of bandit/v1.
#
#   protos/generate.sh           format and lint the protos, then write bandit/v1
#   protos/generate.sh --check   change nothing; fail when format, lint, compatibility with the last release
#                                (the newest tag v*) or the committed modules are not as they would be written
#
# The tools live in an environment of their own (protos/generator.lock): grpcio-tools 1.80.0 writes code that
# loads on protobuf 6.31 to 7.x, but does not itself install beside protobuf 7.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
check=no
case "${1:-}" in
    "") ;;
    --check) check=yes ;;
    *) echo "usage: protos/generate.sh [--check]" >&2; exit 2 ;;
esac

shopt -s nullglob
sources=(protos/bandit/v1/*.proto)
if ((${#sources[@]} == 0)); then
    echo "protos/bandit/v1 holds no .proto file: there is nothing to generate from" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# From inside $work, or uv would apply this project's own pins to the generator.
(
    cd "$work"
    uv venv --quiet tools
    uv pip install --quiet --python tools/bin/python --require-hashes --only-binary :all: -r "$root/protos/generator.lock"
)
export PATH="$work/tools/bin:$PATH"
export BUF_CACHE_DIR="$work/buf"

if [[ $check == yes ]]; then
    buf format --diff --exit-code
else
    buf format --write
fi
buf lint

if [[ $check == yes ]]; then
    tag=$(git tag --list 'v*' --sort=-v:refname | head -n 1)
    if [[ -n $tag && -n $(git ls-tree --name-only "$tag" -- buf.yaml) ]]; then
        buf breaking --against ".git#tag=$tag"
    fi
fi

mkdir "$work/out"
"$work/tools/bin/python" -m grpc_tools.protoc -I protos \
    --python_out="$work/out" --grpc_python_out="$work/out" \
    --mypy_out="quiet:$work/out" --mypy_grpc_out="quiet:$work/out" \
    "${sources[@]}"
: > "$work/out/bandit/v1/__init__.py"

if [[ $check == yes ]]; then
    if ! diff --recursive --unified --exclude=__pycache__ bandit/v1 "$work/out/bandit/v1" >&2; then
        echo "bandit/v1 is not what protos/ says: run protos/generate.sh and commit the result" >&2
        exit 1
    fi
    echo "bandit/v1 matches the ${#sources[@]} protos"
else
    mkdir -p bandit/v1
    rm -f bandit/v1/*_pb2*
    cp "$work"/out/bandit/v1/* bandit/v1/
    echo "wrote bandit/v1 from ${#sources[@]} protos"
fi
