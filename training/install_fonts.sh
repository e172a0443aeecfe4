#!/usr/bin/env bash
# Fetch the fonts that the word renderer draws with, on Debian or Ubuntu, without root and without installing anything.
#
#   bash training/install_fonts.sh DIR                 all packages of training/configs/font_packages.txt
#   bash training/install_fonts.sh DIR fonts-lato ...  only the packages named
#
# Each package's .ttf, .otf and .ttc files go to DIR/<package>/ with its copyright file. A package that is there
# already is kept, so a broken run is continued by running it again. Then: --fonts DIR for `training.render_words`.
set -euo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit 2
fi
for tool in apt-get apt-cache dpkg-deb; do
  if ! command -v "$tool" >/dev/null; then
    echo "install_fonts: \`$tool\` not found: this script needs Debian or Ubuntu. Elsewhere, put any .ttf and .otf" \
      "files in a folder and give it to --fonts." >&2
    exit 1
  fi
done

mkdir -p "$1"
destination=$(cd "$1" && pwd)
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -gt 0 ]; then
  packages=("$@")
else
  mapfile -t packages < <(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$here/configs/font_packages.txt")
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The download helper runs as another user when root calls it and could not write into a private folder.
options=()
[ "$(id -u)" -eq 0 ] && options=(-o APT::Sandbox::User=root)

wanted=() missing=()
for package in "${packages[@]}"; do
  if [ -d "$destination/$package" ]; then
    continue
  elif [ -n "$(apt-cache show "$package" 2>/dev/null | head -n 1)" ]; then
    wanted+=("$package")
  else
    missing+=("$package")
  fi
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "install_fonts: this release has no ${missing[*]} (skipped; run \`apt-get update\` if the lists are old)." >&2
fi

if [ ${#wanted[@]} -gt 0 ]; then
  (cd "$work" && apt-get "${options[@]}" -qq download "${wanted[@]}")
fi
for package in "${wanted[@]}"; do
  archives=("$work/${package}"_*.deb)
  staging="$work/staging"
  rm -rf "$staging" "$work/unpacked"
  mkdir -p "$staging" "$work/unpacked"
  dpkg-deb -x "${archives[0]}" "$work/unpacked"
  find "$work/unpacked" -type f \( -iname '*.ttf' -o -iname '*.otf' -o -iname '*.ttc' \) -exec cp -n -t "$staging" {} +
  cp "$work/unpacked/usr/share/doc/$package/copyright" "$staging/" 2>/dev/null || true
  rm -f "${archives[0]}"
  mv "$staging" "$destination/$package"
done
count=$(find "$destination" -type f \( -iname '*.ttf' -o -iname '*.otf' -o -iname '*.ttc' \) | wc -l)
echo "$count font files in $destination"
[ "$count" -gt 0 ]
