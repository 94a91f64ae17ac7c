/* SPDX-License-Identifier: Apache-2.0
 *
 * init of the bench's own initrds: mounts /proc, /sys and /dev, then carries out the lines of /bench/steps on the
 * console, in order:
 *
 *	say TEXT		print the text
 *	show PATH		print a file
 *	lines PATH WORD		print the lines of a file that begin with the word
 *	put PATH TEXT		write the text into a file
 *	log WORD...		print what the kernel's log has with one of the words in it, each behind "log: "
 *
 * What does not work is said ("bench-init: failed N: LINE", N being errno) and the next line is carried out. The end of
 * the file ends the boot: init sleeps. Needs no library; x86-64 only.
 */

typedef unsigned long size;
typedef long ssize;

enum { SYS_read, SYS_write, SYS_open, SYS_close, SYS_dup2 = 33, SYS_pause = 34, SYS_mkdir = 83, SYS_mount = 165 };
enum { O_RDONLY, O_WRONLY, O_RDWR, O_NONBLOCK = 04000 };
enum { EPIPE = 32 };

static ssize call(long number, const void *a, const void *b, const void *c, const void *d, const void *e)
{
	register const void *r10 __asm__("r10") = d;
	register const void *r8 __asm__("r8") = e;
	ssize result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

static size length(const char *text)
{
	size n = 0;

	while (text[n])
		n++;
	return n;
}

static void print_bytes(const char *text, size bytes)
{
	while (bytes) {
		ssize written = call(SYS_write, (void *)1, text, (void *)bytes, 0, 0);

		if (written <= 0)
			return;
		text += written;
		bytes -= written;
	}
}

static void print(const char *text)
{
	print_bytes(text, length(text));
}

static void failed(ssize error, const char *line)
{
	char digits[24];
	int at = sizeof digits;

	error = -error;
	digits[--at] = 0;
	do
		digits[--at] = '0' + error % 10;
	while (error /= 10);
	print("bench-init: failed ");
	print(digits + at);
	print(": ");
	print(line);
	print("\n");
}

static int begins(const char *line, const char *word)
{
	while (*word)
		if (*line++ != *word++)
			return 0;
	return 1;
}

/* Cuts the line at its next space: the word, and `rest` is what follows. */
static char *cut(char *line, char **rest)
{
	char *at = line;

	while (*at && *at != ' ')
		at++;
	*rest = at;
	if (*at) {
		*at = 0;
		*rest = at + 1;
	}
	return line;
}

static char content[1 << 20], steps[1 << 16];

static ssize read_file(const char *path, char *to, size room)
{
	ssize file = call(SYS_open, path, (void *)O_RDONLY, 0, 0, 0), got = 0, all = 0;

	if (file < 0)
		return file;
	while ((size)all < room - 1 && (got = call(SYS_read, (void *)file, to + all, (void *)(room - 1 - all), 0, 0)) > 0)
		all += got;
	call(SYS_close, (void *)file, 0, 0, 0, 0);
	to[all] = 0;
	return got < 0 ? got : all;
}

static ssize show(const char *path, const char *word)
{
	ssize bytes = read_file(path, content, sizeof content);
	char *line = content, *end;

	if (bytes < 0)
		return bytes;
	if (!word)
		print_bytes(content, bytes);
	for (; word && *line; line = end) {
		for (end = line; *end && *end != '\n'; end++)
			;
		if (*end)
			end++;
		if (begins(line, word))
			print_bytes(line, end - line);
	}
	return 0;
}

static ssize put(const char *path, const char *text)
{
	ssize file = call(SYS_open, path, (void *)O_WRONLY, 0, 0, 0), written;

	if (file < 0)
		return file;
	written = call(SYS_write, (void *)file, text, (void *)length(text), 0, 0);
	call(SYS_close, (void *)file, 0, 0, 0, 0);
	return written < 0 ? written : 0;
}

static int contains(const char *text, const char *words)
{
	char word[64];

	while (*words) {
		size n = 0;

		while (*words && *words != ' ' && n < sizeof word - 1)
			word[n++] = *words++;
		word[n] = 0;
		while (*words && *words++ != ' ')
			;
		for (const char *at = text; *at; at++)
			if (begins(at, word))
				return 1;
	}
	return 0;
}

/* /dev/kmsg gives a record a read: "priority,number,time,flags;text", an end of line, and more lines of a device's. */
static ssize log_with(const char *words)
{
	ssize file = call(SYS_open, "/dev/kmsg", (void *)(O_RDONLY | O_NONBLOCK), 0, 0, 0), got;

	if (file < 0)
		return file;
	do {
		char *text = content, *end;

		got = call(SYS_read, (void *)file, content, (void *)(sizeof content - 1), 0, 0);
		if (got <= 0)
			continue;
		content[got] = 0;
		while (*text && *text++ != ';')
			;
		for (end = text; *end && *end != '\n'; end++)
			;
		*end = 0;
		if (contains(text, words)) {
			print("log: ");
			print(text);
			print("\n");
		}
	} while (got > 0 || got == -EPIPE);
	call(SYS_close, (void *)file, 0, 0, 0, 0);
	return 0;
}

static void step(char *line)
{
	char whole[256], *rest, *path;
	size n = 0;
	ssize error = -22;

	while (n < sizeof whole - 1 && line[n])
		whole[n] = line[n], n++;
	whole[n] = 0;
	cut(line, &rest);
	if (begins(line, "say")) {
		print(rest);
		print("\n");
		return;
	}
	if (begins(line, "log")) {
		error = log_with(rest);
		if (error < 0)
			failed(error, whole);
		return;
	}
	path = cut(rest, &rest);
	if (begins(line, "show"))
		error = show(path, 0);
	else if (begins(line, "lines"))
		error = show(path, rest);
	else if (begins(line, "put"))
		error = put(path, rest);
	if (error < 0)
		failed(error, whole);
}

static void run(void)
{
	char *line = steps, *end;
	ssize console, got;

	call(SYS_mkdir, "/proc", (void *)0755, 0, 0, 0);
	call(SYS_mkdir, "/sys", (void *)0755, 0, 0, 0);
	call(SYS_mkdir, "/dev", (void *)0755, 0, 0, 0);
	call(SYS_mount, "proc", "/proc", "proc", 0, 0);
	call(SYS_mount, "sysfs", "/sys", "sysfs", 0, 0);
	call(SYS_mount, "devtmpfs", "/dev", "devtmpfs", 0, 0);
	console = call(SYS_open, "/dev/console", (void *)O_RDWR, 0, 0, 0);
	for (long fd = 0; fd < 3 && console >= 0; fd++)
		call(SYS_dup2, (void *)console, (void *)fd, 0, 0, 0);
	got = read_file("/bench/steps", steps, sizeof steps);
	if (got < 0)
		failed(got, "show /bench/steps");
	for (; *line; line = end) {
		for (end = line; *end && *end != '\n'; end++)
			;
		if (*end)
			*end++ = 0;
		if (*line)
			step(line);
	}
	for (;;)
		call(SYS_pause, 0, 0, 0, 0, 0);
}

void __attribute__((naked, used)) _start(void)
{
	__asm__("xor %ebp, %ebp\n\tcall entry");
}

void __attribute__((used)) entry(void)
{
	run();
}
