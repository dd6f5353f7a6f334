#!/bin/sh
# Installs this kit: user, folders, files, unit. Run as root from the kit's folder: sh install.sh
# Nothing is started. A second run puts new certificates and new clinics in place, and leaves server.yaml and the clinics
# that are there as they are.
set -eu
root="${1:-}" # for a trial: another root folder
kit="$(cd "$(dirname "$0")" && pwd)"
home="$root/var/lib/melfed-server"

install -D -m 0644 "$kit/sysusers.d/melfed-server.conf" "$root/etc/sysusers.d/melfed-server.conf"
install -D -m 0644 "$kit/tmpfiles.d/melfed-server.conf" "$root/etc/tmpfiles.d/melfed-server.conf"
systemd-sysusers --root="${root:-/}" "$root/etc/sysusers.d/melfed-server.conf"
install -d -m 0755 "$home" "$home/weights" "$home/clinics"
for file in ca.crt server.crt melfed.fab; do install -m 0644 "$kit/$file" "$home/$file"; done
install -m 0600 "$kit/server.key" "$home/server.key"
test -e "$home/superexec.secret" || install -m 0600 "$kit/superexec.secret" "$home/superexec.secret"
test -e "$home/server.yaml" || install -m 0644 "$kit/server.yaml" "$home/server.yaml"
# Where the commands look for it.
install -d -m 0755 "$root/etc/melfed"
test -e "$root/etc/melfed/server.yaml" || ln -sfn /var/lib/melfed-server/server.yaml "$root/etc/melfed/server.yaml"
for file in "$kit"/weights/*; do
  test ! -f "$file" || install -m 0644 "$file" "$home/weights/"
done
for file in "$kit"/clinics/*.json; do
  test ! -f "$file" || test -e "$home/clinics/${file##*/}" || install -m 0644 "$file" "$home/clinics/"
done
systemd-tmpfiles --root="${root:-/}" --create "$root/etc/tmpfiles.d/melfed-server.conf"
install -D -m 0644 "$kit/systemd/melfed-server.service" "$root/etc/systemd/system/melfed-server.service"
test -n "$root" || systemctl daemon-reload
echo "installed into $home; next: see README.md"
