/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The init of lab boots: does what the kernel's command line says behind "bench.init=", in that order, and says what it
 * did, each line with "bench-init: " in front.
 *
 *   cpuinfo   what /proc/cpuinfo says of each processor's microcode
 *   hotplug   every processor but the first off and on again
 *   suspend   suspend to memory, woken by the clock
 *   late      load microcode through sysfs
 *   kexec     start /kexec/kernel with /kexec/initrd and /kexec/cmdline, at the address in /kexec/place
 *
 * At the end it tells the trace that init is done. No C library: it has to run on whatever was configured.
 */
#include <linux/reboot.h>

#include "system.h"

static char command_line[4096];

static void cpuinfo(void)
{
	static char text[65536];
	long got = file_read("/proc/cpuinfo", text, sizeof(text) - 1);
	char *line = text;

	if (got < 0) {
		say_number("cpuinfo: error ", -got);
		return;
	}
	text[got] = 0;
	while (*line) {
		char *end = line;

		while (*end && *end != '\n')
			end++;
		if (begins(line, "processor") || begins(line, "microcode"))
			say_part("cpuinfo: ", line, end - line);
		line = *end ? end + 1 : end;
	}
}

/* Writes to /sys/devices/system/cpu/cpuN/online. */
static long set_online(int number, const char *value)
{
	char path[] = "/sys/devices/system/cpu/cpu?/online";

	path[27] = '0' + number;
	return file_write(path, value);
}

static void hotplug(void)
{
	int number;

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
}

static void suspend(void)
{
	long result;

	file_write("/sys/class/rtc/rtc0/wakealarm", "0");
	result = file_write("/sys/class/rtc/rtc0/wakealarm", "+2");
	if (result < 0) {
		say_number("suspend: the clock takes no alarm: error ", -result);
		return;
	}
	result = file_write("/sys/power/state", "mem");
	if (result < 0)
		say_number("suspend: error ", -result);
	else
		say("suspend: woken");
}

static void late(void)
{
	long result = file_write("/sys/devices/system/cpu/microcode/reload", "1");

	if (result < 0)
		say_number("late: error ", -result);
	else
		say("late: done");
}

static void start_kernel(void)
{
	long result = kexec_prepare();

	if (result < 0) {
		say_number("kexec: error ", -result);
		return;
	}
	say("kexec: starting");
	result = reboot(LINUX_REBOOT_CMD_KEXEC);
	say_number("kexec: error ", -result);
}

static const struct {
	const char *name;
	void (*run)(void);
} tasks[] = {
	{ "cpuinfo", cpuinfo }, { "hotplug", hotplug }, { "suspend", suspend }, { "late", late }, { "kexec", start_kernel },
};

static void run_tasks(const char *names)
{
	while (*names && *names != ' ' && *names != '\n') {
		unsigned int i, known = 0;
		const char *end = names;

		while (*end && *end != ',' && *end != ' ' && *end != '\n')
			end++;
		for (i = 0; i < sizeof(tasks) / sizeof(tasks[0]); i++) {
			if (length(tasks[i].name) == end - names && begins(names, tasks[i].name)) {
				tasks[i].run();
				known = 1;
			}
		}
		if (!known)
			say_part("unknown task ", names, end - names);
		names = *end == ',' ? end + 1 : end;
	}
}

void init_main(void)
{
	const char *at;

	mount_all();
	say("here");
	if (file_read("/proc/cmdline", command_line, sizeof(command_line) - 1) > 0)
		for (at = command_line; *at; at++)
			if ((at == command_line || at[-1] == ' ') && begins(at, "bench.init="))
				run_tasks(at + length("bench.init="));
	say("done");
	file_write("/sys/module/bench_trace/parameters/done", "1");
	for (;;)
		pause_for_ever();
}
