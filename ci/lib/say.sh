# Sourced: one voice for the set-up scripts.
say() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 3; }
