"""The program by which a machine describes its hardware: plain sh, files of the kernel, tools that busybox has too."""

from __future__ import annotations

ANSWER_S = 60.0

# The lines of the kernel's log about microcode, and the one that every log begins with if that is still there.
KERNEL_LOG = r"""
log=$(dmesg 2>/dev/null)
case $log in *'Linux version '*) ;; *) log=$(journalctl -k -b -o cat --no-pager 2>/dev/null || echo "$log") ;; esac
echo "$log" | grep -e 'Linux version ' -e microcode | head -n 1000
"""
# Every part prints its own name first. /dev/cpu/0/cpuid is read at the leaf's number, msr at the register's.
QUESTIONS = (
    r"""
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin
added=
for m in cpuid msr; do
    [ -e /dev/cpu/0/$m ] || { modprobe -q $m 2>/dev/null && added="$m $added"; }
done
at() { dd if=/dev/cpu/0/$1 iflag=skip_bytes skip=$2 bs=$3 count=1 2>/dev/null | od -An -tx4 -v; }
of() { cat "$1" 2>/dev/null; }
echo @vendor leaf; at cpuid 0 16
echo @signature leaf; at cpuid 1 16
echo @features leaf; at cpuid 7 16
echo @extended leaf; at cpuid 2147483649 16
echo @address leaf; at cpuid 2147483656 16
echo @platform msr; at msr 23 8
echo @platform flags; of /sys/devices/system/cpu/cpu0/microcode/processor_flags
echo @cpuinfo; sed -n '1,/^$/p' /proc/cpuinfo
echo @processors; grep -c '^processor' /proc/cpuinfo
for m in $added; do modprobe -r $m 2>/dev/null; done
echo @host name; of /proc/sys/kernel/hostname
d=/sys/class/dmi/id
echo @system vendor; of $d/sys_vendor
echo @product; of $d/product_name
echo @board vendor; of $d/board_vendor
echo @board; of $d/board_name
echo @bios vendor; of $d/bios_vendor
echo @bios version; of $d/bios_version
echo @bios date; of $d/bios_date
echo @dmi table; od -An -tx1 -v /sys/firmware/dmi/tables/DMI 2>/dev/null
echo @memory map; for f in /sys/firmware/memmap/*; do
    [ -e "$f/start" ] && echo "$(of $f/start) $(of $f/end) $(of $f/type)"
done
echo @cards; for n in /sys/class/net/*; do
    [ -e "$n/device" ] || continue
    driver=$(readlink "$n/device/driver")
    master=$(readlink "$n/master")
    echo "${n##*/} $(of $n/address) $(of $n/operstate) ${driver##*/} ${master##*/}"
done
echo @addresses; ip -o addr show 2>/dev/null
echo @connection; echo "$SSH_CONNECTION"
echo @ports; for t in /sys/class/tty/ttyS*; do
    [ "$(of $t/type)" -gt 0 ] 2>/dev/null && echo "${t##*/} $(of $t/io_type) $(of $t/port) $(of $t/iomem_base)"
done
echo @kernel log"""
    + KERNEL_LOG
    + "echo @end\n"
)
