#!/usr/bin/env bash
# The virtual environment in .venv with the project installed in place. Made anew only when pyproject.toml changed.
#   venv.sh DEV   DEV=1 adds the linters and test tools
set -euo pipefail
cd "$(dirname "$0")/../.."
source ci/lib/say.sh

dev="${1:-1}"
extra=$([ "$dev" = 1 ] && echo '[dev]' || echo '')
stamp=.venv/.installed$extra
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "Python 3.11 or newer is needed, $("$python" --version) found" "set PYTHON to a newer interpreter"
# Where PYTHONDONTWRITEBYTECODE is set nothing else compiles our own modules, and every start of cvmig costs twice.
finish() { .venv/bin/python -m compileall -q harness; }
if [ -e "$stamp" ] && cmp -s pyproject.toml "$stamp"; then finish; exit 0; fi
[ -x .venv/bin/python ] || "$python" -m venv .venv || die "cannot make .venv" "on Debian install python3-venv"
say "installing Python packages into .venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extra" 2> >(grep -v '^WARNING' >&2) ||
    die "pip could not install the project" "check that a package index is reachable, then run .venv/bin/pip install -e '.$extra'"
cp pyproject.toml "$stamp"
finish
