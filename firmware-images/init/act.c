/* SPDX-License-Identifier: Apache-2.0 */
#include <asm/unistd.h>
#include <linux/reboot.h>

#include "steps.h"
#include "system.h"

/* PATH TEXT: writes the text into the file. */
long step_put(char *path)
{
	char *text;

	cut(path, ' ', &text);
	return file_write(path, text);
}

/* FROM TO: the file gets another name. */
long step_move(char *from)
{
	char *to;

	cut(from, ' ', &to);
	return system_call(__NR_rename, (long)from, (long)to, 0, 0, 0);
}

static long set_online(int number, const char *value)
{
	char path[] = "/sys/devices/system/cpu/cpu?/online";

	path[27] = '0' + number;
	return file_write(path, value);
}

/* Every processor but the first off and on again. */
long step_hotplug(char *rest)
{
	int number;

	(void)rest;
	for (number = 1; number < 8; number++) {
		long off = set_online(number, "0");

		if (off == -ENOENT)
			break;
		say_number(off < 0 ? "hotplug: not taken off: processor " : "hotplug: off: processor ", number);
		if (off >= 0 && set_online(number, "1") < 0)
			say_number("hotplug: does not come back: processor ", number);
		else if (off >= 0)
			say_number("hotplug: on: processor ", number);
	}
	return 0;
}

/* To memory, woken by the clock. */
long step_suspend(char *rest)
{
	long result;

	(void)rest;
	file_write("/sys/class/rtc/rtc0/wakealarm", "0");
	result = file_write("/sys/class/rtc/rtc0/wakealarm", "+2");
	if (result >= 0)
		result = file_write("/sys/power/state", "mem");
	if (result >= 0)
		say("suspend: woken");
	return result;
}

/* Starts the next kernel: does not come back if all is well. */
long step_kexec(char *rest)
{
	long result = kexec_prepare();

	(void)rest;
	if (result < 0)
		return result;
	say("kexec: starting");
	return reboot(LINUX_REBOOT_CMD_KEXEC);
}
