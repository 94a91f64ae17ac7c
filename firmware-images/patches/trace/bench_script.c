// SPDX-License-Identifier: GPL-2.0-only
/*
 * The exerciser: the first file of the initrd's early cpio may be a script that lists what to touch.
 *
 * It is read once, through the direct map and in ascending order, into memory of the kernel's image; what it says is
 * checked as a whole before the first step is made.
 */
#include <linux/init.h>
#include <linux/string.h>
#include <asm/page.h>
#include <asm/bench_trace.h>

#include "bench_internal.h"

#define SCRIPT_NAME "bench/script"
#define SCRIPT_ROOM 8192
#define CPIO_HEADER 110
#define CPIO_FILE_SIZE 54
#define CPIO_NAME_SIZE 94
/* Header and name, filled up to a multiple of four. */
#define CPIO_DATA ((CPIO_HEADER + sizeof(SCRIPT_NAME) + 3) & ~3UL)

typedef void bench_access_function(u64 from, u64 to, u64 value);

/* bench_access.S: [read, write, move][1, 2, 4, 8 bytes][without, with an entry in the exception table] */
extern const struct bench_access_site {
	bench_access_function *run;
	u64 ip;
} bench_access_sites[3][4][2];

struct step {
	/* r, w, m; d: a digest; c: the rest waits until the kernel has loaded its final tables. */
	char op;
	/* The access has an entry in the exception table. */
	bool fixup;
	u64 from, to, size, value;
};

static char copy[CPIO_DATA + SCRIPT_ROOM] __bench_data = { 0 };

/* What is left of a text. */
struct cursor {
	const char *at, *end;
};

static struct cursor steps __bench_data = { NULL, NULL };

static bool __init take(struct cursor *c, char wanted)
{
	if (c->at == c->end || *c->at != wanted)
		return false;
	c->at++;
	return true;
}

static bool __init take_text(struct cursor *c, const char *wanted)
{
	struct cursor tried = *c;

	for (; *wanted; wanted++)
		if (!take(&tried, *wanted))
			return false;
	*c = tried;
	return true;
}

/* A lower-case hexadecimal number of at most `digits` digits. */
static bool __init take_hex(struct cursor *c, u32 digits, u64 *value)
{
	const char *start = c->at;

	*value = 0;
	for (; c->at < c->end && c->at < start + digits; c->at++) {
		char ch = *c->at;

		if (ch >= '0' && ch <= '9')
			*value = *value << 4 | (ch - '0');
		else if (ch >= 'a' && ch <= 'f')
			*value = *value << 4 | (ch - 'a' + 10);
		else
			break;
	}
	return c->at > start;
}

static bool __init take_number(struct cursor *c, u64 *value)
{
	return take(c, ' ') && take_hex(c, 16, value);
}

/* "bench-script 1 <nonce> 1" and its window's line. NULL, or what is wrong. */
static const char * __init take_head(struct cursor *c, u64 *pool)
{
	u64 number, nonce, windows;
	int i;

	if (!take_text(c, "bench-script 1") || !take_number(c, &nonce) || !take_number(c, &windows) || !take(c, '\n'))
		return "the script does not begin as one of version 1";
	if (nonce != bench.nonce)
		return "the script has another nonce than the command line";
	if (windows != 1 || !take_text(c, "win"))
		return "a kernel has one window, and the script is not for one";
	/* number, variant, mend; pool; place, levels, bug, flags: a kernel is what it is. */
	for (i = 0; i < 8; i++)
		if (!take_number(c, i == 3 ? pool : &number))
			return "the script's window has too few numbers";
	if (!take(c, '\n') || *pool < 1 || *pool > BENCH_POOL)
		return "the script's pool is not 1 to 64";
	return NULL;
}

static bool __init size_fits(u64 size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

/* The next step's line. */
static bool __init take_step(struct cursor *c, struct step *s)
{
	memset(s, 0, sizeof(*s));
	if (c->at == c->end)
		return false;
	s->op = *c->at++;
	if (s->op == 'd' || s->op == 'c')
		return take(c, '\n');
	if (s->op != 'r' && s->op != 'w' && s->op != 'm')
		return false;
	s->fixup = take(c, 'f');
	if (!take_number(c, &s->from))
		return false;
	if (s->op == 'm' && !take_number(c, &s->to))
		return false;
	if (!take_number(c, &s->size) || !size_fits(s->size))
		return false;
	if (s->op == 'w' && !take_number(c, &s->value))
		return false;
	return take(c, '\n');
}

static void __init touch(const struct step *s)
{
	u32 access = s->op == 'r' ? BENCH_ACCESS_READ : s->op == 'w' ? BENCH_ACCESS_WRITE : BENCH_ACCESS_MOVE;
	u32 kind = s->op == 'r' ? 0 : s->op == 'w' ? 1 : 2;
	const struct bench_access_site *site = &bench_access_sites[kind][__builtin_ctzll(s->size)][s->fixup];

	bench_touch(access, s->from, s->to, s->size, s->fixup, site->ip - __START_KERNEL_map);
	site->run(s->from, s->to, s->value);
}

/* NULL if every line from `c` to the end is a step. */
static const char * __init check_steps(struct cursor c, u64 *line)
{
	struct step s;

	for (*line = 3; c.at < c.end; ++*line)
		if (!take_step(&c, &s))
			return "a line is not a step that a kernel can do";
	*line = 0;
	return NULL;
}

/* The script within the copied cpio. NULL, or what is wrong. */
static const char * __init find_script(u64 copied, struct cursor *script)
{
	struct cursor magic = { copy, copy + 6 }, size = { copy + CPIO_FILE_SIZE, copy + CPIO_FILE_SIZE + 8 };
	struct cursor name_size = { copy + CPIO_NAME_SIZE, copy + CPIO_NAME_SIZE + 8 };
	u64 bytes, name_bytes;
	int i;

	/* The fields of the header may be in upper case. */
	for (i = 0; i < CPIO_HEADER; i++)
		if (copy[i] >= 'A' && copy[i] <= 'F')
			copy[i] += 'a' - 'A';
	if (copied < CPIO_DATA || !take_text(&magic, "070701") || !take_hex(&size, 8, &bytes) ||
	    !take_hex(&name_size, 8, &name_bytes) || name_bytes != sizeof(SCRIPT_NAME) ||
	    memcmp(copy + CPIO_HEADER, SCRIPT_NAME, sizeof(SCRIPT_NAME)))
		return "the initrd's first file is not " SCRIPT_NAME;
	if (bytes > SCRIPT_ROOM)
		return "the script is larger than 8 KiB";
	if (bytes > copied - CPIO_DATA)
		return "the initrd ends within the script";
	script->at = copy + CPIO_DATA;
	script->end = script->at + bytes;
	return NULL;
}

/* Takes "end <CRC-32 of all before>" off the script's end. NULL, or what is wrong. */
static const char * __init check_crc(struct cursor *script)
{
	const char *at = script->at, *last = script->end;
	u32 crc = ~0u;
	struct cursor line;
	u64 given;

	/* Back to the start of the last line. */
	if (last > at)
		last--;
	while (last > at && last[-1] != '\n')
		last--;
	for (; at < last; at++)
		crc = bench_wire_crc_step(crc, *at);
	line.at = last;
	line.end = script->end;
	if (!take_text(&line, "end") || !take_number(&line, &given) || !take(&line, '\n') || given != (u32)~crc)
		return "the script is cut or damaged";
	script->end = last;
	return NULL;
}

static u64 __init read_initrd(u64 initrd, u64 initrd_bytes)
{
	const volatile char *from = (const volatile char *)__va(initrd);
	u64 bytes = initrd_bytes < sizeof(copy) ? initrd_bytes : sizeof(copy), i;

	bench_touch(BENCH_ACCESS_READ, (unsigned long)from, 0, bytes, false, 0);
	for (i = 0; i < bytes; i++)
		copy[i] = from[i];
	return bytes;
}

/* Up to the script's end, or to a `c`. */
static void __init run_steps(void)
{
	struct step s;

	while (take_step(&steps, &s) && s.op != 'c') {
		if (s.op == 'd')
			bench_digest();
		else
			touch(&s);
	}
}

void __init bench_exercise(u64 initrd, u64 initrd_bytes)
{
	const char *wrong;
	struct cursor script;
	u64 pool = 0, line = 0;

	bench.phase = BENCH_PHASE_EXERCISE;
	wrong = find_script(read_initrd(initrd, initrd_bytes), &script);
	if (!wrong)
		wrong = check_crc(&script);
	if (!wrong)
		wrong = take_head(&script, &pool);
	if (!wrong)
		wrong = check_steps(script, &line);
	if (wrong) {
		bench_refuse(line, wrong);
		return;
	}
	steps = script;
	bench_pool_limit = pool;
	bench_phase(BENCH_PHASE_EXERCISE);
	run_steps();
	bench_digest();
}

void __init bench_exercise_final(void)
{
	run_steps();
}
