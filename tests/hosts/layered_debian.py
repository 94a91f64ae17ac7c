"""Debian with /boot on RAID (md, a mirror of which one half is missing) and its root on an encrypted partition (LUKS).

The machine itself makes both, by mdadm and cryptsetup, at its first start, and copies itself there. Its initramfs asks
for the passphrase on the serial console, until `open_by_file` has given it a key file.
"""

from __future__ import annotations

from pathlib import Path

from bench.records import Machine
from tests.hosts import stock_debian

PASSPHRASE = b"correct horse"
PROMPT, OPENED = b"unlock disk", b"set up successfully"
# systemd gives a device 90 s, for which an emulated processor may be too slow.
_PATIENT = "x-systemd.device-timeout=600"
# A key is derived in 1,000 rounds: it keeps no secret, and the processor is emulated.
_INSTALL = f"""\
#!/bin/sh
set -ex
# There is no udev yet whose word could be waited for.
export DM_DISABLE_UDEV=1
mount -o remount,rw /
modprobe -a raid1 dm_crypt xts
mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 /dev/vda2 missing
mkfs.ext4 -q /dev/md0
printf '{PASSPHRASE.decode()}' >/run/pass
cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/pass /dev/vda3
cryptsetup open --key-file /run/pass /dev/vda3 secret
mkfs.ext4 -q /dev/mapper/secret
mount /dev/mapper/secret /mnt
cp -ax /. /mnt
rm /mnt/install-grub
mv /mnt/boot /mnt/boot.old
mkdir /mnt/boot
mount /dev/md0 /mnt/boot
cp -a /mnt/boot.old/. /mnt/boot
rm -r /mnt/boot.old
echo '/dev/mapper/secret / ext4 {_PATIENT} 0 1' >/mnt/etc/fstab
echo '/dev/md0 /boot ext4 {_PATIENT} 0 2' >>/mnt/etc/fstab
echo 'secret /dev/vda3 none luks,{_PATIENT}' >/mnt/etc/crypttab
mkdir -p /mnt/etc/mdadm
mdadm --detail --scan >>/mnt/etc/mdadm/mdadm.conf
echo COMPRESSLEVEL=1 >>/mnt/etc/initramfs-tools/initramfs.conf
for d in dev proc sys run; do mount --bind /$d /mnt/$d; done
chroot /mnt update-initramfs -u
chroot /mnt grub-install /dev/vda
chroot /mnt update-grub
echo INSTALLED
sync
umount /mnt/boot
echo o >/proc/sysrq-trigger
sleep 60
"""
_RECIPE = stock_debian.Recipe(
    name="layered-debian",
    packages=("mdadm", "cryptsetup-initramfs"),
    install=_INSTALL,
    partitions_mib=(300, 1500),
)
OPEN_BY_FILE = """\
set -e
mkdir -p /etc/keys
printf '{passphrase}' >/etc/keys/secret
chmod 600 /etc/keys/secret
echo 'secret /dev/vda3 /etc/keys/secret luks,x-systemd.device-timeout=600' >/etc/crypttab
echo 'KEYFILE_PATTERN=/etc/keys/*' >>/etc/cryptsetup-initramfs/conf-hook
echo UMASK=0077 >>/etc/initramfs-tools/initramfs.conf
update-initramfs -u
"""


def build(folder: Path) -> Machine:
    """The machine, ready to be plugged in. Takes some minutes."""
    return stock_debian.build(folder, _RECIPE)
