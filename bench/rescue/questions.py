"""What the rescue system is asked about a machine's disks: plain sh. Nothing is written to any of them.

Before a file system is mounted its device is set read-only, and no journal is replayed; at the end both are undone.
What comes out of files is indented, so that none of it can pass for a part of the answer.
"""

from __future__ import annotations

from bench.lab.flash.system import EFIVARS, GLOBAL, LOADER

ANSWER_S = 180.0
MOUNTS = "/mnt"
_DIGIT = "[0-9A-F]"

LOOK = rf"""
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin
v={EFIVARS}
indented() {{ sed 's/^/ /' "$1" 2>/dev/null | tr -d '\000'; echo; }}
shown() {{ [ ! -e "$v/$1" ] || {{ od -An -v -tx1 "$v/$1" | tr -d ' \n'; echo; }}; }}
boot() {{
    for g in "$1/grub" "$1/grub2"; do
        [ -f "$g/grub.cfg" ] || continue
        echo "@grub $2 ${{g#$m}}"; indented "$g/grub.cfg"
        echo "@grubenv $2 ${{g#$m}}"; indented "$g/grubenv"
        echo "@custom $2 ${{g#$m}}"; [ ! -e "$g/custom.cfg" ] || indented "$g/custom.cfg"
    done
    [ ! -f "$1/loader/loader.conf" ] || {{
        echo "@loader $2 ${{1#$m}}"; indented "$1/loader/loader.conf"
        for e in "$1"/loader/entries/*.conf; do
            [ ! -e "$e" ] || {{ echo "@entry $2 ${{e#$m}}"; indented "$e"; }}
        done
    }}
    [ ! -d "$1/bench" ] || {{ echo "@images $2 ${{1#$m}}/bench"; ls "$1/bench" | sed 's/^/ /'; }}
}}
device() {{
    echo "@device $1"
    echo "SECTORS=$(cat "/sys/class/block/$1/size")"
    blkid -p -o export "/dev/$1" 2>/dev/null
    kind=$(blkid -p -s TYPE -o value "/dev/$1" 2>/dev/null) options= m={MOUNTS}/$1
    case $kind in
        ext2|ext3|ext4) kind=ext4 options=ro,noload;;
        xfs) options=ro,norecovery,nouuid;;
        btrfs) options=ro,rescue=nologreplay;;
        vfat) options=ro;;
        *) return;;
    esac
    mkdir -p "$m"
    blockdev --setro "/dev/$1"
    if mount -t $kind -o $options "/dev/$1" "$m" 2>/run/why; then
        echo "MOUNTED=$m"
    else
        echo "REFUSED=$(head -n 1 /run/why)"
        return
    fi
    [ ! -f "$m/etc/os-release" ] || {{ echo "@system $1"; indented "$m/etc/os-release"; }}
    boot "$m" "$1"
    [ ! -d "$m/boot" ] || boot "$m/boot" "$1"
    [ ! -d "$m/EFI" ] || {{
        echo "@programs $1"; find "$m/EFI" -iname '*.efi' -maxdepth 3 | sed "s|^$m| |" | sort
    }}
}}
echo @firmware; if [ -d /sys/firmware/efi ]; then echo uefi; else echo bios; fi
echo @secure boot; s=$v/SecureBoot-{GLOBAL}; [ ! -e $s ] || od -An -tu1 $s
echo @boot current; shown BootCurrent-{GLOBAL}
echo @boot next; shown BootNext-{GLOBAL}
echo @boot order; shown BootOrder-{GLOBAL}
for o in "$v"/Boot{4 * _DIGIT}-{GLOBAL}; do
    [ ! -e "$o" ] || {{ o=${{o##*/}}; echo "@boot option ${{o%%-*}}"; shown "$o"; }}
done
echo @loader one-shot; shown LoaderEntryOneShot-{LOADER}
for d in /sys/block/*; do
    n=${{d##*/}}
    case $n in loop*|ram*|zram*|sr*|fd*) continue;; esac
    [ "$(cat "$d/size")" -gt 0 ] || continue
    echo "@disk $n"
    echo "MODEL=$(cat "$d/device/model" 2>/dev/null)"
    parts=
    for p in "$d/$n"*; do [ ! -e "$p/partition" ] || parts="$parts ${{p##*/}}"; done
    echo "PARTS=$parts"
    device "$n"
    for p in $parts; do device "$p"; done
done
echo @end
"""

# Of each file that a boot loader's entry names: its size, how it begins, and of a kernel whether what is packed in it
# can be unpacked. $1 is the file.
FILE = r"""
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin
file() {
    echo "@file $1"
    [ -f "$1" ] || return
    wc -c <"$1"
    dd if="$1" bs=616 count=1 2>/dev/null | od -An -v -tx1 | tr -d ' \n'; echo
}
packed() {
    echo "@packed $1"
    tail -c "+$2" "$1" | head -c "$3" | $4 >/dev/null 2>/run/why && echo whole || head -n 1 /run/why
}
"""

LEAVE = f"""
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin
for m in {MOUNTS}/*; do
    umount "$m" 2>/dev/null && rmdir "$m"
    blockdev --setrw "/dev/${{m##*/}}" 2>/dev/null
done
echo @end
"""
