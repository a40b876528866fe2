#!/usr/bin/env bash
# verify.sh [--data DIR] [--records DIR] [part ...]: see verify/__main__.py.
here=$(cd "$(dirname "$0")" && pwd)
if ! command -v "${PYTHON:-python3}" > /dev/null; then
    echo "verify.sh: ${PYTHON:-python3} is not installed: install Python 3.9 or newer, or name one in the variable PYTHON" >&2
    exit 1
fi
exec "${PYTHON:-python3}" "$here/verify" "$@"
