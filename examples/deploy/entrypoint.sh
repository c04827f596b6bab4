#!/bin/sh
# Serve the engines in $MODELS (/models): plans where there are any, else graphs. Arguments are further options of
# `toolkit serve`, and the last of two wins. With MODEL_NAME set, the one engine there is served under that name.
#
# `exec` makes the server the container's own process, so that it gets SIGTERM and drains.
set -eu

folder="${MODELS:-/models}"
count=0
for kind in engine plan onnx; do
  for file in "$folder"/*."$kind"; do
    [ -f "$file" ] || continue
    count=$((count + 1))
    set -- "$@" "${MODEL_NAME:+$MODEL_NAME=}$file"
  done
  if [ "$kind" != engine ] && [ "$count" -gt 0 ]; then break; fi
done

if [ "$count" -eq 0 ]; then
  echo "error: there is no engine (*.engine, *.plan, *.onnx) in $folder" >&2
  echo "  try: mount a folder with engines and their passports there, or set MODELS" >&2
  exit 2
fi
if [ -n "${MODEL_NAME:-}" ] && [ "$count" -gt 1 ]; then
  echo "error: MODEL_NAME names one engine, and there are $count in $folder" >&2
  echo "  try: leave one there, or leave out MODEL_NAME" >&2
  exit 2
fi

exec toolkit serve --host 0.0.0.0 --http-port 8000 --grpc-port 8001 "$@"
