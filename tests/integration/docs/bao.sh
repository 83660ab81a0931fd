#!/bin/sh
# vault or bao, as the book calls them.
set -eu
case "$1 ${2-}" in
"write auth/kubernetes/config")
  # A server in a pod reads these by itself.
  set -- "$@" kubernetes_ca_cert=@"$SANDBOX/authority.pem" token_reviewer_jwt="$REVIEWER" disable_local_ca_jwt=true
  ;;
esac
BAO_TOKEN="$ROOT_TOKEN" "$OPENBAO" "$@"
case "$*" in
"secrets enable"*kv-v2)
  # An engine of version 2 upgrades itself for a moment.
  path=$(printf '%s\n' "$@" | sed -n 's/^-path=//p')
  n=0
  until BAO_TOKEN="$ROOT_TOKEN" "$OPENBAO" read "${path:-kv-v2}/config" >/dev/null 2>&1 || [ $((n += 1)) -gt 200 ]; do :; done
  ;;
esac
