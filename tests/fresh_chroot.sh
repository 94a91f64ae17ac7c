#!/usr/bin/env bash
# Runs the README's commands in fresh Debian systems that hold only git, python3 and certificates.
#
#   sudo tests/fresh_chroot.sh [--folder FOLDER] [--hil] [SUITE...]      (default: bookworm trixie)
#
# In each suite twice: all as root, and as an ordinary user without sudo after root has run
# `./setup --yes --only-system`. The system under test is the clone's HEAD, not its working tree.
# Needs root, debootstrap and the network. Mirror, proxies, certificates and pip's configuration are
# this computer's own. Mounts and processes live in namespaces of their own and go with them, however
# this ends. With --folder the plain systems are kept there, and the next run starts from copies.
#
#   --hil    also `nox -s hil` and the README's session (default: only `nox -s tests`)
set -eu

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
user=tester

main() {
    local folder='' hil=no suites=()
    while [ $# -gt 0 ]; do
        case $1 in
            --folder) folder=$2 && shift ;;
            --hil) hil=yes ;;
            -*) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit 2 ;;
            *) suites+=("$1") ;;
        esac
        shift
    done
    [ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie)
    [ "$(id -u)" = 0 ] || { echo "needs root" >&2 && exit 2; }

    work=$folder
    if [ -z "$folder" ]; then
        work=$(mktemp -d)
        trap 'rm -rf --one-file-system "$work"' EXIT
    fi
    mkdir -p "$work"
    local suite who
    for suite in "${suites[@]}"; do
        make_base "$suite" "$work/base-$suite"
        for who in root "$user"; do
            rm -rf --one-file-system "$work/now"
            cp -a "$work/base-$suite" "$work/now"
            unshare --mount --pid --fork --kill-child --propagation private -- \
                "$BASH" "$0" --inside "$work/now" "$who" "$hil" || {
                echo "=== $suite as $who: FAILED" >&2
                exit 1
            }
            echo "=== $suite as $who: passed"
        done
        rm -rf --one-file-system "$work/now"
    done
}

# --- before: a plain system --------------------------------------------------------------------------------------

# mirror SUFFIX: where this computer gets Debian (SUFFIX empty) or its security updates ("-security").
mirror() {
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suffix="$1" '$1 ~ "^(bookworm|trixie|forky|stable|testing)" suffix "$" && $2 == "main" { print $3; exit }'
}

make_base() {
    local suite=$1 base=$2 debian security
    [ ! -e "$base/ready" ] || return 0
    debian=$(mirror '')
    security=$(mirror -security)
    [ -n "$debian" ] || { echo "no Debian mirror in this computer's apt sources" >&2 && exit 2; }
    rm -rf --one-file-system "$base"
    debootstrap --variant=minbase --include=git,python3,ca-certificates "$suite" "$base" "$debian" >"$work/debootstrap.log" ||
        { tail -20 "$work/debootstrap.log" >&2 && exit 1; }
    {
        echo "deb $debian $suite main"
        [ -z "$security" ] || echo "deb $security $suite-security main"
    } >"$base/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(https?|ftp)(::.*)?::?(Proxy|CAInfo|CAPath)' >"$base/etc/apt/apt.conf.d/90host" || true
    touch "$base/ready"
}

# --- inside the namespaces, outside the root folder --------------------------------------------------------------

# What reaches the network from here has to reach it from there: names of variables that say how.
carried='^(PIP_[A-Z_]*|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|[a-zA-Z]*_proxy|[A-Z]*_PROXY)='

carry_over() {
    local new=$1 file folder
    cp /etc/resolv.conf /etc/hosts "$new/etc/"
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}"; do
        [ ! -f "$file" ] || { mkdir -p "$new$(dirname "$file")" && cp -L "$file" "$new$file"; }
    done
    for file in "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
        for folder in root "home/$user"; do
            [ ! -f "$file" ] || install -D -m 644 "$file" "$new/$folder/.config/pip/pip.conf"
        done
    done
    # Folders of packages that pip's configuration names.
    { cat "$new/etc/pip.conf" "$new/root/.config/pip/pip.conf" 2>/dev/null; env | grep '^PIP_'; } |
        grep -oE '(file://|[ =])/[^ ]+' | sed 's,^file://,,; s,^[ =],,' | sort -u |
        while read -r folder; do
            # An index is a subfolder whose links point beside it: bind its parent, but never the root folder.
            case $folder in */simple | */simple/) folder=$(dirname "$folder") ;; esac
            if [ -d "$folder" ] && [ "$folder" != / ]; then
                mkdir -p "$new$folder"
                mount --bind -o ro "$folder" "$new$folder"
            fi
        done
}

inside() {
    local new=$1 who=$2 hil=$3
    mount -t proc proc "$new/proc"
    mount -t tmpfs tmpfs "$new/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$new/dev/pts"
    ln -sf pts/ptmx "$new/dev/ptmx"
    chroot "$new" useradd --create-home "$user"
    carry_over "$new"
    chroot "$new" chown -R "$user:" "/home/$user"

    local place=/root/clone
    [ "$who" = root ] || place=/home/$user/clone
    git clone --quiet --no-hardlinks "file://$repository" "$new$place"
    chroot "$new" chown -R "$who:" "$place"

    readarray -t settings < <(env | grep -E "$carried")
    enter() {
        local as=$1 home=/root
        shift
        [ "$as" = root ] || home=/home/$user
        env -i "${settings[@]}" HOME="$home" USER="$as" LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            chroot --userspec="$as" "$new" /bin/bash -c "cd $place && $*" </dev/null
    }
    run() {
        printf '\n=== %s (%s)\n' "${*:2}" "$1"
        local begun=$SECONDS
        enter "$@"
        printf -- '--- ended well after %s s\n' $((SECONDS - begun))
    }

    enter "$who" '! command -v sudo gcc qemu-system-x86_64' || { echo "not a plain system" >&2 && exit 1; }
    expect_refusal "no terminal to ask on" "$who" ./setup
    if [ "$who" != root ]; then
        expect_refusal "needs root, and there is no sudo" "$who" ./setup --yes
        run root ./setup --yes --only-system
    fi

    local command
    while read -r command; do
        case $command in
            *"nox -s hil"*) [ $hil = yes ] || continue ;;
        esac
        run "$who" "$command"
    done < <(readme_commands "$new$place/README.md" "$hil")

    run "$who" './setup --yes | tee /tmp/second && grep -q "nothing to do" /tmp/second'
    local strange
    strange=$(chroot "$new" find "$place" ! -user "$who" | head -5)
    [ -z "$strange" ] || { printf 'does not belong to %s:\n%s\n' "$who" "$strange" >&2 && exit 1; }
}

# expect_refusal TEXT WHO COMMAND: it must end with an error that says TEXT.
expect_refusal() {
    local text=$1 said
    shift
    if said=$(enter "$@" 2>&1); then
        echo "should have been refused: ${*:2}" >&2 && exit 1
    fi
    grep -qF "$text" <<<"$said" || { printf 'refused in other words: %s\n%s\n' "${*:2}" "$said" >&2 && exit 1; }
}

# The commands as the README has them: those with ./setup, and behind a "$" those of its session.
readme_commands() {
    grep -hoE '^ *\./setup --yes && .*' "$1" | sed 's/ *#.*//; s/^ *//'
    [ "$2" = no ] || { printf '%s' "true"; grep -E '^ *\$ ' "$1" | sed 's/^ *\$ / \&\& /' | tr -d '\n'; echo; }
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
else
    main "$@"
fi
