/* SPDX-License-Identifier: Apache-2.0 */
#include <asm/fcntl.h>

#include "steps.h"
#include "system.h"

static char content[1 << 20];

/* TEXT, as it is. */
long step_say(char *text)
{
	print(text, length(text));
	print("\n", 1);
	return 0;
}

/* PATH: the file, as it is. */
long step_show(char *path)
{
	long got = file_read(path, content, sizeof(content));

	if (got > 0)
		print(content, got);
	return got;
}

/* What /proc/cpuinfo says of each processor's microcode. */
long step_cpuinfo(char *rest)
{
	long got = file_read("/proc/cpuinfo", content, sizeof(content) - 1);
	char *line = content, *next;

	(void)rest;
	if (got < 0)
		return got;
	content[got] = 0;
	for (; *line; line = next) {
		cut(line, '\n', &next);
		if (begins(line, "processor") || begins(line, "microcode"))
			say_part("cpuinfo: ", line, length(line));
	}
	return 0;
}

static int has_one_of(const char *text, const char *words)
{
	while (*words) {
		const char *at, *end = words;

		while (*end && *end != ' ')
			end++;
		for (at = text; *at; at++) {
			long n = 0;

			while (n < end - words && at[n] == words[n])
				n++;
			if (n && n == end - words)
				return 1;
		}
		words = *end ? end + 1 : end;
	}
	return 0;
}

/*
 * WORD...: what the kernel's log has with one of the words in it. /dev/kmsg gives a record a read: "priority,number,
 * time,flags;text", an end of line, and more lines of a device's.
 */
long step_log(char *words)
{
	long file = file_open("/dev/kmsg", O_RDONLY | O_NONBLOCK), got;

	if (file < 0)
		return file;
	do {
		char *text = content, *rest;

		got = file_get(file, content, sizeof(content) - 1);
		if (got <= 0)
			continue;
		content[got] = 0;
		cut(text, ';', &text);
		cut(text, '\n', &rest);
		if (has_one_of(text, words))
			say_part("log: ", text, length(text));
	} while (got > 0 || got == -EPIPE);
	file_close(file);
	return 0;
}
