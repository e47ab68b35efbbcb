#!/bin/sh
# Makes the secrets of compose.yaml, once: random passwords, and what is made of them. Nothing that exists is replaced.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets  # only its owner may enter; the files themselves must be readable by the containers' users
cd secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
# keep FILE: from standard input, unless it is there.
keep() { [ -s "$1" ] || { cat >"$1.new" && chmod 444 "$1.new" && mv "$1.new" "$1"; }; }

for role in postgres sidecar reader; do random | keep "${role}_password"; done
password() { cat "$1_password"; }

printf 'postgresql://postgres:%s@db/postgres\n' "$(password postgres)" | keep admin_dsn
printf 'postgresql://pgmeaning_sidecar:%s@db/postgres\n' "$(password sidecar)" | keep sidecar_dsn
printf 'postgresql://pgmeaning_reader:%s@db/postgres\n' "$(password reader)" | keep reader_dsn
for role in sidecar reader; do
  printf "ALTER ROLE pgmeaning_%s PASSWORD '%s';\n" "$role" "$(password "$role")"
done | keep role_passwords.sql
[ -e api_key ] || { : >api_key && chmod 444 api_key; }  # of an endpoint, if there is one
