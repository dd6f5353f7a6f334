#!/bin/sh
# Installs this kit: users, folders, files, units. Run as root from the unpacked kit: sh install.sh
# Nothing is started. A second run puts new keys and certificates in place, and leaves clinic.yaml as it is.
set -eu
root="${1:-}" # for a trial: another root folder
kit="$(cd "$(dirname "$0")" && pwd)"
home="$root/var/lib/melfed"

install -D -m 0644 "$kit/sysusers.d/melfed.conf" "$root/etc/sysusers.d/melfed.conf"
install -D -m 0644 "$kit/tmpfiles.d/melfed.conf" "$root/etc/tmpfiles.d/melfed.conf"
systemd-sysusers --root="${root:-/}" "$root/etc/sysusers.d/melfed.conf"
install -d -m 0755 "$home" "$home/weights"
for file in ca.crt clinic.crt; do install -m 0644 "$kit/$file" "$home/$file"; done
for file in clinic.key node.key; do install -m 0600 "$kit/$file" "$home/$file"; done
if ! test -e "$home/clinic.yaml"; then
  sed 's/^  user: null$/  user: melfed-messenger/' "$kit/clinic.yaml" >"$home/clinic.yaml.new"
  chmod 0644 "$home/clinic.yaml.new"
  mv "$home/clinic.yaml.new" "$home/clinic.yaml"
fi
# Where the commands look for it.
install -d -m 0755 "$root/etc/melfed"
test -e "$root/etc/melfed/clinic.yaml" || ln -sfn /var/lib/melfed/clinic.yaml "$root/etc/melfed/clinic.yaml"
for file in "$kit"/weights/*; do
  test ! -f "$file" || install -m 0644 "$file" "$home/weights/"
done
systemd-tmpfiles --root="${root:-/}" --create "$root/etc/tmpfiles.d/melfed.conf"
for unit in melfed-worker.service melfed-messenger.service; do
  install -D -m 0644 "$kit/systemd/$unit" "$root/etc/systemd/system/$unit"
done
test -n "$root" || systemctl daemon-reload
echo "installed into $home; next: see README.md"
