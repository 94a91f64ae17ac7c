/* SPDX-License-Identifier: Apache-2.0 */
/* The init of lab boots: carries out the lines of /bench/steps in order. What they may say: README.md. */
#include "steps.h"
#include "system.h"

static const struct {
	const char *word;
	long (*run)(char *rest);
} words[] = {
	{ "say", step_say },	     { "show", step_show },	  { "log", step_log },	       { "put", step_put },
	{ "move", step_move },	     { "cpuinfo", step_cpuinfo }, { "hotplug", step_hotplug }, { "suspend", step_suspend },
	{ "kexec", step_kexec },
};

static char steps[1 << 16];

static void carry_out(char *line)
{
	char whole[256], *rest;
	u64 n = (u64)length(line), i;
	long result = -EINVAL;

	n = n < sizeof(whole) ? n : sizeof(whole);
	copy(whole, line, n);
	cut(line, ' ', &rest);
	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (length(line) == length(words[i].word) && begins(line, words[i].word))
			result = words[i].run(rest);
	/* Twice: a serial line may lose a byte. */
	for (i = 0; result < 0 && i < 2; i++)
		say_failure(-result, whole, (long)n);
}

void init_main(void)
{
	char *line = steps, *next;
	long got;

	mount_all();
	say("here");
	got = file_read("/bench/steps", steps, sizeof(steps) - 1);
	if (got < 0)
		say_failure(-got, "/bench/steps", length("/bench/steps"));
	for (; *line; line = next) {
		cut(line, '\n', &next);
		if (*line)
			carry_out(line);
	}
	say("done");
	file_write("/sys/module/bench_trace/parameters/done", "1");
	for (;;)
		pause_for_ever();
}
