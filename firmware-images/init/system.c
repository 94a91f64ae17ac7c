/* SPDX-License-Identifier: Apache-2.0 */
#include <asm/fcntl.h>
#include <asm/ioctls.h>
#include <asm/unistd.h>
#include <linux/mman.h>
#include <linux/reboot.h>

#include "system.h"

#define CONSOLE 1

/* The kernel enters with an aligned stack; a function expects it moved by a call. */
asm(".globl _start\n_start:\n\txor %ebp, %ebp\n\tcall init_main\n\thlt\n");

long system_call(long number, long a, long b, long c, long d, long e)
{
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	register long r9 asm("r9") = 0;
	long result;

	asm volatile("syscall"
		     : "=a" (result)
		     : "a" (number), "D" (a), "S" (b), "d" (c), "r" (r10), "r" (r8), "r" (r9)
		     : "rcx", "r11", "memory");
	return result;
}

long file_open(const char *path, int flags)
{
	return system_call(__NR_open, (long)path, flags, 0, 0, 0);
}

void file_close(long file)
{
	system_call(__NR_close, file, 0, 0, 0, 0);
}

long file_get(long file, void *to, u64 room)
{
	return system_call(__NR_read, file, (long)to, room, 0, 0);
}

long file_read(const char *path, void *to, u64 room)
{
	long file = file_open(path, O_RDONLY), got = 0, n;

	if (file < 0)
		return file;
	while ((u64)got < room && (n = file_get(file, (char *)to + got, room - got)) > 0)
		got += n;
	file_close(file);
	return got;
}

long file_write(const char *path, const char *text)
{
	long file = file_open(path, O_WRONLY), result;

	if (file < 0)
		return file;
	result = system_call(__NR_write, file, (long)text, length(text), 0, 0);
	file_close(file);
	return result;
}

void *memory(u64 bytes)
{
	long at = system_call(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	return at < 0 && at > -4096 ? 0 : (void *)at;
}

void *file_map(const char *path, u64 *bytes)
{
	long file = file_open(path, O_RDONLY);
	void *at = 0;

	*bytes = 0;
	if (file < 0)
		return 0;
	*bytes = (u64)system_call(__NR_lseek, file, 0, 2, 0, 0);
	file_close(file);
	if (*bytes)
		at = memory(*bytes);
	if (at && file_read(path, at, *bytes) != (long)*bytes)
		at = 0;
	return at;
}

static void mount_one(const char *kind, const char *at)
{
	system_call(__NR_mkdir, (long)at, 0755, 0, 0, 0);
	system_call(__NR_mount, (long)kind, (long)at, (long)kind, 0, 0);
}

void mount_all(void)
{
	long console;

	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	mount_one("devtmpfs", "/dev");
	console = file_open("/dev/console", O_WRONLY);
	if (console >= 0 && console != CONSOLE)
		system_call(__NR_dup2, console, CONSOLE, 0, 0, 0);
}

long reboot(u32 command)
{
	return system_call(__NR_reboot, (long)LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, command, 0, 0);
}

void pause_for_ever(void)
{
	system_call(__NR_pause, 0, 0, 0, 0, 0);
}

/* Until it has left: the trace writes to the same line without asking. */
static void drain(void)
{
	system_call(__NR_ioctl, CONSOLE, TCSBRK, 1, 0, 0);
}

void print(const char *text, long bytes)
{
	while (bytes > 0) {
		long written = system_call(__NR_write, CONSOLE, (long)text, bytes, 0, 0);

		if (written <= 0)
			return;
		text += written;
		bytes -= written;
	}
	drain();
}

void say_part(const char *text, const char *more, long more_bytes)
{
	static char line[2048];
	const char *parts[] = { "bench-init: ", text, more, "\n" };
	long sizes[] = { length(parts[0]), length(text), more_bytes, 1 }, at = 0, i, n;

	for (i = 0; i < 4; i++)
		for (n = 0; n < sizes[i] && at < (long)sizeof(line); n++)
			line[at++] = parts[i][n];
	print(line, at);
}

void say(const char *text)
{
	say_part(text, "", 0);
}

static const char *decimal(long number, char digits[24])
{
	char *at = digits + 23;

	*at = 0;
	do {
		*--at = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	return at;
}

void say_number(const char *text, long number)
{
	char digits[24];
	const char *shown = decimal(number, digits);

	say_part(text, shown, length(shown));
}

void say_failure(long error, const char *what, long what_bytes)
{
	char text[48] = "failed ", digits[24];
	const char *shown = decimal(error, digits);
	long at = length(text);

	copy(text + at, shown, length(shown));
	copy(text + at + length(shown), ": ", 3);
	say_part(text, what, what_bytes);
}

char *cut(char *text, char at, char **rest)
{
	char *end = text;

	while (*end && *end != at)
		end++;
	*rest = *end ? end + 1 : end;
	*end = 0;
	return text;
}

long length(const char *text)
{
	long n = 0;

	while (text[n])
		n++;
	return n;
}

int begins(const char *text, const char *with)
{
	while (*with && *text == *with)
		text++, with++;
	return !*with;
}

void copy(void *to, const void *from, u64 bytes)
{
	u8 *out = to;
	const u8 *in = from;

	while (bytes--)
		*out++ = *in++;
}

/* gcc calls these of its own accord. */
void *memcpy(void *to, const void *from, u64 bytes)
{
	copy(to, from, bytes);
	return to;
}

void *memset(void *to, int value, u64 bytes)
{
	volatile u8 *out = to;

	while (bytes--)
		*out++ = (u8)value;
	return to;
}
