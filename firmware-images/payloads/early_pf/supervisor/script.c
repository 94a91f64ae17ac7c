/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The script (format: README). It is read twice: first every line is checked and nothing is done, then the windows run
 * one after the other.
 */
#include "supervisor.h"

#define COMPLAINTS_MAX 16

/* A line that is being read; fields are separated by exactly one space. */
struct line {
	const char *at;
	const char *end;
	u32 number;
	const char *wrong;
};

enum line_kind { LINE_WINDOW, LINE_STEP, LINE_DATA, LINE_END, LINE_WRONG };

/* Words of an update on a line, and how many of the update before it are still to come. */
#define DATA_MAX 4

struct data {
	u64 words[DATA_MAX];
	u32 count;
	u64 due;
	struct update_place place;
};

static const char *script, *script_end;

static u32 crc_of(const char *from, const char *to)
{
	u32 crc = ~0u;

	while (from < to)
		crc = bench_wire_crc_step(crc, (u8)*from++);
	return ~crc;
}

/* The next line; 0 at the end of the script. A last line without LF is wrong. */
static int line_next(struct line *l)
{
	const char *at = l->end ? l->end + 1 : script;

	if (at >= script_end)
		return 0;
	l->at = at;
	l->number++;
	l->wrong = 0;
	while (at < script_end && *at != '\n')
		at++;
	l->end = at;
	if (at == script_end)
		l->wrong = "the line has no end";
	return 1;
}

static int line_word(struct line *l, const char *word)
{
	const char *at = l->at;

	while (*word && at < l->end && *at == *word)
		at++, word++;
	if (*word || (at < l->end && *at != ' '))
		return 0;
	l->at = at;
	return 1;
}

static u64 line_hex(struct line *l)
{
	u64 value = 0;
	u32 digits = 0;

	if (l->at == l->end || *l->at != ' ') {
		l->wrong = l->wrong ? l->wrong : "a field is missing";
		return 0;
	}
	for (l->at++; l->at < l->end && *l->at != ' '; l->at++, digits++) {
		char c = *l->at;

		if (c >= '0' && c <= '9')
			value = value << 4 | (u64)(c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value << 4 | (u64)(c - 'a' + 10);
		else
			l->wrong = "a field is not a lower-case hexadecimal number";
	}
	if (!digits || digits > 16)
		l->wrong = "a number does not have 1 to 16 digits";
	return value;
}

static void line_finish(struct line *l)
{
	if (!l->wrong && l->at != l->end)
		l->wrong = "there is more on the line than belongs there";
}

static void read_window(struct line *l, struct window_line *w)
{
	w->number = line_hex(l);
	w->variant = line_hex(l);
	w->mend = line_hex(l);
	w->pool = line_hex(l);
	w->place = line_hex(l);
	w->levels = line_hex(l);
	w->bug = line_hex(l);
	w->flags = line_hex(l);
	line_finish(l);
	if (!l->wrong && w->number >> 32)
		l->wrong = "the window's number is larger than 32 bits";
}

static void read_access(struct line *l, struct step *s)
{
	u64 size = 1;

	s->from = line_hex(l);
	if (s->access == BENCH_ACCESS_MOVE)
		s->to = line_hex(l);
	if (s->access != BENCH_ACCESS_FETCH)
		size = line_hex(l);
	if (s->access == BENCH_ACCESS_WRITE)
		s->value = line_hex(l);
	if (!l->wrong && size != 1 && size != 2 && size != 4 && size != 8)
		l->wrong = "size is not 1, 2, 4 or 8";
	s->size = (u8)size;
}

static void read_data(struct line *l, struct data *d)
{
	for (d->count = 0; !l->wrong && l->at < l->end && d->count < DATA_MAX; d->count++)
		d->words[d->count] = line_hex(l);
	line_finish(l);
	if (!l->wrong && !d->count)
		l->wrong = "a field is missing";
}

static int read_step(struct line *l, struct step *s)
{
	static const char accesses[4][2][3] = { { "r", "rf" }, { "w", "wf" }, { "x", "xf" }, { "m", "mf" } };
	static const char others[3][2] = { "c", "d", "u" };
	static const u8 ops[3] = { STEP_FINAL, STEP_DIGEST, STEP_DUMP };
	static const struct step empty;
	u32 i;

	*s = empty;
	for (i = 0; i < 8; i++) {
		if (line_word(l, accesses[i / 2][i % 2])) {
			s->op = STEP_ACCESS;
			s->access = (u8)(i / 2);
			s->fixup = (u8)(i % 2);
			read_access(l, s);
			line_finish(l);
			return 1;
		}
	}
	if (line_word(l, "k")) {
		s->op = STEP_UCODE;
		s->value = line_hex(l);
		s->size = 8;
		s->from = line_hex(l);
		line_finish(l);
		return 1;
	}
	for (i = 0; i < 3; i++) {
		if (line_word(l, others[i])) {
			s->op = ops[i];
			line_finish(l);
			return 1;
		}
	}
	return 0;
}

static enum line_kind read_line(struct line *l, struct window_line *w, struct step *s, struct data *d)
{
	if (l->wrong)
		return LINE_WRONG;
	if (line_word(l, "win")) {
		read_window(l, w);
		return l->wrong ? LINE_WRONG : LINE_WINDOW;
	}
	if (line_word(l, "+")) {
		read_data(l, d);
		return l->wrong ? LINE_WRONG : LINE_DATA;
	}
	if (line_word(l, "end")) {
		(void)line_hex(l);
		line_finish(l);
		return l->wrong ? LINE_WRONG : LINE_END;
	}
	if (read_step(l, s))
		return l->wrong ? LINE_WRONG : LINE_STEP;
	l->wrong = "neither a window nor a step";
	return LINE_WRONG;
}

static void refuse_line(u32 number, const char *why)
{
	struct complaint c = { .length = 0 };

	complain(&c, "script line ");
	complain_hex(&c, number);
	complain(&c, ": ");
	complain(&c, why);
	write_refusal(&c);
}

/* The first line, and the CRC in the last. Returns a reason, or null and the nonce and number of windows. */
static const char *check_frame(u64 *nonce, u64 *windows, u32 *where)
{
	struct line l = { .number = 0 };
	const char *last = script_end;
	u64 version;

	*where = 1;
	if (!boot_data.initrd.bytes)
		return "there is no script: the initrd is empty";
	if (!line_next(&l) || !line_word(&l, "bench-script"))
		return "not a script: the first line does not begin with bench-script";
	version = line_hex(&l);
	*nonce = line_hex(&l);
	*windows = line_hex(&l);
	line_finish(&l);
	if (l.wrong)
		return l.wrong;
	if (version != 1)
		return "unknown version of the script's format";

	while (line_next(&l))
		*where = l.number;
	if (l.wrong)
		return l.wrong;
	last--;
	while (last > script && last[-1] != '\n')
		last--;
	l.at = last;
	if (!line_word(&l, "end"))
		return "the last line is not end";
	if (line_hex(&l) != crc_of(script, last))
		return "the CRC does not fit";
	return 0;
}

/* What is wrong with a line for the updates before it, and the room that one on it takes. */
static const char *check_data(struct data *d, enum line_kind kind, struct step *s)
{
	if (kind == LINE_DATA) {
		if (d->count > d->due)
			return "words that belong to no update";
		d->due -= d->count;
		return 0;
	}
	if (d->due) {
		d->due = 0;
		return "the update before it is not whole";
	}
	if (kind == LINE_WINDOW)
		d->place.used = 0;
	if (kind == LINE_STEP && s->op == STEP_UCODE) {
		d->due = s->from;
		if (!update_place(&d->place, s->value, s->from, s)) {
			d->due = 0;
			return "an update that is too small, too large or not aligned to less than 0x40";
		}
	}
	return 0;
}

/* Every line; the number of wrong ones. */
static u32 check_lines(u64 windows_said)
{
	struct line l = { .number = 0 };
	struct data d = { .due = 0 };
	struct window_line w;
	struct step s;
	enum line_kind kind;
	u32 wrong = 0, steps = 0;
	u64 windows = 0;

	line_next(&l);
	while (line_next(&l)) {
		const char *why;

		kind = read_line(&l, &w, &s, &d);
		why = kind == LINE_WRONG ? l.wrong : check_data(&d, kind, &s);
		switch (kind) {
		case LINE_WINDOW:
			windows++;
			steps = 0;
			break;
		case LINE_STEP:
			if (!windows)
				why = "a step before the first window";
			else if (++steps > STEPS_MAX)
				why = "more steps in a window than fit (0x2000)";
			break;
		case LINE_END:
			if (l.end + 1 < script_end)
				why = "lines behind end";
			else if (windows != windows_said)
				why = "the number of windows is not that of the first line";
			break;
		case LINE_DATA:
		case LINE_WRONG:
			break;
		}
		if (why && wrong++ < COMPLAINTS_MAX)
			refuse_line(l.number, why);
	}
	return wrong;
}

static void refuse_window(const struct complaint *c)
{
	write_refusal(c);
	bench_wire_open(&wire, BENCH_END);
	bench_wire_field(&wire, BENCH_END_OUTCOME, BENCH_OUTCOME_REFUSED);
	bench_wire_close(&wire);
}

/* One window with its steps; *l is left at the last line that belongs to it. */
static void run_window(struct line *l, const struct window_line *w)
{
	struct complaint c = { .length = 0 };
	int acceptable = window_acceptable(w, &c);
	struct handoff *h = acceptable ? window_prepare(w) : 0;
	struct step *steps = acceptable ? window_steps(h) : 0;
	struct line ahead = *l;
	struct window_line unused;
	struct data d = { .due = 0 };
	enum line_kind kind;
	u64 *update = 0;
	struct step s;
	u32 count = 0, i;

	while (line_next(&ahead) && ((kind = read_line(&ahead, &unused, &s, &d)) == LINE_STEP || kind == LINE_DATA)) {
		*l = ahead;
		if (!acceptable)
			continue;
		if (kind == LINE_DATA) {
			for (i = 0; i < d.count; i++)
				*update++ = d.words[i];
			continue;
		}
		if (s.op == STEP_UCODE) {
			update_place(&d.place, s.value, s.from, &s);
			update = (u64 *)(w->place + UPDATES_OFFSET + s.to);
		}
		step_judge(w, &s);
		steps[count++] = s;
	}
	if (!acceptable) {
		refuse_window(&c);
		return;
	}
	h->steps = count;
	window_run(w, h);
}

/* Runs all windows of the script; returns their number. */
u32 script_run(void)
{
	struct line l = { .number = 0 };
	struct window_line w;
	struct data d;
	struct step s;
	u64 nonce = 0, windows = 0;
	u32 where, run = 0;
	const char *why;

	script = (const char *)boot_data.initrd.start;
	script_end = script + boot_data.initrd.bytes;
	why = check_frame(&nonce, &windows, &where);
	if (why) {
		refuse_line(where, why);
		return 0;
	}
	wire.nonce = nonce;
	if (check_lines(windows))
		return 0;

	line_next(&l);
	while (line_next(&l)) {
		if (read_line(&l, &w, &s, &d) == LINE_WINDOW) {
			run_window(&l, &w);
			run++;
		}
	}
	return run;
}
